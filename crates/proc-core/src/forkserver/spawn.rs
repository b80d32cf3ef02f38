//! Makes a fork server by executing this program again, and begins that fork server.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_channel::ipc;

use super::environment::Snapshot;
use super::{ForkServer, Newborn, Request, ServerInputs, ServerLink};
use crate::memory::Family;
use crate::memory::{fd_of, receiver_of, sender_of};
use crate::sys::image::{self, Image};
use crate::sys::{self, Listener, Notifier, SignalMask, SingleThread};
use crate::wire;

/// Environment variable that tells an executed program to become a fork server. It contains the
/// capabilities that the program may keep, the signal mask of its children, and the numbers of the
/// descriptors that it is given: the two ends of the descriptor channel, the receiver and the
/// sender of requests, the reading end of the alive pipe, and the memory of the [`Family`] (-1 if
/// there is none).
const VARIABLE: &str = "PROC_CORE_FORKSERVER";

/// How long an executed fork server may take to begin.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether this process was executed to be a fork server, and is not one yet.
pub(crate) fn is_to_be_fork_server() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Executes this program again. The new process becomes the fork server before its `main` begins.
pub(super) fn spawn() -> io::Result<ForkServer> {
    sys::fill_standard_streams();
    wire::warm_up()?;
    let _ = Family::get(); // as for a fork server that is forked
    let (sender, requests) = ipc::channel::<Request>()?;
    let (notifier, listener) = sys::fd_channel()?;
    let (alive_reader, alive_writer) = std::io::pipe()?;
    let own_sender = fd_of(&sender)?; // the fork server passes it on to its children
    let requests = fd_of(&requests)?;
    let mut command = Command::new(own_executable()?);
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    let fds = [
        sys::pass_on(&listener, &mut command)?,
        sys::pass_on(&notifier, &mut command)?,
        sys::pass_on(&requests, &mut command)?,
        sys::pass_on(&own_sender, &mut command)?,
        sys::pass_on(&alive_reader, &mut command)?,
        Family::pass_on(&mut command),
    ];
    let base = Snapshot::now()?;
    let numbers = fds.map(|number| number.to_string()).join(":");
    let capabilities = sys::Capabilities::now()?.to_text();
    command.stdin(sys::null_stream(0)?);
    // A signal to all processes of the program must not end the new one before it is a fork server.
    let mask = SignalMask::block_group_signals()?;
    command.env(VARIABLE, format!("{capabilities}:{}:{numbers}", mask.to_text()));
    let child = sys::to_execute(|| command.spawn());
    mask.restore();
    let mut child = child.map_err(cannot_execute)?;
    let listener_inode = sys::inode(&listener);
    // Close our copies: while this process holds them, it cannot see that the fork server has died.
    drop((listener, requests, own_sender, alive_reader, command));
    match await_greeting(&notifier, &mut child) {
        Ok(()) => Ok(ForkServer::of_child(
            ServerLink::new(sender, notifier),
            base,
            child.id(),
            alive_writer.into(),
            listener_inode,
        )),
        Err(why) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(io::Error::other(format!("the program was executed again, but {why}")))
        }
    }
}

/// In an executed program: becomes the fork server that it was executed to be.
pub(super) fn serve(become_process: fn(Arc<ForkServer>, Newborn) -> !) -> ! {
    sys::fill_standard_streams();
    let alone = SingleThread::fresh_image();
    let value = std::env::var(VARIABLE).unwrap_or_default();
    sys::set_env(alone, VARIABLE.as_ref(), None);
    let parent = sys::parent_pid();
    let take_over = || -> io::Result<_> {
        let mut parts = value.splitn(3, ':');
        let mut next = || parts.next().ok_or(io::ErrorKind::InvalidInput);
        let capabilities = sys::Capabilities::from_text(next()?);
        capabilities.ok_or(io::ErrorKind::InvalidInput)?.keep_no_more()?;
        let mask = SignalMask::from_text(next()?).ok_or(io::ErrorKind::InvalidInput)?;
        let (numbers, family) = next()?.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        Family::join(family.parse().map_err(io::Error::other)?)?;
        let numbers = numbers.split(':').map(|number| number.parse().map_err(io::Error::other));
        let fds: io::Result<Vec<OwnedFd>> = numbers.map(|number| sys::take_over(number?)).collect();
        let fds = <[OwnedFd; 5]>::try_from(fds?).map_err(|_| io::ErrorKind::InvalidInput)?;
        let [listener, notifier, requests, sender, alive_reader] = fds;
        wire::warm_up()?;
        let requests = receiver_of(requests)?;
        let sender = sender_of(sender)?;
        let listener = Listener::from(listener);
        listener.greet(Image::get().identity())?;
        let server_link = ServerLink::new(sender, notifier.into());
        let own = ForkServer::this_process(server_link, Snapshot::now()?);
        Ok((ServerInputs { requests, listener, alive_pipe: Some(alive_reader), mask }, own))
    };
    match take_over() {
        Ok((inputs, own)) => own.serve(alone, parent, inputs, become_process),
        Err(error) => {
            eprintln!(
                "proc-core: {VARIABLE} is set, but the program that set it cannot be reached: \
                 {error}; do not set this variable yourself"
            );
            sys::exit_now(1)
        }
    }
}

/// Returns the path by which this program is executed again.
fn own_executable() -> io::Result<PathBuf> {
    // This path leads to the executed file even if another file has replaced it on disk. The path
    // of `current_exe` does not.
    let link = PathBuf::from("/proc/self/exe");
    match std::fs::metadata(&link) {
        Ok(_) => Ok(link),
        // If /proc is not mounted, the error says so here.
        Err(error) if cfg!(target_os = "linux") => Err(cannot_execute(error)),
        // Other systems have no such link.
        Err(_) => std::env::current_exe().map_err(cannot_execute),
    }
}

fn cannot_execute(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            format!(
                "the program cannot be executed again ({error}): mount /proc, and make the program's file \
                 and its libraries readable and executable where the program runs now (also in a \
                 chroot); or make proc_core::init() the first line of main, so that nothing is executed"
            ),
        ),
        _ => error,
    }
}

/// Waits until an executed copy of the program has said that it is a fork server of the same file.
fn await_greeting(notifier: &Notifier, child: &mut Child) -> Result<(), String> {
    let identity =
        notifier.await_greeting(child, Instant::now() + STARTUP_TIMEOUT).map_err(|error| {
            match error.kind() {
                io::ErrorKind::TimedOut => {
                    format!("it did not become a fork server within {STARTUP_TIMEOUT:?}")
                }
                _ => format!("it did not become a fork server: {error}"),
            }
        })?;
    match identity == Image::get().identity() {
        true => Ok(()),
        false => {
            Err("its file has changed since this process was started: start the program again"
                .into())
        }
    }
}

/// Returns why a new process cannot be made by executing this program again; `None` if it can.
pub(crate) fn why_not_executed() -> Option<io::Error> {
    (!image::is_of_our_program()).then(|| {
        let program = std::env::current_exe().unwrap_or_default();
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "this library was loaded by {}, a program that is not linked with proc_core and so cannot \
                 be executed as a fork server: call proc_core::init() in the library while the program \
                 has one thread (at best when the library is loaded), or use StartMethod::Fork while the \
                 program has one thread",
                program.display()
            ),
        )
    })
}
