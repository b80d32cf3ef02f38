//! Results on their way from the board to inboxes.
//!
//! A ticket is taken out of use once all of its tasks are delivered, or published again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::state::{Crew, Deliveries, State, read_arguments, read_results, unlock};
use crate::call::Fault;
use crate::error::Place;
use crate::pool::board::TicketId;
use crate::pool::job::{Delivery, Feed, Results};
use crate::pool::records;
use crate::wire::{LARGE, Payload};

impl Crew {
    /// Sees to it that somebody is told of the next finished ticket, unless somebody looks anyway.
    pub(super) fn listen(&self) {
        while self.lookers.load(Ordering::SeqCst) == 0 && !self.board.listen() {
            self.collect();
        }
    }

    /// Takes what workers have finished and delivers it.
    pub(crate) fn collect(&self) {
        let mut news = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut news);
        self.pump(&mut state);
        unlock(state, news);
    }

    pub(super) fn collect_finished(&self, state: &mut State, news: &mut Deliveries) {
        for ticket in self.board.take_finished() {
            self.settle_finished(state, ticket, news);
        }
    }

    /// Settles a ticket whose worker says it is finished.
    pub(super) fn settle_finished(
        &self,
        state: &mut State,
        ticket: TicketId,
        news: &mut Deliveries,
    ) {
        let Some(out) = state.out.get_mut(&ticket) else { return };
        let progress = self.board.progress(ticket);
        if progress.done as usize != out.count {
            return; // not what a worker of ours writes; its death will settle it
        }
        if out.apart.len() < progress.apart as usize {
            out.waits_for_apart = true;
            return;
        }
        let len = progress.results.min(out.chunk.room) as usize;
        if out.chunk.measured {
            out.inbox.learn(progress.nanoseconds, out.count);
        }
        let apart: usize = out.apart.values().map(Payload::len).sum();
        out.inbox.learn_size((len + apart).div_ceil(out.count));
        state.sizes.extend(out.inbox.result_size().map(|size| (out.chunk.name, size)));
        let count = out.count;
        let owner = out.owner.or_else(|| self.board.claimer(ticket, out.position));
        let place = Place {
            worker: owner.map(|owner| owner as usize),
            pid: Some(progress.pid),
            ..Place::default()
        };
        if let Some(seat) = owner.and_then(|owner| state.seats.get_mut(owner as usize)) {
            // That it is ready may be a message that nobody has read yet.
            (seat.ready, seat.has_worked) = (true, true);
        }
        let retries = out.attempts < out.inbox.terms.retries;
        if !retries && len >= LARGE.saturating_mul(count) && self.may_lend(&mut state.arena) {
            let Some(out) = self.take_out(state, ticket) else { return };
            let start = (out.chunk.offset - out.block.offset + out.chunk.arguments) as usize;
            let bytes = Results::Lent(state.arena.lease(out.block).part(start, len));
            let (first, apart) = (out.first, out.apart);
            news.push((out.inbox, Delivery::Results { first, count, bytes, apart, place }));
            return;
        }
        let mut bytes = Vec::new();
        read_results(&state.arena, out, progress.results, &mut bytes);
        let others = self.retry_panicked(state, ticket, count, &bytes, &place);
        let Some(out) = self.retire(state, ticket) else { return };
        if let Some(others) = others {
            news.extend(others);
            return;
        }
        let (first, bytes) = (out.first, bytes.into());
        let delivery = Delivery::Results { first, count, bytes, apart: out.apart, place };
        news.push((out.inbox, delivery));
    }

    /// Takes the panicked ones of a chunk's first `count` tasks out of its results, to be tried
    /// again.
    ///
    /// Returns the results of the others, one delivery each.
    pub(super) fn retry_panicked(
        &self,
        state: &mut State,
        ticket: TicketId,
        count: usize,
        bytes: &[u8],
        place: &Place,
    ) -> Option<Deliveries> {
        let out = state.out.get_mut(&ticket)?;
        if out.attempts >= out.inbox.terms.retries || out.chunk.asks {
            return None;
        }
        let (first, attempts, name) = (out.first, out.attempts + 1, out.chunk.name);
        let inbox = Arc::clone(&out.inbox);
        let mut apart = std::mem::take(&mut out.apart);
        let arguments = read_arguments(&state.arena, out);
        let (mut arguments, mut rest) = (&arguments[..], bytes);
        let mut others = Vec::new();
        for index in 0..count as u32 {
            let task = first + index as usize;
            let argument = records::take(&mut arguments);
            let before = rest;
            let Some(outcome) = records::take_result(&mut rest) else {
                // Rubbish from here on, which is told of each.
                let (bytes, apart, place) = (Vec::new().into(), HashMap::new(), place.clone());
                let count = count - index as usize;
                let delivery = Delivery::Results { first: task, count, bytes, apart, place };
                others.push((Arc::clone(&inbox), delivery));
                break;
            };
            if let Some(argument) = argument
                && is_panic(&outcome, apart.get(&index))
            {
                state.feeds.push_front(Feed::again(name, &inbox, task, argument, attempts));
                continue;
            }
            let bytes = before[..before.len() - rest.len()].to_vec().into();
            let apart = apart.remove(&index).map(|value| (0, value)).into_iter().collect();
            let place = place.clone();
            let delivery = Delivery::Results { first: task, count: 1, bytes, apart, place };
            others.push((Arc::clone(&inbox), delivery));
        }
        Some(others)
    }
}

/// Whether a task panicked; a long message goes apart like any long result.
fn is_panic(outcome: &records::Outcome<&[u8]>, apart: Option<&Payload>) -> bool {
    match outcome {
        records::Outcome::Fault(Fault::Panicked(_)) => true,
        records::Outcome::Apart => apart
            .and_then(|payload| records::take_result(&mut payload.bytes().ok()?))
            .is_some_and(|outcome| is_panic(&outcome, None)),
        _ => false,
    }
}
