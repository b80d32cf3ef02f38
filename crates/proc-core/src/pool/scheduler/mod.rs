//! What keeps a pool going: publishing work, collecting results, and replacing the dead.
//!
//! Each worker has an *supervisor*, a thread that reads the worker's reports, nearly always asleep.
//! It collects results when told, and when its worker has ended it settles what the worker left and
//! starts the next one. Whoever waits for results collects too, so that a quick task wakes nobody.
//! All bookkeeping is in [`State`], under one lock; results are delivered after it is released.

mod bury;
mod cancel;
mod collect;
mod publish;
mod slots;
mod state;
mod supervise;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub(crate) use self::state::{Initializer, Intensity, PoolConfig, Recipes, Scheduler};
use self::state::{Phase, RECHECK_INTERVAL, Slot, State, unlock};
use crate::error::Error;
use crate::forkserver::streams::Streams;
use crate::forkserver::{ForkServer, StartMethod, start_method};
use crate::pool::board::{Board, Layout, Owner};
use crate::pool::job::{Delivery, Inbox};
use crate::{panics, sys};

/// How long a worker that was asked to end may take before it is killed.
const TERMINATE_GRACE_PERIOD: Duration = Duration::from_millis(500);

/// How often whoever waits looks for results before it sleeps.
const MAX_SPINS: u32 = 400;

impl Scheduler {
    /// Makes the pool and starts its workers; if one cannot be started, ends the others.
    pub(crate) fn build(config: PoolConfig, recipes: Recipes) -> Result<Arc<Scheduler>, Error> {
        let fork_server = match config.context {
            StartMethod::Fork => {
                let keep = |fork_server: &Arc<ForkServer>| Ok(Arc::clone(fork_server));
                Some(start_method::with_fork_server(StartMethod::Fork, &Streams::default(), keep)?)
            }
            _ => None,
        };
        // The program may have set a hook of its own since `init`.
        panics::install_hook();
        let layout = Layout::for_workers(config.processes);
        let board = Board::new(layout).map_err(|e| Error::start("the pool's work queue", e))?;
        let mut state = State { free: (0..layout.tickets).rev().collect(), ..State::default() };
        state.slots.resize_with(config.processes as usize, Slot::default);
        let returned = state.arena.returned();
        let processes = config.processes;
        let initializes = recipes.initializer.is_some() || recipes.state.is_some();
        let scheduler = Arc::new(Scheduler {
            config,
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
            fork_server: Mutex::new(fork_server),
            preloaded: Mutex::default(),
            returned,
        });
        let result = scheduler.staff(0..processes);
        if result.is_err() {
            scheduler.terminate();
        }
        result.map(|()| scheduler)
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
        let wait = self.ended.wait_while(state, |state| state.supervisors > 0);
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
        let mut deliveries = Vec::new();
        self.collect_finished(&mut state, &mut deliveries);
        state.take_in(&mut deliveries);
        self.end(&mut state, None);
        unlock(state, Vec::new());
        let mut state = self.lock();
        let busy: HashSet<Owner> = self
            .board
            .claims()
            .filter_map(|(ticket, owner)| state.in_flight.contains_key(&ticket).then_some(owner))
            .chain(state.in_flight.values().filter_map(|in_flight| in_flight.owner))
            .collect();
        let slots = state.slots.iter().enumerate();
        for handle in slots
            .filter(|(owner, slot)| busy.contains(&(*owner as Owner)) || !slot.ready)
            .filter_map(|(_, slot)| slot.handle.as_ref())
        {
            handle.signal(Signal::SIGTERM);
        }
        let over = Instant::now() + TERMINATE_GRACE_PERIOD;
        let hopeless = over + 4 * TERMINATE_GRACE_PERIOD;
        while state.supervisors > 0 {
            let left = over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for handle in state.slots.iter().filter_map(|slot| slot.handle.as_ref()) {
                    handle.signal(Signal::SIGKILL);
                    // A fork server that is stopped passes nothing on; its end is its children's.
                    if hopeless < Instant::now() {
                        handle.kill_fork_server();
                    }
                }
            }
            let left = if left.is_zero() { TERMINATE_GRACE_PERIOD } else { left };
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
    /// fork servers.
    fn let_go(&self) {
        let lock = |mutex: &Mutex<Option<Arc<ForkServer>>>| {
            mutex.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let recipes = std::mem::take(&mut *self.recipes());
        let fork_servers = [lock(&self.preloaded), lock(&self.fork_server)];
        drop(recipes);
        for fork_server in fork_servers.into_iter().flatten() {
            ForkServer::end(fork_server);
        }
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
            let belt = Instant::now() + RECHECK_INTERVAL;
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
            for handle in state.slots.iter().filter_map(|slot| slot.handle.as_ref()) {
                handle.signal(Signal::SIGKILL);
            }
        }
        unlock(state, Vec::new());
    }

    /// Looks for results some while, collecting them itself, before it leaves that to messages.
    fn look(&self, inbox: &Inbox) -> Option<Result<Delivery, Error>> {
        if let Some(delivery) = inbox.poll() {
            return Some(delivery);
        }
        let found = self.looking(|| {
            for look in 0..MAX_SPINS {
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
        struct Looker<'a>(&'a Scheduler);
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
        if self.board.has_news() || (self.config.memory.is_some() && self.returned.any()) {
            self.collect();
        }
    }
}

/// Waits until threads that have nothing left to do are gone, for whoever counts threads next.
fn end_threads(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // An supervisor that panicked has said so on stderr; the others are to be waited for.
        let _ = thread.join();
    }
}
