//! Chunks: the pieces of a queue's memory in which records lie one after another. They form a chain,
//! and are used again when their items are taken. They are cut from the memory one after another;
//! `Tail::cut` is where the uncut memory begins.

use std::io;
use std::sync::atomic::Ordering;

use super::items::{CHUNK_MEMORY, Items, MAX_CHUNKS};
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
        state: AtomicU32,
    }
}

/// Nobody uses the chunk.
const FREE: u32 = 0;
/// The chunk is part of the chain, or has a leased record.
const USED: u32 = 1;
/// Nobody uses the chunk, but it has its memory still.
const WARM: u32 = 2;

/// Size of the first chunk, in bytes. In a model, a few items fill it.
const MIN_CHUNK: u64 = if cfg!(all(test, loom)) { 64 } else { 64 << 10 };

/// Items of so many bytes may give their memory back before the whole chunk is empty.
const LARGE_ITEM: u64 = 256 << 10;

/// The most bytes of empty chunks that keep their memory: to give it back and to get it again
/// costs several times as much as to copy the items.
const KEPT: u64 = 4 << 20;

impl Chunk {
    /// Begins the chunk, whose first record will have this number.
    pub(super) fn begin(&self, first: u64) {
        self.first.store(first, Ordering::Relaxed);
        self.end.store(0, Ordering::Relaxed);
        // Release: whoever repairs the head looks at used chunks with an end, see `is_before`.
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

impl Items {
    fn all_chunks(&self) -> impl Iterator<Item = (u32, &Chunk)> {
        let chunks = self.tail().chunks.load(Ordering::Acquire).min(MAX_CHUNKS as u32);
        (0..chunks).map(|index| (index, self.chunk(index)))
    }

    /// Returns a chunk that is not used and has room for `need` bytes. The caller has the tail's
    /// lock.
    pub(super) fn chunk_for(&self, need: u64) -> io::Result<u32> {
        let tail = self.tail();
        let cut = tail.cut.load(Ordering::Relaxed);
        // So the number of chunks grows with the logarithm of the size of the queue.
        let wanted = need.max(MIN_CHUNK).max((cut - CHUNK_MEMORY) / 32).next_power_of_two();
        // The smallest that is large enough; of two, the one that has memory.
        let free = self
            .all_chunks()
            .filter(|(_, chunk)| !chunk.is_used() && chunk.len.load(Ordering::Relaxed) >= need);
        let smallest = free.min_by_key(|(_, chunk)| {
            let is_cold = chunk.state.load(Ordering::Relaxed) == FREE;
            (chunk.len.load(Ordering::Relaxed), is_cold)
        });
        if let Some((index, _)) = smallest {
            return Ok(index);
        }
        let full =
            || io::Error::other("the queue has as many items as it can hold: take some first");
        let chunks = tail.chunks.load(Ordering::Relaxed);
        if chunks as usize == MAX_CHUNKS {
            return Err(full());
        }
        // A chunk at a multiple of its size, a power of two, lies in one extent.
        let smallest = need.max(MIN_CHUNK).next_power_of_two();
        let size = if cut + 2 * wanted <= self.memory.len() { wanted } else { smallest };
        let offset = cut.next_multiple_of(size);
        if offset + size > self.memory.len() {
            return Err(full());
        }
        self.memory.locate(offset)?;
        let chunk = self.chunk(chunks);
        chunk.offset.store(offset, Ordering::Relaxed);
        chunk.len.store(size, Ordering::Relaxed);
        tail.cut.store(offset + size, Ordering::Relaxed);
        tail.chunks.store(chunks + 1, Ordering::Release);
        Ok(chunks)
    }

    /// Finds out where the chunks end. The caller has the tail's lock.
    pub(super) fn repair_cut(&self) {
        let end = |(_, chunk): (u32, &Chunk)| {
            chunk.offset.load(Ordering::Relaxed) + chunk.len.load(Ordering::Relaxed)
        };
        let cut = self.all_chunks().map(end).max().unwrap_or(CHUNK_MEMORY);
        self.tail().cut.store(cut, Ordering::Relaxed);
    }

    /// Lets producers use a chunk again. Its memory goes back to the system if other empty chunks
    /// have kept enough.
    pub(super) fn release(&self, index: u32) {
        let chunk = self.chunk(index);
        let len = chunk.len.load(Ordering::Relaxed);
        let warm = self.all_chunks().map(|(_, chunk)| chunk);
        let warm = warm.filter(|chunk| chunk.state.load(Ordering::Relaxed) == WARM);
        let kept: u64 = warm.map(|chunk| chunk.len.load(Ordering::Relaxed)).sum();
        let state = if kept + len <= KEPT { WARM } else { FREE };
        if state == FREE {
            self.memory.give_back(chunk.offset.load(Ordering::Relaxed), len);
        }
        chunk.state.store(state, Ordering::Release);
    }
}
