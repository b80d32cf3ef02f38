//! The parent's part of the protocol: publish, wake, collect, split, retract.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::ticket::STOP_ALL;
use super::{Board, Chunk, Progress, SlotId, TicketId};
use crate::memory::atomics::fence;
use crate::pool::board::words::{Entry, Extent};

impl Board {
    /// Publishes `chunk` under `ticket`, which must be free. Returns false if the ring is full.
    ///
    /// If this overwrites the claim of another ticket in the ring, calls `note_claim` with that
    /// ticket and the slot of its claimer.
    pub(crate) fn publish(
        &self,
        ticket: TicketId,
        chunk: &Chunk,
        mut note_claim: impl FnMut(TicketId, SlotId),
    ) -> bool {
        let header = self.header();
        let position = self.next_position();
        let entry = self.entry(position);
        match Entry::unpack(entry.load(Ordering::Acquire)) {
            Entry::Ready { .. } => return false,
            Entry::Taken { ticket, slot_id, .. } => note_claim(ticket, slot_id),
            Entry::Empty => {}
        }
        self.write(ticket, chunk);
        let ready = Entry::Ready { seq: position as u32, ticket };
        entry.store(ready.pack(), Ordering::Release);
        self.published.store(position + 1, Ordering::Relaxed);
        header.tail.0.store(position + 1, Ordering::Release);
        true
    }

    /// Writes `chunk` to a free ticket.
    fn write(&self, ticket: TicketId, chunk: &Chunk) {
        let fields = self.ticket(ticket);
        chunk.store(fields);
        let extent = Extent { taken: 0, limit: chunk.count };
        fields.extent.store(extent.pack(), Ordering::Relaxed);
        fields.began_at.store(0, Ordering::Relaxed);
        fields.begun.store(0, Ordering::Relaxed);
        fields.done.store(0, Ordering::Relaxed);
        fields.out_of_band.store(0, Ordering::Relaxed);
        fields.results.store(0, Ordering::Relaxed);
        fields.nanoseconds.store(0, Ordering::Relaxed);
    }

    /// Assigns `chunk`, under `ticket`, which must be free, to the worker in a slot. No other
    /// ticket may be assigned to it.
    pub(crate) fn assign(&self, ticket: TicketId, chunk: &Chunk, slot_id: SlotId) {
        self.write(ticket, chunk);
        self.assignment(slot_id).store(ticket + 1, Ordering::Release);
    }

    /// Whether a ticket is assigned to the worker in a slot, which has not taken it.
    pub(crate) fn is_assigned(&self, ticket: TicketId, slot_id: SlotId) -> bool {
        self.assignment(slot_id).load(Ordering::Relaxed) == ticket + 1
    }

    /// Takes an assigned ticket back. Returns false if the worker has taken it.
    pub(crate) fn unassign(&self, ticket: TicketId, slot_id: SlotId) -> bool {
        self.assignment(slot_id)
            .compare_exchange(ticket + 1, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes at most `max` sleepers in the slots `among`. The caller must send a message to each of
    /// them.
    pub(crate) fn take_sleepers(&self, among: Range<SlotId>, max: usize) -> Vec<SlotId> {
        // Pairs with the fence in `announce_sleep`: either the parent sees the sleeper, or the
        // sleeper sees the work or its dismissal.
        fence(Ordering::SeqCst);
        let mut taken = Vec::new();
        let sleepers = self.sleepers();
        for slot_id in among {
            if taken.len() == max {
                break;
            }
            let sleeper = &sleepers[slot_id as usize];
            if sleeper.0.load(Ordering::Relaxed) == 1 && sleeper.0.swap(0, Ordering::AcqRel) == 1 {
                taken.push(slot_id);
            }
        }
        taken
    }

    /// Takes all finished tickets, oldest first. Puts them into `finished`, which must be empty.
    ///
    /// Workers can write to the list, so a ticket that it names may not be finished, or not be in
    /// use. The number of the ticket is always in range.
    pub(crate) fn take_finished(&self, finished: &mut Vec<TicketId>) {
        if self.header().finished.0.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut next = self.header().finished.0.swap(0, Ordering::Acquire);
        while next != 0 && finished.len() < self.layout.tickets as usize {
            let Some(ticket) = u32::try_from(next - 1).ok().filter(|t| *t < self.layout.tickets)
            else {
                break;
            };
            finished.push(ticket);
            next = u64::from(self.ticket(ticket).next.load(Ordering::Relaxed));
        }
        finished.reverse();
    }

    /// Whether a ticket is finished or a worker is starving.
    pub(crate) fn has_news(&self) -> bool {
        let header = self.header();
        header.finished.0.load(Ordering::Acquire) != 0
            || header.starving.0.load(Ordering::Relaxed) != 0
    }

    /// Tells workers whether claimed tickets may have tasks that can be stolen.
    pub(crate) fn set_stealable(&self, stealable: bool) {
        self.header().stealable.0.store(u64::from(stealable), Ordering::Relaxed);
    }

    /// Whether a worker has reported since the last call that it is starving.
    pub(crate) fn take_starving(&self) -> bool {
        let starving = &self.header().starving.0;
        starving.load(Ordering::Relaxed) != 0 && starving.swap(0, Ordering::AcqRel) != 0
    }

    /// How many workers in the slots `among` sleep.
    pub(crate) fn count_sleepers(&self, among: Range<SlotId>) -> usize {
        let sleepers = &self.sleepers()[among.start as usize..among.end as usize];
        sleepers.iter().filter(|sleeper| sleeper.0.load(Ordering::Relaxed) == 1).count()
    }

    /// Takes back the later half of the grains that the claimer of a ticket has not taken.
    ///
    /// `count` and `grain` are those of the ticket's chunk. Returns the index of the first task
    /// that was taken back, which is the chunk's `count` from now on. A ticket of which no task is
    /// taken keeps at least its first grain.
    pub(crate) fn split(&self, ticket: TicketId, count: u32, grain: u32) -> Option<u32> {
        let word = &self.ticket(ticket).extent;
        let mut bits = word.load(Ordering::Relaxed);
        loop {
            let Extent { taken, limit } = Extent::unpack(bits);
            if limit != count || taken >= count {
                return None; // all tasks are taken, or a corrupt worker wrote the word
            }
            let grains = (count - taken).div_ceil(grain);
            let kept = if taken == 0 { grains.div_ceil(2) } else { grains / 2 };
            let limit = taken + kept.saturating_mul(grain).min(count - taken);
            if limit == count {
                return None;
            }
            let after = Extent { taken, limit }.pack();
            match word.compare_exchange(bits, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(limit),
                Err(now) => bits = now,
            }
        }
    }

    /// How many of a ticket's `count` tasks its claimer has not taken.
    pub(crate) fn untaken(&self, ticket: TicketId, count: u32) -> u32 {
        count.saturating_sub(
            Extent::unpack(self.ticket(ticket).extent.load(Ordering::Relaxed)).taken,
        )
    }

    /// Whether published work waits for a worker.
    pub(crate) fn has_ready(&self) -> bool {
        let header = self.header();
        header.head.0.load(Ordering::Acquire) < header.tail.0.load(Ordering::Acquire)
    }

    /// How far the claimer of a ticket has come. The claimer wrote the numbers, so they may be
    /// wrong.
    pub(crate) fn progress(&self, ticket: TicketId) -> Progress {
        let fields = self.ticket(ticket);
        let done = fields.done.load(Ordering::Acquire);
        Progress {
            begun: fields.begun.load(Ordering::Acquire),
            done,
            out_of_band: fields.out_of_band.load(Ordering::Relaxed),
            pid: fields.pid.load(Ordering::Relaxed),
            began_at: fields.began_at.load(Ordering::Relaxed),
            results: fields.results.load(Ordering::Relaxed),
            nanoseconds: fields.nanoseconds.load(Ordering::Relaxed),
        }
    }

    /// The tickets that the ring shows as claimed by the worker in a slot.
    pub(crate) fn claimed_by(&self, slot_id: SlotId) -> Vec<TicketId> {
        self.claims().filter(|(_, other)| *other == slot_id).map(|(ticket, _)| ticket).collect()
    }

    /// All claims that the ring shows.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (TicketId, SlotId)> + '_ {
        (0..u64::from(self.layout.tickets)).filter_map(|position| {
            match Entry::unpack(self.entry(position).load(Ordering::Acquire)) {
                Entry::Taken { ticket, slot_id, .. } if ticket < self.layout.tickets => {
                    Some((ticket, slot_id))
                }
                _ => None,
            }
        })
    }

    /// The slot whose worker has claimed a ticket, if the ticket's place in the ring shows that.
    pub(crate) fn claimer(&self, ticket: TicketId, position: u64) -> Option<SlotId> {
        match Entry::unpack(self.entry(position).load(Ordering::Relaxed)) {
            Entry::Taken { ticket: taken, seq, slot_id }
                if taken == ticket && seq == position as u32 =>
            {
                Some(slot_id)
            }
            _ => None,
        }
    }

    /// Clears the claim of a settled ticket from the ring, so that it is not mistaken for a claim
    /// of the ticket's next chunk.
    pub(crate) fn forget_claim(&self, ticket: TicketId, position: u64) {
        if self.claimer(ticket, position).is_some() {
            self.entry(position).store(Entry::Empty.pack(), Ordering::Relaxed);
        }
    }

    /// Takes a published ticket back. Returns false if a worker has claimed it.
    pub(crate) fn retract(&self, ticket: TicketId, position: u64) -> bool {
        let ready = Entry::Ready { seq: position as u32, ticket }.pack();
        let empty = Entry::Empty.pack();
        self.entry(position)
            .compare_exchange(ready, empty, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The number that the next publication will have.
    pub(crate) fn next_position(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Whether the ring shows a ticket, claimed or not, in the place where it was published.
    pub(crate) fn shows(&self, ticket: TicketId, position: u64) -> bool {
        match Entry::unpack(self.entry(position).load(Ordering::Acquire)) {
            Entry::Ready { seq, ticket: other } | Entry::Taken { seq, ticket: other, .. } => {
                seq == position as u32 && other == ticket
            }
            Entry::Empty => false,
        }
    }

    /// Asks workers for a message about the next finished ticket or starving worker. Returns false
    /// if a ticket is finished or a worker is starving already: perhaps no message comes about
    /// that.
    pub(crate) fn request_message(&self) -> bool {
        self.header().message_wanted.0.store(1, Ordering::Relaxed);
        // Pairs with the fence in `take_message_request`.
        fence(Ordering::SeqCst);
        !self.has_news()
    }

    /// Tells workers to send no messages for now, because a thread polls.
    pub(crate) fn decline_messages(&self) {
        self.header().message_wanted.0.store(0, Ordering::Relaxed);
    }

    /// Admits the workers in the slots below `workers`. The others finish their chunk and leave.
    pub(crate) fn admit(&self, workers: u32) {
        self.header().admitted.0.store(u64::from(workers), Ordering::Release);
    }

    /// Asks the task that the claimer of a ticket is running to stop. `begun` is how many tasks
    /// have begun, including this one. If another task begins meanwhile, that task is not asked.
    pub(crate) fn request_stop(&self, ticket: TicketId, begun: u32) {
        self.ticket(ticket).stop.store(u64::from(begun), Ordering::Release);
    }

    /// Asks the task that the claimer of a ticket is running to stop, and each later one of the
    /// ticket as soon as it begins.
    pub(crate) fn request_stop_of_all(&self, ticket: TicketId) {
        self.ticket(ticket).stop.store(STOP_ALL, Ordering::Release);
    }

    /// Tells workers that data were dropped, which they may still hold.
    pub(crate) fn note_dropped_data(&self) {
        // The parent's lock serializes the calls.
        let word = &self.header().dropped_data.0;
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Withdraws a dead worker's announcement of sleep, so that the parent does not wake that
    /// worker instead of another one.
    pub(crate) fn withdraw_sleeper(&self, slot_id: SlotId) {
        self.sleepers()[slot_id as usize].0.store(0, Ordering::Relaxed);
    }
}
