//! Stopping what runs: tasks that are cancelled, and tasks that have had their time.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::state::{
    InFlight, KillReason, Phase, RECHECK_INTERVAL, Scheduler, State, read_arguments, unlock,
};
use crate::error::{Error, Origin};
use crate::pool::board::{Owner, TicketId};
use crate::pool::job::{Delivery, Inbox, TaskQueue};
use crate::sys;

/// How often running tasks' timeouts are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Scheduler {
    /// Takes back a call: what is not begun never runs, what runs is stopped. False if it was done.
    pub(crate) fn cancel(&self, inbox: &Arc<Inbox>) -> bool {
        if !self.is_ours() {
            return false;
        }
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut deliveries);
        let queued = state.queues.iter().any(|queue| Arc::ptr_eq(&queue.inbox, inbox));
        let running = state.in_flight.values().any(|in_flight| {
            Arc::ptr_eq(&in_flight.inbox, inbox) && !in_flight.waits_for_out_of_band
        });
        // One that was cancelled before may still be on its way out.
        let cancelled = (queued || running) && !inbox.is_closed();
        if cancelled {
            state.wakers.extend(inbox.discard(Error::cancelled()));
            self.withdraw(&mut state, inbox);
            let error = Error::cancelled();
            for (ticket, owner) in self.running(&state) {
                let Some(in_flight) = state.in_flight.get(&ticket) else { continue };
                if Arc::ptr_eq(&in_flight.inbox, inbox) && !in_flight.waits_for_out_of_band {
                    let (inbox, task, error) = (Arc::clone(inbox), in_flight.first, error.clone());
                    state.kill(owner, KillReason::Task { inbox, task, error });
                }
            }
        }
        self.pump(&mut state);
        unlock(state, deliveries);
        cancelled
    }

    /// Takes back a call of one ticket that no worker has claimed; whether it was so.
    pub(crate) fn cancel_unclaimed(&self, inbox: &Arc<Inbox>) -> bool {
        if !self.is_ours() {
            return false;
        }
        let mut state = self.lock();
        let theirs =
            state.in_flight.iter().filter(|(_, in_flight)| Arc::ptr_eq(&in_flight.inbox, inbox));
        let theirs: Vec<(TicketId, u64)> =
            theirs.map(|(id, in_flight)| (*id, in_flight.position)).collect();
        let queued = state.queues.iter().any(|queue| Arc::ptr_eq(&queue.inbox, inbox));
        let unclaimed = match theirs[..] {
            [] => queued,
            [(ticket, position)] if !queued => self.board.retract(ticket, position),
            _ => false,
        };
        if unclaimed {
            state.wakers.extend(inbox.discard(Error::cancelled()));
            state.queues.retain(|queue| !Arc::ptr_eq(&queue.inbox, inbox));
            for (ticket, _) in theirs {
                self.retire(&mut state, ticket);
            }
            self.pump(&mut state);
        }
        unlock(state, Vec::new());
        unclaimed
    }

    /// The claimed tickets that are not settled, with their owners.
    fn running(&self, state: &State) -> Vec<(TicketId, Owner)> {
        let owner = |(ticket, in_flight): (&TicketId, &InFlight)| {
            let owner = in_flight.owner.or_else(|| self.board.claimer(*ticket, in_flight.position));
            owner.map(|owner| (*ticket, owner))
        };
        state.in_flight.iter().filter_map(owner).collect()
    }

    /// Starts the thread that watches over timeouts, unless it runs.
    pub(super) fn start_timeout_watcher(self: &Arc<Self>, state: &mut State) -> Result<(), Error> {
        if std::mem::replace(&mut state.timeout_watcher, true) {
            self.timed.notify_all();
            return Ok(());
        }
        let scheduler = Arc::clone(self);
        let name = format!("{}-warden", self.config.name);
        let thread = sys::spawn_thread(&name, sys::SMALL_STACK, move || scheduler.watch());
        match thread {
            Ok(thread) => {
                state.threads.push(thread);
                Ok(())
            }
            Err(error) => {
                state.timeout_watcher = false;
                Err(Error::start("the thread that watches over timeouts", error))
            }
        }
    }

    /// Sees to it that somebody looks after work for which no thread waits.
    pub(crate) fn watch_over_futures(self: &Arc<Self>) {
        if self.is_ours() {
            let mut state = self.lock();
            // Where no thread can be had, the work is looked after by whoever calls next.
            let _ = self.start_timeout_watcher(&mut state);
        }
    }

    /// Kills workers whose task has had its time, and wakes others for work that a stopped one does
    /// not do, until the pool is over.
    fn watch(&self) {
        let mut state = self.lock();
        while !matches!(state.phase, Phase::Over(_)) && state.supervisors > 0 {
            let timed = |in_flight: &InFlight| in_flight.inbox.options.timeout.is_some();
            let some = state.in_flight.values().any(timed)
                || state.queues.iter().any(|queue| queue.inbox.options.timeout.is_some());
            if some {
                self.kill_overdue(&mut state);
            }
            let glance = if some { POLL_INTERVAL } else { RECHECK_INTERVAL };
            if state.is_idle() {
                state = self.timed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                let woken = self.timed.wait_timeout(state, glance);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                self.wake_for_neglected(&mut state);
            }
        }
    }

    fn kill_overdue(&self, state: &mut State) {
        let now = sys::monotonic();
        for (ticket, owner) in self.running(state) {
            let Some(in_flight) = state.in_flight.get_mut(&ticket) else { continue };
            let Some(timeout) = in_flight.inbox.options.timeout else { continue };
            let progress = self.board.progress(ticket);
            let ran = Duration::from_nanos(now.saturating_sub(progress.began_at));
            let runs = progress.begun > progress.done && progress.began_at > 0;
            let is_late = match runs {
                true => ran >= timeout,
                // A worker goes on from task to task without delay, unless it is stopped.
                false => {
                    (progress.done as usize) < in_flight.count
                        && in_flight.waits(progress.done, timeout)
                }
            };
            if is_late {
                let inbox = Arc::clone(&in_flight.inbox);
                let task = in_flight.first + progress.done as usize;
                let error = Error::timeout(timeout).with_origin(state.origin_of(owner));
                state.kill(owner, KillReason::Task { inbox, task, error });
            }
        }
        self.fail_the_neglected(state);
    }

    /// Fails tasks that are due, as workers are free, and that nobody takes within their time; ends
    /// these workers.
    fn fail_the_neglected(&self, state: &mut State) {
        let at_work: Vec<Owner> = self.running(state).into_iter().map(|(_, owner)| owner).collect();
        let is_free = |owner: &Owner| {
            let slot = &state.slots[*owner as usize];
            slot.ready && slot.handle.is_some() && !at_work.contains(owner)
        };
        let free: Vec<Owner> = state.owners().filter(is_free).collect();
        let mut neglected = Vec::new();
        for (ticket, in_flight) in &mut state.in_flight {
            let is_taken = in_flight.owner.is_some()
                || self.board.claimer(*ticket, in_flight.position).is_some()
                || state.requeued.contains(ticket);
            let Some(timeout) = in_flight.inbox.options.timeout.filter(|_| !is_taken) else {
                continue;
            };
            if free.is_empty() {
                in_flight.stuck = None;
            } else if in_flight.waits(0, timeout) {
                neglected.push((*ticket, timeout));
            }
        }
        for (ticket, timeout) in neglected {
            if self.fail_unclaimed(state, ticket, timeout) {
                // One of them may have taken something by now: that is run again.
                free.iter().for_each(|owner| state.kill(*owner, KillReason::Worker));
            }
        }
    }

    /// Fails the first task of a ticket that nobody has claimed, and lets the others wait for their
    /// turn; false if somebody has claimed it by now.
    fn fail_unclaimed(&self, state: &mut State, ticket: TicketId, timeout: Duration) -> bool {
        let Some(in_flight) = state.in_flight.get(&ticket) else { return false };
        if !self.board.retract(ticket, in_flight.position) {
            return false;
        }
        let arguments = read_arguments(&state.arena, in_flight);
        let Some(in_flight) = self.retire(state, ticket) else { return false };
        let place = Origin { task: Some(in_flight.first), ..Origin::default() };
        let error = Error::timeout(timeout).with_origin(place);
        let failed = Delivery::Failed { task: in_flight.first, error };
        state.wakers.extend(in_flight.inbox.accept(failed));
        let others = in_flight.first + 1..in_flight.first + in_flight.count;
        if !others.is_empty() {
            match TaskQueue::rest(in_flight.chunk.name, &in_flight.inbox, others, arguments, 1) {
                Some(mut rest) => {
                    (rest.attempts, rest.chunksize) = (in_flight.attempts, in_flight.chunksize);
                    state.queues.push_front(rest);
                }
                None => state.wakers.extend(in_flight.inbox.close(Error::overwritten())),
            }
        }
        self.pump(state);
        true
    }
}

impl InFlight {
    /// Whether nothing has come of it for as long as `timeout` since it was first found with so
    /// many tasks done, and nobody at the next.
    fn waits(&mut self, done: u32, timeout: Duration) -> bool {
        match self.stuck {
            Some((then, since)) if then == done => since.elapsed() >= timeout,
            _ => {
                self.stuck = Some((done, Instant::now()));
                false
            }
        }
    }
}
