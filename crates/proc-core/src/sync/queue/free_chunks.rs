//! Finds a chunk for the next items, and takes chunks back whose items are taken.

use std::io;
use std::sync::atomic::Ordering;

use super::chunks::{Chunk, FREE, KEPT, MIN_CHUNK, WARM};
use super::items::{CHUNK_MEMORY, Items, MAX_CHUNKS};

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
        // A new chunk has at least about a thirty-second of the memory that was cut before. So the
        // number of chunks grows with the logarithm of the size of the queue.
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
        let needed = need.max(MIN_CHUNK).next_power_of_two();
        let size = if cut + 2 * wanted <= self.memory.len() { wanted } else { needed };
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
