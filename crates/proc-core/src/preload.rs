//! A template of a pool's own, which has run a function before it forks workers.
//!
//! It is made by another template, as any process is, and becomes one once the function has
//! returned: so what the function leaves in memory is there in every worker, without a copy until
//! either writes. It is the one template that has run code of the user's. That code must have ended
//! all threads, which is looked at; a lock that it left locked is locked in the workers.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::ending::Tie;
use crate::error::Error;
use crate::function::{Fault, Input, Name};
use crate::last_words::Exit;
use crate::limits::Limits;
use crate::panics::{self, Echo};
use crate::process::{self, Attributes, Link, Received};
use crate::sink::Sink;
use crate::state::State;
use crate::streams::{BELL, RING, Streams};
use crate::surroundings::Snapshot;
use crate::sys::{self, SingleThread};
use crate::template::{Ears, Line, Server, Template};
use crate::wire::{Job, Payload, Report, Request};

/// How often it is asked whether the template is still wanted.
const GLANCE: Duration = Duration::from_millis(20);

/// How long output waits for whoever holds the stream.
const FLUSH_PATIENCE: Duration = Duration::from_millis(50);

/// What the new process needs; its doorbell comes ahead of it, as streams do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    function: Name,
    arguments: Payload,
    requests: IpcReceiver<Request>,
    /// What workers use to ask for processes of their own.
    sender: IpcSender<Request>,
}

/// Has `maker` make a template that has run `function`, unless it is not wanted any more.
///
/// # Errors
///
/// The process cannot be started, or the function failed ([`Error::is_initializer`]), or is stopped
/// as nobody waits for it ([`Error::is_closed`]).
pub(crate) fn start(
    maker: &Arc<Template>,
    function: Name,
    arguments: Payload,
    is_wanted: impl Fn() -> bool,
) -> Result<Arc<Template>, Error> {
    let cannot = |error| Error::start("a template", error);
    let (sender, requests) = ipc::channel().map_err(cannot)?;
    let (ring, bell) = sys::doorbell().map_err(cannot)?;
    let mut streams = Streams::default();
    streams.set(BELL.into(), bell.into());
    streams.set(RING.into(), ring.as_fd().try_clone_to_owned().map_err(cannot)?);
    let base = Snapshot::now().map_err(cannot)?;
    let setup = Setup { function, arguments, requests, sender: sender.clone() };
    let attributes = Attributes { tie: Tie::Worker, streams, ..Attributes::default() };
    let job = Job::Preload(Box::new(setup));
    let link = Link::start(maker, process::next_serial(), "template", &attributes, job)?;
    // With our copy of the bell, nobody could tell that the template has died.
    drop(attributes);
    let failed = loop {
        match link.receive(Some(Instant::now() + GLANCE)) {
            Received::Report(Report::Returned(Ok(_))) => {
                let line = Line::new(sender, ring);
                return Ok(Arc::new(Template::made(line, base, link.handle)));
            }
            Received::Report(Report::Returned(Err(fault))) => {
                break Error::from_fault_payload(fault);
            }
            Received::Report(Report::NotReady(why)) => {
                return Err(cannot(std::io::Error::other(why)));
            }
            Received::Report(Report::Exited { status, last_words }) => {
                break Error::died(Exit::told(status, last_words), &Limits::default());
            }
            Received::Nothing if !is_wanted() => {
                link.handle.signal(Signal::SIGKILL);
                return Err(Error::closed());
            }
            Received::Report(_) | Received::Nothing => {}
            Received::End => return Err(Error::template_gone()),
            Received::Rubbish => {
                link.handle.signal(Signal::SIGKILL);
                break Error::died(Exit::default(), &Limits::default());
            }
        }
    };
    Err(Error::initializer(failed))
}

/// The new process: runs the function, says what came of it, and is a template from then on.
pub(crate) fn main(setup: Setup, doorbell: Vec<(u8, OwnedFd)>, report: IpcSender<Report>) -> ! {
    panics::set_echo(Echo::Reported);
    let Setup { function, mut arguments, requests, sender } = setup;
    let (mut bell, mut ring) = (None, None);
    for (number, fd) in doorbell {
        *if number == BELL { &mut bell } else { &mut ring } = Some(fd);
    }
    let (Some(bell), Some(ring)) = (bell, ring) else { sys::exit_now(1) };
    let me = sys::pid();
    let done = function.resolve().and_then(|code| {
        let (bytes, handles) = arguments.parts().map_err(Fault::Arguments)?;
        (code.call)(Input { bytes, handles }, &mut State::none(), &mut Sink::default())
    });
    sys::end_copy_of(me);
    // Where the function has changed the user, the kernel has forgotten that.
    sys::die_with_parent();
    // What it has printed would be printed again by every copy.
    sys::flush(FLUSH_PATIENCE);
    let alone = done.and_then(|_| SingleThread::prove().map_err(threads_left));
    let (told, alone) = match alone {
        Ok(alone) => (Ok(()), Some(alone)),
        Err(fault) => (Err(Payload::encode(&fault).expect("a fault is text")), None),
    };
    // The function may have set a panic hook.
    panics::install_hook();
    let told = told.map(|()| Payload::encode(&()).expect("nothing needs no memory"));
    let heard = report.send(Report::Returned(told)).is_ok();
    drop((report, arguments));
    let Some(alone) = alone.filter(|_| heard) else { sys::exit_now(1) };
    let Ok(base) = Snapshot::now() else { sys::exit_now(1) };
    let line = Template::own(Line::new(sender, ring.into()), base);
    // It ends with the template that has made it.
    let ears = Ears { requests, bell: bell.into(), life: None };
    Server::run(alone, sys::parent_pid(), ears, line)
}

fn threads_left(threads: Option<usize>) -> Fault {
    let count = threads.map_or("an unknown number of".into(), |threads| (threads - 1).to_string());
    Fault::Unknown(format!(
        "it left {count} threads running, which copies of its process do not have: end them before it \
         returns"
    ))
}
