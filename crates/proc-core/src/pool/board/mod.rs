//! The board: the work queue in shared memory between a pool's parent and its workers. It consists
//! of tickets, the ring in which they are claimed, and the list of finished tickets.
//!
//! One parent publishes and collects; the pool's lock serializes its calls. Any number of workers
//! claim and finish. Any process may be killed between any two instructions. README.md beside this
//! file explains the states.

#[cfg(all(test, loom))]
mod model;
mod parent;
#[cfg(all(test, not(loom)))]
mod tests;
mod ticket;
mod words;
mod worker;

use std::io;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

pub(crate) use self::ticket::{Chunk, Claim, DataId, Progress, Ticket};
pub(crate) use self::words::{MAX_WORKERS, SlotId, TicketId};
use crate::memory::atomics::{AtomicU32, AtomicU64};
use crate::memory::{Descriptor, Region, shared_struct};

/// How many tickets and workers a board has. Parent and workers must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) tickets: u32,
    pub(crate) workers: u32,
}

impl Layout {
    /// The layout for a pool of `workers`, with room to grow to at least twice as many, up to
    /// [`MAX_WORKERS`].
    pub(crate) fn for_workers(workers: u32) -> Layout {
        let tickets = (4 * workers).next_power_of_two().max(256);
        Layout { tickets, workers: (tickets / 2).min(MAX_WORKERS) }
    }

    /// Where the sleepers begin.
    fn sleepers(self) -> usize {
        size_of::<Header>()
    }

    /// Where the assignments begin.
    fn assignments(self) -> usize {
        self.sleepers() + self.workers as usize * size_of::<Sleeper>()
    }

    /// Where the ring begins.
    fn ring(self) -> usize {
        let end = self.assignments() + self.workers as usize * size_of::<Assignment>();
        end.next_multiple_of(align_of::<CacheLine>())
    }

    /// Where the tickets begin.
    fn ticket_table(self) -> usize {
        let end_of_ring = self.ring() + self.tickets as usize * size_of::<AtomicU64>();
        end_of_ring.next_multiple_of(align_of::<Ticket>())
    }

    fn size(self) -> usize {
        self.ticket_table() + self.tickets as usize * size_of::<Ticket>()
    }
}

shared_struct! {
    /// Words that the parent and all workers share, each on a cache line of its own.
    #[repr(align(128))]
    pub(crate) struct Header {
        /// How many tickets were ever published.
        tail: CacheLine,
        /// The number of the oldest publication that may be unclaimed. Older ones are claimed or
        /// taken back.
        head: CacheLine,
        /// 1 + the ticket that was finished last, or 0. The `next` of a finished ticket leads to
        /// the one that was finished before it, in the same way.
        finished: CacheLine,
        /// 1 while the parent asks for a message when a ticket is finished or a worker is starving.
        message_wanted: CacheLine,
        /// Workers in slots with a lower number than this may go on; 0 if nothing more will be
        /// published.
        admitted: CacheLine,
        /// 1 while a claimed ticket may have tasks that its claimer has not taken.
        stealable: CacheLine,
        /// 1 if a worker that found no work could run some of those tasks.
        starving: CacheLine,
        /// How many times data were dropped that workers may hold.
        dropped_data: CacheLine,
    }
}

shared_struct! {
    /// A word that is alone on its cache line.
    #[repr(align(128))]
    struct CacheLine(AtomicU64);
}

shared_struct! {
    /// A worker's announcement of sleep: 1 while the worker sleeps, or looks for work a last time
    /// before it sleeps. The parent takes the 1 and sends the worker a message, or the worker takes
    /// it back. Sleepers share cache lines, because they change only when a worker falls asleep or
    /// is woken.
    pub(crate) struct Sleeper(AtomicU32);
}

shared_struct! {
    /// 1 + the ticket that the parent has assigned to the worker in a slot, or 0. The parent writes
    /// it; the worker takes the ticket, or the parent takes it back.
    pub(crate) struct Assignment(AtomicU32);
}

/// The board, as the parent or a worker has mapped it.
#[derive(Debug)]
pub(crate) struct Board {
    layout: Layout,
    region: Region,
    /// The parent's own count of publications. The workers see a copy of it, `tail`.
    published: AtomicU64,
}

impl Board {
    /// Makes a new, empty board.
    ///
    /// # Errors
    ///
    /// There is no descriptor or memory for it.
    pub(crate) fn new(layout: Layout) -> io::Result<Board> {
        let board =
            Board { layout, region: Region::new(layout.size())?, published: AtomicU64::new(0) };
        board.header().message_wanted.0.store(1, Ordering::Relaxed);
        board.admit(layout.workers);
        Ok(board)
    }

    /// The parent's board, as a worker has mapped it. Returns `None` if the memory is too small for
    /// the layout.
    pub(crate) fn map(layout: Layout, region: Region) -> Option<Board> {
        let published = AtomicU64::new(0);
        (region.len() >= layout.size()).then_some(Board { layout, region, published })
    }

    /// Returns a descriptor by which a worker maps the board.
    ///
    /// # Errors
    ///
    /// As for [`new`](Board::new).
    pub(crate) fn share(&self) -> io::Result<Descriptor> {
        self.region.share()
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    // The layout was checked against the region's size when the board was made or mapped.
    fn header(&self) -> &Header {
        &self.region.atomics(0, 1).expect("the board holds its layout")[0]
    }

    fn sleepers(&self) -> &[Sleeper] {
        let Layout { workers, .. } = self.layout;
        self.region
            .atomics(self.layout.sleepers(), workers as usize)
            .expect("the board holds its layout")
    }

    fn assignment(&self, slot_id: SlotId) -> &AtomicU32 {
        let Layout { workers, .. } = self.layout;
        let assignments: &[Assignment] = self
            .region
            .atomics(self.layout.assignments(), workers as usize)
            .expect("the board holds its layout");
        &assignments[slot_id as usize].0
    }

    /// The ring entry of the publication with the number `position`.
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
