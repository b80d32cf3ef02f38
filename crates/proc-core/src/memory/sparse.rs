//! Provides memory that grows: a large file without a name, of which most has never been touched
//! and takes no memory.
//!
//! Processes map it in *extents*, each as large as all before it together, when they first use a
//! byte in it. So a process needs the address space of what is used, and one descriptor.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use super::{AllAtomic, Region};
use crate::sys;
use crate::sys::memory::Access;

/// Size of the first extent, in bytes.
pub(crate) const FIRST_EXTENT: u64 = 64 << 10;

/// Number of extents.
const EXTENTS: usize = 21;

/// Size of the memory, in bytes, unless this process may only make smaller files.
const LEN: u64 = FIRST_EXTENT << (EXTENTS - 1);

/// Memory that several processes map, as far as it is used.
#[derive(Debug)]
pub(crate) struct SparseMemory {
    fd: OwnedFd,
    len: u64,
    extents: [OnceLock<Region>; EXTENTS],
}

impl SparseMemory {
    /// Makes memory of zero bytes.
    ///
    /// # Errors
    ///
    /// There is no descriptor for it, or this process may not make files.
    pub(crate) fn new() -> io::Result<SparseMemory> {
        let largest = u64::try_from(sys::memory::largest_file()).unwrap_or(u64::MAX);
        // The largest number of whole extents.
        let len = if largest >= LEN { LEN } else { 1 << largest.max(1).ilog2() };
        let fd = sys::memory::create(len.max(FIRST_EXTENT) as usize)?;
        sys::memory::seal(&fd, Access::Write)?;
        SparseMemory::map(fd)
    }

    /// Maps memory that another process has made.
    ///
    /// # Errors
    ///
    /// The descriptor is not that of such memory, or there is no address space for it.
    pub(crate) fn map(fd: OwnedFd) -> io::Result<SparseMemory> {
        let len = sys::memory::sealed_len(fd.as_fd(), Access::Write)?;
        let memory = SparseMemory { fd, len, extents: [const { OnceLock::new() }; EXTENTS] };
        memory.extent(0)?;
        Ok(memory)
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the descriptor, by which other processes map the memory.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns the number of the extent in which `offset` lies, and where the extent begins.
    fn place(offset: u64) -> (usize, u64) {
        match offset / FIRST_EXTENT {
            0 => (0, 0),
            doubled => {
                let number = doubled.ilog2() as usize + 1;
                (number, FIRST_EXTENT << (number - 1))
            }
        }
    }

    /// Returns an extent. The first call in a process maps it.
    fn extent(&self, number: usize) -> io::Result<&Region> {
        let extent = self.extents.get(number).ok_or(io::ErrorKind::OutOfMemory)?;
        if let Some(region) = extent.get() {
            return Ok(region);
        }
        let (start, len) = match number {
            0 => (0, FIRST_EXTENT),
            _ => (FIRST_EXTENT << (number - 1), FIRST_EXTENT << (number - 1)),
        };
        if start + len > self.len {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let len = usize::try_from(len).ok().and_then(NonZeroUsize::new);
        let len = len.ok_or(io::ErrorKind::OutOfMemory)?;
        let region = Region::map_range(self.fd.as_fd(), start, len)?;
        Ok(extent.get_or_init(|| region))
    }

    /// Maps the extent of `offset`, if that was not done.
    ///
    /// # Errors
    ///
    /// There is no address space for it, or the memory is smaller.
    pub(crate) fn prepare(&self, offset: u64) -> io::Result<()> {
        self.extent(SparseMemory::place(offset).0).map(drop)
    }

    /// Returns the extent of `offset`, and the offset in it; `None` if it cannot be mapped.
    #[inline]
    fn find(&self, offset: u64) -> Option<(&Region, usize)> {
        let (number, start) = SparseMemory::place(offset);
        let region = match self.extents.get(number)?.get() {
            Some(region) => region,
            None => self.extent(number).ok()?,
        };
        Some((region, (offset - start) as usize))
    }

    /// Copies several pieces one after another to `offset`. Returns false and copies nothing if
    /// they do not lie in one extent.
    #[inline]
    pub(crate) fn write_all<const N: usize>(&self, offset: u64, pieces: [&[u8]; N]) -> bool {
        self.find(offset).is_some_and(|(region, offset)| region.write_all(offset, pieces))
    }

    /// Appends a copy of `len` bytes at `offset` to `out`. Returns false if they do not lie in one
    /// extent, or there is no memory for the copy.
    #[inline]
    pub(crate) fn read(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> bool {
        self.find(offset).is_some_and(|(region, offset)| region.read(offset, len, out))
    }

    /// Returns `count` objects of atomics at `offset`; `None` if they do not lie in one extent.
    #[inline]
    pub(crate) fn atomics<T: AllAtomic>(&self, offset: u64, count: usize) -> Option<&[T]> {
        let (region, offset) = self.find(offset)?;
        region.atomics(offset, count)
    }

    /// Gives the memory of whole pages in one extent back to the system.
    pub(crate) fn give_back(&self, offset: u64, len: usize) {
        if let Some((region, offset)) = self.find(offset) {
            region.give_back(offset, len);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_where_they_were_written() {
        let memory = SparseMemory::new().expect("there are descriptors");
        for offset in [0, 100, FIRST_EXTENT - 3, FIRST_EXTENT, 3 * FIRST_EXTENT, 1 << 30] {
            assert!(memory.write_all(offset, [b"ab", b"c"]), "{offset}");
            let mut out = Vec::new();
            assert!(memory.read(offset, 3, &mut out));
            assert_eq!(out, b"abc");
        }
        assert!(!memory.write_all(FIRST_EXTENT - 2, [b"abc"]), "it would cross the extent");
        assert!(!memory.write_all(memory.len(), [b"a"]));
        memory.give_back(1 << 30, 4096);
        let mut out = Vec::new();
        assert!(memory.read(1 << 30, 1, &mut out));
        assert!(cfg!(proc_core_portable) || out == [0]);
        let copy = memory.fd().try_clone_to_owned().expect("there are descriptors");
        let other = SparseMemory::map(copy).expect("it is sealed");
        let mut out = Vec::new();
        assert!(other.read(3 * FIRST_EXTENT, 3, &mut out));
        assert_eq!(out, b"abc");
    }
}
