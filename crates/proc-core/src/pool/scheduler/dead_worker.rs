//! Settles the tickets that a worker had claimed when it died. The results of its finished tasks
//! are delivered, the task that was running fails, and the other tasks are published again.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Instant;

use super::state::{
    Deliveries, Intensity, KillReason, Scheduler, SlotState, State, fail_each, read_arguments,
    read_results, unlock_and_deliver,
};
use crate::error::{Error, ErrorKind, Exit, Origin};
use crate::pool::board::{SlotId, TicketId};
use crate::pool::job::{Delivery, TaskQueue};
use crate::pool::records;
use crate::pool::worker::LeaveReason;

/// A slot is given up when this many of its workers in a row have died before they were ready, if
/// the pool has an initializer or a state (which may be to blame), or if the workers have said why
/// they cannot run tasks (`InitializerFailed`).
const MAX_FAILED_INITIALIZERS: u32 = 3;

/// The same, for other pools, and for workers that did not get as far as the initializer
/// (`NotReady`).
const MAX_FAILED_STARTS: u32 = 20;

/// A slot is given up when this many of its workers in a row were ready, and exited before they had
/// begun a task.
const MAX_TASKLESS_EXITS: u32 = 20;

/// How a worker ended.
struct End<'a> {
    /// The error of a task that the worker was running.
    death: &'a Error,
    origin: &'a Origin,
    /// Why the pool killed the worker, if it did.
    kill_reason: Option<&'a KillReason>,
}

impl Scheduler {
    /// Settles the tickets of a dead worker, and sets the state of its slot. If the slot must be
    /// given up, returns the state that it gets then, and the reason.
    #[must_use]
    pub(super) fn settle_dead_worker(
        &self,
        slot_id: SlotId,
        exit: Exit,
        failure: Option<Error>,
        origin: Origin,
    ) -> Option<(SlotState, Error)> {
        let mut deliveries = Deliveries::default();
        let mut state = self.lock();
        // Finished tickets come first: the ring still shows which worker has finished them.
        self.collect_finished(&mut state, &mut deliveries);
        let slot = &mut state.slots[slot_id as usize];
        let was_ready = std::mem::take(&mut slot.ready);
        let had_worked = std::mem::take(&mut slot.has_worked);
        // A worker that the pool was about to kill may have ended in another way before.
        let ended_itself = exit.status.is_some_and(|s| s.signal() != Some(nix::libc::SIGKILL));
        let explains_death =
            |kill_reason: &KillReason| !(ended_itself && matches!(kill_reason, KillReason::Worker));
        let kill_reason = slot.kill_reason.take().filter(explains_death);
        let leaving = slot.leaving.take();
        slot.to_worker = None;
        slot.handle = None;
        slot.holds_data = false;
        let status = exit.status;
        // If the worker could not be started, it did not get as far as the initializer. Any other
        // failure is one that the worker itself has reported.
        let initializes =
            failure.as_ref().map_or(self.initializes, |failure| failure.kind() != ErrorKind::Start);
        let death = failure.unwrap_or_else(|| self.config.attributes.limits.died(exit));
        let death = death.with_origin(origin.clone());
        let end = End { death: &death, origin: &origin, kill_reason: kill_reason.as_ref() };
        let begun = self.settle_all_claimed(&mut state, slot_id, &end, &mut deliveries);
        let may_have_worker = self.may_have_worker(&state, slot_id);
        let mut given_up = None;
        // A worker is not to blame if it was idle, if the pool killed it, or if it died with its
        // fork server. In the last case its status is not known.
        let is_to_blame =
            leaving != Some(LeaveReason::Idle) && kill_reason.is_none() && status.is_some();
        let slot = &mut state.slots[slot_id as usize];
        slot.taskless_exits = match had_worked || begun || !was_ready || !is_to_blame {
            true => 0,
            false => slot.taskless_exits + 1,
        };
        let exits = slot.taskless_exits;
        if may_have_worker && leaving == Some(LeaveReason::Idle) {
            state.set_slot_state(slot_id, SlotState::Vacant);
        } else if may_have_worker && !was_ready && kill_reason.is_none() {
            let slot = &mut state.slots[slot_id as usize];
            slot.failed_starts += 1;
            // An initializer would fail again in a later call. Other starts may succeed then.
            let (attempts, then) = match initializes {
                true => (MAX_FAILED_INITIALIZERS, SlotState::Broken),
                false => (MAX_FAILED_STARTS, SlotState::Suspended),
            };
            if slot.failed_starts >= attempts {
                slot.failed_starts = 0;
                given_up = Some(then);
            }
        } else if may_have_worker && exits >= MAX_TASKLESS_EXITS {
            state.slots[slot_id as usize].taskless_exits = 0;
            given_up = Some(SlotState::Suspended);
        }
        let reason = if !was_ready && initializes { Error::initializer(death) } else { death };
        let reason = match given_up {
            Some(SlotState::Suspended) if was_ready => Error::start(
                "a worker that runs tasks",
                std::io::Error::other(format!(
                    "{exits} in a row exited before they had begun a task; the last one: {reason}"
                )),
            ),
            _ => reason,
        };
        // The status is not known if the worker died with its fork server.
        let died_by_itself =
            may_have_worker && leaving.is_none() && kill_reason.is_none() && status.is_some();
        if died_by_itself && let Some(error) = self.count_death(&mut state, &reason) {
            state.deliver_under_lock(&mut deliveries);
            self.end_pool(&mut state, Some(error));
        }
        if status.is_none_or(|status| status.signal().is_some()) && !self.board_is_intact(&state) {
            let error = Error::overwritten().with_origin(origin.clone());
            self.end_pool(&mut state, Some(error));
        }
        self.dispatch(&mut state);
        // The dead worker may have been woken for work that it has not claimed: wake another one.
        if self.board.has_ready() {
            self.wake(&mut state, 1);
        }
        unlock_and_deliver(state, deliveries);
        // The dead worker may have died between finishing a ticket and sending the message that the
        // parent had asked for: ask again.
        self.request_message();
        given_up.map(|slot_state| (slot_state, reason))
    }

    /// Settles the tickets of a worker whose start failed before its pid was known, for example
    /// because its fork server died. The worker may have begun a task by then.
    pub(super) fn settle_failed_start(&self, slot_id: SlotId) {
        let mut deliveries = Deliveries::default();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut deliveries);
        let slot = &mut state.slots[slot_id as usize];
        slot.to_worker = None;
        let kill_reason = slot.kill_reason.take();
        let origin = state.origin_of(slot_id);
        let death = Error::died(Exit::default(), None).with_origin(origin.clone());
        let end = End { death: &death, origin: &origin, kill_reason: kill_reason.as_ref() };
        self.settle_all_claimed(&mut state, slot_id, &end, &mut deliveries);
        // A finished ticket may have shown that the worker was ready.
        state.slots[slot_id as usize].ready = false;
        self.dispatch(&mut state);
        // The worker may have been woken for work that it has not claimed: wake another one.
        if self.board.has_ready() {
            self.wake(&mut state, 1);
        }
        unlock_and_deliver(state, deliveries);
        self.request_message(); // the worker may have taken the last request with it
    }

    /// Settles all tickets that a dead worker had claimed. Returns whether the worker had begun a
    /// task of any of them.
    fn settle_all_claimed(
        &self,
        state: &mut State,
        slot_id: SlotId,
        end: &End<'_>,
        deliveries: &mut Deliveries,
    ) -> bool {
        self.board.withdraw_sleeper(slot_id);
        let mut left: HashSet<TicketId> = self.board.claimed_by(slot_id).into_iter().collect();
        left.retain(|t| {
            state.in_flight.get(t).is_some_and(|in_flight| in_flight.claimer.is_none())
        });
        left.extend(
            state
                .in_flight
                .iter()
                .filter(|(_, in_flight)| in_flight.claimer == Some(slot_id))
                .map(|(t, _)| *t),
        );
        let begun = left.iter().any(|ticket| self.board.progress(*ticket).begun > 0);
        for ticket in left {
            self.settle_claimed(state, ticket, end, deliveries);
        }
        begun
    }

    /// Notes that a worker died by itself. Returns the error that ends the pool if too many workers
    /// did.
    fn count_death(&self, state: &mut State, death: &Error) -> Option<Error> {
        let Intensity { restarts, period } = self.config.restart_intensity?;
        let now = Instant::now();
        state.deaths.push_back(now);
        state.deaths.retain(|then| now.duration_since(*then) <= period);
        let too_many = state.deaths.len() > restarts as usize;
        too_many.then(|| Error::restarts(restarts, period, death.clone()))
    }

    /// Settles a ticket that a dead worker had claimed: finished tasks are delivered, the task that
    /// was running fails or is tried again, and the tasks that were not begun are published again.
    fn settle_claimed(
        &self,
        state: &mut State,
        ticket: TicketId,
        end: &End<'_>,
        deliveries: &mut Deliveries,
    ) {
        let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
        if in_flight.inbox.is_closed() {
            self.free_ticket_and_block(state, ticket);
            return;
        }
        let inbox = Arc::clone(&in_flight.inbox);
        state.queues.settle(&inbox, std::mem::take(&mut in_flight.charge), None);
        let progress = self.board.progress(ticket);
        let done = (progress.done as usize).min(in_flight.count);
        let mut begun = (progress.begun as usize).clamp(done, done + 1).min(in_flight.count);
        if end
            .kill_reason
            .and_then(|kill_reason| kill_reason.error_of(&inbox, in_flight.first + done))
            .is_some()
        {
            // The pool killed the worker to stop this task. The task counts as begun even if the
            // worker had not begun it.
            begun = (done + 1).min(in_flight.count);
        }
        if done > 0 {
            let (first, origin) = (in_flight.first, end.origin.clone());
            match read_results(&state.arena, in_flight, progress.results) {
                Ok(bytes) => {
                    let others = self.retry_panicked(state, ticket, done, &bytes, end.origin);
                    let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
                    let out_of_band = std::mem::take(&mut in_flight.out_of_band);
                    let bytes = bytes.into();
                    let all = Box::new(Delivery::Results {
                        first,
                        count: done,
                        bytes,
                        out_of_band,
                        origin,
                    });
                    deliveries.extend(others.unwrap_or_else(|| vec![(Arc::clone(&inbox), all)]));
                }
                Err(error) => {
                    let error = error.with_origin(origin);
                    deliveries.extend(fail_each(&inbox, first..first + done, &error));
                }
            }
        }
        let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
        if let Some(stop) = in_flight.stop.as_ref().filter(|stop| stop.is_of_call) {
            // None of the other tasks runs, or is tried again.
            let others = in_flight.first + done..in_flight.first + in_flight.count;
            deliveries.extend(fail_each(&inbox, others, &stop.error));
            self.free_ticket_and_block(state, ticket);
            return;
        }
        // The dead worker could write to the arguments' memory: read them once, then check them.
        let arguments = read_arguments(&state.arena, in_flight);
        let mut rest = arguments.as_deref().unwrap_or_default();
        let len = rest.len();
        let mut is_whole = (0..done).all(|_| records::take(&mut rest).is_some());
        let can_repeat = !(in_flight.chunk.needs_handles && in_flight.handles.is_none());
        let mut retry = None;
        if begun > done {
            let task = in_flight.first + done;
            let error = match end.kill_reason.map(|kill_reason| kill_reason.error_of(&inbox, task))
            {
                Some(Some(error)) => Some(error),
                // The pool killed the worker, but not to stop this task: the task runs again.
                Some(None) if can_repeat => None,
                _ => Some(end.death),
            };
            if let Some(error) = error {
                let argument = records::take(&mut rest);
                is_whole &= argument.is_some();
                match argument {
                    Some(argument) if can_repeat && in_flight.attempts < inbox.options.retries => {
                        let attempts = in_flight.attempts + 1;
                        let name = in_flight.chunk.name;
                        let queue = TaskQueue::retry(name, &inbox, task, argument, attempts);
                        retry = Some(queue.for_slot(in_flight.slot_id));
                    }
                    _ => deliveries.extend(fail_each(&inbox, task..task + 1, error)),
                }
            } else {
                begun = done;
            }
        }
        if begun < in_flight.count && is_whole && can_repeat {
            let skipped = (len - rest.len()) as u64;
            in_flight.first += begun;
            in_flight.count -= begun;
            in_flight.chunk.offset += skipped;
            in_flight.chunk.arguments -= skipped;
            in_flight.chunk.count -= begun as u32;
            self.board.forget_claim(ticket, in_flight.position);
            in_flight.forget_progress();
            match in_flight.slot_id {
                // The next worker of the slot takes it.
                Some(slot_id) => self.board.assign(ticket, &in_flight.chunk, slot_id),
                None => {
                    in_flight.claimer = None;
                    state.requeued.push_back(ticket);
                }
            }
        } else {
            let error = arguments.as_ref().err().filter(|_| can_repeat).unwrap_or(end.death);
            let tasks = in_flight.first + begun..in_flight.first + in_flight.count;
            deliveries.extend(fail_each(&inbox, tasks, error));
            self.free_ticket_and_block(state, ticket);
        }
        if let Some(retry) = retry {
            state.queues.push_front(retry);
        }
    }

    /// Whether the board still shows the tickets that were published. If not, a worker has
    /// overwritten the board.
    pub(super) fn board_is_intact(&self, state: &State) -> bool {
        state.in_flight.iter().all(|(ticket, in_flight)| {
            in_flight.claimer.is_some()
                || state.requeued.contains(ticket)
                || self.board.shows(*ticket, in_flight.position)
        })
    }
}
