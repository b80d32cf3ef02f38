//! Memory for chunks: blocks of a few sizes, cut from regions that grow by doubling.
//!
//! Only the parent allocates, so this is plain private bookkeeping; workers are told the place.

use std::io;

use super::Region;

/// The size of the first region; small, since making one touches every page.
const FIRST_REGION: usize = 64 << 10;

/// The smallest block; larger ones have four sizes for each doubling, so that little is wasted.
const SMALLEST: usize = 512;

/// A piece of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) region: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The regions of a pool, and which of their blocks are free.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    regions: Vec<Region>,
    /// What is not cut yet of the last region.
    uncut: u64,
    /// Free blocks by size class.
    free: Vec<Vec<Block>>,
}

impl Arena {
    /// A block of at least `len` bytes, and the number of regions made for it (0 or 1).
    ///
    /// # Errors
    ///
    /// No memory for another region.
    pub(crate) fn allocate(&mut self, len: usize) -> io::Result<(Block, usize)> {
        let size = block_size(len).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        if let Some(block) = self.free.get_mut(class(size)).and_then(Vec::pop) {
            return Ok((block, 0));
        }
        let mut made = 0;
        if self.regions.last().is_none_or(|last| (last.len() as u64 - self.uncut) < size as u64) {
            self.free_rest();
            let doubled = self.regions.last().map_or(FIRST_REGION, |last| 2 * last.len());
            // Above a gigabyte a region is as large as what asked for it.
            let len = if doubled > 1 << 30 { size } else { doubled.max(size) };
            self.regions.push(Region::new(len)?);
            self.uncut = 0;
            made = 1;
        }
        let block =
            Block { region: self.regions.len() as u32 - 1, offset: self.uncut, len: size as u64 };
        self.uncut += size as u64;
        Ok((block, made))
    }

    /// Takes back a block.
    pub(crate) fn release(&mut self, block: Block) {
        let class = class(block.len as usize);
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        self.free[class].push(block);
    }

    /// The regions, in the order of their numbers.
    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds `block`.
    pub(crate) fn region(&self, block: Block) -> &Region {
        &self.regions[block.region as usize]
    }

    /// Cuts what is left of the last region into free blocks, largest first.
    fn free_rest(&mut self) {
        let Some(last) = self.regions.last() else { return };
        let mut left = last.len() as u64 - self.uncut;
        while left >= SMALLEST as u64 {
            let len = 1 << left.ilog2();
            let block = Block { region: self.regions.len() as u32 - 1, offset: self.uncut, len };
            self.release(block);
            self.uncut += len;
            left -= len;
        }
    }
}

/// `len` rounded up to a size of blocks, if there is one.
fn block_size(len: usize) -> Option<usize> {
    let len = len.max(SMALLEST);
    let power = len.checked_next_power_of_two()?;
    Some(len.next_multiple_of((power / 8).max(SMALLEST)))
}

/// The number of a size of blocks, smaller ones first.
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
                let (block, _) = arena.allocate(len).expect("there is memory");
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
    fn impossible_memory_is_refused() {
        let error = Arena::default().allocate(1 << 50).expect_err("no machine has so much");
        assert!(error.to_string().contains("1073741824 MiB of memory are wanted"), "{error}");
    }

    #[test]
    fn released_blocks_are_used_again() {
        let mut arena = Arena::default();
        for _ in 0..10_000 {
            let (block, _) = arena.allocate(5000).expect("there is memory");
            arena.release(block);
        }
        assert_eq!(arena.regions().len(), 1);
    }
}
