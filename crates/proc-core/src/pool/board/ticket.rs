//! A ticket: the parent's description of a chunk, and the claimer's progress with it.

use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::call::Name;
use crate::memory::atomics::{AtomicU32, AtomicU64};
use crate::memory::shared_struct;
use crate::pool::board::words::Extent;

shared_struct! {
    /// One chunk in flight: the fields of [`Chunk`] and those of [`Progress`].
    #[repr(align(128))]
    pub(crate) struct Ticket {
        pub(super) region: AtomicU32,
        pub(super) count: AtomicU32,
        pub(super) offset: AtomicU64,
        pub(super) arguments: AtomicU64,
        pub(super) room: AtomicU64,
        pub(super) name: [AtomicU64; 3],
        pub(super) flags: AtomicU64,
        /// In the list of finished tickets: 1 + the ticket that was finished before, or 0.
        pub(super) next: AtomicU32,
        pub(super) begun: AtomicU32,
        pub(super) done: AtomicU32,
        pub(super) out_of_band: AtomicU32,
        pub(super) pid: AtomicU32,
        pub(super) grain: AtomicU32,
        /// How many tasks the claimer has taken, and how many it may take: an [`Extent`].
        pub(super) extent: AtomicU64,
        pub(super) results: AtomicU64,
        pub(super) nanoseconds: AtomicU64,
        pub(super) began_at: AtomicU64,
        pub(super) first: AtomicU64,
        // The fields above fill two cache lines. Those below are used only by calls that need them.
        pub(super) seed: AtomicU64,
        pub(super) timeout: AtomicU64,
        /// How many tasks had begun when the last of them was asked to stop; 0 if none was, and
        /// [`STOP_ALL`] if all later tasks are asked too.
        pub(super) stop: AtomicU64,
    }
}

/// The parent's description of a chunk, for the worker that claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) name: Name,
    /// The number of the first task in its call.
    pub(crate) first: u64,
    /// How many times the tasks were tried before; the largest number that fits, if that is less.
    pub(crate) attempt: u32,
    /// The data that the function borrows; 0 if it borrows none.
    pub(crate) data: DataId,
    /// The seed of the call, if it has one.
    pub(crate) seed: Option<u64>,
    /// How long each task may run, in nanoseconds; 0 if there is no limit. The worker must note
    /// when each task begins if there is one.
    pub(crate) timeout: u64,
    pub(crate) region: u32,
    pub(crate) offset: u64,
    /// How many bytes the arguments have, which begin at `offset`. The room follows them.
    pub(crate) arguments: u64,
    /// How many bytes there are for results.
    pub(crate) room: u64,
    pub(crate) count: u32,
    /// How many tasks the claimer takes at a time. The parent can take back tasks that are not
    /// taken.
    pub(crate) grain: u32,
    /// Whether the argument has channel ends, for which the worker must ask.
    pub(crate) needs_handles: bool,
    /// Whether the worker must note how long the chunk takes.
    pub(crate) measured: bool,
    /// Whether tasks may be asked to stop.
    pub(crate) stoppable: bool,
}

/// The number of the data that a call's function borrows. No data have the number 0.
pub(crate) type DataId = u32;

/// Value of the word `stop` of a ticket whose tasks are all asked to stop as soon as they begin.
pub(super) const STOP_ALL: u64 = u64::MAX;

const NEEDS_HANDLES: u64 = 1;
const MEASURED: u64 = 2;
const TIMED: u64 = 4;
const SEEDED: u64 = 8;
const STOPPABLE: u64 = 16;
const ATTEMPT_SHIFT: u32 = 8;
const MAX_ATTEMPT: u32 = (1 << 24) - 1;
const DATA_SHIFT: u32 = 32;

impl Chunk {
    /// Writes the description to a ticket.
    pub(super) fn store(&self, fields: &Ticket) {
        let store = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        fields.region.store(self.region, Ordering::Relaxed);
        fields.count.store(self.count, Ordering::Relaxed);
        fields.grain.store(self.grain, Ordering::Relaxed);
        store(&fields.offset, self.offset);
        store(&fields.arguments, self.arguments);
        store(&fields.room, self.room);
        store(&fields.first, self.first);
        for (word, value) in fields.name.iter().zip(self.name.to_words()) {
            store(word, value);
        }
        if let Some(seed) = self.seed {
            store(&fields.seed, seed);
        }
        if self.timeout > 0 {
            store(&fields.timeout, self.timeout);
        }
        if self.stoppable {
            store(&fields.stop, 0);
        }
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.needs_handles, NEEDS_HANDLES)
            | flag(self.measured, MEASURED)
            | flag(self.timeout > 0, TIMED)
            | flag(self.seed.is_some(), SEEDED)
            | flag(self.stoppable, STOPPABLE)
            | u64::from(self.attempt.min(MAX_ATTEMPT)) << ATTEMPT_SHIFT
            | u64::from(self.data) << DATA_SHIFT;
        store(&fields.flags, flags);
    }

    /// Reads the description from a ticket.
    pub(super) fn load(fields: &Ticket) -> Chunk {
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let [image, offset, types] = &fields.name;
        let flags = word(&fields.flags);
        let has = |flag| flags & flag != 0;
        Chunk {
            name: Name::from_words([word(image), word(offset), word(types)]),
            first: word(&fields.first),
            attempt: (flags >> ATTEMPT_SHIFT) as u32 & MAX_ATTEMPT,
            data: (flags >> DATA_SHIFT) as u32,
            seed: has(SEEDED).then(|| word(&fields.seed)),
            timeout: if has(TIMED) { word(&fields.timeout) } else { 0 },
            region: fields.region.load(Ordering::Relaxed),
            offset: word(&fields.offset),
            arguments: word(&fields.arguments),
            room: word(&fields.room),
            count: fields.count.load(Ordering::Relaxed),
            grain: fields.grain.load(Ordering::Relaxed),
            needs_handles: has(NEEDS_HANDLES),
            measured: has(MEASURED),
            stoppable: has(STOPPABLE),
        }
    }
}

/// How far the claimer of a chunk has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many tasks have begun.
    pub(crate) begun: u32,
    /// How many tasks have a complete result.
    pub(crate) done: u32,
    /// How many results were sent out of band.
    pub(crate) out_of_band: u32,
    /// The claimer's pid, written by the claimer: the parent may not know it yet.
    pub(crate) pid: u32,
    /// How many bytes of results are in the room.
    pub(crate) results: u64,
    /// How long the chunk took. Written when the chunk is finished.
    pub(crate) nanoseconds: u64,
    /// When the last task began, in nanoseconds of the system's monotonic clock; 0 if not known.
    pub(crate) began_at: u64,
}

/// A claimed ticket, on which its claimer counts its tasks.
pub(crate) struct Claim<'a>(pub(super) &'a Ticket);

impl Claim<'_> {
    /// Takes the next grain of tasks. From now on, the parent cannot take them back.
    pub(crate) fn take_grain(&self) -> Option<Range<u32>> {
        let grain = self.0.grain.load(Ordering::Relaxed);
        let word = &self.0.extent;
        let mut bits = word.load(Ordering::Relaxed);
        loop {
            let Extent { taken, limit } = Extent::unpack(bits);
            if taken >= limit {
                return None;
            }
            let next = taken.saturating_add(grain).min(limit);
            let after = Extent { taken: next, limit }.pack();
            match word.compare_exchange_weak(bits, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(taken..next),
                Err(now) => bits = now,
            }
        }
    }

    /// Notes that a task begins, and when, if a time is given.
    #[inline]
    pub(crate) fn begin(&self, task: u32, now: Option<u64>) {
        if let Some(now) = now {
            self.0.began_at.store(now, Ordering::Relaxed);
        }
        self.0.begun.store(task + 1, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }

    /// Notes that a task has its result. All results in the room now have `results` bytes.
    #[inline]
    pub(crate) fn end(&self, task: u32, results: u64) {
        self.0.results.store(results, Ordering::Relaxed);
        self.0.done.store(task + 1, Ordering::Release);
    }

    /// Counts one more result that was sent out of band.
    pub(crate) fn count_out_of_band(&self) {
        // Only the claimer writes this counter, before it counts the task as done.
        let before = self.0.out_of_band.load(Ordering::Relaxed);
        self.0.out_of_band.store(before + 1, Ordering::Relaxed);
    }
}
