//! The messages between a worker and its parent, and the setup with which a worker starts.

use std::time::Duration;

use ipc_channel::ipc::IpcReceiver;
use serde::{Deserialize, Serialize};

use crate::call::{Entry, Name};
use crate::forkserver::{Job, Main};
use crate::memory::Descriptor;
use crate::pool::board::{DataId, Layout, SlotId, TicketId};
use crate::wire::{Handles, Payload};

/// All that a worker is given at its start.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) slot_id: SlotId,
    pub(crate) messages: IpcReceiver<ToWorker>,
    pub(crate) layout: Layout,
    pub(crate) board: Descriptor,
    pub(crate) regions: Vec<Descriptor>,
    pub(crate) initializer: Option<(Name, Payload)>,
    /// The function that makes the worker's state, and its argument. Without one, the state is
    /// `()`.
    pub(crate) state: Option<(Name, Payload)>,
    /// The function that receives the state when the worker exits normally.
    pub(crate) worker_exit: Option<Name>,
    pub(crate) max_tasks: Option<u64>,
    /// How many bytes of memory the worker may have after a task.
    pub(crate) max_memory: Option<u64>,
    /// How long the worker waits for work before it leaves.
    pub(crate) idle_timeout: Option<Duration>,
    /// Whether the worker's number is below the number of processors that the program may use.
    pub(crate) has_processor: bool,
    /// The name of the pool.
    pub(crate) name: String,
}

/// A message from the parent to one worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// Wakes the worker.
    Wake,
    /// The next region of the arena.
    Region(Descriptor),
    /// The channel ends that the worker asked for, or the reason why they cannot be sent.
    Handles(Result<Option<Handles>, String>),
    /// The answer to [`FromWorker::NeedsData`].
    Data {
        /// The data that the worker wanted, if it wanted any; or the reason why there are none.
        found: Option<Result<Payload, String>>,
        /// Those of the data in the worker that it must drop.
        dropped: Vec<DataId>,
    },
}

/// A message from a worker to its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    /// The initializer has returned, and the state is made.
    Ready,
    /// The initializer, or the function that makes the state, failed; or the worker has too much
    /// memory before its first task. Holds an encoded [`Fault`](crate::call::Fault).
    InitializerFailed(Payload),
    /// The worker claims no more tickets, and exits once `worker_exit` has returned.
    Leaves(LeaveReason),
    /// Asks the parent to look at the board: a ticket is finished, or the worker is starving. Sent
    /// only if the parent has asked for a message.
    Look,
    /// Asks for the channel ends in the argument of this ticket's task.
    NeedsHandles(TicketId),
    /// A result that does not go into the chunk's room.
    OutOfBand { ticket: TicketId, task: u32, value: Payload },
    /// Asks for data that a function borrows. Also asks which of the data in the worker (`held`) it
    /// must drop.
    NeedsData { wanted: Option<DataId>, held: Vec<DataId> },
    /// The data that the function of this ticket's call borrows did not come, or cannot be decoded.
    /// The worker does not run the ticket. Holds an encoded [`Fault`](crate::call::Fault).
    DataFailed { ticket: TicketId, fault: Payload },
}

/// Why a worker exits normally.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaveReason {
    /// The worker has run as many tasks as `max_tasks` allows.
    MaxTasks,
    /// The worker has more memory than it may have.
    MaxMemory,
    /// The worker found no work for as long as `idle_timeout`.
    Idle,
    /// The pool has become smaller, or has ended.
    Dismissed,
}

/// The part of a [`Setup`] that is sent as bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    slot_id: SlotId,
    layout: Layout,
    initializer: Option<Name>,
    state: Option<Name>,
    worker_exit: Option<Name>,
    max_tasks: Option<u64>,
    max_memory: Option<u64>,
    idle_timeout: Option<Duration>,
    has_processor: bool,
    name: String,
}

impl Setup {
    /// Turns the setup into the job of a process, which begins in `main`.
    ///
    /// # Errors
    ///
    /// The setup cannot be encoded. The error says why.
    pub(crate) fn into_job(self, main: &'static Entry<Main>) -> Result<Job, String> {
        let (initializer, first) = self.initializer.unzip();
        let (state, second) = self.state.unzip();
        let settings = Settings {
            slot_id: self.slot_id,
            layout: self.layout,
            initializer,
            state,
            worker_exit: self.worker_exit,
            max_tasks: self.max_tasks,
            max_memory: self.max_memory,
            idle_timeout: self.idle_timeout,
            has_processor: self.has_processor,
            name: self.name,
        };
        Ok(Job {
            main: Name::of_entry::<fn(), _>(main)?,
            setup: Payload::encode_plain(&settings)?,
            payloads: first.into_iter().chain(second).collect(),
            receivers: vec![self.messages.to_opaque()],
            senders: Vec::new(),
            memory: std::iter::once(self.board).chain(self.regions).collect(),
        })
    }

    /// The setup of a worker, from the job that its process was started with. Returns `None` if the
    /// job is not a worker's.
    pub(crate) fn from_job(job: Job) -> Option<Setup> {
        let Job { setup, payloads, mut receivers, memory, .. } = job;
        let settings: Settings = setup.decode().ok()?;
        let (mut payloads, mut memory) = (payloads.into_iter(), memory.into_iter());
        let mut with_argument = |name: Option<Name>| match name {
            Some(name) => Some(Some((name, payloads.next()?))),
            None => Some(None),
        };
        Some(Setup {
            slot_id: settings.slot_id,
            messages: receivers.pop()?.to(),
            layout: settings.layout,
            board: memory.next()?,
            regions: memory.collect(),
            initializer: with_argument(settings.initializer)?,
            state: with_argument(settings.state)?,
            worker_exit: settings.worker_exit,
            max_tasks: settings.max_tasks,
            max_memory: settings.max_memory,
            idle_timeout: settings.idle_timeout,
            has_processor: settings.has_processor,
            name: settings.name,
        })
    }
}
