//! The state of a pool: what is published, who works, and what is waited for.
//!
//! All bookkeeping is in [`State`], under one lock; results are delivered after it is released.

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
use crate::forkserver::{ForkServer, Handle, Limits, StartMethod};
use crate::memory::{Arena, Block, Returned};
use crate::pool::board::{Board, Chunk, Owner, TicketId};
use crate::pool::job::{Delivery, Inbox, TaskQueue, WaitingHandles};
use crate::pool::worker::{LeaveReason, ToWorker};
use crate::sys;
use crate::wire::Payload;

/// How long a waiting call sleeps at most before it looks for itself.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Encodes a function and its argument anew for each worker, which calls it before its first task.
pub(crate) type Initializer = Arc<dyn Fn() -> Result<(Name, Payload), Error> + Send + Sync>;

/// What a pool is made with.
pub(crate) struct PoolConfig {
    pub(crate) processes: u32,
    pub(crate) context: StartMethod,
    pub(crate) name: String,
    pub(crate) worker_exit: Option<Name>,
    pub(crate) max_tasks: Option<u64>,
    pub(crate) limits: Limits,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) intensity: Option<Intensity>,
    /// Bytes that arguments and results may take in shared memory.
    pub(crate) memory: Option<usize>,
}

/// How many workers may die, and within which time, before the pool gives up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intensity {
    pub(crate) restarts: u32,
    pub(crate) period: Duration,
}

/// What workers call before they are ready, as long as there are workers to come.
#[derive(Default)]
pub(crate) struct Recipes {
    pub(crate) preload: Option<Initializer>,
    pub(crate) initializer: Option<Initializer>,
    pub(crate) state: Option<Initializer>,
}

/// A pool, shared by its handle, its supervisors and whoever waits for results.
pub(crate) struct Scheduler {
    pub(super) config: PoolConfig,
    pub(super) recipes: Mutex<Recipes>,
    /// Whether workers call functions of the user's before they are ready.
    pub(super) initializes: bool,
    /// The process that built it.
    pub(super) maker: u32,
    /// Whether the main thread built it: then its own threads have the rights and processors of
    /// that.
    pub(super) is_of_main_thread: bool,
    pub(super) board: Board,
    pub(super) state: Mutex<State>,
    /// How many slots are to have workers; written under the lock.
    pub(super) processes: AtomicU32,
    /// Held while the number of slots changes.
    pub(super) resizing: Mutex<()>,
    /// Signalled when a slot is to have a worker again, or never more.
    pub(super) called: Condvar,
    /// Signalled when an supervisor has ended.
    pub(super) ended: Condvar,
    /// Signalled when there are timeouts to watch over, or none any more.
    pub(super) timed: Condvar,
    /// How many threads look for results all the time.
    pub(super) lookers: AtomicUsize,
    /// The fork server of a `Fork` pool, which is its own.
    pub(super) fork_server: Mutex<Option<Arc<ForkServer>>>,
    /// The fork server that has run the function to preload, as long as it lives.
    pub(super) preloaded: Mutex<Option<Arc<ForkServer>>>,
    /// Blocks on their way back to the arena.
    pub(super) returned: Arc<Returned>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) arena: Arena,
    /// Queues in turn: the front one is cut next, then goes to the back.
    pub(super) queues: VecDeque<TaskQueue>,
    /// Chunks whose worker died before it began them, to be published again first.
    pub(super) requeued: VecDeque<TicketId>,
    /// Tickets not in use.
    pub(super) free: Vec<TicketId>,
    pub(super) in_flight: FxHashMap<TicketId, InFlight>,
    pub(super) slots: Vec<Slot>,
    /// How many slots wait for somebody to call a worker.
    pub(super) waiting: usize,
    /// When workers died of themselves, as far back as counts.
    pub(super) deaths: VecDeque<Instant>,
    /// Supervisors that have not ended.
    pub(super) supervisors: usize,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Whether a thread watches over timeouts.
    pub(super) timeout_watcher: bool,
    /// Futures to be woken when the lock is released.
    pub(super) wakers: Vec<Waker>,
    /// How many tickets in use have more than one step.
    pub(super) stealable: usize,
    /// How many regions all workers know.
    pub(super) announced: usize,
    /// How many bytes a function's result had last, for room in its next call.
    pub(super) sizes: FxHashMap<Name, usize>,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Open,
    /// No new calls; ends when all work is done.
    Closing,
    /// Everything is called off.
    Over(Option<Error>),
}

impl Phase {
    /// Whether calls are accepted.
    pub(super) fn check_open(&self) -> Result<(), Error> {
        match self {
            Phase::Open => Ok(()),
            Phase::Closing => Err(Error::closed()),
            Phase::Over(cause) => Err(cause.clone().unwrap_or_else(Error::closed)),
        }
    }
}

/// A ticket that is in use.
pub(super) struct InFlight {
    pub(super) inbox: Arc<Inbox>,
    pub(super) first: usize,
    pub(super) count: usize,
    /// How often these tasks were tried before.
    pub(super) attempts: u32,
    pub(super) block: Block,
    pub(super) chunk: Chunk,
    /// As the call asks, if it does.
    pub(super) chunksize: Option<usize>,
    /// Whether it was published with more than one step.
    pub(super) stealable: bool,
    /// Its place in the ring, once published.
    pub(super) position: u64,
    /// Its claimer, once the ring no longer shows it.
    pub(super) owner: Option<Owner>,
    pub(super) handles: Option<WaitingHandles>,
    /// Results that came by message.
    pub(super) out_of_band: HashMap<u32, Payload>,
    /// Finished, but not all messages have come.
    pub(super) waits_for_out_of_band: bool,
    /// Since when it makes no progress though a worker could see to it, and how many tasks were
    /// done then.
    pub(super) stuck: Option<(u32, Instant)>,
}

/// Why the pool has killed a worker: another task that the worker has at hand is not to blame for
/// it.
#[derive(Debug)]
pub(super) enum KillReason {
    /// For the sake of one task, which fails with this error.
    Task { inbox: Arc<Inbox>, task: usize, error: Error },
    /// The worker is of no use any more.
    Worker,
}

impl KillReason {
    /// The error of a task, if the worker was killed for its sake.
    pub(super) fn error_of(&self, inbox: &Arc<Inbox>, task: usize) -> Option<&Error> {
        match self {
            KillReason::Task { inbox: of, task: task_to_kill, error } => {
                (Arc::ptr_eq(of, inbox) && *task_to_kill == task).then_some(error)
            }
            KillReason::Worker => None,
        }
    }
}

/// What is to be told after the lock is released.
pub(super) type Deliveries = Vec<(Arc<Inbox>, Delivery)>;

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty() && self.in_flight.is_empty()
    }

    /// Puts deliveries into their inboxes now, before these are closed.
    pub(super) fn take_in(&mut self, deliveries: &mut Deliveries) {
        for (inbox, delivery) in deliveries.drain(..) {
            self.wakers.extend(inbox.accept(delivery));
        }
    }
}

/// Releases the lock, then tells whoever waits: what they do about it is their own.
pub(super) fn unlock(mut state: MutexGuard<'_, State>, deliveries: Deliveries) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    for (inbox, delivery) in deliveries {
        inbox.deliver(delivery);
    }
    wakers.into_iter().for_each(Waker::wake);
}

/// A worker's place in the pool.
#[derive(Default)]
pub(super) struct Slot {
    /// There from the moment at which its worker is asked for.
    pub(super) mail: Option<IpcSender<ToWorker>>,
    /// There once the worker's pid is known.
    pub(super) handle: Option<Handle>,
    /// How many regions its worker knows.
    pub(super) regions: usize,
    pub(super) failed_starts: u32,
    pub(super) ready: bool,
    /// Whether its worker has begun a task.
    pub(super) has_worked: bool,
    /// How many workers in a row were ready, and ended before they had begun a task.
    pub(super) fruitless: u32,
    /// Why the worker was killed, if it was by us.
    pub(super) kill_reason: Option<KillReason>,
    /// Why the worker says it ends.
    pub(super) leaving: Option<LeaveReason>,
    pub(super) slot_state: SlotState,
    /// Whether a thread sees to it that what `standing` says comes true.
    pub(super) supervised: bool,
}

impl Slot {
    /// Kills the worker if that was decided and its pid is known.
    pub(super) fn obey_kill(&self) {
        if let (Some(_), Some(handle)) = (&self.kill_reason, &self.handle) {
            handle.signal(Signal::SIGKILL);
        }
    }
}

/// Whether a slot is to have a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    /// It has one, or one is being started.
    #[default]
    Filled,
    /// The last one had nothing to do: more work than the others can take calls the next.
    Vacant,
    /// None could be started: the next call tries again, if others are there to go on meanwhile.
    Retired,
    /// Too many died here before they were ready.
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

    /// False in a copy of the process that built the pool, where nobody attends it.
    pub(super) fn is_ours(&self) -> bool {
        self.maker == sys::pid()
    }

    pub(crate) fn check_maker(&self) -> Result<(), Error> {
        if self.is_ours() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the pool belongs to process {}, and this one is a copy of it: build another",
            self.maker
        )))
    }

    /// How workers are made.
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

/// Copies a chunk's results out of shared memory, never more than its room.
pub(super) fn read_results(arena: &Arena, in_flight: &InFlight, len: u64, bytes: &mut Vec<u8>) {
    let len = len.min(in_flight.chunk.room) as usize;
    let start = (in_flight.chunk.offset + in_flight.chunk.arguments) as usize;
    arena.region(in_flight.block).read(start, len, bytes);
}
