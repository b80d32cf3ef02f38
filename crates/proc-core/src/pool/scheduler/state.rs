//! The state of a pool: its task queues, the tickets in use and the worker slots.
//!
//! [`State`] holds all bookkeeping under one lock. Waiting callers are told of their results after
//! the lock is released.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_channel::ipc::IpcSender;
use nix::sys::signal::Signal;
use rustc_hash::FxHashMap;

use crate::call::Name;
use crate::error::Error;
use crate::forkserver::{Attributes, ForkServer, Handle, StartMethod};
use crate::memory::{Arena, Block, Returned};
use crate::pool::board::{Board, Chunk, SlotId, TicketId};
use crate::pool::job::{Delivery, Inbox, TaskQueue, WaitingHandles};
use crate::pool::worker::{LeaveReason, ToWorker};
use crate::sys;
use crate::wire::Payload;

/// How often a waiting call, or the timeout watcher, checks the board even if no message comes.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Encodes a function and its argument, again for each worker. The worker calls the function before
/// its first task.
pub(crate) type Initializer = Arc<dyn Fn() -> Result<(Name, Payload), Error> + Send + Sync>;

/// The settings that a pool is built with.
pub(crate) struct PoolConfig {
    pub(crate) processes: u32,
    pub(crate) start_method: StartMethod,
    pub(crate) name: String,
    pub(crate) worker_exit: Option<Name>,
    pub(crate) max_tasks: Option<u64>,
    /// The attributes that each worker process is started with.
    pub(crate) attributes: Attributes,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) intensity: Option<Intensity>,
    /// The limit on the bytes that arguments and results take in shared memory.
    pub(crate) memory: Option<usize>,
}

/// The restart intensity: the pool gives up when more than `restarts` workers die within `period`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intensity {
    pub(crate) restarts: u32,
    pub(crate) period: Duration,
}

/// The functions that workers need before they are ready. Emptied when no more workers will be
/// started.
#[derive(Default)]
pub(crate) struct Recipes {
    pub(crate) preload: Option<Initializer>,
    pub(crate) initializer: Option<Initializer>,
    pub(crate) state: Option<Initializer>,
}

/// The engine of a pool. The pool's handle, the supervisors and all threads that wait for results
/// share it.
pub(crate) struct Scheduler {
    pub(super) config: PoolConfig,
    pub(super) recipes: Mutex<Recipes>,
    /// Whether workers call user functions (the initializer or the state's) before they are ready.
    pub(super) initializes: bool,
    /// The pid of the process that built the pool.
    pub(super) built_by: u32,
    /// Whether the main thread built the pool. If so, a supervisor takes over the main thread's
    /// current rights and processors before it starts a worker.
    pub(super) is_of_main_thread: bool,
    pub(super) board: Board,
    pub(super) state: Mutex<State>,
    /// How many slots are to have workers. Written under the lock of `state`.
    pub(super) processes: AtomicU32,
    /// Held while the number of slots changes, so that only one thread changes it at a time.
    pub(super) resizing: Mutex<()>,
    /// Signalled when an empty slot is to have a worker again, or is never to have one again.
    pub(super) called: Condvar,
    /// Signalled when a supervisor has ended.
    pub(super) ended: Condvar,
    /// Signalled when the timeout watcher has something to watch, or is to end.
    pub(super) timed: Condvar,
    /// How many threads poll for results. While there is one, workers need to send no messages
    /// about finished tickets.
    pub(super) lookers: AtomicUsize,
    /// The fork server of a pool with `StartMethod::Fork`. It belongs to the pool.
    pub(super) fork_server: Mutex<Option<Arc<ForkServer>>>,
    /// The fork server that has run the pool's preload function, while it lives.
    pub(super) preloaded: Mutex<Option<Arc<ForkServer>>>,
    /// Blocks whose lease has ended, on their way back to the arena.
    pub(super) returned: Arc<Returned>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) arena: Arena,
    /// The task queues, served in turn: a chunk is cut from the front queue, which then goes to the
    /// back.
    pub(super) queues: VecDeque<TaskQueue>,
    /// Tickets to be published before another chunk is cut: their worker died before it began the
    /// tasks that are left, or the ring was full.
    pub(super) requeued: VecDeque<TicketId>,
    /// Tickets that are not in use.
    pub(super) free: Vec<TicketId>,
    pub(super) in_flight: FxHashMap<TicketId, InFlight>,
    pub(super) slots: Vec<Slot>,
    /// How many slots are empty and wait for a worker (see [`SlotState::waits`]).
    pub(super) waiting: usize,
    /// When workers died by themselves, as far back as [`Intensity::period`] requires.
    pub(super) deaths: VecDeque<Instant>,
    /// How many supervisors have not ended.
    pub(super) supervisors: usize,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Whether the timeout watcher runs.
    pub(super) timeout_watcher: bool,
    /// Wakers of futures, to be called when the lock is released.
    pub(super) wakers: Vec<Waker>,
    /// How many tickets in use have more than one grain.
    pub(super) stealable: usize,
    /// How many regions every worker has been told of.
    pub(super) announced: usize,
    /// How large a result of each function was last, in bytes. The next call of the function
    /// reserves that much room for a result.
    pub(super) sizes: FxHashMap<Name, usize>,
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

/// A ticket in use, and the parent's own record of its chunk.
pub(super) struct InFlight {
    pub(super) inbox: Arc<Inbox>,
    pub(super) first: usize,
    pub(super) count: usize,
    /// How many times these tasks were tried before.
    pub(super) attempts: u32,
    pub(super) block: Block,
    pub(super) chunk: Chunk,
    /// The chunksize that the call asks for, if it asks for one.
    pub(super) chunksize: Option<usize>,
    /// Whether the ticket was published with more than one grain.
    pub(super) stealable: bool,
    /// The number of its publication, which determines its place in the ring. Set when it is
    /// published.
    pub(super) position: u64,
    /// The slot whose worker claimed it. Set when the ring no longer shows the claim.
    pub(super) claimer: Option<SlotId>,
    pub(super) handles: Option<WaitingHandles>,
    /// The results that came out of band, by the index of their task in the chunk.
    pub(super) out_of_band: HashMap<u32, Payload>,
    /// The worker has finished the chunk, but not all of its out-of-band results have come.
    pub(super) waits_for_out_of_band: bool,
    /// Since when the ticket has made no progress although a worker could run it, and how many
    /// tasks were done then. Written by the timeout watcher.
    pub(super) stuck: Option<(u32, Instant)>,
}

/// Why the pool killed a worker. A task that the worker held, other than the one named here, is not
/// to blame for the death.
#[derive(Debug)]
pub(super) enum KillReason {
    /// To stop one task, which fails with this error.
    Task { inbox: Arc<Inbox>, task: usize, error: Error },
    /// The worker is of no more use. No task is to blame.
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

/// Deliveries to hand over after the lock is released, each with its inbox.
pub(super) type Deliveries = Vec<(Arc<Inbox>, Delivery)>;

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty() && self.in_flight.is_empty()
    }

    /// Puts deliveries into their inboxes under the lock. Called before the inboxes are closed,
    /// because a closed inbox accepts no failures.
    pub(super) fn take_in(&mut self, deliveries: &mut Deliveries) {
        for (inbox, delivery) in deliveries.drain(..) {
            self.wakers.extend(inbox.accept(delivery));
        }
    }
}

/// Releases the lock, then hands over deliveries and calls wakers. A waker may run any code, so it
/// must not run under the lock.
pub(super) fn unlock(mut state: MutexGuard<'_, State>, deliveries: Deliveries) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    for (inbox, delivery) in deliveries {
        inbox.deliver(delivery);
    }
    wakers.into_iter().for_each(Waker::wake);
}

/// A worker slot: the place of one worker in the pool, and the parent's record of that worker.
#[derive(Default)]
pub(super) struct Slot {
    /// The channel to the worker. Set when the worker's start is requested.
    pub(super) mail: Option<IpcSender<ToWorker>>,
    /// Set when the worker's pid is known.
    pub(super) handle: Option<Handle>,
    /// How many regions the worker has been told of.
    pub(super) regions: usize,
    pub(super) failed_starts: u32,
    pub(super) ready: bool,
    /// Whether the worker has finished a ticket.
    pub(super) has_worked: bool,
    /// How many workers in a row became ready and then exited before they began a task.
    pub(super) fruitless: u32,
    /// Why the pool killed the worker, or will kill it once its pid is known.
    pub(super) kill_reason: Option<KillReason>,
    /// Why the worker leaves, as it says itself.
    pub(super) leaving: Option<LeaveReason>,
    pub(super) slot_state: SlotState,
    /// Whether a supervisor thread carries out what `slot_state` says.
    pub(super) supervised: bool,
}

impl Slot {
    /// Kills the worker, if that was decided and the worker's pid is known.
    pub(super) fn obey_kill(&self) {
        if let (Some(_), Some(handle)) = (&self.kill_reason, &self.handle) {
            handle.signal(Signal::SIGKILL);
        }
    }
}

/// Whether a slot is to have a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The slot has a worker, or one is being started.
    #[default]
    Filled,
    /// The last worker left because it was idle. The slot is filled when there is more work than
    /// the other workers can take.
    Vacant,
    /// No worker could be started, or too many in a row exited before they began a task. A later
    /// call tries again: see [`Scheduler::revive`].
    Retired,
    /// Workers cannot be started here, for example because too many exited before they were ready.
    /// Calls do not try again.
    Broken,
}

impl SlotState {
    pub(super) fn waits(self) -> bool {
        matches!(self, SlotState::Vacant | SlotState::Retired)
    }
}

impl Scheduler {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns false in a forked copy of the process that built the pool. Nobody supervises the
    /// pool there.
    pub(super) fn is_ours(&self) -> bool {
        self.built_by == sys::pid()
    }

    pub(crate) fn check_not_a_copy(&self) -> Result<(), Error> {
        if self.is_ours() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the pool belongs to process {}, of which this process is a copy: build another pool here",
            self.built_by
        )))
    }

    /// Locks the recipes by which workers are started.
    pub(super) fn recipes(&self) -> MutexGuard<'_, Recipes> {
        self.recipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies a chunk's arguments out of shared memory.
pub(super) fn read_arguments(arena: &Arena, in_flight: &InFlight) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = in_flight.chunk.arguments as usize;
    arena.region(in_flight.block).read(in_flight.chunk.offset as usize, len, &mut bytes);
    bytes
}

/// Copies a chunk's results out of shared memory, at most as many bytes as the chunk has room for.
pub(super) fn read_results(arena: &Arena, in_flight: &InFlight, len: u64, bytes: &mut Vec<u8>) {
    let len = len.min(in_flight.chunk.room) as usize;
    let start = (in_flight.chunk.offset + in_flight.chunk.arguments) as usize;
    arena.region(in_flight.block).read(start, len, bytes);
}
