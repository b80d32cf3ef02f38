//! The items of a queue in shared memory: a chain of chunks with records.
//!
//! Producers append a record and then add one to `tail`; consumers copy a record and then add one
//! to `head`. Each of these two additions is one step, and the only thing that counts: a process
//! that is killed before it has put nothing, or taken nothing. All other words can be found out
//! anew from the records, and are when a process has died while it had the lock.
//!
//! Producers and consumers have a lock each. So a producer and a consumer work at the same time,
//! after the two-lock queue of Michael and Scott (PODC 1996).

use std::io;
use std::sync::atomic::Ordering;

use crate::memory::atomics::{AtomicU32, AtomicU64};
use crate::memory::{SparseMemory, shared_struct};
use crate::sync::raw_lock::RawLock;

shared_struct! {
    /// The words that producers change.
    #[derive(Debug)]
    pub(super) struct Tail {
        pub(super) lock: RawLock,
        /// Number of items that were put. (Numbers of items have 64 bits: they never wrap around.)
        pub(super) count: AtomicU64,
        /// Offset of the next record in the chunk.
        at: AtomicU64,
        /// Chunk of the next record.
        chunk: AtomicU32,
        reserved: AtomicU32,
        /// Offset in the memory after all chunks.
        cut: AtomicU64,
        /// Number of chunks that were cut.
        chunks: AtomicU32,
        /// 1 after the queue was closed.
        pub(super) closed: AtomicU32,
    }
}

shared_struct! {
    /// The words that consumers change.
    #[derive(Debug)]
    pub(super) struct Head {
        pub(super) lock: RawLock,
        /// Number of items that were taken.
        pub(super) count: AtomicU64,
        /// Offset of the next record in the chunk.
        at: AtomicU64,
        /// Chunk of the next record.
        chunk: AtomicU32,
        /// Number of leases that are out or have come back.
        pub(super) leases: AtomicU32,
        /// Number of leases that have come back.
        pub(super) returned: AtomicU32,
    }
}

shared_struct! {
    /// A chunk: a piece of the memory in which records lie one after another.
    #[derive(Debug)]
    struct Chunk {
        offset: AtomicU64,
        len: AtomicU64,
        /// Offset after the last record, plus 1; 0 as long as records are added.
        end: AtomicU64,
        /// Number of the first record.
        first: AtomicU64,
        /// Number after that of the last record, when the chunk has an end.
        after: AtomicU64,
        /// Index of the next chunk, when this one has an end.
        next: AtomicU32,
        /// 1 while the chunk is part of the chain, or has a leased record.
        used: AtomicU32,
    }
}

shared_struct! {
    /// A lease: an item that a process has taken and may give back.
    #[derive(Debug)]
    pub(super) struct LeaseWords {
        /// The process that has the item; [`RETURNED`] if the item waits for another one; 0 if the
        /// lease is free.
        pub(super) owner: AtomicU32,
        chunk: AtomicU32,
        /// Number of the item.
        number: AtomicU64,
        at: AtomicU64,
    }
}

/// Owner of a lease whose item waits for another process. It is no number of a process.
pub(super) const RETURNED: u32 = 1 << 31;

/// The most chunks of a queue. They become larger as there are more of them.
const MAX_CHUNKS: usize = 768;

/// The most items that can be leased at a time.
pub(super) const MAX_LEASES: usize = 512;

/// Size of the first chunk, in bytes.
const MIN_CHUNK: u64 = 64 << 10;

/// Chunks of so many bytes give their memory back when they are empty.
const LARGE_CHUNK: u64 = 256 << 10;

const HEAD: u64 = 128;
const CHUNKS: u64 = 512;
const LEASES: u64 = CHUNKS + (MAX_CHUNKS * size_of::<Chunk>()) as u64;
const CHUNK_MEMORY: u64 = crate::memory::FIRST_EXTENT;
#[cfg(not(all(test, loom)))] // loom's atomics are larger than words
const _: () = assert!(LEASES + (MAX_LEASES * size_of::<LeaseWords>()) as u64 <= CHUNK_MEMORY);

/// Bytes before each record: its length.
const HEADER: u64 = 8;

/// The memory of a queue. The methods say which lock the caller must have.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) memory: SparseMemory,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: u32,
    at: u64,
}

fn record_len(bytes: usize) -> u64 {
    HEADER + (bytes as u64).next_multiple_of(8)
}

impl Items {
    /// Makes the memory of an empty queue.
    pub(super) fn new() -> io::Result<Items> {
        let items = Items { memory: SparseMemory::new()? };
        items.tail().cut.store(CHUNK_MEMORY, Ordering::Relaxed);
        let first = items.chunk_for(0)?;
        items.chunk(first).used.store(1, Ordering::Relaxed);
        Ok(items)
    }

    /// Maps the memory of a queue that has arrived.
    pub(super) fn of(memory: SparseMemory) -> Items {
        Items { memory }
    }

    fn words<T: crate::memory::AllAtomic>(&self, offset: u64, count: usize) -> &[T] {
        self.memory.atomics(offset, count).expect("the first extent is mapped and has the words")
    }

    #[inline]
    pub(super) fn tail(&self) -> &Tail {
        &self.words(0, 1)[0]
    }

    #[inline]
    pub(super) fn head(&self) -> &Head {
        &self.words(HEAD, 1)[0]
    }

    /// Returns the words at `offset` from 256 to 511, which belong to the caller.
    pub(super) fn other<T: crate::memory::AllAtomic>(&self, offset: u64) -> &T {
        &self.words(offset, 1)[0]
    }

    fn chunk(&self, index: u32) -> &Chunk {
        &self.words(CHUNKS, MAX_CHUNKS)[index as usize % MAX_CHUNKS]
    }

    pub(super) fn leases(&self) -> &[LeaseWords] {
        self.words(LEASES, MAX_LEASES)
    }

    /// Returns how many items were put and not taken.
    pub(super) fn len(&self) -> u64 {
        // SeqCst: see `Sleepers`. The head never overtakes the tail, which is read later.
        let head = self.head().count.load(Ordering::SeqCst);
        self.tail().count.load(Ordering::SeqCst) - head
    }

    /// Appends an item. The caller has the tail's lock.
    ///
    /// # Errors
    ///
    /// There is no room or address space for another chunk.
    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let tail = self.tail();
        let (count, need) = (tail.count.load(Ordering::Relaxed), record_len(bytes.len()));
        let index = tail.chunk.load(Ordering::Relaxed);
        let at = tail.at.load(Ordering::Relaxed);
        let chunk = self.chunk(index);
        if at + need <= chunk.len.load(Ordering::Relaxed) {
            self.write(chunk, at, bytes)?;
            tail.at.store(at + need, Ordering::Relaxed);
        } else {
            let next_index = self.chunk_for(need)?;
            let next = self.chunk(next_index);
            next.first.store(count, Ordering::Relaxed);
            next.end.store(0, Ordering::Relaxed);
            // Release: whoever repairs the head looks at used chunks with an end, see `is_passed`.
            next.used.store(1, Ordering::Release);
            if let Err(error) = self.write(next, 0, bytes) {
                self.release(next); // the chunk may lie in an extent that this process cannot map
                return Err(error);
            }
            // Consumers look at these only after the count has said that there is another item.
            chunk.next.store(next_index, Ordering::Relaxed);
            chunk.after.store(count, Ordering::Relaxed);
            chunk.end.store(at + 1, Ordering::Release);
            tail.at.store(need, Ordering::Relaxed);
            tail.chunk.store(next_index, Ordering::Release);
        }
        // Now the item is put. SeqCst: see `Sleepers`.
        tail.count.store(count + 1, Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, chunk: &Chunk, at: u64, bytes: &[u8]) -> io::Result<()> {
        let len = (bytes.len() as u64).to_ne_bytes();
        let offset = chunk.offset.load(Ordering::Relaxed) + at;
        match self.memory.write_all(offset, [&len, bytes]) {
            true => Ok(()),
            false => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Returns a chunk that is not used and has room for `need` bytes. The caller has the tail's
    /// lock.
    fn chunk_for(&self, need: u64) -> io::Result<u32> {
        let tail = self.tail();
        let cut = tail.cut.load(Ordering::Relaxed);
        let chunks = tail.chunks.load(Ordering::Relaxed);
        // So the number of chunks grows with the logarithm of the size of the queue.
        let wanted = need.max(MIN_CHUNK).max((cut - CHUNK_MEMORY) / 8).next_power_of_two();
        let is_free = |index: &u32| {
            let chunk = self.chunk(*index);
            chunk.used.load(Ordering::Acquire) == 0 && chunk.len.load(Ordering::Relaxed) >= need
        };
        // The smallest that is large enough.
        let free = (0..chunks).filter(is_free);
        if let Some(index) = free.min_by_key(|index| self.chunk(*index).len.load(Ordering::Relaxed))
        {
            return Ok(index);
        }
        let full =
            || io::Error::other("the queue has as many items as it can hold: take some first");
        if chunks as usize == MAX_CHUNKS {
            return Err(full());
        }
        // A chunk at a multiple of its size, a power of two, lies in one extent.
        let size =
            if cut + 2 * wanted <= self.memory.len() { wanted } else { need.next_power_of_two() };
        let offset = cut.next_multiple_of(size);
        if offset + size > self.memory.len() {
            return Err(full());
        }
        crate::sys::memory::check_memory(usize::try_from(need).unwrap_or(usize::MAX))?;
        self.memory.prepare(offset)?;
        let chunk = self.chunk(chunks);
        chunk.offset.store(offset, Ordering::Relaxed);
        chunk.len.store(size, Ordering::Relaxed);
        tail.cut.store(offset + size, Ordering::Relaxed);
        tail.chunks.store(chunks + 1, Ordering::Release);
        Ok(chunks)
    }

    /// Copies the first item to `out`, and takes it: now, or with `lease` as its owner. Returns
    /// false if there is none. The caller has the head's lock.
    ///
    /// # Errors
    ///
    /// There is no memory or address space for the copy; the item stays.
    pub(super) fn take(&self, out: &mut Vec<u8>, lease: Option<(usize, u32)>) -> io::Result<bool> {
        let (head, tail) = (self.head(), self.tail());
        let count = head.count.load(Ordering::Relaxed);
        if count == tail.count.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let mut place = Place {
            chunk: head.chunk.load(Ordering::Relaxed),
            at: head.at.load(Ordering::Relaxed),
        };
        // There may be an empty chunk in between: a process died after it had begun the chunk, and
        // the next item needed a larger one.
        while self.chunk(place.chunk).end.load(Ordering::Relaxed) == place.at + 1 {
            let left = place.chunk;
            place = Place { chunk: self.chunk(left).next.load(Ordering::Relaxed), at: 0 };
            head.at.store(0, Ordering::Relaxed);
            head.chunk.store(place.chunk, Ordering::Relaxed);
            self.free(left);
        }
        let len = self.read(place, out)?;
        if let Some((index, owner)) = lease {
            let lease = &self.leases()[index];
            lease.number.store(count, Ordering::Relaxed);
            lease.chunk.store(place.chunk, Ordering::Relaxed);
            lease.at.store(place.at, Ordering::Relaxed);
            // Release: a lease with an owner has an item, also when this process dies now.
            lease.owner.store(owner, Ordering::Release);
            let leases = head.leases.load(Ordering::Relaxed);
            head.leases.store(leases + 1, Ordering::Relaxed);
        }
        head.at.store(place.at + record_len(len), Ordering::Relaxed);
        // Now the item is taken. SeqCst: see `Sleepers`.
        head.count.store(count + 1, Ordering::SeqCst);
        if lease.is_none() {
            self.give_back(place, len);
        }
        Ok(true)
    }

    /// Gives the memory of a large item back to the system, once nobody can take it any more. Its
    /// length stays, by which `find` passes it.
    fn give_back(&self, place: Place, len: usize) {
        /// No page is larger.
        const PAGE: u64 = 64 << 10;
        if len as u64 >= LARGE_CHUNK {
            let start = self.chunk(place.chunk).offset.load(Ordering::Relaxed) + place.at + HEADER;
            let (first, end) = (start.next_multiple_of(PAGE), (start + len as u64) / PAGE * PAGE);
            self.memory.give_back(first, (end - first) as usize);
        }
    }

    fn read(&self, place: Place, out: &mut Vec<u8>) -> io::Result<usize> {
        let len = self.len_at(place)?;
        let offset = self.chunk(place.chunk).offset.load(Ordering::Relaxed) + place.at + HEADER;
        match self.memory.read(offset, len, out) {
            true => Ok(len),
            false => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Returns the length of a record.
    fn len_at(&self, place: Place) -> io::Result<usize> {
        let chunk = self.chunk(place.chunk);
        let offset = chunk.offset.load(Ordering::Relaxed) + place.at;
        self.memory.prepare(offset)?;
        let len = match self.memory.atomics::<AtomicU64>(offset, 1) {
            Some([len]) => len.load(Ordering::Relaxed),
            _ => u64::MAX,
        };
        let rest = chunk.len.load(Ordering::Relaxed).saturating_sub(place.at + HEADER);
        match len <= rest {
            true => Ok(len as usize),
            false => Err(io::Error::other("the queue's memory was overwritten")),
        }
    }

    /// Returns the number of a leased item.
    pub(super) fn number(&self, index: usize) -> u64 {
        self.leases()[index].number.load(Ordering::Relaxed)
    }

    /// Reads the item of a lease again. The caller has the head's lock.
    pub(super) fn read_leased(&self, index: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let lease = &self.leases()[index];
        let place = Place {
            chunk: lease.chunk.load(Ordering::Relaxed),
            at: lease.at.load(Ordering::Relaxed),
        };
        self.read(place, out).map(drop)
    }

    /// Frees a lease, and its chunk if nothing else needs it. The caller has the head's lock.
    pub(super) fn end_lease(&self, index: usize) {
        let lease = &self.leases()[index];
        let chunk = lease.chunk.load(Ordering::Relaxed);
        lease.owner.store(0, Ordering::Release);
        let place = Place { chunk, at: lease.at.load(Ordering::Relaxed) };
        if let Ok(len) = self.len_at(place) {
            self.give_back(place, len);
        }
        let leases = self.head().leases.load(Ordering::Relaxed);
        self.head().leases.store(leases.saturating_sub(1), Ordering::Relaxed);
        if chunk != self.head().chunk.load(Ordering::Relaxed) && self.is_passed(chunk) {
            self.free(chunk);
        }
    }

    /// Whether consumers have taken all items of a chunk.
    fn is_passed(&self, chunk: u32) -> bool {
        let chunk = self.chunk(chunk);
        let head = self.head().count.load(Ordering::Relaxed);
        chunk.end.load(Ordering::Acquire) != 0 && head >= chunk.after.load(Ordering::Relaxed)
    }

    /// Lets producers use a chunk again, unless a lease needs it.
    fn free(&self, index: u32) {
        let has_it = |lease: &LeaseWords| {
            lease.owner.load(Ordering::Relaxed) != 0 && lease.chunk.load(Ordering::Relaxed) == index
        };
        let may_be_leased = self.head().leases.load(Ordering::Relaxed) > 0;
        if may_be_leased && self.leases().iter().any(has_it) {
            return;
        }
        self.release(self.chunk(index));
    }

    /// Lets producers use a chunk again.
    fn release(&self, chunk: &Chunk) {
        let len = chunk.len.load(Ordering::Relaxed);
        if len >= LARGE_CHUNK {
            self.memory.give_back(chunk.offset.load(Ordering::Relaxed), len as usize);
        }
        chunk.used.store(0, Ordering::Release);
    }

    /// Finds out the tail's words anew, because a process died while it had the tail's lock. The
    /// caller has the lock now.
    ///
    /// # Errors
    ///
    /// This process has no address space for the chunk. Another process must repair the tail.
    pub(super) fn repair_tail(&self) -> io::Result<()> {
        let tail = self.tail();
        let count = tail.count.load(Ordering::Relaxed);
        let index = tail.chunk.load(Ordering::Relaxed);
        let place = self.find(index, count)?;
        // What comes after the last item that was put does not count.
        self.chunk(index).end.store(0, Ordering::Relaxed);
        tail.at.store(place.at, Ordering::Relaxed);
        let chunks = tail.chunks.load(Ordering::Relaxed);
        let end_of = |index: u32| {
            let chunk = self.chunk(index);
            chunk.offset.load(Ordering::Relaxed) + chunk.len.load(Ordering::Relaxed)
        };
        let cut = (0..chunks).map(end_of).max().unwrap_or(CHUNK_MEMORY);
        tail.cut.store(cut, Ordering::Relaxed);
        let next = (0..chunks).find(|other| {
            // The process may have begun a chunk that is not part of the chain.
            *other != index
                && self.chunk(*other).used.load(Ordering::Relaxed) == 1
                && self.chunk(*other).first.load(Ordering::Relaxed) == count
                && self.chunk(*other).end.load(Ordering::Relaxed) == 0
        });
        if let Some(next) = next {
            self.release(self.chunk(next));
        }
        Ok(())
    }

    /// Finds out the head's words anew, because a process died while it had the head's lock. The
    /// caller has the lock now.
    ///
    /// # Errors
    ///
    /// As for [`repair_tail`](Items::repair_tail).
    pub(super) fn repair_head(&self) -> io::Result<()> {
        let head = self.head();
        let count = head.count.load(Ordering::Relaxed);
        let index = head.chunk.load(Ordering::Relaxed);
        head.at.store(self.find(index, count)?.at, Ordering::Relaxed);
        let (mut leases, mut returned) = (0, 0);
        for lease in self.leases() {
            if lease.owner.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // The process may have noted a lease of an item that it has not taken.
            match lease.number.load(Ordering::Relaxed) >= count {
                true => lease.owner.store(0, Ordering::Relaxed),
                false => leases += 1,
            }
            returned += u32::from(lease.owner.load(Ordering::Relaxed) == RETURNED);
        }
        head.returned.store(returned, Ordering::Relaxed);
        head.leases.store(leases, Ordering::Relaxed);
        // The process may have passed a chunk and not freed it.
        for other in 0..MAX_CHUNKS as u32 {
            let is_used = self.chunk(other).used.load(Ordering::Acquire) == 1;
            if is_used && other != index && self.is_passed(other) {
                self.free(other);
            }
        }
        Ok(())
    }

    /// Walks from the begin of a chunk to record `number`.
    fn find(&self, index: u32, number: u64) -> io::Result<Place> {
        let chunk = self.chunk(index);
        let mut place = Place { chunk: index, at: 0 };
        let mut at_number = chunk.first.load(Ordering::Relaxed);
        while at_number != number {
            place.at += record_len(self.len_at(place)?);
            at_number += 1;
        }
        Ok(place)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// An empty queue that `count` items have gone through.
    fn items_after(count: u64) -> Items {
        let items = Items::new().expect("there is memory");
        items.tail().count.store(count, Ordering::Relaxed);
        items.head().count.store(count, Ordering::Relaxed);
        items.chunk(0).first.store(count, Ordering::Relaxed);
        items
    }

    fn take(items: &Items, lease: Option<(usize, u32)>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        items.take(&mut out, lease).expect("there is memory").then_some(out)
    }

    #[test]
    fn more_than_four_billion_items_go_through_a_queue() {
        const BEFORE: u64 = (1 << 32) - 50_000;
        let items = items_after(BEFORE);
        items.append(b"leased").expect("there is memory");
        assert_eq!(take(&items, Some((3, 77))).as_deref(), Some(&b"leased"[..]));
        for number in 0..100_000_u32 {
            items.append(&number.to_ne_bytes()).expect("there is memory");
            if number >= 10 {
                assert_eq!(take(&items, None).as_deref(), Some(&(number - 10).to_ne_bytes()[..]));
            }
        }
        assert_eq!(items.len(), 10);
        // A lease that is older than half of the numbers is a lease still.
        items.head().count.fetch_add(1 << 31, Ordering::Relaxed);
        items.tail().count.fetch_add(1 << 31, Ordering::Relaxed);
        let chunk = items.head().chunk.load(Ordering::Relaxed);
        items.chunk(chunk).first.fetch_add(1 << 31, Ordering::Relaxed);
        items.repair_head().expect("the memory is mapped");
        items.repair_tail().expect("the memory is mapped");
        assert_eq!(items.head().leases.load(Ordering::Relaxed), 1);
        for number in 99_990..100_000_u32 {
            assert_eq!(take(&items, None).as_deref(), Some(&number.to_ne_bytes()[..]));
        }
        let mut out = Vec::new();
        items.read_leased(3, &mut out).expect("there is memory");
        assert_eq!(out, b"leased");
        items.end_lease(3);
        assert_eq!(used_chunks(&items), 1, "the chunk of the lease is free");
    }

    fn used_chunks(items: &Items) -> usize {
        let is_used = |index: &u32| items.chunk(*index).used.load(Ordering::Relaxed) == 1;
        (0..MAX_CHUNKS as u32).filter(is_used).count()
    }

    /// A process dies after it has begun a chunk, and the next item needs a larger one.
    #[test]
    fn chunks_that_nobody_has_written_to_are_used_again() {
        let items = items_after(0);
        for _ in 0..3 * MAX_CHUNKS {
            items.append(&[1; 1000]).expect("there are free chunks");
            // The death, just before the item would have been put.
            let count = items.tail().count.load(Ordering::Relaxed);
            items.append(&[2; 70_000]).expect("there are free chunks");
            items.tail().count.store(count, Ordering::Relaxed);
            items.repair_tail().expect("the memory is mapped");
            items.append(&[3; 200_000]).expect("there are free chunks");
            assert_eq!(take(&items, None), Some(vec![1; 1000]));
            assert_eq!(take(&items, None), Some(vec![3; 200_000]));
            assert_eq!(take(&items, None), None);
        }
        assert_eq!(used_chunks(&items), 1);
    }

    /// A process dies after it has cut a chunk, and before it has counted the chunk.
    #[test]
    fn memory_of_a_chunk_that_was_not_counted_is_cut_again() {
        let items = items_after(0);
        let cut = items.tail().cut.load(Ordering::Relaxed);
        items.tail().cut.store(1 << 30, Ordering::Relaxed);
        items.repair_tail().expect("the memory is mapped");
        assert_eq!(items.tail().cut.load(Ordering::Relaxed), cut);
    }
}
