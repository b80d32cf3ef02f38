//! The items of a queue in shared memory: a chain of chunks with records.
//!
//! Producers append records and then raise `tail.count`; consumers copy records and then raise
//! `head.count`. Each of these two stores is one step, and the only thing that counts: a process
//! that was killed before its store has put nothing, or taken nothing. It may leave some other
//! words wrong: the places in the chunks, the counts of leases, `cut`, the end of a chunk, the
//! state of a chunk that it has begun or passed, and the owner of a lease whose item it has not
//! taken. Whoever gets the lock next mends these by the records and the counts. The other words
//! (`chunk`, `chunks`, `closed`, the owners of all other leases) are right at any moment.
//!
//! Producers and consumers have a lock each. So a producer and a consumer work at the same time,
//! after the two-lock queue of Michael and Scott (PODC 1996). Each side keeps a copy of the other
//! side's count, and reads the count itself only when the copy says that there is no item or no
//! room. Otherwise, the two processors would send each other these words with each item.

use std::io;
use std::sync::atomic::Ordering;

use super::chunks::Chunk;
use crate::memory::atomics::{AtomicU32, AtomicU64};
use crate::memory::{Region, SparseMemory, shared_struct};
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
        /// Number of chunks that were cut.
        pub(super) chunks: AtomicU32,
        /// Offset in the memory after all chunks.
        pub(super) cut: AtomicU64,
        /// Number of items that were taken when a producer looked last.
        taken: AtomicU64,
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
        /// Number of items that were put when a consumer looked last.
        put: AtomicU64,
        /// Chunk of the next record.
        chunk: AtomicU32,
        /// Number of leases that are out or have come back.
        pub(super) leases: AtomicU32,
        /// Number of leases that have come back.
        pub(super) returned: AtomicU32,
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
pub(super) const MAX_CHUNKS: usize = if cfg!(all(test, loom)) { 3 } else { 768 };

/// The most items that can be leased at a time.
pub(super) const MAX_LEASES: usize = if cfg!(all(test, loom)) { 2 } else { 512 };

const HEAD: u64 = 128;
const CHUNKS: u64 = 512;
const LEASES: u64 = CHUNKS + (MAX_CHUNKS * size_of::<Chunk>()) as u64;
/// Offset of the first chunk.
pub(super) const CHUNK_MEMORY: u64 = crate::memory::FIRST_EXTENT;
const _: () = assert!(LEASES + (MAX_LEASES * size_of::<LeaseWords>()) as u64 <= CHUNK_MEMORY);

/// Bytes at the begin of each record: the length of the item.
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

/// The bytes of an item, while the caller has the head's lock.
pub(super) struct Record<'a> {
    pub(super) region: &'a Region,
    /// Where the bytes begin in the region.
    pub(super) at: usize,
    pub(super) len: usize,
}

/// Copies an item out of the queue. After an error, the item stays there.
pub(super) type CopyOut<'a> = dyn FnMut(Record<'_>) -> io::Result<()> + 'a;

fn record_len(bytes: usize) -> u64 {
    HEADER + (bytes as u64).next_multiple_of(8)
}

/// Writes a record.
fn write(region: &Region, at: usize, bytes: &[u8]) -> io::Result<()> {
    crate::sys::memory::check_memory(bytes.len())?;
    let is_written = region.write(at + HEADER as usize, bytes);
    match region.atomics::<AtomicU64>(at, 1) {
        Some([len]) if is_written => len.store(bytes.len() as u64, Ordering::Relaxed),
        _ => return Err(io::ErrorKind::OutOfMemory.into()),
    }
    Ok(())
}

impl Items {
    /// Makes the memory of an empty queue.
    pub(super) fn new() -> io::Result<Items> {
        let items = Items { memory: SparseMemory::new()? };
        items.tail().cut.store(CHUNK_MEMORY, Ordering::Relaxed);
        let first = items.chunk_for(0)?;
        items.chunk(first).begin(0);
        Ok(items)
    }

    /// Maps the memory of a queue that has arrived.
    pub(super) fn of(memory: SparseMemory) -> Items {
        Items { memory }
    }

    #[inline]
    pub(super) fn tail(&self) -> &Tail {
        &self.memory.atomics(0, 1)[0]
    }

    #[inline]
    pub(super) fn head(&self) -> &Head {
        &self.memory.atomics(HEAD, 1)[0]
    }

    /// Returns the words at `offset`, which is from 256 to 511. `Items` does not use these bytes:
    /// `SharedQueue` has its own words there.
    pub(super) fn other<T: crate::memory::AllAtomic>(&self, offset: u64) -> &T {
        &self.memory.atomics(offset, 1)[0]
    }

    pub(super) fn chunk(&self, index: u32) -> &Chunk {
        let at = index as usize % MAX_CHUNKS * size_of::<Chunk>();
        &self.memory.atomics(CHUNKS + at as u64, 1)[0]
    }

    pub(super) fn leases(&self) -> &[LeaseWords] {
        self.memory.atomics(LEASES, MAX_LEASES)
    }

    /// Whether there may be an item to take. Leased items count: one may have come back, or its
    /// process may have died.
    ///
    /// Whoever sees that there is no other item also sees all leases: `leases` is changed before
    /// `head.count`.
    pub(super) fn may_have_one(&self) -> bool {
        let head = self.head();
        let count = head.count.load(Ordering::SeqCst); // see `Sleepers`
        head.put.load(Ordering::Relaxed) > count
            || self.tail().count.load(Ordering::SeqCst) > count
            || head.leases.load(Ordering::Relaxed) > 0
    }

    /// Returns how many items were put and not taken.
    pub(super) fn len(&self) -> u64 {
        // SeqCst: see `Sleepers`. The head never overtakes the tail, which is read later.
        let head = self.head().count.load(Ordering::SeqCst);
        self.tail().count.load(Ordering::SeqCst) - head
    }

    /// Returns how many of `wanted` items there is room for in a queue of `bound` items. The caller
    /// has the tail's lock.
    pub(super) fn room(&self, bound: u64, wanted: usize) -> usize {
        let tail = self.tail();
        let count = tail.count.load(Ordering::Relaxed);
        let after = |taken| bound.saturating_sub(count - taken);
        let mut room = after(tail.taken.load(Ordering::Relaxed));
        if room < wanted as u64 {
            let taken = self.head().count.load(Ordering::SeqCst); // see `Sleepers`
            tail.taken.store(taken, Ordering::Relaxed);
            room = after(taken);
        }
        room.min(wanted as u64) as usize
    }

    /// Appends items, and returns how many. The caller has the tail's lock.
    ///
    /// # Errors
    ///
    /// There is no room or address space for the first one.
    pub(super) fn append(&self, items: &[&[u8]]) -> io::Result<usize> {
        let mut appended = 0;
        while let Some(first) = items.get(appended) {
            appended += match self.append_to_chunk(&items[appended..]) {
                Ok(0) => match self.append_to_next_chunk(first) {
                    Ok(()) => 1,
                    Err(_) if appended > 0 => break, // the next call has the error
                    Err(error) => return Err(error),
                },
                Ok(count) => count,
                Err(_) if appended > 0 => break,
                Err(error) => return Err(error),
            };
        }
        Ok(appended)
    }

    /// Appends as many items as the chunk has room for.
    fn append_to_chunk(&self, items: &[&[u8]]) -> io::Result<usize> {
        let tail = self.tail();
        let chunk = self.chunk(tail.chunk.load(Ordering::Relaxed));
        let (region, start) = self.memory.locate(chunk.offset.load(Ordering::Relaxed))?;
        let (mut at, len) = (tail.at.load(Ordering::Relaxed), chunk.len.load(Ordering::Relaxed));
        let mut appended = 0;
        for bytes in items {
            let end = at + record_len(bytes.len());
            if end > len {
                break;
            }
            match write(region, start + at as usize, bytes) {
                Ok(()) => at = end,
                Err(_) if appended > 0 => break, // the next call has the error
                Err(error) => return Err(error),
            }
            appended += 1;
        }
        if appended > 0 {
            tail.at.store(at, Ordering::Relaxed);
            let count = tail.count.load(Ordering::Relaxed);
            // Now the items are put. SeqCst: see `Sleepers`.
            tail.count.store(count + appended as u64, Ordering::SeqCst);
        }
        Ok(appended)
    }

    /// Appends an item to a new chunk.
    fn append_to_next_chunk(&self, bytes: &[u8]) -> io::Result<()> {
        let tail = self.tail();
        let count = tail.count.load(Ordering::Relaxed);
        let need = record_len(bytes.len());
        let next = self.chunk_for(need)?;
        self.chunk(next).begin(count);
        let offset = self.chunk(next).offset.load(Ordering::Relaxed);
        let written = self.memory.locate(offset).and_then(|(region, at)| write(region, at, bytes));
        if written.is_err() {
            self.release(next); // the chunk may lie in an extent that this process cannot map
            return written;
        }
        // Who takes an item looks at these only after the count has said that there is another one.
        let chunk = self.chunk(tail.chunk.load(Ordering::Relaxed));
        chunk.finish(tail.at.load(Ordering::Relaxed), count, next);
        tail.at.store(need, Ordering::Relaxed);
        tail.chunk.store(next, Ordering::Release);
        // Now the item is put. SeqCst: see `Sleepers`.
        tail.count.store(count + 1, Ordering::SeqCst);
        Ok(())
    }

    /// Returns how many of `most` items can be taken. The caller has the head's lock.
    fn available(&self, most: usize) -> usize {
        let head = self.head();
        let count = head.count.load(Ordering::Relaxed);
        let mut put = head.put.load(Ordering::Relaxed);
        if put <= count {
            put = self.tail().count.load(Ordering::SeqCst); // see `Sleepers`
            head.put.store(put, Ordering::Relaxed);
        }
        (put - count).min(most as u64) as usize
    }

    /// Takes up to `most` items, and returns how many. The caller has the head's lock.
    ///
    /// # Errors
    ///
    /// The first item cannot be copied, or there is no address space for it. It stays.
    pub(super) fn take(&self, most: usize, copy: &mut CopyOut<'_>) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            match self.take_from_chunk(most - taken, copy) {
                Ok(0) => return Ok(taken),
                Ok(count) => taken += count,
                Err(_) if taken > 0 => return Ok(taken), // the next call has the error
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes items from the chunk of the first one.
    fn take_from_chunk(&self, most: usize, copy: &mut CopyOut<'_>) -> io::Result<usize> {
        let available = self.available(most);
        if available == 0 {
            return Ok(0);
        }
        let (head, mut place) = (self.head(), self.first());
        let chunk = self.chunk(place.chunk);
        let (mut taken, mut last) = (0, (place, 0));
        let mut result = Ok(());
        while taken < available && !chunk.ends_at(place.at) {
            let copied = self.record(place).and_then(|record| {
                last = (place, record.len);
                copy(record)
            });
            if copied.is_err() {
                result = copied;
                break;
            }
            place.at += record_len(last.1);
            taken += 1;
        }
        if taken == 0 {
            return result.map(|()| 0);
        }
        let count = head.count.load(Ordering::Relaxed) + taken as u64;
        head.at.store(place.at, Ordering::Relaxed);
        // Now the items are taken. SeqCst: see `Sleepers`.
        head.count.store(count, Ordering::SeqCst);
        if result.is_ok() && chunk.may_give_back(last.1) && self.len() == 0 {
            self.give_back(last.0, last.1);
        }
        Ok(taken)
    }

    /// Leases the first item. Returns whether there is one. The caller has the head's lock.
    ///
    /// # Errors
    ///
    /// As for [`take`](Items::take).
    pub(super) fn take_leased(
        &self,
        index: usize,
        owner: u32,
        copy: &mut CopyOut<'_>,
    ) -> io::Result<bool> {
        if self.available(1) == 0 {
            return Ok(false);
        }
        let (head, place, lease) = (self.head(), self.first(), &self.leases()[index]);
        let record = self.record(place)?;
        let len = record.len;
        copy(record)?;
        let count = head.count.load(Ordering::Relaxed);
        lease.number.store(count, Ordering::Relaxed);
        lease.chunk.store(place.chunk, Ordering::Relaxed);
        lease.at.store(place.at, Ordering::Relaxed);
        // Release: a lease with an owner has an item, also when this process dies now.
        lease.owner.store(owner, Ordering::Release);
        let leases = head.leases.load(Ordering::Relaxed);
        head.leases.store(leases + 1, Ordering::Relaxed);
        head.at.store(place.at + record_len(len), Ordering::Relaxed);
        // Now the item is taken. SeqCst: see `Sleepers`.
        head.count.store(count + 1, Ordering::SeqCst);
        Ok(true)
    }

    /// Returns where the first item lies. There is one, and the caller has the head's lock.
    fn first(&self) -> Place {
        let head = self.head();
        let mut place = Place {
            chunk: head.chunk.load(Ordering::Relaxed),
            at: head.at.load(Ordering::Relaxed),
        };
        // There may be an empty chunk in between: a process died after it had begun the chunk, and
        // the next item needed a larger one.
        while self.chunk(place.chunk).ends_at(place.at) {
            let left = place.chunk;
            place = Place { chunk: self.chunk(left).next.load(Ordering::Relaxed), at: 0 };
            head.at.store(0, Ordering::Relaxed);
            head.chunk.store(place.chunk, Ordering::Relaxed);
            self.free(left);
        }
        place
    }

    /// Returns a record.
    fn record(&self, place: Place) -> io::Result<Record<'_>> {
        let chunk = self.chunk(place.chunk);
        let (region, start) = self.memory.locate(chunk.offset.load(Ordering::Relaxed))?;
        let at = start + place.at as usize;
        let len = match region.atomics::<AtomicU64>(at, 1) {
            Some([len]) => len.load(Ordering::Relaxed),
            _ => u64::MAX,
        };
        let rest = chunk.len.load(Ordering::Relaxed).saturating_sub(place.at + HEADER);
        match len <= rest {
            true => Ok(Record { region, at: at + HEADER as usize, len: len as usize }),
            false => Err(io::Error::other("the queue's memory was overwritten")),
        }
    }

    /// Gives the memory of a large item back to the system, once nobody can take it any more. The
    /// record's length stays: `find` needs it to step over the record.
    fn give_back(&self, place: Place, len: usize) {
        let start = self.chunk(place.chunk).offset.load(Ordering::Relaxed) + place.at + HEADER;
        self.memory.give_back(start, len as u64);
    }

    /// Returns the number of a leased item.
    pub(super) fn number(&self, index: usize) -> u64 {
        self.leases()[index].number.load(Ordering::Relaxed)
    }

    fn place_of_leased(&self, index: usize) -> Place {
        let lease = &self.leases()[index];
        Place { chunk: lease.chunk.load(Ordering::Relaxed), at: lease.at.load(Ordering::Relaxed) }
    }

    /// Copies the item of a lease again. The caller has the head's lock.
    pub(super) fn copy_leased(&self, index: usize, copy: &mut CopyOut<'_>) -> io::Result<()> {
        self.record(self.place_of_leased(index)).and_then(copy)
    }

    /// Frees a lease, and its chunk if nothing else needs it. The caller has the head's lock.
    pub(super) fn end_lease(&self, index: usize) {
        let place = self.place_of_leased(index);
        self.leases()[index].owner.store(0, Ordering::Release);
        let leases = self.head().leases.load(Ordering::Relaxed);
        self.head().leases.store(leases.saturating_sub(1), Ordering::Relaxed);
        if place.chunk != self.head().chunk.load(Ordering::Relaxed) && self.is_passed(place.chunk) {
            self.free(place.chunk);
        } else if let Ok(Record { len, .. }) = self.record(place)
            && self.chunk(place.chunk).may_give_back(len)
            && self.len() == 0
        {
            self.give_back(place, len);
        }
    }

    /// Whether consumers have taken all items of a chunk that is not the head's, and do not come to
    /// it any more.
    fn is_passed(&self, index: u32) -> bool {
        let (head, chunk) = (self.head(), self.chunk(index));
        let count = head.count.load(Ordering::Relaxed);
        let first_of = |chunk: &Chunk| chunk.first.load(Ordering::Relaxed);
        // `is_before(count)` is also true of an empty chunk that lies ahead of the head.
        let has_later_been_taken = count.checked_sub(1).is_some_and(|last| chunk.is_before(last));
        let of_head = head.chunk.load(Ordering::Relaxed);
        let comes_before = || {
            first_of(chunk) < first_of(self.chunk(of_head))
                || chunk.next.load(Ordering::Relaxed) == of_head
        };
        has_later_been_taken || (chunk.is_before(count) && comes_before())
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
        self.release(index);
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
        self.chunk(index).go_on();
        tail.at.store(place.at, Ordering::Relaxed);
        self.repair_cut();
        // The process may have begun a chunk that is not part of the chain.
        let is_begun = |other: &u32| *other != index && self.chunk(*other).is_begun_at(count);
        if let Some(begun) = (0..tail.chunks.load(Ordering::Relaxed)).find(is_begun) {
            self.release(begun);
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
            if self.chunk(other).is_used() && other != index && self.is_passed(other) {
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
            place.at += record_len(self.record(place)?.len);
            at_number += 1;
        }
        Ok(place)
    }
}

#[cfg(all(test, loom))]
impl Items {
    /// Makes loom's atomics before there are threads: each is made when it is first used. Only the
    /// lengths of records are made later, when a record is first written there.
    pub(super) fn make_atomics(&self) {
        let _ = (self.tail(), self.head(), self.leases());
        (0..MAX_CHUNKS as u32).for_each(|index| _ = self.chunk(index));
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        let put = self.tail().count.load(Ordering::Relaxed);
        (put, self.head().count.load(Ordering::Relaxed))
    }

    pub(super) fn has_lease(&self, id: u32) -> bool {
        let count = self.head().count.load(Ordering::Relaxed);
        self.leases().iter().any(|lease| {
            lease.owner.load(Ordering::Relaxed) == id
                && lease.number.load(Ordering::Relaxed) < count
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
