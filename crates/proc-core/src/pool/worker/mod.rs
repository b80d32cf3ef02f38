//! A worker from inside: it initializes, then claims chunks, runs their tasks and hands over the
//! results, and sleeps while there is no work. When a worker exits normally, it also runs
//! `worker_exit` on its state.

mod data;
mod memory_limit;
mod messages;
mod run;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_channel::ipc::{IpcReceiver, IpcSender};
use ipc_channel::{IpcError, TryRecvError};

use self::data::DataCache;
use self::memory_limit::MemoryLimit;
pub(crate) use self::messages::{FromWorker, LeaveReason, Setup, ToWorker};
use self::run::{Run, RunFn};
pub(crate) use self::run::{stateful_task, stateful_task_with_data, task, task_with_data};
use self::state::{WorkerState, call_start_function};
use crate::call::current::{self, TaskFacts, WorkerFacts};
use crate::call::{Entry, Fault, Name, State};
use crate::forkserver::{Main, MainInputs, Report};
use crate::memory::{Block, Descriptor, Lease, Region};
use crate::panics::{self, PanicOutput};
use crate::pool::board::{Board, DataId, SlotId, TicketId};
use crate::sync::shared;
use crate::sys;
use crate::wire::{self, Handles, Payload, Sink};

/// How long a worker waits for its output streams at the end of a chunk. A thread that a task has
/// left running may hold the lock of a stream.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(50);

/// Tasks that take less are fast: to flush stdout after each of them would cost more than the task,
/// so the worker flushes once for each chunk.
const FAST_TASK_NANOS: u64 = 10_000;

/// How a worker looks for work before it sleeps.
#[derive(Clone, Copy, Debug)]
struct Search {
    looks: u32,
    /// After so many looks, the worker offers its processor to other threads.
    looks_per_yield: u32,
}

/// The search of a worker that has a processor. It takes about 15 us on the machine of the
/// benchmark, where a thread that sleeps runs again some 25 us after it was woken (see
/// `memory/spin.rs`). If a thread spins for about as long as a sleep would cost, its total cost is
/// at most twice that of the best choice (Karlin, Li, Manasse and Owicki, 1991). While a worker
/// yields, which is a system call, it does not look. With a yield after every 16 looks, the median
/// round trip of a task took two to three times as long.
const SEARCH: Search = Search { looks: 800, looks_per_yield: 64 };

/// The search of a worker that shares a processor with other workers: those may have work.
const SEARCH_OF_MANY: Search = Search { looks: 200, looks_per_yield: 16 };

/// The most capacity for results that a worker keeps for the next chunk.
const MAX_KEPT_BYTES: usize = 4 << 20;

/// The longest timeout of one sleep. `poll` does not accept much longer ones.
const MAX_POLL_TIMEOUT: Duration = Duration::from_secs(1 << 20);

struct Work;
/// The entry point of a worker process: serves a pool until the worker must leave.
pub(crate) const MAIN: &Entry<Main> = &Entry::new::<Work>(main);

fn main(inputs: MainInputs) -> ! {
    let report = &inputs.report();
    let Some(setup) = Setup::from_job(inputs.job) else { sys::exit_now(1) };
    panics::set_panic_output(PanicOutput::Unreported);
    shared::keep_mappings();
    let map = |descriptor| map(descriptor).unwrap_or_else(|why| exit_without_memory(report, why));
    let Some(board) = Board::map(setup.layout, map(setup.board)) else { sys::exit_now(1) };
    let (board, running) = (Arc::new(board), Arc::new(Running::default()));
    current::set_worker(WorkerFacts {
        number: setup.slot_id as usize,
        pool: setup.name,
        running: {
            let (board, running) = (Arc::clone(&board), Arc::clone(&running));
            Box::new(move || running.task(&board))
        },
        running_index: {
            let (board, running) = (Arc::clone(&board), Arc::clone(&running));
            Box::new(move || running.index(&board))
        },
    });
    let regions = setup.regions.into_iter().map(map).map(Arc::new).collect();
    let initialized = setup.initializer.map_or(Ok(()), |(name, mut argument)| {
        call_start_function(name, &mut argument, &mut State::none())
    });
    let state = initialized
        .and_then(|()| WorkerState::new(setup.state))
        .unwrap_or_else(|fault| exit_with_fault(report, &fault));
    let memory_limit = setup.max_memory.map(MemoryLimit::new).transpose();
    let memory_limit = memory_limit.unwrap_or_else(|fault| exit_with_fault(report, &fault));
    let mut worker = Worker {
        slot_id: setup.slot_id,
        pid: sys::pid(),
        board,
        running,
        messages: setup.messages,
        report,
        regions,
        handles: None,
        data: DataCache::default(),
        found_data: None,
        resolved: None,
        tasks_left: setup.max_tasks.unwrap_or(u64::MAX),
        memory_limit,
        has_fast_tasks: false,
        idle_timeout: setup.idle_timeout,
        search: if setup.has_processor { SEARCH } else { SEARCH_OF_MANY },
        out: Sink::default(),
        state,
    };
    restore_settings();
    worker.send(FromWorker::Ready);
    let why = worker.serve();
    worker.send(FromWorker::Leaves(why));
    worker.state.end(setup.worker_exit);
    sys::end_process(0)
}

/// Restores two settings that user code may have changed: the death signal and the panic hook.
fn restore_settings() {
    // When a process changes its user id, the kernel clears the signal that it gets when its fork
    // server dies.
    sys::die_with_parent();
    panics::install_hook();
}

/// Maps memory that the parent has sent.
fn map(descriptor: Descriptor) -> Result<Region, String> {
    descriptor.into_fd().and_then(Region::map).map_err(|error| wire::explain(&error))
}

/// Ends a worker that cannot map the memory of its pool.
fn exit_without_memory(report: &IpcSender<Report<FromWorker>>, why: String) -> ! {
    let why = format!("it cannot map the memory of its pool: {why}");
    // If the parent is gone, the message is not needed.
    let _ = wire::send(report, Report::NotReady(why));
    sys::end_process(1)
}

/// Ends a worker whose initializer or state has failed, or that begins with too much memory.
fn exit_with_fault(report: &IpcSender<Report<FromWorker>>, why: &Fault) -> ! {
    let why = Payload::encode(why).expect("a fault is text");
    // If the parent is gone, the message is not needed.
    let _ = wire::send(report, Report::Said(FromWorker::InitializerFailed(why)));
    sys::end_process(1)
}

struct Worker<'a> {
    slot_id: SlotId,
    pid: u32,
    board: Arc<Board>,
    running: Arc<Running>,
    /// Messages from the parent.
    messages: IpcReceiver<ToWorker>,
    report: &'a IpcSender<Report<FromWorker>>,
    regions: Vec<Arc<Region>>,
    /// The parent's answer to [`FromWorker::NeedsHandles`].
    handles: Option<Result<Option<Handles>, String>>,
    /// The data that functions borrow.
    data: DataCache,
    /// The parent's answer to [`FromWorker::NeedsData`]: the data, if some were wanted.
    found_data: Option<Option<Result<Payload, String>>>,
    /// The function that was resolved last.
    resolved: Option<(Name, &'static RunFn)>,
    /// How many more tasks this worker may run.
    tasks_left: u64,
    memory_limit: Option<MemoryLimit>,
    /// Whether the tasks of the last chunk took less than [`FAST_TASK_NANOS`] each.
    has_fast_tasks: bool,
    idle_timeout: Option<Duration>,
    search: Search,
    /// Holds a result until it is copied to shared memory.
    out: Sink,
    state: WorkerState,
}

impl Worker<'_> {
    /// Claims and runs chunks until the worker must leave.
    fn serve(&mut self) -> LeaveReason {
        while self.tasks_left > 0 {
            if self.board.is_dismissed(self.slot_id) {
                return LeaveReason::Dismissed;
            }
            match self.claim() {
                Some(ticket) => self.run(ticket),
                None => {
                    self.drop_data();
                    if let Some(limit) = &mut self.memory_limit {
                        limit.measure();
                        if limit.is_exceeded {
                            return LeaveReason::MaxMemory;
                        }
                    }
                    shared::drop_released();
                    restore_settings();
                    if !self.board.announce_sleep(self.slot_id) {
                        continue;
                    }
                    if self.board.report_starving() {
                        self.send(FromWorker::Look);
                    }
                    if !self.sleep() {
                        return LeaveReason::Idle;
                    }
                }
            }
        }
        match &self.memory_limit {
            Some(limit) if limit.is_exceeded => LeaveReason::MaxMemory,
            _ => LeaveReason::MaxTasks,
        }
    }

    /// Sleeps until a message comes. Returns false if the worker must leave, because none came
    /// within the idle timeout.
    fn sleep(&mut self) -> bool {
        let received = match self.idle_timeout {
            None => self.messages.recv().map_err(TryRecvError::IpcError),
            Some(timeout) => {
                // Rounded up, because `poll` counts whole milliseconds.
                let timeout = timeout.saturating_add(Duration::from_micros(999));
                self.messages.try_recv_timeout(timeout.min(MAX_POLL_TIMEOUT))
            }
        };
        match received {
            Ok(message) => self.on_message(message),
            Err(TryRecvError::IpcError(error)) => self.on_receive_error(&error),
            // The parent has not taken this sleeper, and from now on it cannot: the worker may
            // leave. Other workers get the work that was published meanwhile. If there are too few,
            // the parent starts the next worker of this slot when this one is gone.
            Err(TryRecvError::Empty) if self.board.cancel_sleep(self.slot_id) => return false,
            // The parent has taken this sleeper at the last moment: a message is on its way.
            Err(TryRecvError::Empty) => self.wait_for_message(),
        }
        self.board.cancel_sleep(self.slot_id);
        true
    }

    /// Takes the ticket that is assigned to this worker, or claims one.
    fn claim(&self) -> Option<TicketId> {
        for look in 1..=self.search.looks {
            let assigned = self.board.take_assigned(self.slot_id);
            let ticket = assigned.or_else(|| self.board.claim(self.slot_id));
            if ticket.is_some() || self.board.is_dismissed(self.slot_id) {
                return ticket;
            }
            match look % self.search.looks_per_yield == 0 {
                true => std::thread::yield_now(),
                false => std::hint::spin_loop(),
            }
        }
        None
    }

    /// Waits for a message and acts on it.
    fn wait_for_message(&mut self) {
        match self.messages.recv() {
            Ok(message) => self.on_message(message),
            Err(error) => self.on_receive_error(&error),
        }
    }

    fn on_message(&mut self, message: ToWorker) {
        match message {
            ToWorker::Wake => {}
            ToWorker::Region(region) => {
                let region =
                    map(region).unwrap_or_else(|why| exit_without_memory(self.report, why));
                self.regions.push(Arc::new(region));
            }
            ToWorker::Handles(handles) => self.handles = Some(handles),
            ToWorker::Data { found, dropped } => {
                self.data.drop_all(&dropped);
                self.found_data = Some(found);
            }
        }
    }

    /// Exits if no message can be received any more, because the parent is gone. Does nothing if a
    /// signal has interrupted the call.
    fn on_receive_error(&self, error: &IpcError) {
        match error {
            IpcError::Io(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => sys::exit_now(1),
        }
    }

    /// Sends a message to the parent.
    fn send(&self, message: FromWorker) {
        if wire::send(self.report, Report::Said(message)).is_err() {
            // The parent is gone, and the fork server would soon kill this worker anyway.
            sys::exit_now(1);
        }
    }

    /// Runs a chunk's tasks one after another, then hands over the chunk.
    ///
    /// A worker that reaches its limit of tasks within a chunk leaves the other tasks. It then
    /// exits, and the parent publishes those tasks again.
    fn run(&mut self, ticket: TicketId) {
        // A task of the last chunk may have set a panic hook.
        panics::install_hook();
        let chunk = self.board.chunk(ticket);
        let start = chunk.measured.then(Instant::now);
        while self.regions.len() <= chunk.region as usize {
            self.wait_for_message();
        }
        let code = self.resolve(chunk.name);
        let has_data = if chunk.data > 0 { self.fetch_data(chunk.data) } else { Ok(()) };
        let handles = if chunk.needs_handles { self.request_handles(ticket) } else { Ok(None) };
        let (handles, code) = match handles {
            Ok(handles) => (handles, code),
            Err(why) => (None, Err(Fault::Arguments(why))),
        };
        let region = &self.regions[chunk.region as usize];
        let arguments = region.claimed_bytes(chunk.offset as usize, chunk.arguments as usize);
        let Some(arguments) = arguments else { sys::exit_now(1) };
        let offset = chunk.offset + chunk.arguments;
        let room = Block { region: chunk.region, offset, len: chunk.room };
        self.out.set_block(Some(Lease::claimed(region, room)));
        self.running.begin_chunk(ticket);
        let mut run = Run {
            claim: self.board.begin_claim(ticket, self.pid),
            pid: self.pid,
            ticket,
            chunk,
            region,
            arguments,
            has_fast_tasks: self.has_fast_tasks,
            handles,
            data: has_data.map(|()| self.data.get(chunk.data)),
            report: self.report,
            exit_with_fault,
            state: &mut self.state,
            tasks_left: &mut self.tasks_left,
            memory_limit: self.memory_limit.as_mut(),
            out: &mut self.out,
            task: 0,
            taken: 0,
            written: 0,
            is_given_up: false,
        };
        match code {
            Ok(code) => code(&mut run),
            Err(fault) => run.each(|_, _, _| Err::<(), _>(fault.clone())),
        }
        let is_over = !run.is_given_up && run.is_done();
        let done = run.task;
        self.running.end_chunk();
        if !is_over {
            return;
        }
        sys::flush(FLUSH_TIMEOUT);
        self.out.clear();
        self.out.set_block(None);
        self.out.shrink_to(MAX_KEPT_BYTES);
        let nanoseconds = start.map_or(0, |start| start.elapsed().as_nanos() as u64);
        self.has_fast_tasks = nanoseconds > 0 && nanoseconds < FAST_TASK_NANOS * u64::from(done);
        if self.board.finish(ticket, nanoseconds) {
            self.send(FromWorker::Look);
        }
    }

    /// Asks for the channel ends in this chunk's argument, and waits for them.
    fn request_handles(&mut self, ticket: TicketId) -> Result<Option<Handles>, String> {
        self.send(FromWorker::NeedsHandles(ticket));
        loop {
            if let Some(handles) = self.handles.take() {
                return handles;
            }
            self.wait_for_message();
        }
    }

    /// Makes sure that this worker holds data.
    fn fetch_data(&mut self, id: DataId) -> Result<(), Fault> {
        if self.data.get(id).is_none() {
            let found = self.ask_for_data(Some(id));
            let why = || Err("the program sent none".into());
            self.data.put(id, found.unwrap_or_else(why).map_err(Fault::Data)?);
        }
        Ok(())
    }

    /// Drops the data that the parent has dropped.
    fn drop_data(&mut self) {
        let drops = self.board.data_drops();
        if drops != self.data.seen_drops && !self.data.is_empty() {
            self.ask_for_data(None);
        }
        self.data.seen_drops = drops;
    }

    /// Asks for data, and drops those that the parent has dropped.
    fn ask_for_data(&mut self, wanted: Option<DataId>) -> Option<Result<Payload, String>> {
        self.send(FromWorker::NeedsData { wanted, held: self.data.ids() });
        loop {
            if let Some(found) = self.found_data.take() {
                return found;
            }
            self.wait_for_message();
        }
    }

    /// Finds a function by its name.
    fn resolve(&mut self, name: Name) -> Result<&'static RunFn, Fault> {
        match self.resolved {
            Some((known, code)) if known == name => Ok(code),
            _ => {
                let code = name.resolve().map_err(Fault::Invalid)?;
                self.has_fast_tasks = false; // not known yet for this function
                self.resolved = Some((name, code));
                Ok(code)
            }
        }
    }
}

/// What the worker is running, for [`current`](crate::current). Threads of the user read it too.
#[derive(Default)]
struct Running {
    /// 1 + the ticket that is running, or 0 (in the lower half); and how many chunks this worker
    /// has run (in the upper half).
    ticket: AtomicU64,
}

impl Running {
    fn begin_chunk(&self, ticket: TicketId) {
        let chunks = (self.ticket.load(Ordering::Relaxed) >> 32) + 1;
        self.ticket.store(chunks << 32 | (u64::from(ticket) + 1), Ordering::Relaxed);
    }

    fn end_chunk(&self) {
        let chunks = self.ticket.load(Ordering::Relaxed) >> 32;
        self.ticket.store(chunks << 32, Ordering::Relaxed);
    }

    /// Returns the index of the task that is running.
    fn index(&self, board: &Board) -> Option<usize> {
        let ticket = (self.ticket.load(Ordering::Relaxed) as u32).checked_sub(1)?;
        let (chunk, progress) = (board.chunk(ticket), board.progress(ticket));
        Some((chunk.first + u64::from(progress.begun.saturating_sub(1))) as usize)
    }

    /// Returns the facts of the task that is running.
    fn task(self: &Arc<Self>, board: &Arc<Board>) -> Option<TaskFacts> {
        let word = self.ticket.load(Ordering::Relaxed);
        let ticket = (word as u32).checked_sub(1)?;
        let (chunk, progress) = (board.chunk(ticket), board.progress(ticket));
        let index = chunk.first + u64::from(progress.begun.saturating_sub(1));
        let deadline = || {
            let end = progress.began_at.saturating_add(chunk.timeout);
            let left = end.saturating_sub(sys::monotonic());
            Instant::now().checked_add(Duration::from_nanos(left))
        };
        let (running, board) = (Arc::clone(self), Arc::clone(board));
        let stop_requested = move || {
            let is_over = running.ticket.load(Ordering::Relaxed) != word
                || board.progress(ticket).begun != progress.begun;
            is_over || board.stop_requested(ticket)
        };
        Some(TaskFacts {
            index: index as usize,
            attempt: chunk.attempt,
            seed: match chunk.seed {
                Some(seed) => current::mix(seed, index),
                None => current::unpredictable(current::mix(word >> 32, index)),
            },
            deadline: (chunk.timeout > 0).then(deadline).flatten(),
            stop_requested: Arc::new(stop_requested),
        })
    }
}
