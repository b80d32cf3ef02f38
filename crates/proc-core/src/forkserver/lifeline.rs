//! Ends the children of a process together with it: tells its daemons to end, and waits for the
//! others.
//!
//! A child holds a copy of a *lifeline* from its start to its death. A lifeline is a channel on
//! which nothing is ever sent. When the parent ends, it drops its own copy and waits until the
//! channel is closed. Then all children are gone, also those whose [`Child`](crate::Child) was
//! dropped. A program that is killed waits for nobody; its fork servers end the processes that it
//! has started.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_channel::ipc::{IpcReceiver, IpcSender};
use ipc_channel::{TryRecvError, ipc};
use nix::sys::signal::Signal;

use super::protocol::Lifetime;
use super::registry;
use super::server_watch::ORPHAN_PATIENCE;
use crate::panics;
use crate::sys::{self, PerProcess};

/// How long daemons may still run after they were told to end.
const DAEMON_GRACE_PERIOD: Duration = Duration::from_millis(500);

/// Sending end, of which children hold copies, and receiving end, which tells when no copy is left.
type Lifeline = (IpcSender<()>, IpcReceiver<()>);

/// Lifelines of this process.
#[derive(Default)]
struct Lifelines {
    /// Lifeline of the children that this process waits for at its end.
    joined: Option<Lifeline>,
    /// Lifeline of the daemons of this process.
    daemons: Option<Lifeline>,
    /// Sending end that closes at the death of this process. The parent waits for that.
    #[expect(dead_code, reason = "only held until the death of this process")]
    held: Option<IpcSender<()>>,
    /// Lifetime of this process.
    lifetime: Lifetime,
}

/// Lifelines of this process. A copy that a user's `fork` makes has none: only the process that
/// started the children waits for them.
static LIFELINES: PerProcess<Mutex<Lifelines>> = PerProcess::new();

fn lifelines() -> MutexGuard<'static, Lifelines> {
    LIFELINES.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the lifeline that a new child of this process must hold, if it needs one.
pub(crate) fn lifeline(lifetime: Lifetime) -> std::io::Result<Option<IpcSender<()>>> {
    let mut lifelines = lifelines();
    // A worker can be told to end at any time, and its children end with it.
    if lifelines.lifetime == Lifetime::Worker {
        return Ok(None);
    }
    let lifeline = match lifetime {
        Lifetime::Joined => &mut lifelines.joined,
        Lifetime::Daemon => &mut lifelines.daemons,
        Lifetime::Worker => return Ok(None),
    };
    let (sender, _) = match lifeline {
        Some(lifeline) => lifeline,
        None => lifeline.insert(ipc::channel()?),
    };
    Ok(Some(sender.clone()))
}

/// In a new process: holds its lifeline until its death.
pub(crate) fn hold(lifetime: Lifetime, held: Option<IpcSender<()>>) {
    LIFELINES.inherit();
    *lifelines() = Lifelines { held, lifetime, ..Lifelines::default() };
}

/// In a new fork server: drops all lifelines of the process that it is a copy of.
pub(crate) fn drop_inherited() {
    LIFELINES.inherit();
    *lifelines() = Lifelines::default();
}

/// Tells daemons to end and waits for the other children, as Python does when a process ends.
pub(crate) fn end_children() {
    loop {
        let (daemons, joined) = {
            let mut lifelines = lifelines();
            (lifelines.daemons.take(), lifelines.joined.take())
        };
        // Repeat this until there are no children: other threads may go on and start more of them.
        if daemons.is_none() && joined.is_none() {
            return;
        }
        if let Some(lifeline) = daemons {
            registry::signal_daemons(Signal::SIGTERM);
            wait(lifeline, Instant::now().checked_add(DAEMON_GRACE_PERIOD));
            registry::signal_daemons(Signal::SIGKILL);
        }
        if let Some(lifeline) = joined {
            wait(lifeline, None);
        }
    }
}

/// Waits until nobody holds the sending end, or until `deadline` if there is one. Meanwhile kills
/// what dead fork servers have left behind, which may hold that end.
fn wait((sender, receiver): Lifeline, deadline: Option<Instant>) {
    drop(sender);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match receiver.try_recv_timeout(left.unwrap_or(ORPHAN_PATIENCE).min(ORPHAN_PATIENCE)) {
            Err(TryRecvError::IpcError(ipc_channel::IpcError::Io(error)))
                if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(TryRecvError::Empty) if deadline.is_none_or(|d| Instant::now() < d) => {
                registry::kill_orphans();
            }
            _ => return,
        }
    }
}

/// Calls [`end_children`] in an exit handler: `main` has returned, or `exit` was called.
pub(crate) fn end_children_in_exit_handler() {
    {
        let lifelines = lifelines();
        if lifelines.daemons.is_none() && lifelines.joined.is_none() {
            return;
        }
    }
    call_in_exit_handler(end_children);
}

/// Calls a function that uses ipc-channel, in an exit handler.
pub(super) fn call_in_exit_handler(function: fn()) {
    // This thread has lost its thread-locals, without which ipc-channel cannot send. So another
    // thread calls the function. If no thread can be started, call it here: waiting needs no
    // thread-locals.
    let thread = sys::spawn_thread("proc-core end", sys::SMALL_STACK, function);
    let _ = match thread {
        Ok(thread) => thread.join().ok(),
        Err(_) => panics::catch_and_print(function),
    };
}
