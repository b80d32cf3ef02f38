//! The worker's part of the protocol: claim, finish, sleep.

use std::sync::atomic::Ordering;

use super::ticket::STOP_ALL;
use super::{Board, Chunk, Claim, SlotId, TicketId};
use crate::memory::atomics::fence;
use crate::pool::board::words::Entry;

impl Board {
    /// Takes the ticket that is assigned to the worker in a slot.
    pub(crate) fn take_assigned(&self, slot_id: SlotId) -> Option<TicketId> {
        let word = self.assignment(slot_id);
        if word.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // 0 if the parent has taken the ticket back meanwhile.
        word.swap(0, Ordering::AcqRel).checked_sub(1).filter(|t| *t < self.layout.tickets)
    }

    /// Claims the oldest ready ticket. One compare-and-swap makes the claim and records the slot.
    pub(crate) fn claim(&self, slot_id: SlotId) -> Option<TicketId> {
        let header = self.header();
        loop {
            let head = header.head.0.load(Ordering::Acquire);
            if head >= header.tail.0.load(Ordering::Acquire) {
                return None;
            }
            let entry = self.entry(head);
            let bits = entry.load(Ordering::Acquire);
            let claimed = match Entry::unpack(bits) {
                Entry::Ready { seq, ticket } if seq == head as u32 => {
                    let taken = Entry::Taken { seq, ticket, slot_id }.pack();
                    entry
                        .compare_exchange(bits, taken, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                        .then_some(ticket)
                }
                // The ticket is claimed or taken back, or the place is in use again: `head` lags.
                _ => None,
            };
            // Each worker that comes here advances `head`, so that a claimer that is killed here
            // does not hold up the others.
            let _ =
                header.head.0.compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Relaxed);
            if claimed.is_some() {
                return claimed;
            }
        }
    }

    /// Reads the chunk that the parent wrote to a claimed ticket.
    pub(crate) fn chunk(&self, ticket: TicketId) -> Chunk {
        Chunk::load(self.ticket(ticket))
    }

    /// Records the claimer's pid on a claimed ticket. Returns the claim, on which the claimer
    /// counts its tasks.
    pub(crate) fn begin_claim(&self, ticket: TicketId, pid: u32) -> Claim<'_> {
        let fields = self.ticket(ticket);
        fields.pid.store(pid, Ordering::Relaxed);
        Claim(fields)
    }

    /// Hands a finished ticket over. Returns true if the caller must now send the parent a message.
    pub(crate) fn finish(&self, ticket: TicketId, nanoseconds: u64) -> bool {
        let fields = self.ticket(ticket);
        fields.nanoseconds.store(nanoseconds, Ordering::Relaxed);
        let finished = &self.header().finished.0;
        let mut last = finished.load(Ordering::Relaxed);
        loop {
            fields.next.store(last as u32, Ordering::Relaxed);
            match finished.compare_exchange_weak(
                last,
                u64::from(ticket) + 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => last = now,
            }
        }
        self.take_message_request()
    }

    /// Reports that a worker is starving, if there may be tasks that can be stolen. Returns true if
    /// the caller must now send the parent a message.
    ///
    /// The worker must have announced its sleep, because the parent steals for sleepers only.
    pub(crate) fn report_starving(&self) -> bool {
        let header = self.header();
        if header.stealable.0.load(Ordering::Relaxed) == 0 {
            return false;
        }
        header.starving.0.store(1, Ordering::Relaxed);
        self.take_message_request()
    }

    /// Takes the parent's request for a message. Returns true if the caller must now send the
    /// message: of several workers, only one gets true.
    fn take_message_request(&self) -> bool {
        // Pairs with the fence in `request_message`: either the parent sees what this worker has
        // written, or the worker sees the request.
        fence(Ordering::SeqCst);
        let wanted = &self.header().message_wanted.0;
        wanted.load(Ordering::Relaxed) == 1 && wanted.swap(0, Ordering::AcqRel) == 1
    }

    /// Announces sleep. Returns false if there is work after all, or the worker is dismissed.
    pub(crate) fn announce_sleep(&self, slot_id: SlotId) -> bool {
        let sleeper = &self.sleepers()[slot_id as usize].0;
        sleeper.store(1, Ordering::Relaxed);
        // Pairs with the fence in `take_sleepers`. The parent writes work or a dismissal before
        // that fence.
        fence(Ordering::SeqCst);
        let is_assigned = self.assignment(slot_id).load(Ordering::Relaxed) != 0;
        if is_assigned || self.has_ready() || self.is_dismissed(slot_id) {
            // If the parent has taken the 1 meanwhile, its message comes later and does no harm.
            self.cancel_sleep(slot_id);
            return false;
        }
        true
    }

    /// Withdraws the announcement of sleep. Returns false if the parent has taken the 1: then a
    /// message is on its way.
    ///
    /// Exactly one of this swap and the one in `take_sleepers` finds the 1.
    pub(crate) fn cancel_sleep(&self, slot_id: SlotId) -> bool {
        self.sleepers()[slot_id as usize].0.swap(0, Ordering::AcqRel) == 1
    }

    /// How many times data were dropped that workers may hold.
    pub(crate) fn data_drops(&self) -> u64 {
        self.header().dropped_data.0.load(Ordering::Acquire)
    }

    /// Whether the task that runs under a claimed ticket is asked to stop.
    pub(crate) fn stop_requested(&self, ticket: TicketId) -> bool {
        let fields = self.ticket(ticket);
        let begun = u64::from(fields.begun.load(Ordering::Relaxed));
        Chunk::load(fields).stoppable
            && [begun, STOP_ALL].contains(&fields.stop.load(Ordering::Acquire))
    }

    /// Whether the worker is dismissed: the pool is smaller now, or nothing more will be published.
    pub(crate) fn is_dismissed(&self, slot_id: SlotId) -> bool {
        u64::from(slot_id) >= self.header().admitted.0.load(Ordering::Acquire)
    }
}
