//! The worker slots of a pool: which of them have workers, which are filled when work comes, and
//! how many there are.
//!
//! While a slot is empty, its supervisor thread blocks here. To fill the slot, the pool only has to
//! notify that thread.

use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::state::{InFlight, KillReason, Phase, Scheduler, Slot, SlotState, State};
use crate::error::Origin;
use crate::pool::board::{SlotId, TicketId};
use crate::pool::worker::ToWorker;
use crate::wire;

impl State {
    pub(super) fn set_slot_state(&mut self, slot_id: SlotId, slot_state: SlotState) {
        let slot = &mut self.slots[slot_id as usize];
        self.waiting += usize::from(slot_state.waits());
        self.waiting -= usize::from(slot.slot_state.waits());
        slot.slot_state = slot_state;
    }

    /// The numbers of all slots, including those beyond the pool's present size.
    pub(super) fn slot_ids(&self) -> Range<SlotId> {
        0..self.slots.len() as SlotId
    }

    /// Kills a worker, once. A worker that is still being started may have claimed a ticket
    /// already: it is killed as soon as its pid is known.
    pub(super) fn kill(&mut self, slot_id: SlotId, kill_reason: KillReason) {
        if let Some(slot) = self.slots.get_mut(slot_id as usize)
            && slot.kill_reason.is_none()
            && slot.mail.is_some()
        {
            slot.kill_reason = Some(kill_reason);
            slot.obey_kill();
        }
    }

    pub(super) fn origin_of(&self, slot_id: SlotId) -> Origin {
        let handle = self.slots.get(slot_id as usize).and_then(|slot| slot.handle.as_ref());
        Origin { worker: Some(slot_id as usize), pid: handle.map(|h| h.pid), ..Origin::default() }
    }

    /// Tells each worker of the regions that it does not know yet, in order.
    ///
    /// # Errors
    ///
    /// There are no descriptors, or a message cannot be sent. The regions that were not sent are
    /// sent the next time.
    pub(super) fn announce(&mut self) -> io::Result<()> {
        let regions = self.arena.regions();
        if self.announced == regions.len() {
            return Ok(());
        }
        for slot in &mut self.slots {
            let Some(mail) = &slot.mail else { continue };
            for region in &regions[slot.regions.min(regions.len())..] {
                // If the worker is gone, that is no error: its successor is told all regions at its
                // start.
                let sent = mail.send(ToWorker::Region(region.share()?));
                if let Some(error) = sent.err().and_then(wire::send_error) {
                    return Err(error);
                }
                slot.regions += 1;
            }
        }
        self.announced = regions.len();
        Ok(())
    }

    /// Sends a message to a worker. If the worker is gone, that is no error.
    ///
    /// # Errors
    ///
    /// The channel ends that the message carries cannot be sent.
    pub(super) fn mail(&mut self, slot_id: SlotId, mail: ToWorker) -> Result<(), String> {
        let sender = self.slots.get(slot_id as usize).and_then(|slot| slot.mail.as_ref());
        let sent = sender.map_or(Ok(()), |sender| sender.send(mail));
        sent.or_else(|error| wire::why_not_sent(error).map_or(Ok(()), Err))
    }

    /// Wakes a worker.
    pub(super) fn call(&mut self, slot_id: SlotId) {
        let _ = self.mail(slot_id, ToWorker::Wake); // cannot fail: it carries no channel ends
    }
}

impl Scheduler {
    pub(crate) fn processes(&self) -> usize {
        self.processes.load(Ordering::Relaxed) as usize
    }

    /// The pids of the workers that have not exited.
    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        if !self.is_ours() {
            return Vec::new();
        }
        let state = self.lock();
        state.slots.iter().filter_map(|slot| Some(slot.handle.as_ref()?.pid)).collect()
    }

    /// Whether a slot may have a worker: it lies within the pool's size, and the pool still needs
    /// workers.
    pub(super) fn keeps(&self, state: &State, slot_id: SlotId) -> bool {
        let goes_on = match state.phase {
            Phase::Open => true,
            Phase::Closing => !state.is_idle(),
            Phase::Over(_) => false,
        };
        goes_on && (slot_id as usize) < self.processes()
    }

    /// Fills vacant slots while there are more grains to run than filled slots.
    pub(super) fn call_workers(&self, state: &mut State) {
        if state.waiting == 0 {
            return;
        }
        let slots = &state.slots[..self.processes()];
        let filled = slots.iter().filter(|slot| slot.slot_state == SlotState::Filled).count();
        let grains = |(ticket, in_flight): (&TicketId, &InFlight)| {
            let untaken = self.board.untaken(*ticket, in_flight.chunk.count);
            // The tasks that are taken keep one worker busy.
            untaken.div_ceil(in_flight.chunk.grain) + u32::from(untaken < in_flight.chunk.count)
        };
        let open = state.in_flight.iter().map(grains).sum::<u32>() as usize;
        let missing = open.saturating_sub(filled);
        let is_vacant = |slot_id: &SlotId| {
            slots.get(*slot_id as usize).is_some_and(|slot| slot.slot_state == SlotState::Vacant)
        };
        let called: Vec<SlotId> = state.slot_ids().filter(is_vacant).take(missing).collect();
        for slot_id in &called {
            state.set_slot_state(*slot_id, SlotState::Filled);
        }
        if !called.is_empty() {
            self.called.notify_all();
        }
    }

    /// Makes retired slots vacant, so that starting a worker is tried again. Does so only if
    /// another slot has a worker meanwhile, or if all slots have given up.
    ///
    /// Otherwise slots could retry and fail in turn forever while no worker runs.
    pub(super) fn revive(&self, state: &mut State) {
        let has_worker = state.slots.iter().any(|slot| slot.handle.is_some());
        if state.waiting > 0 && (has_worker || self.has_given_up(state)) {
            self.revive_all(state);
        }
    }

    /// Whether no slot has a worker or waits for one: all are retired or broken.
    pub(super) fn has_given_up(&self, state: &State) -> bool {
        let failed =
            |slot: &Slot| matches!(slot.slot_state, SlotState::Retired | SlotState::Broken);
        state.slots[..self.processes()].iter().all(failed)
    }

    pub(super) fn revive_all(&self, state: &mut State) {
        for slot_id in state.slot_ids() {
            if state.slots[slot_id as usize].slot_state == SlotState::Retired {
                state.set_slot_state(slot_id, SlotState::Vacant);
            }
        }
    }

    /// Waits until a slot is to have a worker. Returns false if the slot's supervisor is to end.
    pub(super) fn is_called(&self, slot_id: SlotId) -> bool {
        let waits = |state: &mut State| {
            self.keeps(state, slot_id) && state.slots[slot_id as usize].slot_state.waits()
        };
        let wait = self.called.wait_while(self.lock(), waits);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        let slot_state = state.slots[slot_id as usize].slot_state;
        let called = self.keeps(&state, slot_id) && slot_state == SlotState::Filled;
        if !called {
            state.slots[slot_id as usize].supervised = false;
            if slot_state.waits() {
                state.set_slot_state(slot_id, SlotState::Filled);
            }
        }
        called
    }
}
