//! The bookkeeping of a pool: its task queues, the tickets in use and the slots.
//!
//! [`State`] holds all bookkeeping under one lock. Deliveries go into their inboxes after the lock
//! is released.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_channel::ipc::IpcSender;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustc_hash::FxHashMap;

use super::fair_share::FairQueues;
use crate::call::Name;
use crate::error::{Error, Origin};
use crate::forkserver::{Attributes, ForkServer, Handle, StartMethod};
use crate::memory::{Arena, Block, ReturnedBlocks};
use crate::pool::board::{Board, Chunk, DataId, SlotId, TicketId};
use crate::pool::job::{
    BoundData, Delivery, DroppedData, Inbox, Pending, ShortQueue, WaitingHandles,
};
use crate::pool::worker::{LeaveReason, ToWorker};
use crate::sys;
use crate::wire::{Payload, Unreadable};

/// How often a call that waits for its next result checks the board, and how often the timeout
/// watcher wakes sleepers while work waits, even if no message comes.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Names a function that is called before tasks, and encodes its argument, anew for each process
/// that calls it.
pub(crate) type StartFunction = Arc<dyn Fn() -> Result<(Name, Payload), Error> + Send + Sync>;

/// The settings that a pool is built with.
pub(crate) struct PoolConfig {
    pub(crate) processes: u32,
    pub(crate) start_method: StartMethod,
    pub(crate) name: String,
    pub(crate) worker_exit: Option<Name>,
    pub(crate) max_tasks: Option<u64>,
    /// How many bytes of memory a worker may have after a task.
    pub(crate) max_memory: Option<u64>,
    /// How many tasks may be queued or running.
    pub(crate) pending: Option<Arc<Pending>>,
    /// The attributes that each worker process is started with.
    pub(crate) attributes: Attributes,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) restart_intensity: Option<Intensity>,
    /// The limit on the bytes that arguments and results take in shared memory.
    pub(crate) memory_limit: Option<usize>,
    /// The size of the largest argument that a worker can map, in bytes.
    pub(crate) max_argument: usize,
    /// The signal that a worker gets when its task is asked to stop.
    pub(crate) stop_signal: Option<Signal>,
}

/// The restart intensity: the pool gives up when more than `restarts` workers die within `period`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intensity {
    pub(crate) restarts: u32,
    pub(crate) period: Duration,
}

/// The functions that are called before a worker is ready: one by the pool's own fork server, the
/// others by each worker. Emptied when no more workers will be started.
#[derive(Default)]
pub(crate) struct StartFunctions {
    pub(crate) preload: Option<StartFunction>,
    pub(crate) initializer: Option<StartFunction>,
    pub(crate) state: Option<StartFunction>,
}

impl StartFunctions {
    pub(crate) fn is_any(&self) -> bool {
        self.preload.is_some() || self.initializer.is_some() || self.state.is_some()
    }
}

/// The part of a pool that works in the parent. The pool's handle, the supervisors and all threads
/// that wait for results share it.
pub(crate) struct Scheduler {
    pub(super) config: PoolConfig,
    pub(super) start_functions: Mutex<StartFunctions>,
    /// Whether workers call user functions (the initializer or the state's) before they are ready.
    pub(super) initializes: bool,
    /// The pid of the process that built the pool.
    pub(super) built_by: u32,
    /// Whether the main thread built the pool. If so, each time before a supervisor starts a
    /// worker, it takes over the rights (user ids, capabilities) and the processors that the main
    /// thread has at that moment.
    pub(super) built_by_main_thread: bool,
    pub(super) board: Board,
    pub(super) state: Mutex<State>,
    /// The size of the pool: how many slots it has. Written under the lock of `state`.
    pub(super) processes: AtomicU32,
    /// Held while the size changes, so that only one thread changes it at a time.
    pub(super) resizing: Mutex<()>,
    /// Signalled when a slot that has no worker is filled, or will never have a worker again.
    pub(super) slots_changed: Condvar,
    /// Signalled when a supervisor has ended.
    pub(super) supervisor_ended: Condvar,
    /// Signalled when the timeout watcher has something to watch, or must end.
    pub(super) watcher_signal: Condvar,
    /// How many threads poll for results. While there is one, workers send no messages about
    /// finished tickets.
    pub(super) pollers: AtomicUsize,
    /// The pool and each of its calls have this, so the number of references tells how many calls
    /// there are.
    pub(crate) open_calls: Arc<()>,
    /// The fork server of a pool with `StartMethod::Fork`. Only this pool uses it.
    pub(super) fork_server: Mutex<Option<Arc<ForkServer>>>,
    /// The fork server that has run the pool's preload function, if there is one.
    pub(super) preloaded: Mutex<Option<Arc<ForkServer>>>,
    /// Blocks whose lease has ended, and which are not back in the arena yet.
    pub(super) returned: Arc<ReturnedBlocks>,
    /// Data that were dropped, and that workers may still hold.
    pub(super) dropped_data: Arc<DroppedData>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) arena: Arena,
    /// The task queues of all calls.
    pub(super) queues: FairQueues,
    /// Tickets that are published again when it is their turn: their worker died before it had
    /// begun all tasks, the ring was full, or a new call goes first.
    pub(super) requeued: VecDeque<TicketId>,
    /// Tickets that are not in use.
    pub(super) free: Vec<TicketId>,
    /// The memory for a list of finished tickets. The list is empty.
    pub(super) finished: Vec<TicketId>,
    pub(super) in_flight: FxHashMap<TicketId, Box<InFlight>>,
    pub(super) slots: Vec<Slot>,
    /// How many slots wait for a worker (see [`SlotState::waits_for_worker`]).
    pub(super) waiting_slots: usize,
    /// The times at which workers died that the pool had not killed, as far back as
    /// [`Intensity::period`].
    pub(super) deaths: VecDeque<Instant>,
    /// How many supervisors have not ended.
    pub(super) supervisors: usize,
    /// The threads of the supervisors and of the timeout watcher.
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Whether the timeout watcher was started.
    pub(super) timeout_watcher: bool,
    /// Wakers of futures, which are called when the lock is released.
    pub(super) wakers: Vec<Waker>,
    /// How many tickets in use were published with more than one grain.
    pub(super) stealable_tickets: usize,
    /// How many tickets in use a new call may overtake, see [`Turn::may_be_overtaken`].
    pub(super) overtakable_tickets: usize,
    /// How many tickets in use are assigned to one worker.
    pub(super) assigned_tickets: usize,
    /// How many regions were sent to every worker.
    pub(super) sent_regions: usize,
    /// The likely size of a function's result, in bytes. Each chunk that changes the estimate of
    /// its call replaces this one. The next call of the function reserves that much room for a
    /// result.
    pub(super) result_sizes: FxHashMap<Name, usize>,
    /// The data that functions of calls borrow.
    pub(super) data: FxHashMap<DataId, Weak<BoundData>>,
    /// The number that data got last.
    pub(super) last_data_id: DataId,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Open,
    /// No new calls are accepted. The pool ends when all work is done.
    Closing,
    /// The pool has ended: open calls have failed, and workers exit. Holds the error that ended the
    /// pool, if one did.
    Over(Option<Error>),
}

impl Phase {
    /// Returns an error unless the pool accepts calls.
    pub(super) fn check_open(&self) -> Result<(), Error> {
        match self {
            Phase::Open => Ok(()),
            Phase::Closing => Err(Error::closed()),
            Phase::Over(cause) => Err(cause.clone().unwrap_or_else(Error::closed)),
        }
    }
}

/// A chunk in flight: the parent's own record of a ticket in use.
pub(super) struct InFlight {
    pub(super) inbox: Arc<Inbox>,
    pub(super) first: usize,
    pub(super) count: usize,
    /// How many times these tasks were tried before.
    pub(super) attempts: u32,
    /// Whether a new call may go before this chunk.
    pub(super) overtakable: bool,
    /// How much time the call was charged for the chunk, in nanoseconds.
    pub(super) charge: u64,
    pub(super) block: Block,
    pub(super) chunk: Chunk,
    /// Whether the ticket was published with more than one grain.
    pub(super) stealable: bool,
    /// The number of its publication, which determines its place in the ring.
    pub(super) position: u64,
    /// The slot whose worker claimed it. Set when the ring no longer shows the claim, and for a
    /// ticket that was assigned.
    pub(super) claimer: Option<SlotId>,
    /// The slot whose worker must run it, if only that one may. Such a ticket is assigned, not
    /// published.
    pub(super) slot_id: Option<SlotId>,
    pub(super) handles: Option<WaitingHandles>,
    /// The results that came out of band, by the index of their task in the chunk.
    pub(super) out_of_band: BTreeMap<u32, Payload>,
    /// Whether the worker has finished the chunk, but some out-of-band results have not come.
    pub(super) waits_for_out_of_band: bool,
    /// How many tasks were done when the timeout watcher first saw that none was running although a
    /// worker could run one, and when that was.
    pub(super) stuck: Option<(u32, Instant)>,
    /// Set when the task that is running was asked to stop.
    pub(super) stop: Option<Box<Stop>>,
}

/// A task was asked to stop.
#[derive(Debug)]
pub(super) struct Stop {
    /// Whether the whole call is stopped: each task that its worker begins after this one is asked
    /// too, and none is tried again.
    pub(super) is_of_call: bool,
    /// How many tasks of the chunk were done when a task was asked last.
    pub(super) done: u32,
    /// When the worker is killed, if the task still runs.
    pub(super) kill_at: Instant,
    /// The error of the task, if its worker is killed.
    pub(super) error: Error,
}

/// Why the pool killed a worker. Only the task that is named here fails because of it.
#[derive(Debug)]
pub(super) enum KillReason {
    /// The pool stops one task, which fails with this error.
    Task { inbox: Arc<Inbox>, task: usize, error: Error },
    /// The worker is of no more use. No task fails because of it.
    Worker,
}

impl KillReason {
    /// Returns the error of a task, if the worker was killed to stop that task.
    pub(super) fn error_of(&self, inbox: &Arc<Inbox>, task: usize) -> Option<&Error> {
        match self {
            KillReason::Task { inbox: of, task: task_to_kill, error } => {
                (Arc::ptr_eq(of, inbox) && *task_to_kill == task).then_some(error)
            }
            KillReason::Worker => None,
        }
    }
}

/// Deliveries that go into their inboxes after the lock is released.
pub(super) type Deliveries = ShortQueue<Addressed>;

/// A delivery with its inbox.
pub(super) type Addressed = (Arc<Inbox>, Box<Delivery>);

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty() && self.in_flight.is_empty()
    }

    /// Charges the call of a chunk that is published again, unless it was charged.
    pub(super) fn charge(&mut self, ticket: TicketId) {
        if let Some(in_flight) = self.in_flight.get_mut(&ticket).filter(|it| it.charge == 0) {
            in_flight.charge = self.queues.charge(&in_flight.inbox, in_flight.count);
        }
    }

    /// Gives back what the call of a chunk was charged, because the chunk waits again.
    pub(super) fn refund(&mut self, ticket: TicketId) {
        if let Some(in_flight) = self.in_flight.get_mut(&ticket) {
            self.queues.refund(&in_flight.inbox, std::mem::take(&mut in_flight.charge));
        }
    }

    /// All tickets that are in use.
    pub(super) fn tickets(&self) -> impl Iterator<Item = (TicketId, &InFlight)> {
        self.in_flight.iter().map(|(ticket, in_flight)| (*ticket, &**in_flight))
    }

    /// The tickets of a call that are in use, each with the number of its publication.
    pub(super) fn tickets_of(&self, inbox: &Arc<Inbox>) -> Vec<(TicketId, u64)> {
        let of_call = self.tickets().filter(|(_, it)| Arc::ptr_eq(&it.inbox, inbox));
        of_call.map(|(ticket, in_flight)| (ticket, in_flight.position)).collect()
    }

    /// Puts deliveries into their inboxes now, under the lock. Called before the inboxes are
    /// closed, because a closed inbox drops failures.
    pub(super) fn deliver_under_lock(&mut self, deliveries: &mut Deliveries) {
        while let Some((inbox, delivery)) = deliveries.pop_front() {
            self.wakers.extend(inbox.accept(delivery));
        }
    }
}

/// Releases the lock, and calls wakers.
pub(super) fn unlock(state: MutexGuard<'_, State>) {
    unlock_and_deliver(state, Deliveries::default());
}

/// Releases the lock, then puts deliveries into their inboxes and calls wakers. A waker may run any
/// code, so it must not run under the lock.
pub(super) fn unlock_and_deliver(mut state: MutexGuard<'_, State>, mut deliveries: Deliveries) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    while let Some((inbox, delivery)) = deliveries.pop_front() {
        inbox.deliver(delivery);
    }
    wakers.into_iter().for_each(Waker::wake);
}

/// A slot: the place of one worker in the pool, and the parent's record of that worker.
#[derive(Default)]
pub(super) struct Slot {
    /// The channel for messages to the worker. Set before the worker is started.
    pub(super) to_worker: Option<IpcSender<ToWorker>>,
    /// Set when the worker's pid is known.
    pub(super) handle: Option<Handle>,
    /// How many regions were sent to the worker.
    pub(super) sent_regions: usize,
    /// The ticket that is assigned to the worker and not settled.
    pub(super) assigned: Option<TicketId>,
    /// Whether data were sent to the worker, which it may still hold.
    pub(super) holds_data: bool,
    /// How many workers in a row have exited before they were ready.
    pub(super) failed_starts: u32,
    /// Whether the worker is ready for tasks.
    pub(super) ready: bool,
    /// Whether the worker has finished a ticket.
    pub(super) has_worked: bool,
    /// How many workers in a row became ready, and exited before they had begun a task.
    pub(super) taskless_exits: u32,
    /// Why the pool killed the worker, or will kill it when the worker's pid is known.
    pub(super) kill_reason: Option<KillReason>,
    /// Why the worker leaves, as the worker itself has said.
    pub(super) leaving: Option<LeaveReason>,
    pub(super) slot_state: SlotState,
    /// Whether the slot has a supervisor.
    pub(super) supervised: bool,
}

impl Slot {
    /// Kills the worker, if the pool has decided so and the worker's pid is known.
    pub(super) fn kill_if_decided(&self) {
        if let (Some(_), Some(handle)) = (&self.kill_reason, &self.handle) {
            handle.signal(Signal::SIGKILL);
        }
    }
}

/// Whether a slot has a worker, or may get one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The slot has a worker, or one is being started.
    #[default]
    Filled,
    /// The last worker left because it was idle, or the slot was suspended and may try again. The
    /// slot is filled when there are more grains of work than filled slots, or when a broadcast has
    /// a task for it.
    Vacant,
    /// No worker could be started, or too many in a row exited before they had begun a task. A
    /// later call tries again: see [`Scheduler::resume_slots_for_call`].
    Suspended,
    /// No worker will be started here, unless a resize fills the slot: for example, because the
    /// initializer has failed in too many workers.
    Broken,
}

impl SlotState {
    /// Whether the slot has no worker now, and may have one later.
    pub(super) fn waits_for_worker(self) -> bool {
        matches!(self, SlotState::Vacant | SlotState::Suspended)
    }
}

impl Scheduler {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process is a copy, made by `fork`, of the process that built the pool. A copy
    /// has no supervisors, so the pool cannot be used there.
    pub(super) fn is_forked_copy(&self) -> bool {
        self.built_by != sys::pid()
    }

    /// Returns an error in a forked copy of the process that built the pool.
    pub(crate) fn check_not_forked_copy(&self) -> Result<(), Error> {
        if self.is_forked_copy() {
            return Err(Error::invalid(format!(
                "the pool belongs to process {}, of which this process is a copy: build another \
                 pool here",
                self.built_by
            )));
        }
        Ok(())
    }

    /// Locks the functions that are called before a worker is ready.
    pub(super) fn start_functions(&self) -> MutexGuard<'_, StartFunctions> {
        self.start_functions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies a chunk's arguments out of shared memory.
///
/// # Errors
///
/// There is no memory for the copy.
pub(super) fn read_arguments(arena: &Arena, in_flight: &InFlight) -> Result<Vec<u8>, Error> {
    let len = in_flight.chunk.arguments as usize;
    let bytes = read(arena, in_flight, in_flight.chunk.offset, len);
    bytes.ok_or_else(|| Error::make("memory for a chunk of tasks", Errno::ENOMEM.into()))
}

/// Copies `len` bytes of a chunk's results out of shared memory, but no more than the chunk's room.
///
/// # Errors
///
/// There is no memory for the copy.
pub(super) fn read_results(
    arena: &Arena,
    in_flight: &InFlight,
    len: u64,
) -> Result<Vec<u8>, Error> {
    let len = len.min(in_flight.chunk.room) as usize;
    let bytes = read(arena, in_flight, in_flight.chunk.offset + in_flight.chunk.arguments, len);
    bytes.ok_or_else(|| Error::decode_result(Unreadable::NoMemory.into()))
}

/// Copies a part of a chunk's block. Returns `None` if there is no memory for the copy.
fn read(arena: &Arena, in_flight: &InFlight, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    arena.region(in_flight.block).read(offset as usize, len, &mut bytes).then_some(bytes)
}

/// The deliveries of consecutive tasks that fail with the same error.
pub(super) fn fail_each(inbox: &Arc<Inbox>, tasks: Range<usize>, error: &Error) -> Vec<Addressed> {
    let failed = |task| {
        let error = error.clone().with_origin(Origin::of_task(task));
        (Arc::clone(inbox), Box::new(Delivery::Failed { task, error }))
    };
    tasks.map(failed).collect()
}
