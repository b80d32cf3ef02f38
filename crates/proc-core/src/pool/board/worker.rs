//! A worker's part of the protocol: claim, finish, sleep.

use std::sync::atomic::Ordering;

use super::{Board, Chunk, Claim, SlotId, TicketId};
use crate::call::Name;
use crate::memory::atomics::{AtomicU64, fence};
use crate::pool::board::words::Entry;

impl Board {
    /// Claims the oldest ready ticket, by one compare-and-swap that also records the slot.
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
                // Claimed, taken back, or the place is in use again: `head` lags behind.
                _ => None,
            };
            // Whoever sees the entry claimed advances `head`, so that a claimer killed here holds
            // up nobody.
            let _ =
                header.head.0.compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Relaxed);
            if claimed.is_some() {
                return claimed;
            }
        }
    }

    /// Reads the chunk that the parent wrote to a claimed ticket.
    pub(crate) fn chunk(&self, ticket: TicketId) -> Chunk {
        let fields = self.ticket(ticket);
        let [image, offset, types] = &fields.name;
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let flags = word(&fields.flags);
        Chunk {
            name: Name::from_words([word(image), word(offset), word(types)]),
            region: fields.region.load(Ordering::Relaxed),
            offset: word(&fields.offset),
            arguments: word(&fields.arguments),
            room: word(&fields.room),
            count: fields.count.load(Ordering::Relaxed),
            grain: fields.grain.load(Ordering::Relaxed),
            needs_handles: flags & 1 != 0,
            timed: flags & 2 != 0,
            measured: flags & 4 != 0,
        }
    }

    /// Records the claimer's pid on a ticket. Returns the claim, on which the claimer counts its
    /// tasks.
    pub(crate) fn claimed(&self, ticket: TicketId, pid: u32) -> Claim<'_> {
        let fields = self.ticket(ticket);
        fields.pid.store(pid, Ordering::Relaxed);
        Claim(fields)
    }

    /// Hands a finished ticket to the parent. Returns true if the parent must now be sent a
    /// message.
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
        self.is_listened_to()
    }

    /// Asks the parent to steal tasks from other workers. Returns true if the parent must now be
    /// sent a message.
    ///
    /// The worker must have announced its sleep, so that the parent finds it when there are tasks
    /// for it.
    pub(crate) fn report_starving(&self) -> bool {
        let header = self.header();
        if header.stealable.0.load(Ordering::Relaxed) == 0 {
            return false;
        }
        header.starving.0.store(1, Ordering::Relaxed);
        self.is_listened_to()
    }

    /// Whether the parent must be sent a message about what was just written. Of several workers,
    /// only one gets true.
    fn is_listened_to(&self) -> bool {
        // Pairs with the fence in `listen`: either the parent sees what we wrote, or we see it
        // listen.
        fence(Ordering::SeqCst);
        let listening = &self.header().listening.0;
        listening.load(Ordering::Relaxed) == 1 && listening.swap(0, Ordering::AcqRel) == 1
    }

    /// Announces sleep. Returns false if there is work after all, or the worker is dismissed.
    pub(crate) fn announce_sleep(&self, slot_id: SlotId) -> bool {
        let sleeper = &self.sleepers()[slot_id as usize].0;
        sleeper.store(1, Ordering::Relaxed);
        // Pairs with the fence in `take_sleepers`. The parent writes work or a dismissal before
        // that fence.
        fence(Ordering::SeqCst);
        if self.has_ready() || self.is_dismissed(slot_id) {
            // If the parent has picked us meanwhile, its message is on its way and wakes nobody.
            self.cancel_sleep(slot_id);
            return false;
        }
        true
    }

    /// Withdraws the announcement of sleep. Returns false if the parent has taken the announcement,
    /// so that a message is on its way.
    ///
    /// This swap competes with the one in `take_sleepers`: exactly one of them finds the 1.
    pub(crate) fn cancel_sleep(&self, slot_id: SlotId) -> bool {
        self.sleepers()[slot_id as usize].0.swap(0, Ordering::AcqRel) == 1
    }

    /// Whether the worker is dismissed: the pool is smaller now, or nothing more will be published.
    pub(crate) fn is_dismissed(&self, slot_id: SlotId) -> bool {
        u64::from(slot_id) >= self.header().admitted.0.load(Ordering::Acquire)
    }
}
