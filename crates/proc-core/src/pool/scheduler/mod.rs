//! The scheduler, the part of a pool that works in the parent: it publishes work, collects results
//! and replaces dead workers.
//!
//! Each slot has a *supervisor*: a thread that reads its worker's reports and sleeps most of the
//! time. The supervisor collects results when the worker asks for that. When the worker has exited,
//! the supervisor settles the tickets that the worker had claimed, and starts the next worker. A
//! thread that waits for results collects them too, so that a quick task wakes no supervisor.
//!
//! [`State`] holds all bookkeeping under one lock. Deliveries go into their inboxes after the lock
//! is released. README.md beside this file tells the rest.

mod assign;
mod at_end;
mod cancel;
mod chunk;
mod collect;
mod data;
mod dead_worker;
mod fair_share;
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

use self::cancel::KILL_TIMEOUT;
use self::state::{Deliveries, Phase, RECHECK_INTERVAL, Slot, State, unlock};
pub(crate) use self::state::{Intensity, PoolConfig, Scheduler, StartFunction, StartFunctions};
use crate::error::Error;
use crate::forkserver::{ForkServer, StartMethod, start_method};
use crate::panics;
use crate::pool::board::{Board, Layout, SlotId};
use crate::pool::job::{Delivery, Inbox, TaskQueue};
use crate::sys::{self, RightsReader};

/// How long [`Scheduler::terminate`] waits for idle workers to exit before it kills them.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// How many times a waiting thread polls for results before it sleeps.
const MAX_SPINS: u32 = 400;

impl Scheduler {
    /// Builds the pool and starts its workers. If one cannot be started, terminates the others.
    pub(crate) fn build(
        config: PoolConfig,
        start_functions: StartFunctions,
    ) -> Result<Arc<Scheduler>, Error> {
        let fork_server = match config.start_method {
            StartMethod::Fork => {
                let keep = |fork_server: &Arc<ForkServer>| Ok(Arc::clone(fork_server));
                Some(start_method::with_fork_server(
                    StartMethod::Fork,
                    &config.attributes.stdio,
                    &mut RightsReader::default(),
                    keep,
                )?)
            }
            _ => None,
        };
        // The program may have set a panic hook of its own since `init`.
        panics::install_hook();
        let layout = Layout::for_workers(config.processes);
        let board = Board::new(layout).map_err(|e| Error::make("the pool's work queue", e))?;
        let mut state = State { free: (0..layout.tickets).rev().collect(), ..State::default() };
        state.slots.resize_with(config.processes as usize, Slot::default);
        let returned = state.arena.returned();
        let processes = config.processes;
        let initializes = start_functions.initializer.is_some() || start_functions.state.is_some();
        let scheduler = Arc::new(Scheduler {
            config,
            start_functions: Mutex::new(start_functions),
            initializes,
            processes: AtomicU32::new(processes),
            resizing: Mutex::new(()),
            slots_changed: Condvar::new(),
            built_by: sys::pid(),
            built_by_main_thread: sys::is_main_thread(),
            board,
            state: Mutex::new(state),
            supervisor_ended: Condvar::new(),
            watcher_signal: Condvar::new(),
            pollers: AtomicUsize::new(0),
            open_calls: Arc::new(()),
            fork_server: Mutex::new(fork_server),
            preloaded: Mutex::default(),
            returned,
            dropped_data: Arc::default(),
        });
        at_end::remember(&scheduler);
        let result = scheduler.start_workers(0..processes);
        if result.is_err() {
            scheduler.terminate();
        }
        result.map(|()| scheduler)
    }

    /// Accepts no more calls. Workers exit when all accepted work is done.
    pub(crate) fn close(&self) {
        if self.is_forked_copy() {
            return;
        }
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Closing;
            self.dispatch(&mut state);
        }
        unlock(state);
    }

    /// Waits until every worker has exited. Returns false at once if the pool is open, because the
    /// wait would never end.
    ///
    /// # Errors
    ///
    /// The error that ended the pool, if one did; or this process is a forked copy.
    pub(crate) fn join(&self) -> Result<bool, Error> {
        self.check_not_forked_copy()?;
        let state = self.lock();
        if matches!(state.phase, Phase::Open) {
            return Ok(false);
        }
        let wait = self.supervisor_ended.wait_while(state, |state| state.supervisors > 0);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        let threads = std::mem::take(&mut state.threads);
        let failed = match &state.phase {
            Phase::Over(Some(cause)) => Err(cause.clone()),
            _ => Ok(true),
        };
        drop(state);
        end_threads(threads);
        self.release_start_resources();
        failed
    }

    /// Ends all workers and waits for them. Tasks whose call has a grace period are asked to stop
    /// first. When these have returned or their time is over, workers that are busy or not ready
    /// yet are killed. Idle workers are woken and exit by themselves; those that remain after
    /// [`EXIT_TIMEOUT`] are killed too.
    pub(crate) fn terminate(&self) {
        if self.is_forked_copy() {
            return;
        }
        self.stop_graceful_tasks();
        let mut state = self.lock();
        // Results of tickets that are finished by now are still delivered.
        let mut deliveries = Deliveries::default();
        self.collect_finished(&mut state, &mut deliveries);
        state.deliver_under_lock(&mut deliveries);
        self.end_pool(&mut state, None);
        unlock(state);
        let mut state = self.lock();
        self.kill_busy_workers(&state);
        let now = Instant::now();
        let kill_at = now + EXIT_TIMEOUT;
        // A worker that leaves may be writing its counts for coverage.
        let kill_leaving_at = now + sys::time_to_end(EXIT_TIMEOUT);
        let kill_fork_server_at = kill_at + KILL_TIMEOUT;
        while state.supervisors > 0 {
            let left = kill_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for slot in &state.slots {
                    let Some(handle) = &slot.handle else { continue };
                    if slot.leaving.is_some() && Instant::now() < kill_leaving_at {
                        continue;
                    }
                    handle.signal(Signal::SIGKILL);
                    // A stopped fork server passes no signals on to its workers. When it is killed,
                    // its workers die with it.
                    if kill_fork_server_at < Instant::now() {
                        handle.kill_fork_server();
                    }
                }
            }
            let left = if left.is_zero() { EXIT_TIMEOUT } else { left };
            let woken = self.supervisor_ended.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        end_threads(threads);
        self.release_start_resources();
    }

    /// The slots whose workers have claimed a ticket that is in flight.
    fn busy_slots(&self, state: &State) -> HashSet<SlotId> {
        let claims = self.board.claims();
        let shown = claims.filter(|(ticket, _)| state.in_flight.contains_key(ticket));
        let noted = state.in_flight.values().filter_map(|in_flight| in_flight.claimer);
        shown.map(|(_, slot_id)| slot_id).chain(noted).collect()
    }

    /// Kills the workers that run a task, and those that are not ready yet. Grace periods are over
    /// by now. Programs that the tasks have executed go on: no signal goes to a process group.
    ///
    /// SIGTERM would do nothing: a worker survives it, so that a SIGTERM to all processes of the
    /// program ends no task.
    fn kill_busy_workers(&self, state: &State) {
        let busy = self.busy_slots(state);
        for (slot_id, slot) in state.slots.iter().enumerate() {
            if let Some(handle) = &slot.handle
                && (!slot.ready || busy.contains(&(slot_id as SlotId)))
            {
                handle.signal(Signal::SIGKILL);
            }
        }
    }

    /// Drops the start functions, and ends the pool's own fork servers. Called when no more workers
    /// will be started: the argument of a start function may hold one end of a channel, and a user
    /// may wait until that end is closed.
    fn release_start_resources(&self) {
        let take = |mutex: &Mutex<Option<Arc<ForkServer>>>| {
            mutex.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let start_functions = std::mem::take(&mut *self.start_functions());
        let fork_servers = [take(&self.preloaded), take(&self.fork_server)];
        drop(start_functions);
        for fork_server in fork_servers.into_iter().flatten() {
            ForkServer::end(fork_server);
        }
    }

    /// Accepts a queue of a call's tasks, and publishes as many of them as possible.
    pub(crate) fn submit(self: &Arc<Self>, queue: Box<TaskQueue>) -> Result<(), Error> {
        self.check_not_forked_copy()?;
        let mut state = self.lock();
        state.phase.check_open()?;
        if queue.left > 0 && queue.inbox.options.timeout.is_some() {
            self.start_timeout_watcher(&mut state)?;
        }
        self.resume_slots_for_call(&mut state);
        if queue.left > 0 {
            if let Some(size) = state.result_sizes.get(&queue.name) {
                queue.inbox.expect_size(*size);
            }
            self.accept(&mut state, queue);
            self.dispatch(&mut state);
            if state.timeout_watcher {
                self.watcher_signal.notify_all();
            }
        }
        unlock(state);
        Ok(())
    }

    /// Waits for the next delivery to `inbox`. Returns `None` if the deadline passes first.
    ///
    /// The thread sleeps until results of `wanted` tasks or many bytes of results have arrived. So
    /// a caller that needs all results is not woken for each of them.
    pub(crate) fn wait(
        &self,
        inbox: &Inbox,
        wanted: usize,
        deadline: Option<Instant>,
    ) -> Option<Result<Box<Delivery>, Error>> {
        if let Err(error) = self.check_not_forked_copy() {
            return Some(Err(error));
        }
        loop {
            if let Some(delivery) = self.spin(inbox) {
                return Some(delivery);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return None;
            }
            // The sleep ends when enough results have arrived. The thread also wakes now and then
            // to check the board: that costs nothing, and no defect of a worker can then make the
            // sleep last forever.
            let recheck_at = Instant::now() + RECHECK_INTERVAL;
            let wake_at = deadline.map_or(recheck_at, |deadline| deadline.min(recheck_at));
            inbox.sleep(wanted, wake_at);
            if recheck_at <= Instant::now() {
                self.check_board();
            }
        }
    }

    /// Wakes all sleepers if published work waits. Ends the pool if a worker, dead or alive, has
    /// overwritten the board.
    fn check_board(&self) {
        let mut state = self.lock();
        self.wake_all_if_work_waits(&mut state);
        if !self.board_is_intact(&state) {
            self.end_pool(&mut state, Some(Error::overwritten()));
            for handle in state.slots.iter().filter_map(|slot| slot.handle.as_ref()) {
                handle.signal(Signal::SIGKILL);
            }
        }
        unlock(state);
    }

    /// Polls for a delivery for a short time. Meanwhile this thread collects results itself.
    fn spin(&self, inbox: &Inbox) -> Option<Result<Box<Delivery>, Error>> {
        if let Some(delivery) = inbox.poll() {
            return Some(delivery);
        }
        let collecting = Collecting::new(self);
        for spin in 0..MAX_SPINS {
            self.collect_if_any();
            let found = inbox.poll();
            if found.is_some() {
                return found;
            }
            // Yields only if no other call is open. If another one is, a yield might let a worker
            // on this processor run tasks of that call for a whole time slice (4 ms), and the
            // results that this thread waits for may be there before.
            match spin % 16 == 15 && Arc::strong_count(&self.open_calls) <= 2 {
                true => std::thread::yield_now(),
                false => std::hint::spin_loop(),
            }
        }
        // From now on, this thread relies on messages from workers.
        drop(collecting);
        inbox.poll()
    }

    /// Collects results, if there may be anything to collect or more to publish.
    pub(crate) fn collect_if_any(&self) {
        if self.is_forked_copy() {
            return;
        }
        // In a pool with a memory limit, a block that comes back from a lease makes room for more
        // chunks.
        if self.board.has_news() || (self.config.memory_limit.is_some() && self.returned.any()) {
            self.collect();
        }
    }
}

/// A guard: as long as it lives, its thread polls and collects finished tickets. Meanwhile workers
/// send no messages about finished tickets.
pub(crate) struct Collecting<S: Deref<Target = Scheduler>>(Option<S>);

impl<S: Deref<Target = Scheduler>> Collecting<S> {
    pub(crate) fn new(scheduler: S) -> Collecting<S> {
        if scheduler.is_forked_copy() {
            return Collecting(None);
        }
        scheduler.pollers.fetch_add(1, Ordering::SeqCst);
        scheduler.board.decline_messages();
        Collecting(Some(scheduler))
    }
}

impl<S: Deref<Target = Scheduler>> Drop for Collecting<S> {
    fn drop(&mut self) {
        // User code may have forked this process since the guard was made. A copy must not touch
        // the pool.
        if let Some(scheduler) = self.0.take().filter(|scheduler| !scheduler.is_forked_copy()) {
            scheduler.pollers.fetch_sub(1, Ordering::SeqCst);
            scheduler.request_message();
        }
    }
}

/// Waits until threads that have nothing left to do are gone. So code that counts the threads of
/// this process afterwards does not count them.
fn end_threads(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // `join` fails only if the thread panicked. The panic's message is on stderr already.
        let _ = thread.join();
    }
}
