//! What keeps a pool going: publishing work, collecting results, and replacing the dead.
//!
//! Each worker has an *attendant*, a thread that reads the worker's reports, nearly always asleep.
//! It collects results when told, and when its worker has ended it settles what the worker left and
//! starts the next one. Whoever waits for results collects too, so that a quick task wakes nobody.
//! All bookkeeping is in [`State`], under one lock; results are delivered after it is released.

mod limits;
mod publish;
mod seats;
mod settle;
mod staff;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustc_hash::FxHashMap;

use self::seats::Seat;
use crate::call::Name;
use crate::error::Error;
use crate::forkserver::streams::Streams;
use crate::forkserver::{ForkServer, Limits, StartMethod, start_method};
use crate::memory::{Arena, Block, Returned};
use crate::pool::board::{Board, Chunk, Layout, Owner, TicketId};
use crate::pool::job::{Delivery, Feed, Inbox, WaitingHandles};
use crate::wire::Payload;
use crate::{panics, sys};

/// How long a worker that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_millis(500);

/// How long a waiting call sleeps at most before it looks for itself.
const BELT: Duration = Duration::from_millis(250);

/// How often whoever waits looks for results before it sleeps.
const LOOKS: u32 = 400;

/// Encodes a function and its argument anew for each worker, which calls it before its first task.
pub(crate) type Initializer = Arc<dyn Fn() -> Result<(Name, Payload), Error> + Send + Sync>;

/// What a pool is made with.
pub(crate) struct Plan {
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

/// A pool, shared by its handle, its attendants and whoever waits for results.
pub(crate) struct Crew {
    plan: Plan,
    recipes: Mutex<Recipes>,
    /// Whether workers call functions of the user's before they are ready.
    initializes: bool,
    /// The process that built it.
    maker: u32,
    /// Whether the main thread built it: then its own threads have the rights and processors of
    /// that.
    is_of_main_thread: bool,
    board: Board,
    state: Mutex<State>,
    /// How many seats are to have workers; written under the lock.
    processes: AtomicU32,
    /// Held while the number of seats changes.
    resizing: Mutex<()>,
    /// Signalled when a seat is to have a worker again, or never more.
    called: Condvar,
    /// Signalled when an attendant has ended.
    ended: Condvar,
    /// Signalled when there are timeouts to watch over, or none any more.
    timed: Condvar,
    /// How many threads look for results all the time.
    lookers: AtomicUsize,
    /// The template of a `Fork` pool, which is its own.
    template: Mutex<Option<Arc<ForkServer>>>,
    /// The template that has run the function to preload, as long as it lives.
    preloaded: Mutex<Option<Arc<ForkServer>>>,
    /// Blocks on their way back to the arena.
    returned: Arc<Returned>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    arena: Arena,
    /// Feeds in turn: the front one is cut next, then goes to the back.
    feeds: VecDeque<Feed>,
    /// Chunks whose worker died before it began them, to be published again first.
    again: VecDeque<TicketId>,
    /// Tickets not in use.
    free: Vec<TicketId>,
    out: FxHashMap<TicketId, Out>,
    seats: Vec<Seat>,
    /// How many seats wait for somebody to call a worker.
    waiting: usize,
    /// When workers died of themselves, as far back as counts.
    deaths: VecDeque<Instant>,
    /// Attendants that have not ended.
    attendants: usize,
    threads: Vec<JoinHandle<()>>,
    /// Whether a thread watches over timeouts.
    warden: bool,
    /// Futures to be woken when the lock is released.
    wakers: Vec<Waker>,
    /// How many tickets in use have more than one step.
    shareable: usize,
    /// How many regions all workers know.
    announced: usize,
    /// How many bytes a function's result had last, for room in its next call.
    sizes: FxHashMap<Name, usize>,
}

#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    Open,
    /// No new calls; ends when all work is done.
    Closing,
    /// Everything is called off.
    Over(Option<Error>),
}

impl Phase {
    /// Whether calls are accepted.
    fn check_open(&self) -> Result<(), Error> {
        match self {
            Phase::Open => Ok(()),
            Phase::Closing => Err(Error::closed()),
            Phase::Over(cause) => Err(cause.clone().unwrap_or_else(Error::closed)),
        }
    }
}

/// A ticket that is in use.
struct Out {
    inbox: Arc<Inbox>,
    first: usize,
    count: usize,
    /// How often these tasks were tried before.
    attempts: u32,
    block: Block,
    chunk: Chunk,
    /// As the call asks, if it does.
    chunksize: Option<usize>,
    /// Whether it was published with more than one step.
    shareable: bool,
    /// Its place in the ring, once published.
    position: u64,
    /// Its claimer, once the ring no longer shows it.
    owner: Option<Owner>,
    handles: Option<WaitingHandles>,
    /// Results that came by message.
    apart: HashMap<u32, Payload>,
    /// Finished, but not all messages have come.
    waits_for_apart: bool,
    /// Since when it makes no progress though a worker could see to it, and how many tasks were
    /// done then.
    stuck: Option<(u32, Instant)>,
}

/// Why the pool has killed a worker: another task that the worker has at hand is not to blame for
/// it.
#[derive(Debug)]
enum Doom {
    /// For the sake of one task, which fails with this error.
    Task { inbox: Arc<Inbox>, task: usize, error: Error },
    /// The worker is of no use any more.
    Worker,
}

impl Doom {
    /// The error of a task, if the worker was killed for its sake.
    fn error_of(&self, inbox: &Arc<Inbox>, task: usize) -> Option<&Error> {
        match self {
            Doom::Task { inbox: of, task: doomed, error } => {
                (Arc::ptr_eq(of, inbox) && *doomed == task).then_some(error)
            }
            Doom::Worker => None,
        }
    }
}

/// What is to be told after the lock is released.
type Deliveries = Vec<(Arc<Inbox>, Delivery)>;

impl Crew {
    /// Makes the pool and starts its workers; if one cannot be started, ends the others.
    pub(crate) fn build(plan: Plan, recipes: Recipes) -> Result<Arc<Crew>, Error> {
        let template = match plan.context {
            StartMethod::Fork => {
                let keep = |template: &Arc<ForkServer>| Ok(Arc::clone(template));
                Some(start_method::with_template(StartMethod::Fork, &Streams::default(), keep)?)
            }
            _ => None,
        };
        // The program may have set a hook of its own since `init`.
        panics::install_hook();
        let layout = Layout::for_workers(plan.processes);
        let board = Board::new(layout).map_err(|e| Error::start("the pool's work queue", e))?;
        let mut state = State { free: (0..layout.tickets).rev().collect(), ..State::default() };
        state.seats.resize_with(plan.processes as usize, Seat::default);
        let returned = state.arena.returned();
        let processes = plan.processes;
        let initializes = recipes.initializer.is_some() || recipes.state.is_some();
        let crew = Arc::new(Crew {
            plan,
            recipes: Mutex::new(recipes),
            initializes,
            processes: AtomicU32::new(processes),
            resizing: Mutex::new(()),
            called: Condvar::new(),
            maker: sys::pid(),
            is_of_main_thread: sys::is_main_thread(),
            board,
            state: Mutex::new(state),
            ended: Condvar::new(),
            timed: Condvar::new(),
            lookers: AtomicUsize::new(0),
            template: Mutex::new(template),
            preloaded: Mutex::default(),
            returned,
        });
        let result = crew.staff(0..processes);
        if result.is_err() {
            crew.terminate();
        }
        result.map(|()| crew)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False in a copy of the process that built the pool, where nobody attends it.
    fn is_ours(&self) -> bool {
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

    /// Sees to it that somebody is told of the next finished ticket, unless somebody looks anyway.
    fn listen(&self) {
        while self.lookers.load(Ordering::SeqCst) == 0 && !self.board.listen() {
            self.collect();
        }
    }

    /// Calls everything off: open tasks fail, workers are to go.
    fn end(&self, state: &mut State, cause: Option<Error>) {
        if matches!(state.phase, Phase::Over(_)) {
            return;
        }
        state.phase = Phase::Over(cause.clone());
        let error = || cause.clone().unwrap_or_else(Error::closed);
        let State { feeds, out, wakers, .. } = state;
        for feed in feeds.drain(..) {
            wakers.extend(feed.inbox.close(error()));
        }
        for (ticket, out) in out {
            self.board.retract(*ticket, out.position);
            wakers.extend(out.inbox.close(error()));
        }
        self.board.admit(0);
        self.wake(state, usize::MAX);
        self.timed.notify_all();
        self.called.notify_all();
    }

    /// Accepts no more calls; workers end when all work is done.
    pub(crate) fn close(&self) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Closing;
            self.pump(&mut state);
        }
        unlock(state, Vec::new());
    }

    /// Waits until every worker has ended. False if the pool was not closed, which would be for
    /// ever.
    pub(crate) fn join(&self) -> Result<bool, Error> {
        self.check_maker()?;
        let state = self.lock();
        if matches!(state.phase, Phase::Open) {
            return Ok(false);
        }
        let wait = self.ended.wait_while(state, |state| state.attendants > 0);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        let threads = std::mem::take(&mut state.threads);
        let failed = match &state.phase {
            Phase::Over(Some(cause)) => Err(cause.clone()),
            _ => Ok(true),
        };
        drop(state);
        end_threads(threads);
        self.let_go();
        failed
    }

    /// Ends the workers, the idle by a word, the busy by SIGTERM and after a grace by SIGKILL.
    pub(crate) fn terminate(&self) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        // What is finished by now counts.
        let mut news = Vec::new();
        self.collect_finished(&mut state, &mut news);
        state.take_in(&mut news);
        self.end(&mut state, None);
        unlock(state, Vec::new());
        let mut state = self.lock();
        let busy: HashSet<Owner> = self
            .board
            .claims()
            .filter_map(|(ticket, owner)| state.out.contains_key(&ticket).then_some(owner))
            .chain(state.out.values().filter_map(|out| out.owner))
            .collect();
        let seats = state.seats.iter().enumerate();
        for handle in seats
            .filter(|(owner, seat)| busy.contains(&(*owner as Owner)) || !seat.ready)
            .filter_map(|(_, seat)| seat.handle.as_ref())
        {
            handle.signal(Signal::SIGTERM);
        }
        let over = Instant::now() + GRACE;
        let hopeless = over + 4 * GRACE;
        while state.attendants > 0 {
            let left = over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for handle in state.seats.iter().filter_map(|seat| seat.handle.as_ref()) {
                    handle.signal(Signal::SIGKILL);
                    // A template that is stopped passes nothing on; its end is its children's.
                    if hopeless < Instant::now() {
                        handle.kill_template();
                    }
                }
            }
            let left = if left.is_zero() { GRACE } else { left };
            let woken = self.ended.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        end_threads(threads);
        self.let_go();
    }

    /// When no worker will be started any more: drops what they were to be started with, since
    /// somebody may wait for the end of a channel that is part of it, and ends the pool's own
    /// templates.
    fn let_go(&self) {
        let lock = |mutex: &Mutex<Option<Arc<ForkServer>>>| {
            mutex.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let recipes = std::mem::take(&mut *self.recipes());
        let templates = [lock(&self.preloaded), lock(&self.template)];
        drop(recipes);
        for template in templates.into_iter().flatten() {
            ForkServer::end(template);
        }
    }

    /// How workers are made.
    fn recipes(&self) -> MutexGuard<'_, Recipes> {
        self.recipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next delivery to `inbox`; `None` if the deadline comes first.
    ///
    /// Who can do nothing before there are results of `wanted` tasks is not woken for each.
    pub(crate) fn wait(
        &self,
        inbox: &Inbox,
        wanted: usize,
        deadline: Option<Instant>,
    ) -> Option<Result<Delivery, Error>> {
        if let Err(error) = self.check_maker() {
            return Some(Err(error));
        }
        loop {
            if let Some(delivery) = self.look(inbox) {
                return Some(delivery);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return None;
            }
            // Sleep is ended by a delivery; looking now and then as well costs nothing, and no
            // defect of a worker can make it last for ever.
            let belt = Instant::now() + BELT;
            inbox.sleep(wanted, Some(deadline.map_or(belt, |deadline| deadline.min(belt))));
            if belt <= Instant::now() {
                self.check_board();
            }
        }
    }

    /// Ends the pool if a worker, dead or alive, has overwritten the board; wakes all workers that
    /// sleep while there is work.
    fn check_board(&self) {
        let mut state = self.lock();
        self.wake_for_neglected(&mut state);
        if !self.is_sane(&state) {
            self.end(&mut state, Some(Error::overwritten()));
            for handle in state.seats.iter().filter_map(|seat| seat.handle.as_ref()) {
                handle.signal(Signal::SIGKILL);
            }
        }
        unlock(state, Vec::new());
    }

    /// Wakes all workers that sleep if work waits: the one that was woken for it may be stopped.
    fn wake_for_neglected(&self, state: &mut State) {
        if self.board.has_ready() {
            self.wake(state, usize::MAX);
        }
    }

    /// Looks for results some while, collecting them itself, before it leaves that to messages.
    fn look(&self, inbox: &Inbox) -> Option<Result<Delivery, Error>> {
        if let Some(delivery) = inbox.poll() {
            return Some(delivery);
        }
        let found = self.looking(|| {
            for look in 0..LOOKS {
                self.collect_if_any();
                let found = inbox.poll();
                if found.is_some() {
                    return found;
                }
                if look % 16 == 15 { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
            None
        });
        found.or_else(|| inbox.poll())
    }

    /// Runs `look`, which collects what is finished by itself: workers need send no messages.
    pub(crate) fn looking<T>(&self, look: impl FnOnce() -> T) -> T {
        /// A looker, until it leaves, be it by a panic.
        struct Looker<'a>(&'a Crew);
        impl Drop for Looker<'_> {
            fn drop(&mut self) {
                // What is looked for may be user code that forks.
                if self.0.is_ours() {
                    self.0.lookers.fetch_sub(1, Ordering::SeqCst);
                    self.0.listen();
                }
            }
        }
        if !self.is_ours() {
            return look();
        }
        self.lookers.fetch_add(1, Ordering::SeqCst);
        self.board.stop_listening();
        let _looker = Looker(self);
        look()
    }

    /// Collects what is finished, if anything is.
    pub(crate) fn collect_if_any(&self) {
        if !self.is_ours() {
            return;
        }
        // With a bound on memory, what came back from whoever decoded results makes room for more.
        if self.board.has_news() || (self.plan.memory.is_some() && self.returned.any()) {
            self.collect();
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.feeds.is_empty() && self.out.is_empty()
    }

    /// Puts deliveries into their inboxes now, before these are closed.
    fn take_in(&mut self, news: &mut Deliveries) {
        for (inbox, delivery) in news.drain(..) {
            self.wakers.extend(inbox.accept(delivery));
        }
    }
}

/// Waits until threads that have nothing left to do are gone, for whoever counts threads next.
fn end_threads(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // An attendant that panicked has said so on stderr; the others are to be waited for.
        let _ = thread.join();
    }
}

/// Releases the lock, then tells whoever waits: what they do about it is their own.
fn unlock(mut state: MutexGuard<'_, State>, news: Deliveries) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    for (inbox, delivery) in news {
        inbox.deliver(delivery);
    }
    wakers.into_iter().for_each(Waker::wake);
}
