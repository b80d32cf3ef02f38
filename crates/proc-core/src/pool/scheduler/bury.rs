//! Burying dead workers: settles the tickets that a worker had claimed when it died. Finished tasks
//! are delivered, the task that was running fails, and the other tasks are published again.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Instant;

use super::state::{
    Deliveries, Intensity, KillReason, Scheduler, SlotState, State, read_arguments, read_results,
    unlock,
};
use crate::error::{Error, Exit, Origin};
use crate::pool::board::{SlotId, TicketId};
use crate::pool::job::{Delivery, TaskQueue};
use crate::pool::records;
use crate::pool::worker::LeaveReason;

/// The number of failures in a row of a slot's initializer at which the slot is given up.
const INITIALIZER_ATTEMPTS: u32 = 3;

/// The number of workers in a row that die before they are ready, at which their slot is given up.
/// Applies to pools without an initializer or state that could be to blame.
const START_ATTEMPTS: u32 = 20;

/// The number of workers in a row that become ready but exit before they begin a task, at which
/// their slot is given up.
const FRUITLESS_ATTEMPTS: u32 = 20;

/// How a worker ended.
struct End<'a> {
    death: &'a Error,
    origin: &'a Origin,
    kill_reason: Option<&'a KillReason>,
}

impl Scheduler {
    /// Settles what a dead worker left. If its slot is to get no other worker, returns the slot's
    /// state from now on and the reason.
    #[must_use]
    pub(super) fn bury(
        &self,
        slot_id: SlotId,
        exit: Exit,
        failure: Option<Error>,
        origin: Origin,
    ) -> Option<(SlotState, Error)> {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        // Collects first, while it is still known which worker finished what.
        self.collect_finished(&mut state, &mut deliveries);
        let slot = &mut state.slots[slot_id as usize];
        let was_ready = std::mem::take(&mut slot.ready);
        let had_worked = std::mem::take(&mut slot.has_worked);
        let ended_itself = exit.status.is_some_and(|s| s.signal() != Some(nix::libc::SIGKILL));
        let was_ours =
            |kill_reason: &KillReason| !(ended_itself && matches!(kill_reason, KillReason::Worker));
        let kill_reason = slot.kill_reason.take().filter(was_ours);
        let leaving = slot.leaving.take();
        slot.mail = None;
        slot.handle = None;
        let status = exit.status;
        let death = failure.unwrap_or_else(|| self.config.attributes.limits.died(exit));
        let death = death.with_origin(origin.clone());
        let end = End { death: &death, origin: &origin, kill_reason: kill_reason.as_ref() };
        let begun = self.settle_all_claimed(&mut state, slot_id, &end, &mut deliveries);
        let keeps = self.keeps(&state, slot_id);
        let mut broken = None;
        // A worker is not to blame if it was idle, if we killed it, or if it died with its fork
        // server (then it has no status).
        let is_blamed =
            leaving != Some(LeaveReason::Idle) && kill_reason.is_none() && status.is_some();
        let slot = &mut state.slots[slot_id as usize];
        slot.fruitless = match had_worked || begun || !was_ready || !is_blamed {
            true => 0,
            false => slot.fruitless + 1,
        };
        let fruitless = slot.fruitless;
        if keeps && leaving == Some(LeaveReason::Idle) {
            state.set_slot_state(slot_id, SlotState::Vacant);
        } else if keeps && !was_ready && kill_reason.is_none() {
            let slot = &mut state.slots[slot_id as usize];
            slot.failed_starts += 1;
            let attempts = if self.initializes { INITIALIZER_ATTEMPTS } else { START_ATTEMPTS };
            broken = (slot.failed_starts >= attempts).then_some(SlotState::Broken);
        } else if keeps && fruitless >= FRUITLESS_ATTEMPTS {
            state.slots[slot_id as usize].fruitless = 0;
            broken = Some(SlotState::Retired);
        }
        let initializes = !was_ready && self.initializes;
        let blamed = if initializes { Error::initializer(death) } else { death };
        let blamed = match broken {
            Some(SlotState::Retired) => Error::start(
                "a worker that stays",
                std::io::Error::other(format!(
                    "{fruitless} in a row ended before they had begun a task; the last one: {blamed}"
                )),
            ),
            _ => blamed,
        };
        // A worker that died with its fork server has no status, and was not to blame.
        let unasked = keeps && leaving.is_none() && kill_reason.is_none() && status.is_some();
        if unasked && let Some(error) = self.count_death(&mut state, &blamed) {
            state.take_in(&mut deliveries);
            self.end(&mut state, Some(error));
        }
        if status.is_none_or(|status| status.signal().is_some()) && !self.is_sane(&state) {
            let error = Error::overwritten().with_origin(origin.clone());
            self.end(&mut state, Some(error));
        }
        self.pump(&mut state);
        // A message sent to the dead worker woke nobody: wake another worker.
        if self.board.has_ready() {
            self.wake(&mut state, 1);
        }
        unlock(state, deliveries);
        // The dead worker may have owed us a message about a finished ticket and died before
        // sending it.
        self.listen();
        broken.map(|slot_state| (slot_state, blamed))
    }

    /// Settles what a worker left if its start failed before its pid was known, for example because
    /// its fork server died. By then, the worker may have begun a task.
    pub(super) fn write_off(&self, slot_id: SlotId) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut deliveries);
        let slot = &mut state.slots[slot_id as usize];
        slot.mail = None;
        let kill_reason = slot.kill_reason.take();
        let origin = state.origin_of(slot_id);
        let death = Error::died(Exit::default(), None).with_origin(origin.clone());
        let end = End { death: &death, origin: &origin, kill_reason: kill_reason.as_ref() };
        self.settle_all_claimed(&mut state, slot_id, &end, &mut deliveries);
        self.pump(&mut state);
        unlock(state, deliveries);
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
        self.board.bury(slot_id);
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
        let Intensity { restarts, period } = self.config.intensity?;
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
            self.retire(state, ticket);
            return;
        }
        let inbox = Arc::clone(&in_flight.inbox);
        let progress = self.board.progress(ticket);
        let done = (progress.done as usize).min(in_flight.count);
        let mut begun = (progress.begun as usize).clamp(done, done + 1).min(in_flight.count);
        if end
            .kill_reason
            .and_then(|kill_reason| kill_reason.error_of(&inbox, in_flight.first + done))
            .is_some()
        {
            // The worker was killed because this task's time was up. The task counts as begun even
            // if the worker had not begun it.
            begun = (done + 1).min(in_flight.count);
        }
        if done > 0 {
            let mut bytes = Vec::new();
            read_results(&state.arena, in_flight, progress.results, &mut bytes);
            let first = in_flight.first;
            let others = self.retry_panicked(state, ticket, done, &bytes, end.origin);
            let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
            let (out_of_band, origin) =
                (std::mem::take(&mut in_flight.out_of_band), end.origin.clone());
            let bytes = bytes.into();
            let all = Delivery::Results { first, count: done, bytes, out_of_band, origin };
            deliveries.extend(others.unwrap_or_else(|| vec![(Arc::clone(&inbox), all)]));
        }
        let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
        // Arguments lie in memory that the dead worker could write to: read once, then checked.
        let arguments = read_arguments(&state.arena, in_flight);
        let mut rest = &arguments[..];
        let mut whole = (0..done).all(|_| records::take(&mut rest).is_some());
        let can_repeat = !(in_flight.chunk.needs_handles && in_flight.handles.is_none());
        let failed = |task, error: &Error| {
            let origin = Origin::of_task(task);
            (
                Arc::clone(&inbox),
                Delivery::Failed { task, error: error.clone().with_origin(origin) },
            )
        };
        let mut retry = None;
        if begun > done {
            let task = in_flight.first + done;
            let error = match end.kill_reason.map(|kill_reason| kill_reason.error_of(&inbox, task))
            {
                Some(Some(error)) => Some(error),
                // We killed the worker, but not because of this task: run the task again.
                Some(None) if can_repeat => None,
                _ => Some(end.death),
            };
            if let Some(error) = error {
                let argument = records::take(&mut rest);
                whole &= argument.is_some();
                match argument {
                    Some(argument) if can_repeat && in_flight.attempts < inbox.options.retries => {
                        let attempts = in_flight.attempts + 1;
                        retry = Some(TaskQueue::again(
                            in_flight.chunk.name,
                            &inbox,
                            task,
                            argument,
                            attempts,
                        ));
                    }
                    _ => deliveries.push(failed(task, error)),
                }
            } else {
                begun = done;
            }
        }
        if begun < in_flight.count && whole && can_repeat {
            let skipped = (arguments.len() - rest.len()) as u64;
            in_flight.first += begun;
            in_flight.count -= begun;
            in_flight.chunk.offset += skipped;
            in_flight.chunk.arguments -= skipped;
            in_flight.chunk.count -= begun as u32;
            self.board.forget_claim(ticket, in_flight.position);
            in_flight.claimer = None;
            in_flight.waits_for_out_of_band = false;
            state.requeued.push_back(ticket);
        } else {
            deliveries.extend(
                (in_flight.first + begun..in_flight.first + in_flight.count)
                    .map(|t| failed(t, end.death)),
            );
            self.retire(state, ticket);
        }
        state.queues.extend(retry);
    }

    /// Whether the board still shows what was published. A worker that dies may have overwritten
    /// the board.
    pub(super) fn is_sane(&self, state: &State) -> bool {
        state.in_flight.iter().all(|(ticket, in_flight)| {
            in_flight.claimer.is_some()
                || state.requeued.contains(ticket)
                || self.board.shows(*ticket, in_flight.position)
        })
    }
}
