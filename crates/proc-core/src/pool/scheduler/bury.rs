//! What a dead worker leaves behind: what it finished counts, what it was at fails, the rest is
//! published again.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Instant;

use super::state::{
    Deliveries, Intensity, KillReason, Scheduler, SlotState, State, read_arguments, read_results,
    unlock,
};
use crate::error::{Error, Exit, Origin};
use crate::pool::board::{Owner, TicketId};
use crate::pool::job::{Delivery, TaskQueue};
use crate::pool::records;
use crate::pool::worker::LeaveReason;

/// How often a slot's initializer may fail before it is believed.
const INITIALIZER_ATTEMPTS: u32 = 3;

/// How often a slot's worker may die before it is ready without an initializer to blame.
const START_ATTEMPTS: u32 = 20;

/// How many workers of a slot may end in a row without having begun a task, though they were ready.
const FRUITLESS_ATTEMPTS: u32 = 20;

/// How a worker ended.
struct End<'a> {
    death: &'a Error,
    place: &'a Origin,
    kill_reason: Option<&'a KillReason>,
}

impl Scheduler {
    /// Settles what a dead worker left, and says what its slot is to have.
    pub(super) fn bury(&self, owner: Owner, exit: Exit, failure: Option<Error>, place: Origin) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        // As long as it is known who did it.
        self.collect_finished(&mut state, &mut deliveries);
        let slot = &mut state.slots[owner as usize];
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
        let death = failure.unwrap_or_else(|| self.config.limits.died(exit));
        let death = death.with_origin(place.clone());
        let end = End { death: &death, place: &place, kill_reason: kill_reason.as_ref() };
        let begun = self.settle_all_claimed(&mut state, owner, &end, &mut deliveries);
        let keeps = self.keeps(&state, owner);
        let mut broken = None;
        // Who had nothing to do, was killed by us, or went down with its fork server, was not to
        // blame.
        let is_blamed =
            leaving != Some(LeaveReason::Idle) && kill_reason.is_none() && status.is_some();
        let slot = &mut state.slots[owner as usize];
        slot.fruitless = match had_worked || begun || !was_ready || !is_blamed {
            true => 0,
            false => slot.fruitless + 1,
        };
        let fruitless = slot.fruitless;
        if keeps && leaving == Some(LeaveReason::Idle) {
            state.set_slot_state(owner, SlotState::Vacant);
        } else if keeps && !was_ready && kill_reason.is_none() {
            let slot = &mut state.slots[owner as usize];
            slot.failed_starts += 1;
            let attempts = if self.initializes { INITIALIZER_ATTEMPTS } else { START_ATTEMPTS };
            broken = (slot.failed_starts >= attempts).then_some(SlotState::Broken);
        } else if keeps && fruitless >= FRUITLESS_ATTEMPTS {
            state.slots[owner as usize].fruitless = 0;
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
        // One that went down with its fork server was not to blame.
        let unasked = keeps && leaving.is_none() && kill_reason.is_none() && status.is_some();
        if unasked && let Some(error) = self.count_death(&mut state, &blamed) {
            state.take_in(&mut deliveries);
            self.end(&mut state, Some(error));
        }
        if status.is_none_or(|status| status.signal().is_some()) && !self.is_sane(&state) {
            let error = Error::overwritten().with_origin(place.clone());
            self.end(&mut state, Some(error));
        }
        self.pump(&mut state);
        // A message sent to the dead worker woke nobody.
        if self.board.has_ready() {
            self.wake(&mut state, 1);
        }
        unlock(state, deliveries);
        // The dead worker may have promised a message that it did not live to send.
        self.listen();
        if let Some(slot_state) = broken {
            self.give_up_slot(owner, slot_state, blamed);
        }
    }

    /// Settles what a worker left that came to nothing before its pid was known: its fork server may
    /// have died in between. It may have begun a task by then.
    pub(super) fn write_off(&self, owner: Owner) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut deliveries);
        let slot = &mut state.slots[owner as usize];
        slot.mail = None;
        let kill_reason = slot.kill_reason.take();
        let place = state.origin_of(owner);
        let death = Error::died(Exit::default(), None).with_origin(place.clone());
        let end = End { death: &death, place: &place, kill_reason: kill_reason.as_ref() };
        self.settle_all_claimed(&mut state, owner, &end, &mut deliveries);
        self.pump(&mut state);
        unlock(state, deliveries);
    }

    /// Settles all that a dead worker had claimed; whether it had begun any of it.
    fn settle_all_claimed(
        &self,
        state: &mut State,
        owner: Owner,
        end: &End<'_>,
        deliveries: &mut Deliveries,
    ) -> bool {
        self.board.bury(owner);
        let mut left: HashSet<TicketId> = self.board.claimed_by(owner).into_iter().collect();
        left.retain(|t| state.in_flight.get(t).is_some_and(|in_flight| in_flight.owner.is_none()));
        left.extend(
            state
                .in_flight
                .iter()
                .filter(|(_, in_flight)| in_flight.owner == Some(owner))
                .map(|(t, _)| *t),
        );
        let begun = left.iter().any(|ticket| self.board.progress(*ticket).begun > 0);
        for ticket in left {
            self.settle_claimed(state, ticket, end, deliveries);
        }
        begun
    }

    /// Notes that a worker died of itself; the error that ends the pool if too many did.
    fn count_death(&self, state: &mut State, death: &Error) -> Option<Error> {
        let Intensity { restarts, period } = self.config.intensity?;
        let now = Instant::now();
        state.deaths.push_back(now);
        state.deaths.retain(|then| now.duration_since(*then) <= period);
        let too_many = state.deaths.len() > restarts as usize;
        too_many.then(|| Error::restarts(restarts, period, death.clone()))
    }

    /// Settles a ticket that a dead worker had claimed: what it finished counts, the task it was at
    /// fails, and what it had not begun is published again.
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
            // It was stopped before it began the task, which has had its time all the same.
            begun = (done + 1).min(in_flight.count);
        }
        if done > 0 {
            let mut bytes = Vec::new();
            read_results(&state.arena, in_flight, progress.results, &mut bytes);
            let first = in_flight.first;
            let others = self.retry_panicked(state, ticket, done, &bytes, end.place);
            let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
            let (out_of_band, place) =
                (std::mem::take(&mut in_flight.out_of_band), end.place.clone());
            let bytes = bytes.into();
            let all = Delivery::Results { first, count: done, bytes, out_of_band, place };
            deliveries.extend(others.unwrap_or_else(|| vec![(Arc::clone(&inbox), all)]));
        }
        let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
        // Arguments lie in memory that the dead worker could write: read once, checked.
        let arguments = read_arguments(&state.arena, in_flight);
        let mut rest = &arguments[..];
        let mut whole = (0..done).all(|_| records::take(&mut rest).is_some());
        let can_repeat = !(in_flight.chunk.needs_handles && in_flight.handles.is_none());
        let failed = |task, error: &Error| {
            let place = Origin { task: Some(task), ..Origin::default() };
            (Arc::clone(&inbox), Delivery::Failed { task, error: error.clone().with_origin(place) })
        };
        let mut retry = None;
        if begun > done {
            let task = in_flight.first + done;
            let error = match end.kill_reason.map(|kill_reason| kill_reason.error_of(&inbox, task))
            {
                Some(Some(error)) => Some(error),
                // We killed the worker, and not because of this task.
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
            in_flight.owner = None;
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
    /// it.
    pub(super) fn is_sane(&self, state: &State) -> bool {
        state.in_flight.iter().all(|(ticket, in_flight)| {
            in_flight.owner.is_some()
                || state.requeued.contains(ticket)
                || self.board.shows(*ticket, in_flight.position)
        })
    }
}
