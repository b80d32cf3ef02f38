//! The data that functions borrow: gives them to workers that ask, and tells workers to drop them.

use std::sync::{Arc, Weak};

use super::state::{Scheduler, State, unlock};
use crate::error::Error;
use crate::pool::board::{DataId, SlotId, TicketId};
use crate::pool::job::BoundData;
use crate::pool::worker::ToWorker;
use crate::wire::{Message, Payload};

impl Scheduler {
    /// Encodes data that functions of this pool's calls can borrow.
    ///
    /// # Errors
    ///
    /// The data cannot be encoded, or workers have no room for them.
    pub(crate) fn bind<D: Message + Send + Sync>(&self, data: D) -> Result<Arc<BoundData>, Error> {
        self.bind_new(|id| BoundData::new(id, data, self.config.max_argument, &self.dropped_data))
    }

    /// Like [`bind`](Scheduler::bind), for data without channel ends that are encoded already.
    #[cfg(feature = "remote")]
    pub(crate) fn bind_encoded(&self, bytes: Vec<u8>) -> Result<Arc<BoundData>, Error> {
        self.bind_new(|id| {
            BoundData::of_encoded(id, bytes, self.config.max_argument, &self.dropped_data)
        })
    }

    /// Keeps the data that `make` makes for a number.
    fn bind_new(
        &self,
        make: impl FnOnce(DataId) -> Result<BoundData, String>,
    ) -> Result<Arc<BoundData>, Error> {
        self.check_not_forked_copy()?;
        let id = self.lock().next_data_id();
        let made = make(id).map(Arc::new);
        let mut state = self.lock();
        match &made {
            Ok(bound) => state.data.insert(id, Arc::downgrade(bound)),
            Err(_) => state.data.remove(&id),
        };
        drop(state);
        made.map_err(Error::encode_data)
    }

    /// Answers a worker that needs data, or that asks which of its data it must drop.
    pub(super) fn on_needs_data(
        &self,
        slot_id: SlotId,
        wanted: Option<DataId>,
        mut held: Vec<DataId>,
    ) {
        let mut state = self.lock();
        let bound = wanted.map(|id| state.data.get(&id).and_then(Weak::upgrade));
        held.retain(|id| state.data.get(id).is_none_or(|data| data.strong_count() == 0));
        // Data with channel ends are encoded here, by code of the user.
        drop(state);
        let found = bound.as_ref().map(|bound| match bound {
            Some(bound) => bound.for_worker(),
            None => Err("the call that needs them has ended".into()),
        });
        state = self.lock();
        if let Some(slot) = state.slots.get_mut(slot_id as usize) {
            slot.holds_data = true;
        }
        let dropped = held;
        let answer = ToWorker::Data { found, dropped: dropped.clone() };
        if let Err(why) = state.send(slot_id, answer) {
            let found = wanted.is_some().then_some(Err(why));
            let _ = state.send(slot_id, ToWorker::Data { found, dropped });
        }
        unlock(state);
        drop(bound);
        self.forget_dropped_data();
    }

    /// Ends the call of a ticket whose worker cannot get or decode the data. All tasks of the call
    /// that have no result get this one error.
    pub(super) fn on_data_failed(&self, slot_id: SlotId, ticket: TicketId, fault: Payload) {
        let mut state = self.lock();
        let claimer = state.in_flight.get(&ticket).and_then(|in_flight| {
            in_flight.claimer.or_else(|| self.board.claimer(ticket, in_flight.position))
        });
        // Only a corrupt worker names a ticket of another one.
        if claimer == Some(slot_id)
            && let Some(in_flight) = self.free_ticket_and_block(&mut state, ticket)
        {
            let error = Error::from_fault_payload(fault).with_origin(state.origin_of(slot_id));
            state.wakers.extend(in_flight.inbox.close(error));
            self.withdraw(&mut state, &in_flight.inbox);
            self.dispatch(&mut state);
        }
        unlock(state);
    }

    /// Forgets data that were dropped, and wakes the workers that may hold them and sleep. The
    /// others look before they sleep.
    pub(crate) fn forget_dropped_data(&self) {
        if !self.dropped_data.any() || self.is_forked_copy() {
            return;
        }
        let (ids, dropped) = self.dropped_data.take();
        let mut state = self.lock();
        for id in ids {
            state.data.remove(&id);
        }
        self.board.note_dropped_data();
        for slot_id in state.slot_ids() {
            if state.slots[slot_id as usize].holds_data
                && !self.board.take_sleepers(slot_id..slot_id + 1, 1).is_empty()
            {
                state.wake(slot_id);
            }
        }
        unlock(state);
        drop(dropped);
    }
}

impl State {
    /// Returns a number that no data have.
    fn next_data_id(&mut self) -> DataId {
        loop {
            self.last_data_id = self.last_data_id.checked_add(1).unwrap_or(1);
            if !self.data.contains_key(&self.last_data_id) {
                self.data.insert(self.last_data_id, Weak::new());
                return self.last_data_id;
            }
        }
    }
}
