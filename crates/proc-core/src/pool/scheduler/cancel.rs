//! Stops the tasks of cancelled calls, and tasks whose timeout has passed.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::state::{
    Deliveries, InFlight, KillReason, Phase, RECHECK_INTERVAL, Scheduler, State, Stop,
    read_arguments, unlock_and_deliver,
};
use crate::error::{Error, Origin};
use crate::pool::board::{SlotId, TicketId};
use crate::pool::job::{Delivery, Inbox, TaskQueue};
use crate::sys;

/// How long a pool that ends waits for workers that it has killed before it kills their fork
/// server.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// If a worker could claim or begin a task and does not within the task's timeout, it is taken to
/// be stopped by a signal, but not before this time has passed: on a busy machine, a worker may
/// wait for a processor for some hundred milliseconds before it begins its task.
const MIN_STOPPED_TIME: Duration = Duration::from_secs(1);

/// A grace period that is longer than the clock can count lasts this long instead.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// How fast data are decoded at least, in bytes for each millisecond. While a worker may still
/// decode the data that the function borrows, its task is not overdue.
const MIN_DECODED_PER_MILLISECOND: usize = 16 << 10;

/// How often the timeout watcher checks the timeouts of running tasks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Scheduler {
    /// Cancels a call: tasks that no worker has claimed never run, and workers that have claimed
    /// its tasks are killed. If the call has a grace period, the tasks that are running are asked
    /// to stop first, and so are those that their workers begin after them. Returns false if the
    /// call was done, or if all its tasks were cancelled or asked to stop before.
    pub(crate) fn cancel(self: &Arc<Self>, inbox: &Arc<Inbox>) -> bool {
        if self.is_forked_copy() {
            return false;
        }
        let mut deliveries = Deliveries::default();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut deliveries);
        let queued = state.queues.has(inbox);
        let running = state.in_flight.iter().any(|(ticket, in_flight)| {
            let done = self.board.progress(*ticket).done;
            let is_last = done as usize + 1 >= in_flight.count;
            let is_asked = |stop: &Stop| stop.is_of_call || (is_last && stop.done == done);
            let is_asked = in_flight.stop.as_deref().is_some_and(is_asked);
            Arc::ptr_eq(&in_flight.inbox, inbox) && !in_flight.waits_for_out_of_band && !is_asked
        });
        // A call that was cancelled before may have running tasks until its workers are dead.
        let cancelled = (queued || running) && !inbox.is_closed();
        if cancelled {
            let is_incomplete = self.withdraw(&mut state, inbox);
            // The results of a call of which no task was withdrawn still count if they come within
            // the grace period.
            if is_incomplete || inbox.options.grace.is_none() {
                state.wakers.extend(inbox.discard(Error::cancelled()));
            }
            for (ticket, slot_id) in self.claimed_tickets(&state) {
                let Some(in_flight) = state.in_flight.get(&ticket) else { continue };
                if Arc::ptr_eq(&in_flight.inbox, inbox) && !in_flight.waits_for_out_of_band {
                    self.stop_task(&mut state, ticket, slot_id, Error::cancelled(), true);
                }
            }
            if inbox.options.grace.is_some() && self.start_timeout_watcher(&mut state).is_err() {
                // Nobody would kill the workers when the period is over: kill them now.
                self.kill_after_grace(&mut state, None);
            }
        }
        self.dispatch(&mut state);
        unlock_and_deliver(state, deliveries);
        cancelled
    }

    /// Cancels a call of `tasks` tasks if all of them still wait for their first try, and no worker
    /// has claimed any. Returns whether it did. A call that has several tickets, or a ticket and
    /// queued tasks, is not cancelled.
    #[cfg(feature = "remote")]
    pub(crate) fn cancel_unclaimed(&self, inbox: &Arc<Inbox>, tasks: usize) -> bool {
        if self.is_forked_copy() {
            return false;
        }
        let mut state = self.lock();
        let of_call = state.tickets_of(inbox);
        let of_call_queued = state.queues.iter().filter(|queue| Arc::ptr_eq(&queue.inbox, inbox));
        let queued: usize = of_call_queued.map(|queue| queue.left).sum();
        // If fewer than `tasks` tasks are found, the others were delivered or wait elsewhere.
        let unclaimed = inbox.retried() == 0
            && match of_call[..] {
                [] => queued == tasks,
                [(ticket, position)] => {
                    state.in_flight.get(&ticket).is_some_and(|it| it.count == tasks)
                        && (state.requeued.contains(&ticket)
                            || self.board.retract(ticket, position))
                }
                _ => false,
            };
        if unclaimed {
            state.wakers.extend(inbox.discard(Error::cancelled()));
            state.queues.remove(inbox);
            for (ticket, _) in of_call {
                state.requeued.retain(|other| *other != ticket);
                self.free_ticket_and_block(&mut state, ticket);
            }
            self.dispatch(&mut state);
        }
        super::state::unlock(state);
        unclaimed
    }

    /// The tickets that are claimed and not settled, each with the slot of its claimer.
    fn claimed_tickets(&self, state: &State) -> Vec<(TicketId, SlotId)> {
        let claim = |(ticket, in_flight): (TicketId, &InFlight)| {
            let slot_id =
                in_flight.claimer.or_else(|| self.board.claimer(ticket, in_flight.position));
            slot_id.map(|slot_id| (ticket, slot_id))
        };
        state.tickets().filter_map(claim).collect()
    }

    /// Starts the timeout watcher, the thread that checks timeouts. If it runs already, wakes it.
    pub(super) fn start_timeout_watcher(self: &Arc<Self>, state: &mut State) -> Result<(), Error> {
        if std::mem::replace(&mut state.timeout_watcher, true) {
            self.watcher_signal.notify_all();
            return Ok(());
        }
        let scheduler = Arc::clone(self);
        let name = format!("{}-timeouts", self.config.name);
        let thread =
            sys::spawn_thread(&name, sys::SMALL_STACK, move || scheduler.run_timeout_watcher());
        match thread {
            Ok(thread) => {
                state.threads.push(thread);
                Ok(())
            }
            Err(error) => {
                state.timeout_watcher = false;
                Err(Error::start("the timeout watcher", error))
            }
        }
    }

    /// Starts the timeout watcher because a future waits for a call. No thread waits for that call,
    /// so nothing else would wake sleepers while published work waits.
    pub(crate) fn start_watcher_for_future(self: &Arc<Self>) {
        if !self.is_forked_copy() {
            let mut state = self.lock();
            // If the thread cannot be started, the next thread that waits for a call checks the
            // board.
            let _ = self.start_timeout_watcher(&mut state);
        }
    }

    /// Runs the timeout watcher until the pool has ended: kills workers whose task has exceeded its
    /// timeout, and wakes all sleepers while published work waits.
    fn run_timeout_watcher(&self) {
        let mut state = self.lock();
        while !matches!(state.phase, Phase::Over(_)) && state.supervisors > 0 {
            let has_timeout = |(_, in_flight): (TicketId, &InFlight)| {
                in_flight.inbox.options.timeout.is_some() || in_flight.stop.is_some()
            };
            let any_timeout = state.tickets().any(has_timeout)
                || state.queues.iter().any(|queue| queue.inbox.options.timeout.is_some());
            if any_timeout {
                self.kill_after_grace(&mut state, Some(Instant::now()));
                self.kill_overdue(&mut state);
            }
            let interval = if any_timeout { POLL_INTERVAL } else { RECHECK_INTERVAL };
            if state.is_idle() {
                state = self.watcher_signal.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                let woken = self.watcher_signal.wait_timeout(state, interval);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                self.wake_all_if_work_waits(&mut state);
            }
        }
    }

    /// Stops the task that a worker is running. If the call has a grace period, asks the task to
    /// stop; the timeout watcher kills the worker when the period is over. If it has none, or if no
    /// task is running, kills the worker now. `error` is the task's error, if its worker is killed.
    ///
    /// If `is_of_call`, the whole call is stopped: the tasks that the worker has claimed with that
    /// task are asked when they begin, and all of them have the same period. Otherwise they are not
    /// asked.
    pub(super) fn stop_task(
        &self,
        state: &mut State,
        ticket: TicketId,
        slot_id: SlotId,
        error: Error,
        is_of_call: bool,
    ) {
        let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
        let progress = self.board.progress(ticket);
        let is_running = progress.begun > progress.done;
        if let Some(grace) = in_flight.inbox.options.grace.filter(|_| is_running) {
            let before = in_flight.stop.as_deref();
            let is_asked = |stop: &Stop| match is_of_call {
                true => stop.is_of_call,
                false => stop.is_of_call || stop.done == progress.done,
            };
            if !before.is_some_and(is_asked) {
                let kill_at = Instant::now().checked_add(grace);
                let mut kill_at = kill_at.unwrap_or_else(|| Instant::now() + FOREVER);
                if let Some(stop) = before.filter(|stop| stop.done == progress.done) {
                    // The task was asked before, at its timeout. It gets no more time.
                    kill_at = kill_at.min(stop.kill_at);
                }
                let done = progress.done;
                in_flight.stop = Some(Box::new(Stop { is_of_call, done, kill_at, error }));
                match is_of_call {
                    true => self.board.request_stop_of_all(ticket),
                    false => self.board.request_stop(ticket, progress.begun),
                }
                self.send_stop_signal(state, slot_id);
            }
            return;
        }
        let (inbox, task) =
            (Arc::clone(&in_flight.inbox), in_flight.first + progress.done as usize);
        if is_of_call && inbox.options.grace.is_some() {
            // The worker is between two tasks. None of those that are left runs elsewhere.
            let (done, kill_at, error) = (progress.done, Instant::now(), error.clone());
            in_flight.stop = Some(Box::new(Stop { is_of_call, done, kill_at, error }));
        }
        state.kill(slot_id, KillReason::Task { inbox, task, error });
    }

    /// Sends the stop signal of the pool, if it has one, to the worker in a slot.
    fn send_stop_signal(&self, state: &State, slot_id: SlotId) {
        let handle = state.slots.get(slot_id as usize).and_then(|slot| slot.handle.as_ref());
        if let (Some(handle), Some(signal)) = (handle, self.config.stop_signal) {
            handle.signal(signal);
        }
    }

    /// Asks the running tasks whose call has a grace period to stop, because the pool ends. Waits
    /// until all of them have returned, or were killed at the end of the period. Meanwhile no task
    /// begins that was not claimed, and tasks without a grace period run on. A worker that survives
    /// its killing for [`KILL_TIMEOUT`] is left to the caller: its fork server is stopped.
    pub(super) fn stop_graceful_tasks(&self) {
        let mut state = self.lock();
        let has_grace = |state: &State, ticket: &TicketId| {
            let in_flight = state.in_flight.get(ticket);
            in_flight.is_some_and(|it| it.inbox.options.grace.is_some() && !it.inbox.is_closed())
        };
        let mut claimed = self.claimed_tickets(&state);
        claimed.retain(|(ticket, _)| has_grace(&state, ticket));
        if claimed.is_empty() || matches!(state.phase, Phase::Over(_)) {
            return;
        }
        state.phase = Phase::Closing;
        let queued = state.queues.iter().map(|queue| Arc::clone(&queue.inbox));
        let in_flight = state.in_flight.values().map(|in_flight| Arc::clone(&in_flight.inbox));
        for inbox in queued.chain(in_flight).collect::<Vec<_>>() {
            if self.withdraw(&mut state, &inbox) {
                state.wakers.extend(inbox.close(Error::closed()));
            }
        }
        for (ticket, slot_id) in claimed {
            self.stop_task(&mut state, ticket, slot_id, Error::closed(), true);
        }
        loop {
            let mut deliveries = Deliveries::default();
            self.collect_finished(&mut state, &mut deliveries);
            self.kill_after_grace(&mut state, Some(Instant::now()));
            let now = Instant::now();
            let may_end = |stop: &Stop| now.saturating_duration_since(stop.kill_at) < KILL_TIMEOUT;
            let mut stops = state.in_flight.values().filter_map(|it| it.stop.as_deref());
            let is_over = !stops.any(may_end);
            unlock_and_deliver(state, deliveries);
            if is_over {
                return;
            }
            state = self.lock();
            let woken = self.supervisor_ended.wait_timeout(state, POLL_INTERVAL);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Kills workers whose task was asked to stop, and still runs at the end of its grace period.
    /// Without a time `now`, all periods are over.
    pub(super) fn kill_after_grace(&self, state: &mut State, now: Option<Instant>) {
        for (ticket, slot_id) in self.claimed_tickets(state) {
            let Some(in_flight) = state.in_flight.get_mut(&ticket) else { continue };
            let Some(stop) = &mut in_flight.stop else { continue };
            let progress = self.board.progress(ticket);
            let has_returned = progress.done != stop.done;
            let is_finished = progress.done as usize >= in_flight.count;
            if has_returned && !stop.is_of_call {
                in_flight.stop = None;
            } else if has_returned && is_finished {
                // Keep the request until the results are collected: no task is tried again.
            } else if now.is_none_or(|now| stop.kill_at <= now) {
                let (inbox, error) = (Arc::clone(&in_flight.inbox), stop.error.clone());
                let task = in_flight.first + progress.done as usize;
                state.kill(slot_id, KillReason::Task { inbox, task, error });
            } else if has_returned && progress.begun > progress.done {
                stop.done = progress.done;
                self.send_stop_signal(state, slot_id); // to the next task
            }
        }
    }

    /// Kills workers whose task has exceeded its timeout. Then fails tasks that no worker claims.
    fn kill_overdue(&self, state: &mut State) {
        let now = sys::monotonic();
        let claimed = self.claimed_tickets(state);
        for (ticket, slot_id) in &claimed {
            let (ticket, slot_id) = (*ticket, *slot_id);
            let is_ready = state.slots.get(slot_id as usize).is_some_and(|slot| slot.ready);
            let Some(in_flight) = state.in_flight.get_mut(&ticket) else { continue };
            let Some(timeout) = in_flight.inbox.options.timeout else { continue };
            let is_busy = || claimed.iter().any(|(other, of)| *of == slot_id && *other != ticket);
            if self.board.is_assigned(ticket, slot_id) && (!is_ready || is_busy()) {
                in_flight.stuck = None; // it waits for the worker's start or present chunk
                continue;
            }
            let progress = self.board.progress(ticket);
            let ran = Duration::from_nanos(now.saturating_sub(progress.began_at));
            let runs = progress.begun > progress.done && progress.began_at > 0;
            let is_overdue = match runs {
                true => ran >= timeout,
                // Between two tasks a worker takes no time, unless it is stopped.
                false => {
                    (progress.done as usize) < in_flight.count
                        && in_flight.is_stuck_for(
                            progress.done,
                            timeout.saturating_add(decode_time(in_flight)),
                        )
                }
            };
            if is_overdue {
                let error = Error::timeout(timeout).with_origin(state.origin_of(slot_id));
                self.stop_task(state, ticket, slot_id, error, false);
            }
        }
        self.fail_overdue_unclaimed(state);
    }

    /// Fails tasks that no worker claims within their timeout although workers are free. Kills the
    /// free workers: a signal may have stopped them.
    fn fail_overdue_unclaimed(&self, state: &mut State) {
        let busy: Vec<SlotId> =
            self.claimed_tickets(state).into_iter().map(|(_, slot_id)| slot_id).collect();
        let is_free = |slot_id: &SlotId| {
            let slot = &state.slots[*slot_id as usize];
            slot.ready && slot.handle.is_some() && !busy.contains(slot_id)
        };
        let free: Vec<SlotId> = state.slot_ids().filter(is_free).collect();
        let mut overdue = Vec::new();
        for (ticket, in_flight) in &mut state.in_flight {
            let is_claimed_or_requeued = in_flight.claimer.is_some()
                || self.board.claimer(*ticket, in_flight.position).is_some()
                || state.requeued.contains(ticket);
            let Some(timeout) = in_flight.inbox.options.timeout.filter(|_| !is_claimed_or_requeued)
            else {
                continue;
            };
            if free.is_empty() {
                in_flight.stuck = None;
            } else if in_flight.is_stuck_for(0, timeout) {
                overdue.push((*ticket, timeout));
            }
        }
        for (ticket, timeout) in overdue {
            if self.fail_unclaimed(state, ticket, timeout) {
                // One of these workers may have claimed a task by now. Such a task runs again.
                free.iter().for_each(|slot_id| state.kill(*slot_id, KillReason::Worker));
            }
        }
    }

    /// Fails the first task of a ticket that no worker has claimed, and queues the ticket's other
    /// tasks. Returns false if a worker has claimed the ticket by now.
    fn fail_unclaimed(&self, state: &mut State, ticket: TicketId, timeout: Duration) -> bool {
        let Some(in_flight) = state.in_flight.get(&ticket) else { return false };
        if !self.board.retract(ticket, in_flight.position) {
            return false;
        }
        let arguments = read_arguments(&state.arena, in_flight);
        let Some(in_flight) = self.free_ticket_and_block(state, ticket) else { return false };
        let origin = Origin::of_task(in_flight.first);
        let error = Error::timeout(timeout).with_origin(origin);
        let failed = Box::new(Delivery::Failed { task: in_flight.first, error });
        state.wakers.extend(in_flight.inbox.accept(failed));
        let others = in_flight.first + 1..in_flight.first + in_flight.count;
        if !others.is_empty() {
            let rest = arguments.and_then(|arguments| {
                TaskQueue::rest(in_flight.chunk.name, &in_flight.inbox, others, arguments, 1)
            });
            match rest {
                Ok(mut rest) => {
                    rest.attempts = in_flight.attempts;
                    state.queues.push_front(rest);
                }
                Err(error) => state.wakers.extend(in_flight.inbox.close(error)),
            }
        }
        self.dispatch(state);
        true
    }
}

impl InFlight {
    /// Forgets what was seen of a worker that has run tasks of the ticket. Its other tasks go to
    /// another worker, which counts anew.
    pub(super) fn forget_progress(&mut self) {
        self.waits_for_out_of_band = false;
        self.stuck = None;
        self.stop = None;
    }

    /// Whether the whole call of the ticket is stopped.
    pub(super) fn is_stopped_with_call(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.is_of_call)
    }

    /// Whether no task of the ticket has begun for `timeout`, and for at least
    /// [`MIN_STOPPED_TIME`]. The time counts from the first call with this number of tasks `done`.
    fn is_stuck_for(&mut self, done: u32, timeout: Duration) -> bool {
        match self.stuck {
            Some((then, since)) if then == done => since.elapsed() >= timeout.max(MIN_STOPPED_TIME),
            _ => {
                self.stuck = Some((done, Instant::now()));
                false
            }
        }
    }
}

/// How long a worker may take to decode the data that the function of a chunk borrows.
fn decode_time(in_flight: &InFlight) -> Duration {
    let bytes = in_flight.inbox.data.as_ref().map_or(0, |data| data.bytes);
    Duration::from_millis((bytes / MIN_DECODED_PER_MILLISECOND) as u64)
}
