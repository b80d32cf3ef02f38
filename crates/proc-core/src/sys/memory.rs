//! Makes memory that several processes map: files without a name, whose size nobody can change.
//!
//! On Linux these files are memfds. Their seals keep a peer from truncating memory that others have
//! mapped (those processes would die of SIGBUS), and from writing to read-only memory. The kernel
//! makes a page when it is first read or written. A lack of descriptors or address space is an
//! error. So is a lack of memory for large pieces, if the caller asks [`check_memory`] first.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};

pub(crate) use super::access::Access;
use super::os;
use super::reserve::has_address_space;

/// Bytes of address space that shared memory leaves to the threads of the program. A thread that
/// started under a limit may have no heap; glibc then maps a page for each allocation of that
/// thread (`sysmalloc` in its malloc.c).
const MIN_REST_BYTES: usize = 2 << 20;

/// Makes memory of `len` zero bytes. Every process that has the memory may write to it, until it is
/// [sealed](seal) as read-only.
///
/// # Errors
///
/// There is no descriptor for it, or this process may not make files of that size.
pub(crate) fn create(len: usize) -> io::Result<OwnedFd> {
    let size = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // The kernel does not only refuse a larger file, it also sends SIGXFSZ, which kills the
    // process.
    if len > largest_file() {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let fd = os::nameless_file()?;
    nix::unistd::ftruncate(&fd, size)?;
    Ok(fd)
}

/// Returns the largest size of shared memory, in bytes. The limit of file sizes applies to it too.
pub(crate) fn largest_file() -> usize {
    let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Checks that `len` more bytes of memory are available, if the system tells. If they are not, the
/// kernel may kill the process that writes the bytes. Swap space does not count.
///
/// # Errors
///
/// The system, or the cgroup of this process, does not have enough.
pub(crate) fn check_memory(len: usize) -> io::Result<()> {
    // For a smaller size it is not worth reading half a dozen files.
    const MIN_CHECKED_BYTES: usize = 32 << 20;
    if len < MIN_CHECKED_BYTES {
        return Ok(());
    }
    let sources =
        [("the system", os::system_memory()), ("the cgroup of this process", os::cgroup_memory())];
    for (source, available) in sources {
        if let Some(available) = available.filter(|available| *available < len) {
            return Err(io::Error::other(format!(
                "{} MiB of memory are needed, and {source} has {} MiB left: send smaller values, or \
                 fewer at a time (PoolBuilder::memory_limit)",
                len >> 20,
                available >> 20
            )));
        }
    }
    Ok(())
}

/// Fixes the size of the memory for good. If `access` is [`Access::Read`], nobody can write to it
/// any more either.
///
/// # Errors
///
/// `access` is [`Access::Read`], and a process still has the memory mapped for writing.
pub(crate) fn seal(fd: &OwnedFd, access: Access) -> io::Result<()> {
    os::seal(fd, access)
}

/// Returns the size in bytes of memory that this or another process has [sealed](seal).
///
/// # Errors
///
/// The memory is not sealed for `access`.
pub(crate) fn sealed_len(fd: BorrowedFd<'_>, access: Access) -> io::Result<u64> {
    check_sealed(fd, access)?;
    let size = nix::sys::stat::fstat(fd)?.st_size;
    u64::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn check_sealed(fd: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    if os::is_sealed(fd, access) {
        return Ok(());
    }
    let what = "the received file is not sealed shared memory";
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Gives the memory of a part of a file back to the system. Its bytes are 0 afterwards, or as
/// before if the system cannot do that.
pub(crate) fn give_back(fd: BorrowedFd<'_>, offset: u64, len: u64) {
    os::give_back(fd, offset, len);
}

/// Mapping of a file without a name, in the address space of this process.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process; any thread may use it or unmap it.
unsafe impl Send for Mapping {}
// SAFETY: the address and the length do not change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps memory that this or another process has [sealed](seal).
    ///
    /// # Errors
    ///
    /// The memory is not sealed for `access`, the memory is empty, or there is no address space
    /// left.
    pub(crate) fn new(fd: BorrowedFd<'_>, access: Access) -> io::Result<Mapping> {
        check_sealed(fd, access)?;
        Mapping::of_own(fd, access)
    }

    /// Maps memory that this process has made. The memory need not be sealed yet.
    ///
    /// # Errors
    ///
    /// The memory is empty, or there is no address space left.
    pub(crate) fn of_own(fd: BorrowedFd<'_>, access: Access) -> io::Result<Mapping> {
        let size = nix::sys::stat::fstat(fd)?.st_size;
        let len = usize::try_from(size).ok().and_then(NonZeroUsize::new);
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Mapping::range(fd, 0, len, access)
    }

    /// Maps `len` bytes of a file from `offset` on. The file must have these bytes, and a page must
    /// begin at `offset`.
    ///
    /// # Errors
    ///
    /// There is no address space left.
    pub(crate) fn range(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: NonZeroUsize,
        access: Access,
    ) -> io::Result<Mapping> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Leave some address space: Rust aborts the program if a thread has no room for a small
        // allocation.
        if !has_address_space(len.get().saturating_add(MIN_REST_BYTES)) {
            return Err(nix::errno::Errno::ENOMEM.into());
        }
        let (protection, flags) = match access {
            Access::Write => (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED),
            // Nobody can write to this memory, so a private mapping is the same. Before Linux 6.7,
            // the kernel refuses a shared one.
            Access::Read => (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE),
        };
        // SAFETY: the kernel chooses a free address.
        let start = unsafe { mmap(None, len, protection, flags, fd, offset) }?;
        Ok(Mapping { start: start.cast(), len: len.get() })
    }

    /// Returns the start of the mapping, which is the start of a page.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size in bytes, which is never 0.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `range` has mapped these bytes, and no reference into them outlives this value.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

/// Memory that nobody can write to any more, not even the process that made it.
#[derive(Debug)]
pub(crate) struct Frozen {
    fd: OwnedFd,
    mapping: Mapping,
}

impl Frozen {
    /// Makes memory of `len` bytes. `fill` writes the bytes directly into it.
    ///
    /// # Errors
    ///
    /// There is no descriptor, address space or memory for it.
    pub(crate) fn build(len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Frozen> {
        let fd = create(len)?;
        let mapping = Mapping::of_own(fd.as_fd(), Access::Write)?;
        // A copy of this process that is forked meanwhile would have the mapping and so prevent the
        // seal.
        os::exclude_from_fork(mapping.start, len);
        // SAFETY: the mapping has `len` bytes, and nothing else has its descriptor yet.
        fill(unsafe { std::slice::from_raw_parts_mut(mapping.start.as_ptr(), len) });
        drop(mapping);
        seal(&fd, Access::Read)?;
        Frozen::map(fd)
    }

    /// Maps memory that this or another process has frozen.
    ///
    /// # Errors
    ///
    /// As for [`Mapping::new`].
    pub(crate) fn map(fd: OwnedFd) -> io::Result<Frozen> {
        let mapping = Mapping::new(fd.as_fd(), Access::Read)?;
        Ok(Frozen { fd, mapping })
    }
}

impl std::ops::Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has this many bytes, and its seals keep everybody from changing them.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr(), self.mapping.len) }
    }
}

impl AsFd for Frozen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn sealed_memory_cannot_change_its_size() {
        let fd = create(5000).expect("there is memory");
        assert!(Mapping::new(fd.as_fd(), Access::Write).is_err(), "it is not sealed");
        seal(&fd, Access::Write).expect("it can be sealed");
        assert!(nix::unistd::ftruncate(&fd, 100).is_err());
        assert!(nix::unistd::ftruncate(&fd, 10_000).is_err());
        assert_eq!(Mapping::new(fd.as_fd(), Access::Write).expect("it is sealed").len(), 5000);
        assert!(Mapping::new(fd.as_fd(), Access::Read).is_err(), "others could write");
    }

    #[test]
    fn frozen_memory_cannot_be_written() {
        let frozen = Frozen::build(3, |bytes| bytes.copy_from_slice(b"abc")).expect("it is made");
        assert_eq!(&frozen[..], b"abc");
        let copy = frozen.as_fd().try_clone_to_owned().expect("there is a descriptor");
        assert!(Mapping::of_own(copy.as_fd(), Access::Write).is_err());
        assert!(std::fs::File::from(copy).write_all(b"xyz").is_err());
        assert_eq!(&frozen[..], b"abc");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_sealed_when_the_kernel_holds_its_pages_no_more() {
        use nix::fcntl::{SpliceFFlags, splice};
        use std::io::Read;
        use std::time::Duration;

        let mut file = std::fs::File::from(create(4096).expect("there is memory"));
        file.write_all(&[7; 4096]).expect("it is not sealed");
        // A pipe holds the page itself until it is read.
        let (mut reader, writer) = std::io::pipe().expect("there are descriptors");
        let mut start = 0;
        let moved = splice(&file, Some(&mut start), &writer, None, 4096, SpliceFFlags::empty());
        assert_eq!(moved, Ok(4096));
        let pipe = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500)); // the kernel waits a third of this
            reader.read_exact(&mut [0; 4096])
        });
        seal(&OwnedFd::from(file), Access::Read).expect("it waits for the pipe");
        pipe.join().expect("it does not panic").expect("the pipe has the page");
    }

    #[test]
    fn map_refuses_files_that_are_not_sealed_memory() {
        let file = std::fs::File::open("/proc/self/exe").expect("it is there");
        assert!(Mapping::new(file.as_fd(), Access::Read).is_err());
        assert!(create(usize::MAX).is_err());
        let empty = create(0).expect("there is a descriptor");
        assert!(Mapping::of_own(empty.as_fd(), Access::Write).is_err());
    }
}
