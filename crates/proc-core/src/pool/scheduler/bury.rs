//! What a dead worker leaves behind: what it finished counts, what it was at fails, the rest is
//! published again.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Instant;

use super::state::{
    Crew, Deliveries, Doom, Intensity, Standing, State, read_arguments, read_results, unlock,
};
use crate::error::{Error, Exit, Place};
use crate::pool::board::{Owner, TicketId};
use crate::pool::job::{Delivery, Feed};
use crate::pool::records;
use crate::pool::worker::Leaving;

/// How often a seat's initializer may fail before it is believed.
const INITIALIZER_ATTEMPTS: u32 = 3;

/// How often a seat's worker may die before it is ready without an initializer to blame.
const START_ATTEMPTS: u32 = 20;

/// How many workers of a seat may end in a row without having begun a task, though they were ready.
const FRUITLESS_ATTEMPTS: u32 = 20;

/// How a worker ended.
struct End<'a> {
    death: &'a Error,
    place: &'a Place,
    doom: Option<&'a Doom>,
}

impl Crew {
    /// Settles what a dead worker left, and says what its seat is to have.
    pub(super) fn bury(&self, owner: Owner, exit: Exit, failure: Option<Error>, place: Place) {
        let mut news = Vec::new();
        let mut state = self.lock();
        // As long as it is known who did it.
        self.collect_finished(&mut state, &mut news);
        let seat = &mut state.seats[owner as usize];
        let was_ready = std::mem::take(&mut seat.ready);
        let had_worked = std::mem::take(&mut seat.has_worked);
        let ended_itself = exit.status.is_some_and(|s| s.signal() != Some(nix::libc::SIGKILL));
        let was_ours = |doom: &Doom| !(ended_itself && matches!(doom, Doom::Worker));
        let doom = seat.doom.take().filter(was_ours);
        let leaving = seat.leaving.take();
        seat.mail = None;
        seat.handle = None;
        let status = exit.status;
        let death = failure.unwrap_or_else(|| self.plan.limits.died(exit));
        let death = death.at(place.clone());
        let end = End { death: &death, place: &place, doom: doom.as_ref() };
        let begun = self.settle_all_claimed(&mut state, owner, &end, &mut news);
        let keeps = self.keeps(&state, owner);
        let mut broken = None;
        // Who had nothing to do, was killed by us, or went down with its template, was not to
        // blame.
        let is_blamed = leaving != Some(Leaving::Idle) && doom.is_none() && status.is_some();
        let seat = &mut state.seats[owner as usize];
        seat.fruitless = match had_worked || begun || !was_ready || !is_blamed {
            true => 0,
            false => seat.fruitless + 1,
        };
        let fruitless = seat.fruitless;
        if keeps && leaving == Some(Leaving::Idle) {
            state.stand(owner, Standing::Vacant);
        } else if keeps && !was_ready && doom.is_none() {
            let seat = &mut state.seats[owner as usize];
            seat.failed_starts += 1;
            let attempts = if self.initializes { INITIALIZER_ATTEMPTS } else { START_ATTEMPTS };
            broken = (seat.failed_starts >= attempts).then_some(Standing::Broken);
        } else if keeps && fruitless >= FRUITLESS_ATTEMPTS {
            state.seats[owner as usize].fruitless = 0;
            broken = Some(Standing::Retired);
        }
        let initializes = !was_ready && self.initializes;
        let blamed = if initializes { Error::initializer(death) } else { death };
        let blamed = match broken {
            Some(Standing::Retired) => Error::start(
                "a worker that stays",
                std::io::Error::other(format!(
                    "{fruitless} in a row ended before they had begun a task; the last one: {blamed}"
                )),
            ),
            _ => blamed,
        };
        // One that went down with its template was not to blame.
        let unasked = keeps && leaving.is_none() && doom.is_none() && status.is_some();
        if unasked && let Some(error) = self.count_death(&mut state, &blamed) {
            state.take_in(&mut news);
            self.end(&mut state, Some(error));
        }
        if status.is_none_or(|status| status.signal().is_some()) && !self.is_sane(&state) {
            let error = Error::overwritten().at(place.clone());
            self.end(&mut state, Some(error));
        }
        self.pump(&mut state);
        // A message sent to the dead worker woke nobody.
        if self.board.has_ready() {
            self.wake(&mut state, 1);
        }
        unlock(state, news);
        // The dead worker may have promised a message that it did not live to send.
        self.listen();
        if let Some(standing) = broken {
            self.give_up_seat(owner, standing, blamed);
        }
    }

    /// Settles what a worker left that came to nothing before its pid was known: its template may
    /// have died in between. It may have begun a task by then.
    pub(super) fn write_off(&self, owner: Owner) {
        let mut news = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut news);
        let seat = &mut state.seats[owner as usize];
        seat.mail = None;
        let doom = seat.doom.take();
        let place = state.place_of(owner);
        let death = Error::died(Exit::default(), None).at(place.clone());
        let end = End { death: &death, place: &place, doom: doom.as_ref() };
        self.settle_all_claimed(&mut state, owner, &end, &mut news);
        self.pump(&mut state);
        unlock(state, news);
    }

    /// Settles all that a dead worker had claimed; whether it had begun any of it.
    fn settle_all_claimed(
        &self,
        state: &mut State,
        owner: Owner,
        end: &End<'_>,
        news: &mut Deliveries,
    ) -> bool {
        self.board.bury(owner);
        let mut left: HashSet<TicketId> = self.board.claimed_by(owner).into_iter().collect();
        left.retain(|t| state.out.get(t).is_some_and(|out| out.owner.is_none()));
        left.extend(state.out.iter().filter(|(_, out)| out.owner == Some(owner)).map(|(t, _)| *t));
        let begun = left.iter().any(|ticket| self.board.progress(*ticket).begun > 0);
        for ticket in left {
            self.settle_claimed(state, ticket, end, news);
        }
        begun
    }

    /// Notes that a worker died of itself; the error that ends the pool if too many did.
    fn count_death(&self, state: &mut State, death: &Error) -> Option<Error> {
        let Intensity { restarts, period } = self.plan.intensity?;
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
        news: &mut Deliveries,
    ) {
        let Some(out) = state.out.get_mut(&ticket) else { return };
        if out.inbox.is_closed() {
            self.retire(state, ticket);
            return;
        }
        let inbox = Arc::clone(&out.inbox);
        let progress = self.board.progress(ticket);
        let done = (progress.done as usize).min(out.count);
        let mut begun = (progress.begun as usize).clamp(done, done + 1).min(out.count);
        if end.doom.and_then(|doom| doom.error_of(&inbox, out.first + done)).is_some() {
            // It was stopped before it began the task, which has had its time all the same.
            begun = (done + 1).min(out.count);
        }
        if done > 0 {
            let mut bytes = Vec::new();
            read_results(&state.arena, out, progress.results, &mut bytes);
            let first = out.first;
            let others = self.retry_panicked(state, ticket, done, &bytes, end.place);
            let Some(out) = state.out.get_mut(&ticket) else { return };
            let (apart, place) = (std::mem::take(&mut out.apart), end.place.clone());
            let bytes = bytes.into();
            let all = Delivery::Results { first, count: done, bytes, apart, place };
            news.extend(others.unwrap_or_else(|| vec![(Arc::clone(&inbox), all)]));
        }
        let Some(out) = state.out.get_mut(&ticket) else { return };
        // Arguments lie in memory that the dead worker could write: read once, checked.
        let arguments = read_arguments(&state.arena, out);
        let mut rest = &arguments[..];
        let mut whole = (0..done).all(|_| records::take(&mut rest).is_some());
        let can_repeat = !(out.chunk.asks && out.handles.is_none());
        let failed = |task, error: &Error| {
            let place = Place { task: Some(task), ..Place::default() };
            (Arc::clone(&inbox), Delivery::Failed { task, error: error.clone().at(place) })
        };
        let mut retry = None;
        if begun > done {
            let task = out.first + done;
            let error = match end.doom.map(|doom| doom.error_of(&inbox, task)) {
                Some(Some(error)) => Some(error),
                // We killed the worker, and not because of this task.
                Some(None) if can_repeat => None,
                _ => Some(end.death),
            };
            if let Some(error) = error {
                let argument = records::take(&mut rest);
                whole &= argument.is_some();
                match argument {
                    Some(argument) if can_repeat && out.attempts < inbox.terms.retries => {
                        let attempts = out.attempts + 1;
                        retry = Some(Feed::again(out.chunk.name, &inbox, task, argument, attempts));
                    }
                    _ => news.push(failed(task, error)),
                }
            } else {
                begun = done;
            }
        }
        if begun < out.count && whole && can_repeat {
            let skipped = (arguments.len() - rest.len()) as u64;
            out.first += begun;
            out.count -= begun;
            out.chunk.offset += skipped;
            out.chunk.arguments -= skipped;
            out.chunk.count -= begun as u32;
            self.board.forget_claim(ticket, out.position);
            out.owner = None;
            out.waits_for_apart = false;
            state.again.push_back(ticket);
        } else {
            news.extend((out.first + begun..out.first + out.count).map(|t| failed(t, end.death)));
            self.retire(state, ticket);
        }
        state.feeds.extend(retry);
    }

    /// Whether the board still shows what was published. A worker that dies may have overwritten
    /// it.
    pub(super) fn is_sane(&self, state: &State) -> bool {
        state.out.iter().all(|(ticket, out)| {
            out.owner.is_some()
                || state.again.contains(ticket)
                || self.board.shows(*ticket, out.position)
        })
    }
}
