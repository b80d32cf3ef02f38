//! Collecting: moves results from the board to the inboxes of their calls.
//!
//! A ticket goes out of use when each of its tasks is delivered or queued again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::state::{
    Addressed, Deliveries, Scheduler, State, fail_each, read_arguments, read_results,
    unlock_and_deliver,
};
use crate::call::Fault;
use crate::error::Origin;
use crate::pool::board::TicketId;
use crate::pool::job::{Delivery, Results, TaskQueue};
use crate::pool::records;
use crate::wire::{LARGE, Payload};

impl Scheduler {
    /// Asks workers for a message about the next finished ticket, unless a thread polls. Collects
    /// the tickets that are finished already.
    pub(super) fn request_message(&self) {
        while self.pollers.load(Ordering::SeqCst) == 0 && !self.board.request_message() {
            self.collect();
        }
    }

    /// Collects finished tickets, delivers their results and publishes more work.
    pub(crate) fn collect(&self) {
        let mut deliveries = Deliveries::default();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut deliveries);
        self.dispatch(&mut state);
        unlock_and_deliver(state, deliveries);
        self.forget_dropped_data();
    }

    /// Settles all tickets that are finished.
    pub(super) fn collect_finished(&self, state: &mut State, deliveries: &mut Deliveries) {
        let mut finished = std::mem::take(&mut state.finished);
        self.board.take_finished(&mut finished);
        for ticket in finished.drain(..) {
            self.settle_finished(state, ticket, deliveries);
        }
        state.finished = finished;
    }

    /// Settles a ticket that its worker has finished. If some of its out-of-band results have not
    /// come yet, the ticket waits, and the last of them settles it.
    pub(super) fn settle_finished(
        &self,
        state: &mut State,
        ticket: TicketId,
        deliveries: &mut Deliveries,
    ) {
        let Some(in_flight) = state.in_flight.get_mut(&ticket) else { return };
        let progress = self.board.progress(ticket);
        if progress.done as usize != in_flight.count {
            return; // only a corrupt worker writes this; its death settles the ticket
        }
        if in_flight.out_of_band.len() < progress.out_of_band as usize {
            in_flight.waits_for_out_of_band = true;
            return;
        }
        let len = progress.results.min(in_flight.chunk.room) as usize;
        if in_flight.chunk.measured {
            in_flight.inbox.learn_cost(progress.nanoseconds, in_flight.count);
        }
        let nanoseconds = in_flight.chunk.measured.then_some(progress.nanoseconds);
        state.queues.settle(&in_flight.inbox, in_flight.charge, nanoseconds);
        let out_of_band: usize = in_flight.out_of_band.values().map(Payload::len).sum();
        let size = (len + out_of_band).div_ceil(in_flight.count);
        if let Some(size) = in_flight.inbox.learn_size(size) {
            state.result_sizes.insert(in_flight.chunk.name, size);
        }
        let count = in_flight.count;
        let slot_id = in_flight.claimer.or_else(|| self.board.claimer(ticket, in_flight.position));
        let origin = Origin {
            worker: slot_id.map(|slot_id| slot_id as usize),
            pid: Some(progress.pid),
            ..Origin::default()
        };
        if let Some(slot) = slot_id.and_then(|slot_id| state.slots.get_mut(slot_id as usize)) {
            // The message `Ready` of this worker may still be unread.
            (slot.ready, slot.has_worked) = (true, true);
        }
        let retries = in_flight.attempts < in_flight.inbox.options.retries;
        if !retries && len >= LARGE.saturating_mul(count) && self.may_lend(&mut state.arena) {
            let Some(in_flight) = self.free_ticket(state, ticket) else { return };
            let start = (in_flight.chunk.offset - in_flight.block.offset
                + in_flight.chunk.arguments) as usize;
            let bytes = Results::Lent(state.arena.lease(in_flight.block).part(start, len));
            let (first, out_of_band) = (in_flight.first, in_flight.out_of_band);
            deliveries.push_back((
                in_flight.inbox,
                Box::new(Delivery::Results { first, count, bytes, out_of_band, origin }),
            ));
            return;
        }
        let bytes = read_results(&state.arena, in_flight, progress.results);
        let others = bytes
            .as_ref()
            .ok()
            .and_then(|bytes| self.retry_panicked(state, ticket, count, bytes, &origin));
        let Some(in_flight) = self.free_ticket_and_block(state, ticket) else { return };
        if let Some(others) = others {
            deliveries.extend(others);
            return;
        }
        let first = in_flight.first;
        match bytes {
            Ok(bytes) => {
                let (bytes, out_of_band) = (bytes.into(), in_flight.out_of_band);
                let delivery =
                    Box::new(Delivery::Results { first, count, bytes, out_of_band, origin });
                deliveries.push_back((in_flight.inbox, delivery));
            }
            Err(error) => {
                let error = error.with_origin(origin);
                deliveries.extend(fail_each(&in_flight.inbox, first..first + count, &error));
            }
        }
    }

    /// Queues those of a chunk's first `count` tasks that panicked, to be tried again.
    ///
    /// Returns the results of the other tasks, one delivery for each. Returns `None` if no task of
    /// the chunk is tried again, for example because there is no memory for its argument.
    pub(super) fn retry_panicked(
        &self,
        state: &mut State,
        ticket: TicketId,
        count: usize,
        bytes: &[u8],
        origin: &Origin,
    ) -> Option<Vec<Addressed>> {
        let in_flight = state.in_flight.get_mut(&ticket)?;
        if in_flight.attempts >= in_flight.inbox.options.retries
            || in_flight.is_stopped_with_call()
            || in_flight.chunk.needs_handles
            || !any_panic(bytes, count, &in_flight.out_of_band)
        {
            return None;
        }
        let (first, attempts, name) =
            (in_flight.first, in_flight.attempts + 1, in_flight.chunk.name);
        let slot_id = in_flight.slot_id;
        let inbox = Arc::clone(&in_flight.inbox);
        let arguments = read_arguments(&state.arena, in_flight).ok()?;
        let mut out_of_band = std::mem::take(&mut in_flight.out_of_band);
        let (mut arguments, mut rest) = (&arguments[..], bytes);
        let mut others = Vec::new();
        for index in 0..count as u32 {
            let task = first + index as usize;
            let argument = records::take(&mut arguments);
            let before = rest;
            let Some(outcome) = records::take_result(&mut rest) else {
                // This record and the later ones are corrupt. An empty delivery gives each of their
                // tasks an error when it is decoded.
                let (bytes, out_of_band, origin) =
                    (Vec::new().into(), BTreeMap::new(), origin.clone());
                let count = count - index as usize;
                let delivery =
                    Box::new(Delivery::Results { first: task, count, bytes, out_of_band, origin });
                others.push((Arc::clone(&inbox), delivery));
                break;
            };
            if let Some(argument) = argument
                && is_panic(&outcome, out_of_band.get(&index))
            {
                let retry = TaskQueue::retry(name, &inbox, task, argument, attempts);
                state.queues.push_front(retry.for_slot(slot_id));
                continue;
            }
            let bytes = before[..before.len() - rest.len()].to_vec().into();
            let out_of_band =
                out_of_band.remove(&index).map(|value| (0, value)).into_iter().collect();
            let origin = origin.clone();
            let delivery =
                Box::new(Delivery::Results { first: task, count: 1, bytes, out_of_band, origin });
            others.push((Arc::clone(&inbox), delivery));
        }
        Some(others)
    }
}

/// Whether one of a chunk's first `count` tasks panicked.
fn any_panic(mut results: &[u8], count: usize, out_of_band: &BTreeMap<u32, Payload>) -> bool {
    let mut outcomes =
        (0..count as u32).map_while(|index| Some((index, records::take_result(&mut results)?)));
    outcomes.any(|(index, outcome)| is_panic(&outcome, out_of_band.get(&index)))
}

/// Whether a task panicked. A long panic message is sent out of band, like any long result.
fn is_panic(outcome: &records::Outcome<&[u8]>, out_of_band: Option<&Payload>) -> bool {
    match outcome {
        records::Outcome::Fault(Fault::Panicked(_)) => true,
        records::Outcome::OutOfBand => out_of_band
            .and_then(|payload| records::take_result(&mut payload.bytes().ok()?))
            .is_some_and(|outcome| is_panic(&outcome, None)),
        _ => false,
    }
}
