//! Makes a fork server for one pool, which has run a function before it forks workers.
//!
//! Another fork server makes this one, like any process. The new process becomes a fork server when
//! the function has returned. So everything that the function leaves in memory is there in each
//! worker, without a copy until either side writes. Other fork servers run no code of the user
//! except constructors. The preloaded function must have ended all its threads when it returns;
//! this is checked. A lock that it left locked stays locked in the workers.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_channel::ipc;
use nix::sys::signal::Signal;

use super::environment::Snapshot;
use super::start_method::become_process;
use super::streams::{LISTENER, NOTIFIER, Streams};
use super::{
    Attributes, ForkServer, Job, Lifetime, Link, Main, MainInputs, Received, Report, Request,
    ServerInputs, ServerLink, next_serial,
};
use crate::call::{Entry, Fault, Input, Name, State};
use crate::error::Error;
use crate::panics::{self, PanicOutput};
use crate::sys::{self, SignalMask, SingleThread};
use crate::wire::{self, Payload, Sink};

/// How often `start` asks whether the fork server is still wanted.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long flushing waits for a thread that holds an output stream.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(50);

/// Asks `parent` for a new fork server, which calls `function` before it serves. Gives up when
/// `is_wanted` returns false.
///
/// # Errors
///
/// The process cannot be started, or the function failed
/// ([`ErrorKind::Initializer`](crate::ErrorKind::Initializer)), or its process was killed because
/// nobody waits for it ([`Error::is_closed`]).
pub(crate) fn start(
    parent: &Arc<ForkServer>,
    function: Name,
    arguments: Payload,
    is_wanted: impl Fn() -> bool,
) -> Result<Arc<ForkServer>, Error> {
    let cannot = |error| Error::start("a fork server", error);
    let (sender, requests) = ipc::channel::<Request>().map_err(cannot)?;
    let (notifier, listener) = sys::fd_channel().map_err(cannot)?;
    let listener_inode = sys::inode(&listener);
    let mut streams = Streams::default();
    streams.set(LISTENER.into(), Arc::new(listener.into()));
    let copy = notifier.as_fd().try_clone_to_owned().map_err(cannot)?;
    streams.set(NOTIFIER.into(), Arc::new(copy));
    let base = Snapshot::now().map_err(cannot)?;
    let setup = Payload::encode_plain(&function).map_err(|why| cannot(io::Error::other(why)))?;
    let job = Job {
        main: Name::of_entry::<fn(), _>(MAIN).map_err(|why| cannot(io::Error::other(why)))?,
        setup,
        payloads: vec![arguments],
        receivers: vec![requests.to_opaque()],
        senders: vec![sender.clone().to_opaque()],
        memory: Vec::new(),
    };
    let attributes = Attributes { lifetime: Lifetime::Worker, streams, ..Attributes::default() };
    let link = Link::start(parent, next_serial(), "forkserver", &attributes, job, true)?;
    // Close our copy of the listener: while this process holds it, it cannot see that the fork
    // server has died.
    drop(attributes);
    let failed = loop {
        match link.receive(Some(Instant::now() + POLL_INTERVAL)) {
            Received::Report(Report::Said(Ok(()))) => {
                let server_link = ServerLink::new(sender, notifier);
                let made =
                    ForkServer::made_by_another(server_link, base, link.handle, listener_inode);
                return Ok(Arc::new(made));
            }
            Received::Report(Report::Said(Err(fault))) => {
                break Error::from_fault_payload(fault);
            }
            Received::Report(Report::NotReady(why)) => {
                return Err(cannot(io::Error::other(why)));
            }
            Received::Report(Report::Exited(exit)) => break Error::died(exit, None),
            Received::Nothing if !is_wanted() => {
                link.handle.signal(Signal::SIGKILL);
                return Err(Error::closed());
            }
            Received::Report(_) | Received::Nothing => {}
            Received::End => return Err(Error::fork_server_gone()),
            // The end follows.
            Received::Rubbish => link.handle.signal(Signal::SIGKILL),
        }
    };
    Err(Error::initializer(failed))
}

/// Outcome of the preloaded function: it has returned, or an encoded [`Fault`].
type Preloaded = Result<(), Payload>;

struct Preload;
const MAIN: &Entry<Main> = &Entry::new::<Preload>(main);

/// Main function of the new process: calls the user's function, reports that it has returned, and
/// then becomes a fork server.
fn main(inputs: MainInputs) -> ! {
    panics::set_panic_output(PanicOutput::Unreported);
    let report = inputs.report::<Preloaded>();
    let MainInputs { mut job, fd_channel, report: first } = inputs;
    drop(first);
    let (mut listener, mut notifier) = (None, None);
    for (number, fd) in fd_channel {
        *if number == LISTENER { &mut listener } else { &mut notifier } = Some(fd);
    }
    let (Some(listener), Some(notifier)) = (listener, notifier) else { sys::exit_now(1) };
    let given = (job.payloads.pop(), job.receivers.pop(), job.senders.pop());
    let (Some(mut arguments), Some(requests), Some(sender)) = given else { sys::exit_now(1) };
    let me = sys::pid();
    let done = job.setup.decode::<Name>().map_err(Fault::Invalid).and_then(|function| {
        let (bytes, handles) = arguments.parts().map_err(Fault::Arguments)?;
        function.call(Input { bytes, handles }, &mut State::none(), &mut Sink::default())
    });
    sys::exit_if_copy_of(me);
    // If the function has changed the user ID, the kernel has forgotten this setting.
    sys::die_with_parent();
    // Otherwise every worker would begin with a copy of the buffer, and print it again.
    sys::flush(FLUSH_TIMEOUT);
    let alone = done.and_then(|_| SingleThread::prove().map_err(threads_left));
    let (result, alone) = match alone {
        Ok(alone) => (Ok(()), Some(alone)),
        Err(fault) => (Err(Payload::encode(&fault).expect("a fault is text")), None),
    };
    // The function may have set another panic hook.
    panics::install_hook();
    let is_sent = wire::send(&report, Report::Said(result)).is_ok();
    drop((report, arguments));
    let Some(alone) = alone.filter(|_| is_sent) else { sys::end_process(1) };
    let Ok(base) = Snapshot::now() else { sys::exit_now(1) };
    let Ok(mask) = SignalMask::block_group_signals() else { sys::exit_now(1) };
    let own = ForkServer::this_process(ServerLink::new(sender.to(), notifier.into()), base);
    // This fork server has no alive pipe: it ends with the fork server that has made it.
    let (requests, listener) = (requests.to(), listener.into());
    let inputs = ServerInputs { requests, listener, alive_pipe: None, mask };
    own.serve(alone, sys::parent_pid(), inputs, become_process)
}

fn threads_left(threads: Option<usize>) -> Fault {
    let (count, them) = match threads {
        Some(2) => ("1".into(), "that thread"),
        Some(threads) => ((threads - 1).to_string(), "those threads"),
        None => ("an unknown number".into(), "those threads"),
    };
    Fault::Invalid(format!(
        "the preloaded function left {count} of its threads running, and workers do not have {them}: \
         end all threads before the function returns"
    ))
}
