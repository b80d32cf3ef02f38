//! The scheduler, the engine of a pool in the parent: it publishes work, collects results and
//! replaces dead workers.
//!
//! Each slot has a *supervisor*: a thread that reads its worker's reports and is asleep most of the
//! time. The supervisor collects results when the worker asks for that. When the worker has exited,
//! the supervisor settles the tasks that the worker had claimed, and starts the next worker. A
//! thread that waits for results collects them too, so that a quick task wakes no supervisor.
//!
//! [`State`] holds all bookkeeping under one lock. Waiting callers are told of their results after
//! the lock is released.

mod bury;
mod cancel;
mod collect;
mod publish;
mod slots;
mod state;
mod supervise;

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub(crate) use self::state::{Initializer, Intensity, PoolConfig, Recipes, Scheduler};
use self::state::{Phase, RECHECK_INTERVAL, Slot, State, unlock};
use crate::error::Error;
use crate::forkserver::{ForkServer, StartMethod, start_method};
use crate::pool::board::{Board, Layout, SlotId};
use crate::pool::job::{Delivery, Inbox, TaskQueue};
use crate::{panics, sys};

/// How long [`Scheduler::terminate`] waits for workers to exit before it kills them.
const TERMINATE_GRACE_PERIOD: Duration = Duration::from_millis(500);

/// How many times a waiting thread polls for results before it sleeps.
const MAX_SPINS: u32 = 400;

impl Scheduler {
    /// Builds the pool and starts its workers. If one cannot be started, terminates the others.
    pub(crate) fn build(config: PoolConfig, recipes: Recipes) -> Result<Arc<Scheduler>, Error> {
        let fork_server = match config.start_method {
            StartMethod::Fork => {
                let keep = |fork_server: &Arc<ForkServer>| Ok(Arc::clone(fork_server));
                Some(start_method::with_fork_server(
                    StartMethod::Fork,
                    &config.attributes.stdio,
                    keep,
                )?)
            }
            _ => None,
        };
        // The program may have set a panic hook of its own since `init`.
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
            built_by: sys::pid(),
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

    /// Accepts no more calls. Workers exit when all accepted work is done.
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

    /// Waits until every worker has exited. Returns false at once if the pool is not closed,
    /// because the wait would never end.
    pub(crate) fn join(&self) -> Result<bool, Error> {
        self.check_not_a_copy()?;
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

    /// Ends all workers and waits for them. Idle workers are woken and exit by themselves. Busy
    /// workers, and workers that are not ready yet, get SIGTERM. Workers that remain after
    /// [`TERMINATE_GRACE_PERIOD`] get SIGKILL.
    pub(crate) fn terminate(&self) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        // Tasks that are finished by now still deliver their results.
        let mut deliveries = Vec::new();
        self.collect_finished(&mut state, &mut deliveries);
        state.take_in(&mut deliveries);
        self.end(&mut state, None);
        unlock(state, Vec::new());
        let mut state = self.lock();
        let busy: HashSet<SlotId> = self
            .board
            .claims()
            .filter_map(|(ticket, slot_id)| {
                state.in_flight.contains_key(&ticket).then_some(slot_id)
            })
            .chain(state.in_flight.values().filter_map(|in_flight| in_flight.claimer))
            .collect();
        let slots = state.slots.iter().enumerate();
        for handle in slots
            .filter(|(slot_id, slot)| busy.contains(&(*slot_id as SlotId)) || !slot.ready)
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
                    // A stopped fork server passes no signals on to its workers. When it is killed,
                    // its workers die with it.
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

    /// Drops what new workers would be started with, and ends the pool's own fork servers. Called
    /// when no more workers will be started. A recipe may hold one end of a channel, and somebody
    /// may wait until that end is closed.
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

    /// Accepts a queue of a call's tasks, and publishes as many of them as possible.
    pub(crate) fn submit(self: &Arc<Self>, queue: TaskQueue) -> Result<(), Error> {
        self.check_not_a_copy()?;
        let mut state = self.lock();
        state.phase.check_open()?;
        self.revive(&mut state);
        if queue.left > 0 {
            let timed = queue.inbox.options.timeout.is_some();
            if let Some(size) = state.sizes.get(&queue.name) {
                queue.inbox.expect_size(*size);
            }
            state.queues.push_back(queue);
            self.pump(&mut state);
            if timed {
                self.start_timeout_watcher(&mut state)?;
            } else if state.timeout_watcher {
                self.timed.notify_all();
            }
        }
        unlock(state, Vec::new());
        Ok(())
    }

    /// Waits for the next delivery to `inbox`. Returns `None` if the deadline passes first.
    ///
    /// Wakes only when results of `wanted` tasks have arrived, or many bytes of results: a caller
    /// that can do nothing with fewer is not woken for each task.
    pub(crate) fn wait(
        &self,
        inbox: &Inbox,
        wanted: usize,
        deadline: Option<Instant>,
    ) -> Option<Result<Delivery, Error>> {
        if let Err(error) = self.check_not_a_copy() {
            return Some(Err(error));
        }
        loop {
            if let Some(delivery) = self.look(inbox) {
                return Some(delivery);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return None;
            }
            // A delivery ends the sleep. The thread also wakes now and then to check the board:
            // that costs nothing, and no defect of a worker can then make the sleep last forever.
            let belt = Instant::now() + RECHECK_INTERVAL;
            inbox.sleep(wanted, Some(deadline.map_or(belt, |deadline| deadline.min(belt))));
            if belt <= Instant::now() {
                self.check_board();
            }
        }
    }

    /// Ends the pool if a worker, dead or alive, has overwritten the board. Also wakes all sleeping
    /// workers if published work waits.
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

    /// Polls for results for a short time, and collects them itself. After that, the caller relies
    /// on messages from workers.
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

    /// Runs `look`, a function that collects finished tickets by itself. Meanwhile workers need to
    /// send no messages about finished tickets.
    fn looking<T>(&self, look: impl FnOnce() -> T) -> T {
        let _collecting = Collecting::new(self);
        look()
    }

    /// Collects results, if there may be anything to collect or more to publish.
    pub(crate) fn collect_if_any(&self) {
        if !self.is_ours() {
            return;
        }
        // In a pool with a memory limit, a block whose results were decoded makes room for more
        // work.
        if self.board.has_news() || (self.config.memory.is_some() && self.returned.any()) {
            self.collect();
        }
    }
}

/// As long as it lives, a thread collects finished tickets by itself. Meanwhile workers need to send
/// no messages about finished tickets.
pub(crate) struct Collecting<S: Deref<Target = Scheduler>>(Option<S>);

impl<S: Deref<Target = Scheduler>> Collecting<S> {
    pub(crate) fn new(scheduler: S) -> Collecting<S> {
        if !scheduler.is_ours() {
            return Collecting(None);
        }
        scheduler.lookers.fetch_add(1, Ordering::SeqCst);
        scheduler.board.stop_listening();
        Collecting(Some(scheduler))
    }
}

impl<S: Deref<Target = Scheduler>> Drop for Collecting<S> {
    fn drop(&mut self) {
        // The thread may have run user code, and user code may fork. The copy must leave the pool
        // alone.
        if let Some(scheduler) = self.0.take().filter(|scheduler| scheduler.is_ours()) {
            scheduler.lookers.fetch_sub(1, Ordering::SeqCst);
            scheduler.listen();
        }
    }
}

/// Waits until threads that have nothing left to do are gone, so that code which counts the threads
/// of this process next does not count them.
fn end_threads(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // `join` fails only if the supervisor panicked. Then its message is on stderr already.
        let _ = thread.join();
    }
}
