//! Allocates memory for chunks: blocks of a few sizes, cut from regions. Up to a gigabyte, each
//! region is at least twice as large as the one before, if there is memory for that.
//!
//! Only the parent allocates, so the bookkeeping is ordinary private data. The parent tells workers
//! where a block lies.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Region;
use crate::sys;

/// Size of the first region, in bytes. A page of the region takes memory only from its first use
/// on.
const FIRST_REGION_BYTES: usize = 64 << 10;

/// Size of the smallest block, in bytes. Above 2 KiB there are four block sizes for each doubling,
/// so that little memory is wasted. Below that there are fewer: each block size is a multiple of
/// the smallest.
pub(crate) const MIN_BLOCK_BYTES: usize = 512;

/// Block: a piece of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) region: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Regions of a pool, and the free blocks in them.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    regions: Vec<Arc<Region>>,
    /// Offset at which the part of the last region begins that is not cut into blocks yet.
    uncut: u64,
    /// Free blocks by size class.
    free: Vec<Vec<Block>>,
    /// Bytes of blocks that are not free.
    used: usize,
    /// Blocks whose leases have ended.
    returned: Arc<ReturnedBlocks>,
}

/// Blocks whose leases have ended and that the arena has not taken back yet.
#[derive(Debug)]
pub(crate) struct ReturnedBlocks {
    /// Pid of the process that has the arena. In a copy of that process, blocks are not returned.
    arena_pid: u32,
    blocks: Mutex<Vec<Block>>,
    any: AtomicBool,
}

impl Default for ReturnedBlocks {
    fn default() -> ReturnedBlocks {
        ReturnedBlocks {
            arena_pid: sys::pid(),
            blocks: Mutex::default(),
            any: AtomicBool::default(),
        }
    }
}

impl ReturnedBlocks {
    /// Whether any block waits for the arena to take it back.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }
}

/// Lease: the right to read and write a block without the pool's lock. The block goes back to its
/// arena when the lease is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    region: Arc<Region>,
    block: Block,
    /// List to which the block goes back; `None` if the lease does not return the block.
    back: Option<Arc<ReturnedBlocks>>,
}

impl Lease {
    /// Leases a piece of a region that a worker has claimed. The piece does not go back.
    pub(crate) fn claimed(region: &Arc<Region>, block: Block) -> Lease {
        Lease { region: Arc::clone(region), block, back: None }
    }

    /// Returns the size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.block.len as usize
    }

    /// Copies `bytes` to offset `at`. Returns false if they do not fit.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) -> bool {
        let offset = self.offset_in_region(at, bytes.len());
        offset.is_some_and(|offset| self.region.write(offset, bytes))
    }

    /// Appends a copy of `len` bytes at offset `at` to `out`. Returns false if there are fewer
    /// bytes, or no memory for the copy.
    pub(crate) fn read(&self, at: usize, len: usize, out: &mut Vec<u8>) -> bool {
        let offset = self.offset_in_region(at, len);
        offset.is_some_and(|offset| self.region.read(offset, len, out))
    }

    /// Returns where `len` bytes at offset `at` of the block lie in the region; `None` if the block
    /// has fewer.
    fn offset_in_region(&self, at: usize, len: usize) -> Option<usize> {
        (at.checked_add(len)? <= self.len()).then(|| self.block.offset as usize + at)
    }

    /// Returns the part of the block that starts at offset `at` and has at most `len` bytes. The
    /// whole block goes back when the part is dropped.
    pub(crate) fn part(self, at: usize, len: usize) -> Part {
        Part { at: at.min(self.len()), len: len.min(self.len().saturating_sub(at)), lease: self }
    }

    /// Ends the lease without returning the block to the arena. The caller must return it.
    pub(crate) fn into_block(mut self) -> Block {
        self.back = None;
        self.block
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(back) = &self.back
            && back.arena_pid == sys::pid()
        {
            lock(back).push(self.block);
            back.any.store(true, Ordering::Relaxed);
        }
    }
}

/// Part of a leased block.
#[derive(Debug)]
pub(crate) struct Part {
    lease: Lease,
    at: usize,
    len: usize,
}

impl Part {
    /// Returns the size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends a copy of `len` bytes at offset `at` to `out`. Returns false if there are fewer
    /// bytes, or no memory for the copy.
    pub(crate) fn read(&self, at: usize, len: usize, out: &mut Vec<u8>) -> bool {
        self.holds(at, len) && self.lease.read(self.at + at, len, out)
    }

    /// Returns the region, and where in it the bytes in `range` of the part begin; `None` if the
    /// part has fewer bytes.
    pub(crate) fn place(&self, range: Range<usize>) -> Option<(&Region, usize)> {
        let fits = self.holds(range.start, range.len());
        let at =
            fits.then(|| self.lease.offset_in_region(self.at + range.start, range.len()))??;
        Some((&self.lease.region, at))
    }

    fn holds(&self, at: usize, len: usize) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

fn lock(returned: &ReturnedBlocks) -> MutexGuard<'_, Vec<Block>> {
    returned.blocks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    /// Allocates a block of at least `len` bytes.
    ///
    /// # Errors
    ///
    /// There is no memory for another region.
    pub(crate) fn allocate(&mut self, len: usize) -> io::Result<Block> {
        let size = block_size(len).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.take_returned();
        self.used += size;
        let cut = self.cut(size);
        self.used -= if cut.is_err() { size } else { 0 };
        cut
    }

    /// Takes a free block of `size` bytes, or cuts a new one. `size` must be one of the block
    /// sizes.
    fn cut(&mut self, size: usize) -> io::Result<Block> {
        if let Some(block) = self.free.get_mut(class(size)).and_then(Vec::pop) {
            return Ok(block);
        }
        if self.regions.last().is_none_or(|last| (last.len() as u64 - self.uncut) < size as u64) {
            self.free_rest();
            let doubled = self.regions.last().map_or(FIRST_REGION_BYTES, |last| 2 * last.len());
            // If doubling would exceed a gigabyte, the region gets only the requested size. It also
            // gets that size if there is no memory for a larger one.
            let len = if doubled > 1 << 30 { size } else { doubled.max(size) };
            let region = Region::new(len).or_else(|error| match len > size {
                true => Region::new(size),
                false => Err(error),
            });
            self.regions.push(Arc::new(region?));
            self.uncut = 0;
        }
        let block =
            Block { region: self.regions.len() as u32 - 1, offset: self.uncut, len: size as u64 };
        self.uncut += size as u64;
        Ok(block)
    }

    /// Takes back a block.
    pub(crate) fn release(&mut self, block: Block) {
        self.used -= block.len as usize;
        self.put(block);
    }

    /// Returns the list of blocks whose leases have ended.
    pub(crate) fn returned(&self) -> Arc<ReturnedBlocks> {
        Arc::clone(&self.returned)
    }

    /// Leases a block that was allocated. It goes back when the lease is dropped.
    pub(crate) fn lease(&self, block: Block) -> Lease {
        let region = Arc::clone(&self.regions[block.region as usize]);
        Lease { region, block, back: Some(Arc::clone(&self.returned)) }
    }

    /// Gives up all regions if no block is in use. Returns whether it did. No process may use the
    /// numbers of regions that were given up.
    pub(crate) fn clear(&mut self) -> bool {
        let is_unused = self.used() == 0;
        if is_unused {
            self.regions.clear();
            self.free.clear();
            self.uncut = 0;
        }
        is_unused
    }

    /// Returns how many bytes of blocks are in use, including leased blocks.
    pub(crate) fn used(&mut self) -> usize {
        self.take_returned();
        self.used
    }

    fn take_returned(&mut self) {
        if !self.returned.any.swap(false, Ordering::Relaxed) {
            return;
        }
        let returned = std::mem::take(&mut *lock(&self.returned));
        returned.into_iter().for_each(|block| self.release(block));
    }

    /// Adds a block to the free ones.
    fn put(&mut self, block: Block) {
        let class = class(block.len as usize);
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        self.free[class].push(block);
    }

    /// Returns the regions in the order of their numbers.
    pub(crate) fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Returns the region that contains `block`.
    pub(crate) fn region(&self, block: Block) -> &Region {
        &self.regions[block.region as usize]
    }

    /// Cuts the rest of the last region into free blocks, the largest first.
    fn free_rest(&mut self) {
        let Some(last) = self.regions.last() else { return };
        let mut left = last.len() as u64 - self.uncut;
        while left >= MIN_BLOCK_BYTES as u64 {
            let len = 1 << left.ilog2();
            let block = Block { region: self.regions.len() as u32 - 1, offset: self.uncut, len };
            self.put(block);
            self.uncut += len;
            left -= len;
        }
    }
}

/// Rounds `len` up to a block size; `None` if there is none.
fn block_size(len: usize) -> Option<usize> {
    let len = len.max(MIN_BLOCK_BYTES);
    let power = len.checked_next_power_of_two()?;
    Some(len.next_multiple_of((power / 8).max(MIN_BLOCK_BYTES)))
}

/// Returns the number of a block size; smaller sizes have smaller numbers.
fn class(size: usize) -> usize {
    let power = size.next_power_of_two();
    4 * power.ilog2() as usize + size * 8 / power - 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_never_overlap(steps in prop::collection::vec((1usize..300_000, any::<bool>()), 1..60)) {
            let mut arena = Arena::default();
            let mut live: Vec<Block> = Vec::new();
            for (len, release) in steps {
                if release && !live.is_empty() {
                    let block = live.swap_remove(len % live.len());
                    arena.release(block);
                    continue;
                }
                let block = arena.allocate(len).expect("there is memory");
                prop_assert!(block.len >= len as u64);
                prop_assert!(block.offset + block.len <= arena.region(block).len() as u64);
                for other in live.iter().filter(|other| other.region == block.region) {
                    let apart = block.offset + block.len <= other.offset
                        || other.offset + other.len <= block.offset;
                    prop_assert!(apart, "{block:?} {other:?}");
                }
                live.push(block);
            }
        }
    }

    #[test]
    fn allocate_refuses_more_memory_than_the_machine_has() {
        let error = Arena::default().allocate(1 << 50).expect_err("no machine has so much");
        assert!(error.to_string().contains("1073741824 MiB of memory are needed"), "{error}");
    }

    #[test]
    fn allocate_uses_released_blocks_again() {
        let mut arena = Arena::default();
        for _ in 0..10_000 {
            let block = arena.allocate(5000).expect("there is memory");
            arena.release(block);
        }
        assert_eq!(arena.regions().len(), 1);
        assert_eq!(arena.used(), 0);
    }

    #[test]
    fn dropping_a_lease_returns_its_block() {
        let mut arena = Arena::default();
        let block = arena.allocate(5000).expect("there is memory");
        let lease = arena.lease(block);
        assert!(lease.write(100, b"abcd") && !lease.write(block.len as usize - 3, b"abcd"));
        let part = lease.part(101, 2);
        let mut out = Vec::new();
        assert!(part.read(0, 2, &mut out) && !part.read(1, 2, &mut out));
        assert_eq!(out, b"bc");
        let (region, at) = part.place(1..2).expect("the part has it");
        assert_eq!(region.number(at), Some(b'c'));
        assert!(part.place(1..3).is_none() && part.place(0..usize::MAX).is_none());
        assert_eq!(arena.used(), block.len as usize);
        drop(part);
        assert_eq!(arena.used(), 0);
        assert_eq!(arena.allocate(5000).expect("there is memory"), block);
    }
}
