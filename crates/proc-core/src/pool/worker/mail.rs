//! What a worker and its pool tell each other, and what a worker begins with.

use std::time::Duration;

use ipc_channel::ipc::IpcReceiver;
use serde::{Deserialize, Serialize};

use crate::call::{Entry, Name};
use crate::forkserver::{Job, Main};
use crate::memory::Descriptor;
use crate::pool::board::{Layout, Owner, TicketId};
use crate::wire::{Handles, Payload};

/// What a worker is born with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) owner: Owner,
    pub(crate) mail: IpcReceiver<ToWorker>,
    pub(crate) layout: Layout,
    pub(crate) board: Descriptor,
    pub(crate) regions: Vec<Descriptor>,
    pub(crate) initializer: Option<(Name, Payload)>,
    /// What makes the state; it is `()` without.
    pub(crate) state: Option<(Name, Payload)>,
    /// What is given the state at the end.
    pub(crate) worker_exit: Option<Name>,
    pub(crate) max_tasks: Option<u64>,
    /// How long it waits for work before it leaves.
    pub(crate) idle_timeout: Option<Duration>,
}

/// What the parent sends to one worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// Look at the board.
    Wake,
    /// The next region of the arena.
    Region(Descriptor),
    /// The channel ends that were asked for, or why there are none.
    Handles(Result<Option<Handles>, String>),
}

/// What a worker sends to its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    /// The initializer has returned, and the state is made.
    Ready,
    /// The initializer, or what makes the state, failed: a [`Fault`].
    InitializerFailed(Payload),
    /// It claims no more, and ends once it has put its state away.
    Leaves(LeaveReason),
    /// A ticket is finished, or a worker could have a share of one, and the parent wanted to know.
    Look,
    /// The arguments of this chunk hold channel ends: send them.
    NeedsHandles(TicketId),
    /// The result of a task that is sent out of band from the chunk's other results.
    OutOfBand { ticket: TicketId, task: u32, value: Payload },
}

/// Why a worker ends in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaveReason {
    /// It has done as many tasks as it was to do.
    Done,
    /// It had nothing to do for as long as it was to wait.
    Idle,
    /// There are to be fewer workers, or none.
    Dismissed,
}

/// What crosses of a [`Setup`] as bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    owner: Owner,
    layout: Layout,
    initializer: Option<Name>,
    state: Option<Name>,
    worker_exit: Option<Name>,
    max_tasks: Option<u64>,
    idle_timeout: Option<Duration>,
}

impl Setup {
    /// As a process is started with it, which begins in `main`.
    ///
    /// # Errors
    ///
    /// In words: it cannot be encoded.
    pub(crate) fn into_job(self, main: &'static Entry<Main>) -> Result<Job, String> {
        let (initializer, first) = self.initializer.unzip();
        let (state, second) = self.state.unzip();
        let settings = Settings {
            owner: self.owner,
            layout: self.layout,
            initializer,
            state,
            worker_exit: self.worker_exit,
            max_tasks: self.max_tasks,
            idle_timeout: self.idle_timeout,
        };
        Ok(Job {
            main: Name::of_entry::<fn(), _>(main)?,
            setup: Payload::encode_plain(&settings)?,
            payloads: first.into_iter().chain(second).collect(),
            receivers: vec![self.mail.to_opaque()],
            senders: Vec::new(),
            memory: std::iter::once(self.board).chain(self.regions).collect(),
        })
    }

    /// What a process was started with; `None` where it is no worker's.
    pub(crate) fn from_job(job: Job) -> Option<Setup> {
        let Job { setup, payloads, mut receivers, memory, .. } = job;
        let settings: Settings = setup.decode().ok()?;
        let (mut payloads, mut memory) = (payloads.into_iter(), memory.into_iter());
        let mut with_argument = |name: Option<Name>| match name {
            Some(name) => Some(Some((name, payloads.next()?))),
            None => Some(None),
        };
        Some(Setup {
            owner: settings.owner,
            mail: receivers.pop()?.to(),
            layout: settings.layout,
            board: memory.next()?,
            regions: memory.collect(),
            initializer: with_argument(settings.initializer)?,
            state: with_argument(settings.state)?,
            worker_exit: settings.worker_exit,
            max_tasks: settings.max_tasks,
            idle_timeout: settings.idle_timeout,
        })
    }
}
