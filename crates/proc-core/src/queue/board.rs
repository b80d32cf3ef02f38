//! The protocol: tickets, the ring in which they are claimed, and the list of finished ones.
//!
//! See README.md beside this file for the states. One parent publishes and collects (its calls are
//! serialized by the pool's lock); any number of workers claim and finish; anybody may be killed
//! between any two instructions.

use std::io;
use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

use ipc_channel::ipc::IpcSharedMemory;
use serde::{Deserialize, Serialize};

use super::Region;
use super::atomics::{AtomicU32, AtomicU64, fence};
use crate::function::Name;

/// A worker's number in the pool.
pub(crate) type Owner = u32;

/// A ticket's number.
pub(crate) type TicketId = u32;

/// How many tickets and workers a board has; both sides must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) tickets: u32,
    pub(crate) workers: u32,
}

impl Layout {
    /// The most workers that fit an entry's owner field.
    pub(crate) const MOST_WORKERS: u32 = 1 << 12;

    /// Room for a pool of so many workers, and for at least twice as many later.
    pub(crate) fn for_workers(workers: u32) -> Layout {
        let tickets = (4 * workers).next_power_of_two().max(256);
        Layout { tickets, workers: (tickets / 2).min(Layout::MOST_WORKERS) }
    }

    fn sleepers(self) -> usize {
        size_of::<Header>()
    }

    fn ring(self) -> usize {
        let end_of_sleepers = self.sleepers() + self.workers as usize * size_of::<Sleeper>();
        end_of_sleepers.next_multiple_of(align_of::<Line>())
    }

    fn ticket_table(self) -> usize {
        let end_of_ring = self.ring() + self.tickets as usize * size_of::<AtomicU64>();
        end_of_ring.next_multiple_of(align_of::<Ticket>())
    }

    fn size(self) -> usize {
        self.ticket_table() + self.tickets as usize * size_of::<Ticket>()
    }
}

/// Counters that everybody shares, each on a cache line of its own.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct Header {
    /// How many entries were ever published.
    tail: Line,
    /// Where to look for the next unclaimed entry: never too far ahead, perhaps behind.
    head: Line,
    /// The last finished ticket + 1, or 0; each ticket points on to the one before.
    finished: Line,
    /// 1 while the parent wants a message when a ticket is finished.
    listening: Line,
    /// Workers with numbers below it may go on; 0 once nothing more will be published.
    admitted: Line,
}

#[derive(Default)]
#[repr(C, align(128))]
struct Line(AtomicU64);

/// One worker's "wake me": 1 from before it looks a last time until somebody promises a message, or
/// it takes it back. They lie side by side, since they change only where somebody sleeps anyway.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Sleeper(AtomicU32);

/// One chunk on its way: where its bytes are, and how far its worker has come.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct Ticket {
    region: AtomicU32,
    count: AtomicU32,
    offset: AtomicU64,
    arguments: AtomicU64,
    room: AtomicU64,
    name: [AtomicU64; 3],
    flags: AtomicU64,
    next: AtomicU32,
    begun: AtomicU32,
    done: AtomicU32,
    apart: AtomicU32,
    pid: AtomicU32,
    results: AtomicU64,
    nanoseconds: AtomicU64,
    began_at: AtomicU64,
}

/// What the parent tells a worker of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) name: Name,
    pub(crate) region: u32,
    pub(crate) offset: u64,
    /// Bytes of arguments at `offset`; the room for results follows them.
    pub(crate) arguments: u64,
    pub(crate) room: u64,
    pub(crate) count: u32,
    /// Whether channel ends that are part of the arguments must be asked for.
    pub(crate) asks: bool,
    /// Whether the worker must note when each task begins.
    pub(crate) timed: bool,
    /// Whether the worker must note how long the chunk takes.
    pub(crate) measured: bool,
}

impl Chunk {
    fn flags(&self) -> u64 {
        u64::from(self.asks) | u64::from(self.timed) << 1 | u64::from(self.measured) << 2
    }
}

/// How far the worker of a chunk has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Tasks whose function was called.
    pub(crate) begun: u32,
    /// Tasks whose results are complete.
    pub(crate) done: u32,
    /// Results that went by message.
    pub(crate) apart: u32,
    /// The claimer's pid, as it says: its parent may not have heard of it yet.
    pub(crate) pid: u32,
    /// Bytes of results.
    pub(crate) results: u64,
    /// Time spent on the chunk, written when it is finished.
    pub(crate) nanoseconds: u64,
    /// When the last task began, by the system's monotonic clock, in nanoseconds; 0 if not noted.
    pub(crate) began_at: u64,
}

/// An entry of the ring, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Empty,
    /// Published as number `seq` (the low 32 bits), claimed by nobody.
    Ready {
        seq: u32,
        ticket: TicketId,
    },
    Taken {
        seq: u32,
        ticket: TicketId,
        owner: Owner,
    },
}

const KIND_READY: u64 = 1 << 62;
const KIND_TAKEN: u64 = 2 << 62;
const TICKET_BITS: u32 = 18;

impl Entry {
    fn pack(self) -> u64 {
        match self {
            Entry::Empty => 0,
            Entry::Ready { seq, ticket } => KIND_READY | u64::from(ticket) << 32 | u64::from(seq),
            Entry::Taken { seq, ticket, owner } => {
                KIND_TAKEN
                    | u64::from(owner) << (32 + TICKET_BITS)
                    | u64::from(ticket) << 32
                    | u64::from(seq)
            }
        }
    }

    fn unpack(bits: u64) -> Entry {
        let seq = bits as u32;
        let ticket = (bits >> 32) as u32 & ((1 << TICKET_BITS) - 1);
        let owner = (bits >> (32 + TICKET_BITS)) as u32 & (Layout::MOST_WORKERS - 1);
        match bits & (3 << 62) {
            KIND_READY => Entry::Ready { seq, ticket },
            KIND_TAKEN => Entry::Taken { seq, ticket, owner },
            _ => Entry::Empty,
        }
    }
}

/// The shared board, as the parent and as each worker has it mapped.
#[derive(Debug)]
pub(crate) struct Board {
    layout: Layout,
    region: Region,
    /// The parent's own count of publications: what is in shared memory is only told to workers.
    published: AtomicU64,
}

impl Board {
    /// A new board, empty.
    ///
    /// # Errors
    ///
    /// There is no descriptor or memory for it.
    pub(crate) fn new(layout: Layout) -> io::Result<Board> {
        let board =
            Board { layout, region: Region::new(layout.size())?, published: AtomicU64::new(0) };
        board.header().listening.0.store(1, Ordering::Relaxed);
        board.admit(layout.workers);
        Ok(board)
    }

    /// A worker's view of its parent's board; `None` if the memory is not of that layout.
    pub(crate) fn map(layout: Layout, shared: IpcSharedMemory) -> Option<Board> {
        let region = Region::from(shared);
        let published = AtomicU64::new(0);
        (region.len() >= layout.size()).then_some(Board { layout, region, published })
    }

    /// What to send to a worker.
    ///
    /// # Errors
    ///
    /// As for [`new`](Board::new).
    pub(crate) fn share(&self) -> io::Result<IpcSharedMemory> {
        self.region.share()
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    // The layout was checked against the region's size when the board was made.
    fn header(&self) -> &Header {
        &self.region.atomics(0, 1).expect("the board holds its layout")[0]
    }

    fn sleepers(&self) -> &[Sleeper] {
        let Layout { workers, .. } = self.layout;
        self.region
            .atomics(self.layout.sleepers(), workers as usize)
            .expect("the board holds its layout")
    }

    fn entry(&self, position: u64) -> &AtomicU64 {
        let ring: &[AtomicU64] = self
            .region
            .atomics(self.layout.ring(), self.layout.tickets as usize)
            .expect("the board holds its layout");
        &ring[position as usize & (self.layout.tickets as usize - 1)]
    }

    fn ticket(&self, ticket: TicketId) -> &Ticket {
        let tickets: &[Ticket] = self
            .region
            .atomics(self.layout.ticket_table(), self.layout.tickets as usize)
            .expect("the board holds its layout");
        &tickets[ticket as usize]
    }
}

/// The parent's part.
impl Board {
    /// Publishes `chunk` under `ticket`, which must be free. False if the ring is full.
    ///
    /// Where the place in the ring still names the owner of another ticket, `keep` is told.
    pub(crate) fn publish(
        &self,
        ticket: TicketId,
        chunk: &Chunk,
        mut keep: impl FnMut(TicketId, Owner),
    ) -> bool {
        let header = self.header();
        let position = self.position();
        let entry = self.entry(position);
        match Entry::unpack(entry.load(Ordering::Acquire)) {
            Entry::Ready { .. } => return false,
            Entry::Taken { ticket, owner, .. } => keep(ticket, owner),
            Entry::Empty => {}
        }
        let slot = self.ticket(ticket);
        slot.region.store(chunk.region, Ordering::Relaxed);
        slot.count.store(chunk.count, Ordering::Relaxed);
        slot.offset.store(chunk.offset, Ordering::Relaxed);
        slot.arguments.store(chunk.arguments, Ordering::Relaxed);
        slot.room.store(chunk.room, Ordering::Relaxed);
        for (word, value) in slot.name.iter().zip(chunk.name.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        slot.flags.store(chunk.flags(), Ordering::Relaxed);
        slot.began_at.store(0, Ordering::Relaxed);
        slot.begun.store(0, Ordering::Relaxed);
        slot.done.store(0, Ordering::Relaxed);
        slot.apart.store(0, Ordering::Relaxed);
        slot.results.store(0, Ordering::Relaxed);
        slot.nanoseconds.store(0, Ordering::Relaxed);
        let ready = Entry::Ready { seq: position as u32, ticket };
        entry.store(ready.pack(), Ordering::Release);
        self.published.store(position + 1, Ordering::Relaxed);
        header.tail.0.store(position + 1, Ordering::Release);
        true
    }

    /// Picks up to `most` sleepers `among` the workers, each of which must now be sent a message.
    pub(crate) fn pick_sleepers(&self, among: Range<Owner>, most: usize) -> Vec<Owner> {
        // Pairs with the fence in `fall_asleep`: either we see the sleeper, or it sees the work, or
        // that it is dismissed.
        fence(Ordering::SeqCst);
        let mut picked = Vec::new();
        let sleepers = self.sleepers();
        for owner in among {
            if picked.len() == most {
                break;
            }
            let sleeper = &sleepers[owner as usize];
            if sleeper.0.load(Ordering::Relaxed) == 1 && sleeper.0.swap(0, Ordering::AcqRel) == 1 {
                picked.push(owner);
            }
        }
        picked
    }

    /// Takes all finished tickets, oldest first.
    ///
    /// The numbers come from memory that workers can write: they are in range, but may be wrong.
    pub(crate) fn take_finished(&self) -> Vec<TicketId> {
        let mut finished = Vec::new();
        if self.header().finished.0.load(Ordering::Relaxed) == 0 {
            return finished;
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
        finished
    }

    /// Whether [`take_finished`](Board::take_finished) would find anything.
    pub(crate) fn has_finished(&self) -> bool {
        self.header().finished.0.load(Ordering::Acquire) != 0
    }

    /// Whether published work waits for a worker.
    pub(crate) fn has_ready(&self) -> bool {
        let header = self.header();
        header.head.0.load(Ordering::Acquire) < header.tail.0.load(Ordering::Acquire)
    }

    /// How far a ticket's worker has come. The numbers are the worker's word.
    pub(crate) fn progress(&self, ticket: TicketId) -> Progress {
        let slot = self.ticket(ticket);
        let done = slot.done.load(Ordering::Acquire);
        Progress {
            begun: slot.begun.load(Ordering::Acquire),
            done,
            apart: slot.apart.load(Ordering::Relaxed),
            pid: slot.pid.load(Ordering::Relaxed),
            began_at: slot.began_at.load(Ordering::Relaxed),
            results: slot.results.load(Ordering::Relaxed),
            nanoseconds: slot.nanoseconds.load(Ordering::Relaxed),
        }
    }

    /// The tickets that the ring shows as claimed by `owner`.
    pub(crate) fn claimed_by(&self, owner: Owner) -> Vec<TicketId> {
        self.claims().filter(|(_, other)| *other == owner).map(|(ticket, _)| ticket).collect()
    }

    /// All claims the ring shows.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (TicketId, Owner)> + '_ {
        (0..u64::from(self.layout.tickets)).filter_map(|position| {
            match Entry::unpack(self.entry(position).load(Ordering::Acquire)) {
                Entry::Taken { ticket, owner, .. } if ticket < self.layout.tickets => {
                    Some((ticket, owner))
                }
                _ => None,
            }
        })
    }

    /// Who has claimed a ticket, as far as its place in the ring still shows it.
    pub(crate) fn claimer(&self, ticket: TicketId, position: u64) -> Option<Owner> {
        match Entry::unpack(self.entry(position).load(Ordering::Relaxed)) {
            Entry::Taken { ticket: taken, seq, owner }
                if taken == ticket && seq == position as u32 =>
            {
                Some(owner)
            }
            _ => None,
        }
    }

    /// Wipes the claim of a ticket that is finished with, so that it is not taken for a later one.
    pub(crate) fn forget_claim(&self, ticket: TicketId, position: u64) {
        if self.claimer(ticket, position).is_some() {
            self.entry(position).store(Entry::Empty.pack(), Ordering::Relaxed);
        }
    }

    /// Takes back a published ticket; false if a worker has claimed it.
    pub(crate) fn retract(&self, ticket: TicketId, position: u64) -> bool {
        let ready = Entry::Ready { seq: position as u32, ticket }.pack();
        let empty = Entry::Empty.pack();
        self.entry(position)
            .compare_exchange(ready, empty, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The number that the next publication will have.
    pub(crate) fn position(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Whether the ring shows a ticket where it was published, claimed or not.
    pub(crate) fn shows(&self, ticket: TicketId, position: u64) -> bool {
        match Entry::unpack(self.entry(position).load(Ordering::Acquire)) {
            Entry::Ready { seq, ticket: other } | Entry::Taken { seq, ticket: other, .. } => {
                seq == position as u32 && other == ticket
            }
            Entry::Empty => false,
        }
    }

    /// Asks for a message at the next finished ticket. False if one is finished already.
    pub(crate) fn listen(&self) -> bool {
        self.header().listening.0.store(1, Ordering::Relaxed);
        // Pairs with the fence in `finish`.
        fence(Ordering::SeqCst);
        !self.has_finished()
    }

    /// Wants no messages for now: somebody looks all the time.
    pub(crate) fn stop_listening(&self) {
        self.header().listening.0.store(0, Ordering::Relaxed);
    }

    /// Says which workers are to go on: those with a lower number. The others finish their chunk.
    pub(crate) fn admit(&self, workers: u32) {
        self.header().admitted.0.store(u64::from(workers), Ordering::Release);
    }

    /// In place of a dead worker: it will wake no more.
    pub(crate) fn bury(&self, owner: Owner) {
        self.sleepers()[owner as usize].0.store(0, Ordering::Relaxed);
    }
}

/// A worker's part.
impl Board {
    /// Claims the oldest ready ticket, by one compare-and-swap that also records the owner.
    pub(crate) fn claim(&self, owner: Owner) -> Option<TicketId> {
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
                    let taken = Entry::Taken { seq, ticket, owner }.pack();
                    entry
                        .compare_exchange(bits, taken, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                        .then_some(ticket)
                }
                // Claimed, taken back, or long since used again: `head` lags behind.
                _ => None,
            };
            // Whoever sees it claimed moves on, so that a claimer killed here holds up nobody.
            let _ =
                header.head.0.compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Relaxed);
            if claimed.is_some() {
                return claimed;
            }
        }
    }

    /// What the parent wrote on a claimed ticket.
    pub(crate) fn chunk(&self, ticket: TicketId) -> Chunk {
        let slot = self.ticket(ticket);
        let [image, offset, types] = &slot.name;
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let flags = word(&slot.flags);
        Chunk {
            name: Name::from_words([word(image), word(offset), word(types)]),
            region: slot.region.load(Ordering::Relaxed),
            offset: word(&slot.offset),
            arguments: word(&slot.arguments),
            room: word(&slot.room),
            count: slot.count.load(Ordering::Relaxed),
            asks: flags & 1 != 0,
            timed: flags & 2 != 0,
            measured: flags & 4 != 0,
        }
    }

    /// Where the claimer of a ticket counts its tasks, signed with its pid.
    pub(crate) fn claimed(&self, ticket: TicketId, pid: u32) -> Claim<'_> {
        let slot = self.ticket(ticket);
        slot.pid.store(pid, Ordering::Relaxed);
        Claim(slot)
    }

    /// Hands a completed ticket to the parent; true if it must now be sent a message.
    pub(crate) fn finish(&self, ticket: TicketId, nanoseconds: u64) -> bool {
        let slot = self.ticket(ticket);
        slot.nanoseconds.store(nanoseconds, Ordering::Relaxed);
        let finished = &self.header().finished.0;
        let mut last = finished.load(Ordering::Relaxed);
        loop {
            slot.next.store(last as u32, Ordering::Relaxed);
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
        // Pairs with the fence in `listen`: either the parent sees the ticket, or we see it listen.
        fence(Ordering::SeqCst);
        let listening = &self.header().listening.0;
        listening.load(Ordering::Relaxed) == 1 && listening.swap(0, Ordering::AcqRel) == 1
    }

    /// Announces sleep. False if there is work after all, or the worker is to go.
    pub(crate) fn fall_asleep(&self, owner: Owner) -> bool {
        let sleeper = &self.sleepers()[owner as usize].0;
        sleeper.store(1, Ordering::Relaxed);
        // Pairs with the fence in `pick_sleepers`, which comes after what is looked for here.
        fence(Ordering::SeqCst);
        if self.has_ready() || self.is_dismissed(owner) {
            // If somebody picked us meanwhile, their message is on its way and wakes nobody.
            self.wake_up(owner);
            return false;
        }
        true
    }

    /// Withdraws the announcement of sleep. False if it was seen, so that a message is on its way.
    ///
    /// One swap against that of `pick_sleepers`: of the two, exactly one finds the 1.
    pub(crate) fn wake_up(&self, owner: Owner) -> bool {
        self.sleepers()[owner as usize].0.swap(0, Ordering::AcqRel) == 1
    }

    /// Whether the worker is to go: the pool is smaller now, or nothing more will be published.
    pub(crate) fn is_dismissed(&self, owner: Owner) -> bool {
        u64::from(owner) >= self.header().admitted.0.load(Ordering::Acquire)
    }
}

/// A claimed ticket, as its claimer counts its tasks on it.
pub(crate) struct Claim<'a>(&'a Ticket);

impl Claim<'_> {
    /// Says that the function of one more task is about to be called, and when, if that is wanted.
    #[inline]
    pub(crate) fn begin(&self, task: u32, timed: Option<u64>) {
        if let Some(now) = timed {
            self.0.began_at.store(now, Ordering::Relaxed);
        }
        self.0.begun.store(task + 1, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }

    /// Says that one more task has its result, `results` bytes now in all.
    #[inline]
    pub(crate) fn end(&self, task: u32, results: u64) {
        self.0.results.store(results, Ordering::Relaxed);
        self.0.done.store(task + 1, Ordering::Release);
    }

    /// Says that one more result went by message.
    pub(crate) fn went_apart(&self) {
        // Only the claimer writes it, before it counts the task as done.
        let before = self.0.apart.load(Ordering::Relaxed);
        self.0.apart.store(before + 1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
