//! Tasks of broadcasts, each of which only the worker in one slot may run: assigns them to that
//! worker, which takes them before it claims other work.

use std::sync::Arc;

use super::state::{Phase, Scheduler, SlotState, State, unlock};
use crate::error::{Error, Origin};
use crate::pool::board::SlotId;
use crate::pool::job::{Delivery, TaskQueue};

impl Scheduler {
    /// The slots that a broadcast goes to: those that have a worker, or get one now. If there are
    /// none, those that may get one.
    pub(crate) fn slots_for_broadcast(&self) -> Result<Vec<SlotId>, Error> {
        self.check_not_forked_copy()?;
        let mut state = self.lock();
        state.phase.check_open()?;
        self.resume_slots_for_call(&mut state);
        let in_state = |slot_state| {
            let slots = state.slots.iter().take(self.processes()).enumerate();
            let found = slots.filter(move |(_, slot)| slot.slot_state == slot_state);
            found.map(|(slot_id, _)| slot_id as SlotId).collect::<Vec<SlotId>>()
        };
        let filled = in_state(SlotState::Filled);
        Ok(if filled.is_empty() { in_state(SlotState::Vacant) } else { filled })
    }

    /// Accepts the tasks of a broadcast: a queue with one task for each slot. `is_timed` says
    /// whether the tasks have a time limit. The pool's lock is held while `queues` is read.
    pub(crate) fn submit_for_slots(
        self: &Arc<Self>,
        is_timed: bool,
        queues: impl IntoIterator<Item = Box<TaskQueue>>,
    ) -> Result<(), Error> {
        self.check_not_forked_copy()?;
        let mut state = self.lock();
        state.phase.check_open()?;
        if is_timed {
            self.start_timeout_watcher(&mut state)?;
        }
        for queue in queues {
            state.queues.push_back(queue);
        }
        self.dispatch(&mut state);
        unlock(state);
        Ok(())
    }

    /// Assigns the next task of each slot for which tasks are queued, unless one is assigned there.
    /// Fills vacant slots that have tasks. Fails the tasks of slots that get no worker any more.
    pub(super) fn assign_waiting(&self, state: &mut State) {
        let is_over = matches!(state.phase, Phase::Over(_));
        if is_over || (state.assigned_tickets == 0 && !state.queues.has_for_slots()) {
            return;
        }
        for slot_id in state.slot_ids() {
            let slot = &state.slots[slot_id as usize];
            if slot.assigned.is_none() && !state.queues.has_for_slot(slot_id) {
                continue;
            }
            match slot.slot_state {
                _ if slot_id as usize >= self.processes() => {
                    let why = "the pool was made smaller before this worker ran its task of the \
                               broadcast: call broadcast again";
                    self.fail_waiting(state, slot_id, &Error::invalid(why));
                    continue;
                }
                SlotState::Suspended | SlotState::Broken => {
                    let why = "a slot of the pool has no worker any more, and its task of the \
                               broadcast was not run: call broadcast again";
                    let error = Error::start("a worker", std::io::Error::other(why));
                    self.fail_waiting(state, slot_id, &error);
                    continue;
                }
                SlotState::Vacant => {
                    state.set_slot_state(slot_id, SlotState::Filled);
                    self.slots_changed.notify_all();
                }
                SlotState::Filled => {}
            }
            if state.slots[slot_id as usize].assigned.is_none() {
                self.assign_next(state, slot_id);
            }
        }
    }

    /// Assigns the next task for a slot, if there is memory for it.
    fn assign_next(&self, state: &mut State, slot_id: SlotId) {
        let max_bytes = self.memory_left(state);
        let Some(mut queue) = state.queues.pop_for_slot(slot_id) else { return };
        let cost = queue.next_cost(queue.inbox.result_size().unwrap_or(0));
        let fits = cost <= max_bytes || state.in_flight.is_empty();
        let Some(ticket) = state.free.pop_if(|_| fits) else {
            return state.queues.push_front(queue);
        };
        match self.prepare(state, &mut queue, None, max_bytes) {
            Ok(in_flight) => {
                self.board.assign(ticket, &in_flight.chunk, slot_id);
                state.in_flight.insert(ticket, in_flight);
                state.slots[slot_id as usize].assigned = Some(ticket);
                state.assigned_tickets += 1;
                if !self.board.take_sleepers(slot_id..slot_id + 1, 1).is_empty() {
                    state.wake(slot_id);
                }
            }
            Err(error) => {
                state.free.push(ticket);
                state.queues.remove(&queue.inbox);
                state.wakers.extend(queue.inbox.close(error));
            }
        }
    }

    /// Fails the tasks for a slot that its worker has not begun.
    pub(super) fn fail_waiting(&self, state: &mut State, slot_id: SlotId, error: &Error) {
        let mut failed = Vec::new();
        let assigned = state.slots[slot_id as usize].assigned;
        if let Some(ticket) = assigned.filter(|ticket| self.board.unassign(*ticket, slot_id))
            && let Some(in_flight) = self.free_ticket_and_block(state, ticket)
        {
            failed.push((in_flight.inbox, in_flight.first));
        }
        while let Some(queue) = state.queues.pop_for_slot(slot_id) {
            failed.push((queue.inbox, queue.next));
        }
        for (inbox, task) in failed {
            let worker = Some(slot_id as usize);
            let origin = Origin { worker, ..Origin::of_task(task) };
            let error = error.clone().with_origin(origin);
            state.wakers.extend(inbox.accept(Box::new(Delivery::Failed { task, error })));
        }
    }
}
