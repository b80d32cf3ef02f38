//! Connects a started process with the process that asked for it: its reports, and its handle for
//! signals.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_channel::ipc::IpcReceiver;
use ipc_channel::{TryRecvError, ipc};
use nix::sys::signal::Signal;

use super::client::{ForkServer, Handle};
use super::server_watch::ORPHAN_PATIENCE;
use super::{Attributes, Job, Key, Pipes, Report, Start, exit, lifeline};
use crate::error::Error;
use crate::memory::{wait_for_message, wait_for_message_or};
use crate::wire::{Message, Payload};
use crate::{panics, sys};

/// Returns the next serial number of a process of this program, for names and keys.
pub(crate) fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// How long a wait looks for a report before it sleeps. A small process starts and ends within
/// about this time, and a processor that sleeps takes long to wake.
const SPIN_TIME: Duration = Duration::from_micros(200);

/// Link to a started process, held by its owner: the handle for signals, and the reports.
#[derive(Debug)]
pub(crate) struct Link<T> {
    pub(crate) handle: Handle,
    reports: IpcReceiver<Report<T>>,
    /// Reports that a quick process sent before the fork server reported the pid.
    early: RefCell<VecDeque<Report<T>>>,
    /// The owner's ends of the pipes that it asked for.
    pub(crate) pipes: Pipes,
}

impl<T: Message + Debug> Link<T> {
    /// Asks `fork_server` for a process, and waits until the process exists. `may_spin` says
    /// whether the thread may poll for the first report before it sleeps. It must be false if
    /// processes that were started just before need this processor.
    pub(crate) fn start(
        fork_server: &Arc<ForkServer>,
        serial: u64,
        name: &str,
        attributes: &Attributes,
        job: Job,
        may_spin: bool,
    ) -> Result<Link<T>, Error> {
        let cannot = |source| Error::start("the process", source);
        sys::keep_reserve();
        exit::register_cleanup();
        let (report, reports) = ipc::channel::<Report<T>>().map_err(cannot)?;
        let report = report.to_opaque().to();
        let key = Key { owner: sys::pid(), serial };
        let Attributes { lifetime, overrides, limits, stdio, streams } = attributes;
        let (lifetime, limits) = (*lifetime, limits.clone());
        let mut streams = streams.clone();
        let pipes = stdio.open(&mut streams).map_err(cannot)?;
        let environment = fork_server.environment(overrides).map_err(Error::invalid)?;
        let environment = Payload::encode_plain(&environment)
            .map_err(|why| cannot(std::io::Error::other(why)))?;
        let lifeline = lifeline::lifeline(lifetime).map_err(cannot)?;
        // `ps` shows at most 15 bytes of the name. Errors contain the whole name.
        let name = name.chars().take(16).collect();
        let start = Start {
            key,
            name,
            report,
            lifetime,
            lifeline,
            environment,
            limits,
            streams: streams.count(),
            job,
        };
        fork_server.start(start, &streams)?;
        let handle = Handle::new(key, fork_server);
        let mut link = Link { handle, reports, early: RefCell::default(), pipes };
        let mut early = VecDeque::new();
        loop {
            match if may_spin { link.receive_soon(None) } else { link.receive(None) } {
                Received::Report(Report::Started { pid }) => {
                    link.handle.pid = pid;
                    link.early.replace(early);
                    return Ok(link);
                }
                Received::Report(Report::NotStarted { errno }) => {
                    return Err(cannot(std::io::Error::from_raw_os_error(errno)));
                }
                Received::Report(report) => early.push_back(report),
                received => {
                    fork_server.forget(key);
                    if !matches!(received, Received::End) {
                        // The process may exist, although its report was not understood.
                        link.handle.signal(Signal::SIGKILL);
                        link.wait_for_end();
                    }
                    return Err(Error::fork_server_gone());
                }
            }
        }
    }

    /// Reads reports until the process is gone.
    pub(crate) fn wait_for_end(&self) {
        while !matches!(self.receive(None), Received::End | Received::Report(Report::Exited(_))) {}
    }

    /// Waits for the next report, forever or until `deadline`.
    pub(crate) fn receive(&self, deadline: Option<Instant>) -> Received<T> {
        if let Some(report) = self.early.borrow_mut().pop_front() {
            return Received::Report(report);
        }
        loop {
            self.wait(deadline);
            if !sys::has_memory_for_messages() {
                match self.receive_with_reserve(deadline) {
                    Some(received) => return received,
                    None => continue,
                }
            }
            let received = panics::catch(|| match deadline {
                None => self.reports.recv().map_err(TryRecvError::IpcError),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    // poll counts whole milliseconds. Round up; otherwise the last millisecond is
                    // spent spinning.
                    let left = left + Duration::from_micros(999);
                    self.reports.try_recv_timeout(left.min(Duration::from_secs(1 << 20)))
                }
            });
            match received {
                Ok(Ok(report)) => return Received::Report(report),
                Ok(Err(TryRecvError::Empty)) if deadline.is_some_and(|d| d <= Instant::now()) => {
                    return Received::Nothing;
                }
                Ok(Err(TryRecvError::Empty)) => {}
                Ok(Err(TryRecvError::IpcError(ipc_channel::IpcError::Io(error))))
                    if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(Err(TryRecvError::IpcError(ipc_channel::IpcError::Disconnected))) => {
                    return Received::End;
                }
                Ok(Err(_)) | Err(_) => return Received::Rubbish,
            }
        }
    }

    /// Waits until a report has come, forever or until `deadline`. If the fork server has ended,
    /// kills what it has left behind, which may hold the channel. May also return earlier.
    fn wait(&self, deadline: Option<Instant>) {
        let Some(watch) = self.handle.watch() else { return };
        let mut has_server_ended = false;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            if has_server_ended {
                let pause = left.map_or(ORPHAN_PATIENCE, |left| left.min(ORPHAN_PATIENCE));
                match wait_for_message(&self.reports, Some(pause)) {
                    Ok(false) => watch.kill_orphans(),
                    Ok(true) | Err(_) => return,
                }
            } else {
                match wait_for_message_or(&self.reports, watch.end(), left) {
                    Ok([false, has_ended]) => has_server_ended = has_ended,
                    Ok([true, _]) | Err(_) => return,
                }
            }
        }
    }

    /// Like [`receive`](Link::receive), for a report that may come soon: looks for it during
    /// [`SPIN_TIME`] before the thread sleeps.
    pub(crate) fn receive_soon(&self, deadline: Option<Instant>) -> Received<T> {
        let mut now = Instant::now();
        let sleep_at = now + SPIN_TIME;
        for spin in 0_u32.. {
            match self.receive(Some(now)) {
                Received::Nothing => {}
                received => return received,
            }
            now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Received::Nothing;
            }
            if now >= sleep_at {
                break;
            }
            if spin % 16 == 15 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        self.receive(deadline)
    }

    /// Waits until a message has come, without a buffer for it. Then gives up the reserve of memory
    /// and receives the message. Returns `None` if the caller must try again.
    #[cold]
    fn receive_with_reserve(&self, deadline: Option<Instant>) -> Option<Received<T>> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match wait_for_message(&self.reports, left) {
            Ok(true) => {}
            Ok(false) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Some(Received::Nothing);
            }
            _ => return None,
        }
        match sys::with_reserve(|| panics::catch(|| self.reports.try_recv())) {
            Ok(Ok(report)) => Some(Received::Report(report)),
            Ok(Err(TryRecvError::Empty)) => None,
            Ok(Err(TryRecvError::IpcError(ipc_channel::IpcError::Disconnected))) => {
                Some(Received::End)
            }
            _ => Some(Received::Rubbish),
        }
    }
}

/// Result of waiting for a report.
#[derive(Debug)]
pub(crate) enum Received<T> {
    Report(Report<T>),
    /// The deadline came first.
    Nothing,
    /// Nobody is left who could report, for example because the process and its fork server are
    /// gone.
    End,
    /// A message that is no report.
    Rubbish,
}
