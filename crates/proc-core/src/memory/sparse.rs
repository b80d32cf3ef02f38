//! Provides memory that grows: a large file without a name, of which most has never been touched
//! and takes no memory.
//!
//! Processes map it in *extents*, each as large as all before it together, when they first use a
//! byte in it. So a process needs at most twice the address space of what is used, and one
//! descriptor.

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

#[cfg(not(all(test, loom)))]
type Extents = [OnceLock<Region>; EXTENTS];
/// In a model, all processes have the same regions: loom's atomics lie beside their bytes.
#[cfg(all(test, loom))]
type Extents = std::sync::Arc<[OnceLock<Region>; EXTENTS]>;

/// Memory that several processes map, as far as it is used.
#[derive(Debug)]
pub(crate) struct SparseMemory {
    fd: OwnedFd,
    len: u64,
    extents: Extents,
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
        SparseMemory::with_len(if largest >= LEN { LEN } else { 1 << largest.max(1).ilog2() })
    }

    /// Makes memory of `len` zero bytes, a power of two.
    pub(crate) fn with_len(len: u64) -> io::Result<SparseMemory> {
        let fd = sys::memory::create(len.max(FIRST_EXTENT) as usize)?;
        sys::memory::seal(&fd, Access::Write)?;
        SparseMemory::map(fd)
    }

    /// Maps memory that this or another process has made.
    ///
    /// # Errors
    ///
    /// The descriptor is not that of such memory, or there is no address space for it.
    pub(crate) fn map(fd: OwnedFd) -> io::Result<SparseMemory> {
        let len = sys::memory::sealed_len(fd.as_fd(), Access::Write)?;
        let memory = SparseMemory { fd, len, extents: Extents::default() };
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

    /// Returns the extent of `offset`, and the offset in it. The first call for an extent maps it.
    ///
    /// # Errors
    ///
    /// There is no address space for it, or the memory is smaller.
    #[inline]
    pub(crate) fn locate(&self, offset: u64) -> io::Result<(&Region, usize)> {
        let (number, start) = SparseMemory::place(offset);
        let mapped = self.extents.get(number).and_then(OnceLock::get);
        let region = mapped.map_or_else(|| self.extent(number), Ok)?;
        Ok((region, (offset - start) as usize))
    }

    /// Returns `count` objects of atomics in the first extent, which is always mapped.
    ///
    /// # Panics
    ///
    /// They do not lie in the first extent.
    #[inline]
    pub(crate) fn atomics<T: AllAtomic>(&self, offset: u64, count: usize) -> &[T] {
        let first = self.extents[0].get().and_then(|first| first.atomics(offset as usize, count));
        first.expect("the first extent is mapped and has them")
    }

    /// Gives the memory of a part back to the system, also for all other processes. Its bytes are 0
    /// afterwards, or as before if the system cannot do that.
    pub(crate) fn give_back(&self, offset: u64, len: u64) {
        sys::memory::give_back(self.fd.as_fd(), offset, len);
    }
}

#[cfg(all(test, loom))]
impl SparseMemory {
    /// The memory as another process of the model has it.
    pub(crate) fn received(&self) -> SparseMemory {
        let fd = self.fd.try_clone().expect("there are descriptors");
        SparseMemory { fd, len: self.len, extents: self.extents.clone() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn write(memory: &SparseMemory, offset: u64, bytes: &[u8]) -> bool {
        memory.locate(offset).is_ok_and(|(region, at)| region.write(at, bytes))
    }

    fn read(memory: &SparseMemory, offset: u64, len: usize) -> Vec<u8> {
        let (region, at) = memory.locate(offset).expect("there is address space");
        let mut out = Vec::new();
        assert!(region.read(at, len, &mut out));
        out
    }

    #[test]
    fn bytes_stay_where_they_were_written() {
        let memory = SparseMemory::new().expect("there are descriptors");
        for offset in [0, 100, FIRST_EXTENT - 3, FIRST_EXTENT, 3 * FIRST_EXTENT, 1 << 30] {
            assert!(write(&memory, offset, b"abc"), "{offset}");
            assert_eq!(read(&memory, offset, 3), b"abc");
        }
        assert!(!write(&memory, FIRST_EXTENT - 2, b"abc"), "it would cross the extent");
        assert!(!write(&memory, memory.len(), b"a"));
        memory.give_back(1 << 30, 4096);
        let expected = if cfg!(proc_core_portable) { b'a' } else { 0 };
        assert_eq!(read(&memory, 1 << 30, 1), [expected]);
        let copy = memory.fd().try_clone_to_owned().expect("there are descriptors");
        let other = SparseMemory::map(copy).expect("it is sealed");
        assert_eq!(read(&other, 3 * FIRST_EXTENT, 3), b"abc");
    }
}
