//! Chunks: the pieces of a queue's memory in which records lie one after another. They form a
//! chain, and are used again when their items are taken. They are cut from the memory one after
//! another; `Tail::cut` is where the uncut memory begins.

use std::sync::atomic::Ordering;

use crate::memory::atomics::{AtomicU32, AtomicU64};
use crate::memory::shared_struct;

shared_struct! {
    #[derive(Debug)]
    pub(super) struct Chunk {
        pub(super) offset: AtomicU64,
        pub(super) len: AtomicU64,
        /// Offset after the last record, plus 1; 0 as long as records are added.
        end: AtomicU64,
        /// Number of the first record.
        pub(super) first: AtomicU64,
        /// Number after that of the last record, when the chunk has an end.
        after: AtomicU64,
        /// Index of the next chunk, when this one has an end.
        pub(super) next: AtomicU32,
        /// [`FREE`], [`USED`] or [`WARM`].
        pub(super) state: AtomicU32,
    }
}

/// Nobody uses the chunk.
pub(super) const FREE: u32 = 0;
/// The chunk is part of the chain, or has a leased record.
const USED: u32 = 1;
/// Nobody uses the chunk, but it has its memory still.
pub(super) const WARM: u32 = 2;

/// Size of the first chunk, in bytes. In a model, a few items fill it.
pub(super) const MIN_CHUNK: u64 = if cfg!(all(test, loom)) { 64 } else { 64 << 10 };

/// Items of so many bytes may give their memory back before the whole chunk is empty.
const LARGE_ITEM: u64 = 256 << 10;

/// The most bytes of empty chunks that keep their memory: to give it back and to get it again
/// costs several times as much as to copy the items.
pub(super) const KEPT: u64 = 4 << 20;

impl Chunk {
    /// Begins the chunk, whose first record will have this number.
    pub(super) fn begin(&self, first: u64) {
        self.first.store(first, Ordering::Relaxed);
        self.end.store(0, Ordering::Relaxed);
        // Release: whoever repairs the head reads this without the tail's lock. If it sees that the
        // chunk is used, it must not see the end that the chunk had before, see `is_before`.
        self.state.store(USED, Ordering::Release);
    }

    /// Ends the chunk at offset `at`, with the record before number `after`.
    pub(super) fn finish(&self, at: u64, after: u64, next: u32) {
        self.next.store(next, Ordering::Relaxed);
        self.after.store(after, Ordering::Relaxed);
        self.end.store(at + 1, Ordering::Release);
    }

    /// Takes the end back.
    pub(super) fn go_on(&self) {
        self.end.store(0, Ordering::Relaxed);
    }

    /// Whether the chunk ends at offset `at`: the next record is in the next chunk.
    #[inline]
    pub(super) fn ends_at(&self, at: u64) -> bool {
        self.end.load(Ordering::Relaxed) == at + 1
    }

    /// Whether all records have smaller numbers than `number`.
    pub(super) fn is_before(&self, number: u64) -> bool {
        self.end.load(Ordering::Acquire) != 0 && number >= self.after.load(Ordering::Relaxed)
    }

    pub(super) fn is_used(&self) -> bool {
        self.state.load(Ordering::Acquire) == USED
    }

    /// Whether the chunk was begun for record `number`, and not finished.
    pub(super) fn is_begun_at(&self, number: u64) -> bool {
        self.is_used()
            && self.first.load(Ordering::Relaxed) == number
            && self.end.load(Ordering::Relaxed) == 0
    }

    /// Whether the memory of a taken item of `len` bytes is to be given back before the whole chunk
    /// is empty.
    #[inline]
    pub(super) fn may_give_back(&self, len: usize) -> bool {
        len as u64 >= LARGE_ITEM && self.len.load(Ordering::Relaxed) > KEPT
    }
}
