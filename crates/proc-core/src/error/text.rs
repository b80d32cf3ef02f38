//! An error as text: `Display` writes the error without its causes, `Debug` with them.

use std::fmt::{self, Display, Formatter};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::libc::SIGKILL;

use super::{Abandoned, Error, ErrorKind, Inner, Kind, Origin, Peer};
use crate::panics::PanicReport;
use crate::sys;

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Inner { kind, origin } = &*self.0;
        if let Some(task) = origin.task {
            write!(f, "task {task}: ")?;
        }
        match &**kind {
            Kind::Panicked(PanicReport { message, location: Some(location), .. }) => {
                write!(f, "panicked at {location}: {message}")
            }
            Kind::Panicked(report) => write!(f, "panicked: {}", report.message),
            Kind::Died { status, exceeded, panic } => {
                describe_death(*status, f)?;
                if let Some(PanicReport { message, location, .. }) = panic {
                    let location = location.as_deref().unwrap_or("an unknown place");
                    write!(f, "; before that it panicked at {location}: {message}")?;
                }
                match exceeded {
                    Some(exceeded) => write!(f, "; {exceeded}"),
                    None if status.and_then(|status| status.signal()) == Some(SIGKILL) => write!(
                        f,
                        "; if nobody sent it, the kernel ran out of memory (see `dmesg` for the \
                         out-of-memory killer)"
                    ),
                    None => Ok(()),
                }
            }
            Kind::Timeout(after) => write!(f, "no result within {after:?}"),
            Kind::Cancelled => write!(f, "cancelled"),
            Kind::Encode { what, why } => write!(f, "the {what} cannot be encoded: {why}"),
            Kind::Decode { what, why } => write!(f, "the {what} cannot be decoded: {why}"),
            Kind::Start { action, source } => {
                write!(f, "cannot {action}: {source}{}", sys::hint(source))
            }
            Kind::ForkServerGone => {
                write!(
                    f,
                    "cannot start a process: the fork server, which makes processes, was killed, or there \
                     were too many open files for the request (raise the limit, ulimit -n)"
                )
            }
            Kind::ForkWithThreads(threads) => {
                write!(f, "cannot fork a process with ")?;
                match threads {
                    Some(threads) => write!(f, "{threads} threads")?,
                    None => write!(f, "an unknown number of threads")?,
                }
                write!(
                    f,
                    ": a lock that one of them holds would stay locked in the copy forever; use \
                     StartMethod::Forkserver, or start the process before the first thread and pool"
                )
            }
            Kind::Initializer(cause) if cause.kind() == ErrorKind::Invalid => {
                write!(f, "the pool's workers cannot run tasks")
            }
            Kind::Initializer(_) => {
                write!(f, "the pool's initializer, state or preload function failed")
            }
            Kind::Closed => write!(f, "the pool is closed"),
            Kind::Overwritten => write!(
                f,
                "the pool has ended: a worker overwrote the memory that it shares with the others; \
                 build a new pool, and run code that can do this in a pool of its own"
            ),
            Kind::Restarts { restarts, period, .. } => write!(
                f,
                "the pool has ended: more than {restarts} of its workers died within {period:?}; \
                 fix what kills them, or allow more deaths with restart_intensity"
            ),
            Kind::PeerDied { peer, status } => {
                f.write_str(match peer {
                    Peer::Pipe => "the process at the other end of the pipe has ended",
                    Peer::Manager => "the manager's process has ended, and its objects are lost",
                })?;
                write_end(*status, f)
            }
            Kind::Abandoned { what, status } => {
                write!(f, "a process died")?;
                write_end(*status, f)?;
                f.write_str(" ")?;
                f.write_str(match what {
                    Abandoned::Mutex => {
                        "while it held the mutex, so the data may be half changed: call recover(), and \
                         repair the data"
                    }
                    Abandoned::Barrier => {
                        "that others waited for, or would wait for, at the barrier: make a new barrier \
                         for those that are left"
                    }
                })
            }
            Kind::Ended(what) | Kind::Invalid(what) | Kind::Lost(what) | Kind::Fleet(what) => {
                write!(f, "{what}")
            }
        }?;
        write_origin(origin, f)
    }
}

/// Writes how a process ended, if that is known, for example ` (killed by signal 9, SIGKILL)`.
fn write_end(status: Option<ExitStatus>, f: &mut Formatter<'_>) -> fmt::Result {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => write!(f, " (it exited with code {code})"),
        Some((_, Some(signal))) => {
            write!(f, " (killed by signal {signal}, {})", sys::signal_name(signal))
        }
        _ => Ok(()),
    }
}

/// Writes the origin, for example ` (host node7, process "even", worker 1, pid 4242)`.
fn write_origin(origin: &Origin, f: &mut Formatter<'_>) -> fmt::Result {
    let parts = [
        origin.host.as_ref().map(|host| format!("host {host}")),
        origin.name.as_ref().map(|name| format!("process {name:?}")),
        origin.worker.map(|worker| format!("worker {worker}")),
        origin.pid.map(|pid| format!("pid {pid}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { Ok(()) } else { write!(f, " ({})", parts.join(", ")) }
}

fn describe_death(status: Option<ExitStatus>, f: &mut Formatter<'_>) -> fmt::Result {
    let Some(status) = status else {
        return write!(f, "the process is gone, and so is the fork server that knew how it ended");
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => write!(f, "the process exited with code {code} before it had a result"),
        (None, Some(signal)) => {
            write!(f, "the process was killed by signal {signal} ({})", sys::signal_name(signal))?;
            if status.core_dumped() {
                write!(f, ", core dumped")?;
            }
            Ok(())
        }
        (None, None) => write!(f, "the process ended before it had a result"),
    }
}

/// Text and causes, each cause on a line of its own: `main` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "\ncaused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
