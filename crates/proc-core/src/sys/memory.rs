//! Memory that several processes map: files without a name, of a size that nobody can change.
//!
//! Linux has memfds for it, whose seals keep a peer from cutting off what others have mapped (they
//! would die of SIGBUS) and from writing to what is to be read only. Pages are made when they are
//! first written to. Whatever is wanting (descriptors, address space, memory) is an error.

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
/// has begun under a limit may have no heap: glibc maps a page for each of its allocations then
/// (`sysmalloc` of its malloc.c).
const MIN_REST: usize = 2 << 20;

/// Makes memory of `len` zero bytes, to which everybody may write until it is [sealed](seal).
///
/// # Errors
///
/// There is no descriptor for it, or the process may not make files of that size.
pub(crate) fn create(len: usize) -> io::Result<OwnedFd> {
    let size = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // The kernel does not only refuse what is larger, it sends SIGXFSZ, which kills.
    if len > largest_file() {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let fd = os::nameless_file()?;
    nix::unistd::ftruncate(&fd, size)?;
    Ok(fd)
}

/// How large memory may be: the limit of file sizes counts for it too.
pub(crate) fn largest_file() -> usize {
    let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Whether there is memory for so many bytes more, where the system tells: where there is none, the
/// kernel kills a process as soon as the bytes are written.
///
/// # Errors
///
/// There is not enough in the system, or in what this process's cgroup may take.
pub(crate) fn check_memory(len: usize) -> io::Result<()> {
    // Less is not worth a look into half a dozen files.
    const WORTH_ASKING: usize = 32 << 20;
    if len < WORTH_ASKING {
        return Ok(());
    }
    let places = [("the system", os::system_memory()), ("its cgroup", os::cgroup_memory())];
    for (place, available) in places {
        if let Some(available) = available.filter(|available| *available < len) {
            return Err(io::Error::other(format!(
                "{} MiB of memory are wanted, and {place} has {} MiB left: send smaller values, or \
                 fewer at a time (PoolBuilder::memory_limit)",
                len >> 20,
                available >> 20
            )));
        }
    }
    Ok(())
}

/// Sees to it that nobody changes the size any more, and that nobody writes if it is only to be
/// read.
///
/// # Errors
///
/// Memory that is only to be read is mapped for writing somewhere.
pub(crate) fn seal(fd: &OwnedFd, access: Access) -> io::Result<()> {
    os::seal(fd, access)
}

/// Memory of this process's address space that shows a file without a name.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process; any thread may use it, or unmap it.
unsafe impl Send for Mapping {}
// SAFETY: the address and the length do not change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps memory that was [sealed](seal), by whatever process.
    ///
    /// # Errors
    ///
    /// It is not sealed so, there is nothing in it, or there is no address space left.
    pub(crate) fn new(fd: BorrowedFd<'_>, access: Access) -> io::Result<Mapping> {
        if !os::is_sealed(fd, access) {
            let what = "it is no shared memory whose size and contents are sealed";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Mapping::of_own(fd, access)
    }

    /// Maps memory that this process has made, and that may not be sealed yet.
    ///
    /// # Errors
    ///
    /// There is nothing in it, or there is no address space left.
    pub(crate) fn of_own(fd: BorrowedFd<'_>, access: Access) -> io::Result<Mapping> {
        let size = nix::sys::stat::fstat(fd)?.st_size;
        let len = usize::try_from(size).ok().and_then(NonZeroUsize::new);
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        // Rust aborts the program where a thread has no room for something small.
        if !has_address_space(len.get().saturating_add(MIN_REST)) {
            return Err(nix::errno::Errno::ENOMEM.into());
        }
        let protection = match access {
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            Access::Read => ProtFlags::PROT_READ,
        };
        // SAFETY: the kernel chooses an address where nothing is.
        let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Mapping { start: start.cast(), len: len.get() })
    }

    /// Where it begins: at a page.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its size in bytes, never 0.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` mapped it, and what is lent of it does not outlive this value.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

/// Memory that nobody can write to any more, not even who made it.
#[derive(Debug)]
pub(crate) struct Frozen {
    fd: OwnedFd,
    mapping: Mapping,
}

impl Frozen {
    /// Makes memory of `len` bytes, which `fill` writes where they lie.
    ///
    /// # Errors
    ///
    /// There is no descriptor, address space or memory for it.
    pub(crate) fn build(len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Frozen> {
        let fd = create(len)?;
        let mapping = Mapping::of_own(fd.as_fd(), Access::Write)?;
        // A copy of this process that is forked meanwhile would keep it from being sealed.
        os::keep_from_copies(mapping.start, len);
        // SAFETY: the mapping has so many bytes, and nobody else has its descriptor yet.
        fill(unsafe { std::slice::from_raw_parts_mut(mapping.start.as_ptr(), len) });
        drop(mapping);
        seal(&fd, Access::Read)?;
        Frozen::map(fd)
    }

    /// Maps what another process has frozen.
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
        // SAFETY: the mapping has so many bytes, and its seals keep everybody from changing them.
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
    fn nobody_changes_the_size_of_sealed_memory() {
        let fd = create(5000).expect("there is memory");
        assert!(Mapping::new(fd.as_fd(), Access::Write).is_err(), "it is not sealed");
        seal(&fd, Access::Write).expect("it can be sealed");
        assert!(nix::unistd::ftruncate(&fd, 100).is_err());
        assert!(nix::unistd::ftruncate(&fd, 10_000).is_err());
        assert_eq!(Mapping::new(fd.as_fd(), Access::Write).expect("it is sealed").len(), 5000);
        assert!(Mapping::new(fd.as_fd(), Access::Read).is_err(), "others could write");
    }

    #[test]
    fn frozen_memory_is_read_only_for_everybody() {
        let frozen = Frozen::build(3, |bytes| bytes.copy_from_slice(b"abc")).expect("it is made");
        assert_eq!(&frozen[..], b"abc");
        let copy = frozen.as_fd().try_clone_to_owned().expect("there is a descriptor");
        assert!(Mapping::of_own(copy.as_fd(), Access::Write).is_err());
        assert!(std::fs::File::from(copy).write_all(b"xyz").is_err());
        assert_eq!(&frozen[..], b"abc");
    }

    #[test]
    fn other_files_are_no_memory() {
        let file = std::fs::File::open("/proc/self/exe").expect("it is there");
        assert!(Mapping::new(file.as_fd(), Access::Read).is_err());
        assert!(create(usize::MAX).is_err());
        let empty = create(0).expect("there is a descriptor");
        assert!(Mapping::of_own(empty.as_fd(), Access::Write).is_err());
    }
}
