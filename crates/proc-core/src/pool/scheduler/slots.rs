//! The slots of a pool: which of them have workers, which are filled when work comes, and the
//! messages to workers.
//!
//! While a slot has no worker, its supervisor waits here. So to fill the slot, the pool only
//! notifies that thread.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::state::{InFlight, KillReason, Phase, Scheduler, Slot, SlotState, State};
use crate::error::{Error, Origin};
use crate::pool::board::{SlotId, TicketId};
use crate::pool::job::Pending;
use crate::pool::worker::ToWorker;
use crate::wire;

impl State {
    /// Sets the state of a slot, and keeps count of the slots that wait.
    pub(super) fn set_slot_state(&mut self, slot_id: SlotId, slot_state: SlotState) {
        let slot = &mut self.slots[slot_id as usize];
        self.waiting_slots += usize::from(slot_state.waits_for_worker());
        self.waiting_slots -= usize::from(slot.slot_state.waits_for_worker());
        slot.slot_state = slot_state;
    }

    /// The numbers of all slots, including those beyond the pool's present size.
    pub(super) fn slot_ids(&self) -> Range<SlotId> {
        0..self.slots.len() as SlotId
    }

    /// Kills a worker, unless that was decided before. A worker whose pid is not known yet may have
    /// claimed a ticket already. It is killed when its pid is known.
    pub(super) fn kill(&mut self, slot_id: SlotId, kill_reason: KillReason) {
        if let Some(slot) = self.slots.get_mut(slot_id as usize)
            && slot.kill_reason.is_none()
            && slot.to_worker.is_some()
        {
            slot.kill_reason = Some(kill_reason);
            slot.kill_if_decided();
        }
    }

    /// Returns the origin of an error that happened in a slot's worker.
    pub(super) fn origin_of(&self, slot_id: SlotId) -> Origin {
        let handle = self.slots.get(slot_id as usize).and_then(|slot| slot.handle.as_ref());
        Origin { worker: Some(slot_id as usize), pid: handle.map(|h| h.pid), ..Origin::default() }
    }

    /// Sends each worker the regions that it does not have yet, in order.
    ///
    /// # Errors
    ///
    /// There are no descriptors, or a message cannot be sent. The next call sends the regions that
    /// were not sent.
    pub(super) fn send_new_regions(&mut self) -> io::Result<()> {
        let regions = self.arena.regions();
        if self.sent_regions == regions.len() {
            return Ok(());
        }
        for slot in &mut self.slots {
            let Some(to_worker) = &slot.to_worker else { continue };
            for region in &regions[slot.sent_regions.min(regions.len())..] {
                // It is no error if the worker is gone: the next worker is sent all regions.
                let sent = wire::send(to_worker, ToWorker::Region(region.share()?));
                if let Some(error) = sent.err().and_then(wire::send_error) {
                    return Err(error);
                }
                slot.sent_regions += 1;
            }
        }
        self.sent_regions = regions.len();
        Ok(())
    }

    /// Sends a message to a worker. It is no error if the worker is gone.
    ///
    /// # Errors
    ///
    /// The channel ends that the message carries cannot be sent.
    pub(super) fn send(&mut self, slot_id: SlotId, message: ToWorker) -> Result<(), String> {
        let sender = self.slots.get(slot_id as usize).and_then(|slot| slot.to_worker.as_ref());
        let sent = sender.map_or(Ok(()), |sender| wire::send(sender, message));
        sent.or_else(|error| wire::why_not_sent(error).map_or(Ok(()), Err))
    }

    /// Gives up the regions if nobody uses them: no worker, no ticket, and no block. Workers may
    /// have failed to start because they could not map the regions.
    pub(super) fn give_up_regions(&mut self) {
        // A worker that is being started has a channel, and no handle yet.
        let has_worker = self.slots.iter().any(|slot| slot.to_worker.is_some());
        if !has_worker && self.in_flight.is_empty() && self.arena.clear() {
            self.sent_regions = 0;
        }
    }

    /// Wakes a worker.
    pub(super) fn wake(&mut self, slot_id: SlotId) {
        let _ = self.send(slot_id, ToWorker::Wake); // cannot fail: it carries no channel ends
    }
}

impl Scheduler {
    /// The size of the pool.
    pub(crate) fn processes(&self) -> usize {
        self.processes.load(Ordering::Relaxed) as usize
    }

    /// Returns the counter of the pool's tasks, if their number is limited.
    pub(crate) fn pending(&self) -> Option<&Arc<Pending>> {
        self.config.pending.as_ref()
    }

    /// Returns an error unless the pool accepts calls.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.check_not_forked_copy()?;
        self.lock().phase.check_open()
    }

    /// The pids of the workers that have not exited.
    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        if self.is_forked_copy() {
            return Vec::new();
        }
        let state = self.lock();
        state.slots.iter().filter_map(|slot| Some(slot.handle.as_ref()?.pid)).collect()
    }

    /// Whether a slot may have a worker: it lies within the pool's size, and the pool still needs
    /// workers.
    pub(super) fn may_have_worker(&self, state: &State, slot_id: SlotId) -> bool {
        let needs_workers = match state.phase {
            Phase::Open => true,
            Phase::Closing => !state.is_idle(),
            Phase::Over(_) => false,
        };
        needs_workers && (slot_id as usize) < self.processes()
    }

    /// Fills vacant slots while there are more grains to run than filled slots.
    pub(super) fn fill_vacant_slots(&self, state: &mut State) {
        if state.waiting_slots == 0 {
            return;
        }
        let slots = &state.slots[..self.processes()];
        let filled = slots.iter().filter(|slot| slot.slot_state == SlotState::Filled).count();
        let grains = |(ticket, in_flight): (TicketId, &InFlight)| {
            let untaken = self.board.untaken(ticket, in_flight.chunk.count);
            // The tasks that are taken keep one worker busy.
            untaken.div_ceil(in_flight.chunk.grain) + u32::from(untaken < in_flight.chunk.count)
        };
        let for_any = state.tickets().filter(|(_, it)| it.slot_id.is_none());
        let open_grains = for_any.map(grains).sum::<u32>() as usize;
        let missing = open_grains.saturating_sub(filled);
        let is_vacant = |slot_id: &SlotId| {
            slots.get(*slot_id as usize).is_some_and(|slot| slot.slot_state == SlotState::Vacant)
        };
        let chosen: Vec<SlotId> = state.slot_ids().filter(is_vacant).take(missing).collect();
        for slot_id in &chosen {
            state.set_slot_state(*slot_id, SlotState::Filled);
        }
        if !chosen.is_empty() {
            self.slots_changed.notify_all();
        }
    }

    /// Makes suspended slots vacant for a new call, so that they can be filled again. Does so only
    /// if another slot has a worker, or if all slots are given up.
    ///
    /// Otherwise slots could retry and fail in turn forever while no worker runs.
    pub(super) fn resume_slots_for_call(&self, state: &mut State) {
        let has_worker = state.slots.iter().any(|slot| slot.handle.is_some());
        if state.waiting_slots > 0 && (has_worker || self.all_slots_given_up(state)) {
            state.give_up_regions();
            self.resume_slots(state);
        }
    }

    /// Whether all slots are given up: each is suspended or broken.
    pub(super) fn all_slots_given_up(&self, state: &State) -> bool {
        let failed =
            |slot: &Slot| matches!(slot.slot_state, SlotState::Suspended | SlotState::Broken);
        state.slots[..self.processes()].iter().all(failed)
    }

    /// Makes all suspended slots vacant.
    pub(super) fn resume_slots(&self, state: &mut State) {
        for slot_id in state.slot_ids() {
            if state.slots[slot_id as usize].slot_state == SlotState::Suspended {
                state.set_slot_state(slot_id, SlotState::Vacant);
            }
        }
    }

    /// Waits until a slot is filled. Returns false if the slot's supervisor must end instead.
    pub(super) fn wait_until_filled(&self, slot_id: SlotId) -> bool {
        let is_waiting = |state: &mut State| {
            self.may_have_worker(state, slot_id)
                && state.slots[slot_id as usize].slot_state.waits_for_worker()
        };
        let wait = self.slots_changed.wait_while(self.lock(), is_waiting);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        let slot_state = state.slots[slot_id as usize].slot_state;
        let is_filled = self.may_have_worker(&state, slot_id) && slot_state == SlotState::Filled;
        if !is_filled {
            state.slots[slot_id as usize].supervised = false;
            if slot_state.waits_for_worker() {
                state.set_slot_state(slot_id, SlotState::Filled);
            }
        }
        is_filled
    }
}
