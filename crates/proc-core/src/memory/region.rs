//! Provides regions: shared memory as bytes and as atomics. All `unsafe` code of the work queue and
//! of shared state is here.
//!
//! Every process of a pool maps the same memory. So no plain reference is ever handed out to bytes
//! that another process may write meanwhile: counters are atomics, and bytes are copied before
//! anything reads them. There are two exceptions: the worker that has claimed the bytes, and the
//! holder of the lock that protects them.

#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytemuck::Pod;

use super::Descriptor;
use super::atomics::{AtomicU32, AtomicU64};
use crate::sys;
use crate::sys::memory::{Access, Mapping};

/// Size of a word in bytes: a processor copies a word at once.
const WORD: usize = size_of::<u64>();

/// Region: one piece of memory that several processes have mapped.
#[derive(Debug)]
pub(crate) struct Region {
    start: *mut u8,
    len: usize,
    #[expect(dead_code, reason = "keeps what `start` points to")]
    mapping: Mapping,
    /// Descriptor by which other processes map the region. Only a region that [`Region::new`] has
    /// made keeps it, to send copies of it; `None` if the region was mapped from a descriptor.
    fd: Option<OwnedFd>,
    #[cfg(all(test, loom))]
    objects: super::loom::Objects,
}

// SAFETY: `start` points into `mapping`, which any thread may use.
unsafe impl Send for Region {}
// SAFETY: as above; the methods copy bytes, hand out atomics, or lend bytes to the one thread that
// has claimed them or holds their lock.
unsafe impl Sync for Region {}

impl Region {
    /// Makes a region of `len` zero bytes. None of them takes memory before it is read or written.
    ///
    /// # Errors
    ///
    /// There is no descriptor, address space or memory for it.
    pub(crate) fn new(len: usize) -> io::Result<Region> {
        sys::memory::check_memory(len)?;
        let fd = sys::memory::create(len)?;
        sys::memory::seal(&fd, Access::Write)?;
        let mapping = Mapping::of_own(fd.as_fd(), Access::Write)?;
        Ok(Region::of(mapping, Some(fd)))
    }

    /// Maps a region that this or another process has made.
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a region, or there is no address space for it.
    pub(crate) fn map(fd: OwnedFd) -> io::Result<Region> {
        Region::map_borrowed(fd.as_fd())
    }

    /// Like [`map`](Region::map), for a descriptor that the caller keeps.
    ///
    /// # Errors
    ///
    /// As for [`map`](Region::map).
    pub(crate) fn map_borrowed(fd: BorrowedFd<'_>) -> io::Result<Region> {
        Ok(Region::of(Mapping::new(fd, Access::Write)?, None))
    }

    /// Maps `len` bytes at `offset` of memory that has them.
    ///
    /// # Errors
    ///
    /// There is no address space for them.
    pub(super) fn map_range(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: NonZeroUsize,
    ) -> io::Result<Region> {
        Ok(Region::of(Mapping::range(fd, offset, len, Access::Write)?, None))
    }

    fn of(mapping: Mapping, fd: Option<OwnedFd>) -> Region {
        // Keep only the address, never a slice of the whole memory: other processes write to it
        // too.
        let (start, len) = (mapping.start().as_ptr(), mapping.len());
        Region {
            start,
            len,
            mapping,
            fd,
            #[cfg(all(test, loom))]
            objects: Default::default(),
        }
    }

    /// Returns a descriptor to send to a process that is to map the region too.
    ///
    /// # Errors
    ///
    /// There is no descriptor left, or the region was mapped from a descriptor.
    pub(crate) fn share(&self) -> io::Result<Descriptor> {
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Descriptor::new(fd.as_fd())
    }

    /// Returns the size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn range(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // SAFETY: offset is within the mapping, or one past its end.
        (end <= self.len).then(|| unsafe { self.start.add(offset) })
    }

    /// Copies `bytes` to `offset`. Returns false and copies nothing if they do not fit.
    #[inline]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        self.write_all(offset, [bytes])
    }

    /// Copies several pieces one after another to `offset`, as [`write`](Region::write) copies one.
    #[inline]
    pub(crate) fn write_all<const N: usize>(&self, offset: usize, pieces: [&[u8]; N]) -> bool {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        let Some(mut target) = self.range(offset, len) else { return false };
        for piece in pieces {
            // SAFETY: the range lies in the mapping, and `target` is after the pieces that come
            // before this one.
            unsafe { copy(piece, target) };
            // SAFETY: as above; the result is within the range, or at its end.
            target = unsafe { target.add(piece.len()) };
        }
        true
    }

    /// Appends a copy of `len` bytes at `offset` to `out`. Returns false if there are fewer bytes,
    /// or no memory for the copy.
    pub(crate) fn read(&self, offset: usize, len: usize, out: &mut Vec<u8>) -> bool {
        let Some(source) = self.range(offset, len) else { return false };
        if out.try_reserve(len).is_err() {
            return false;
        }
        let end = out.len();
        let target = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `try_reserve` made the room; the source lies in the mapping.
        unsafe { target.copy_from_nonoverlapping(source, len) };
        // SAFETY: the bytes up to the new length were written just now.
        unsafe { out.set_len(end + len) };
        true
    }

    /// Returns a copy of `count` numbers at `offset`, which need not be aligned; `None` if there
    /// are fewer numbers, or no memory for the copy.
    pub(crate) fn numbers<T: bytemuck::AnyBitPattern>(
        &self,
        offset: usize,
        count: usize,
    ) -> Option<Vec<T>> {
        let len = count.checked_mul(size_of::<T>())?;
        let source = self.range(offset, len)?;
        let mut numbers = Vec::<T>::new();
        numbers.try_reserve_exact(count).ok()?;
        let target = numbers.as_mut_ptr().cast::<u8>();
        // SAFETY: `try_reserve_exact` made the room; the source lies in the mapping.
        unsafe { target.copy_from_nonoverlapping(source, len) };
        // SAFETY: `count` values were written just now, and any bytes are a value of T.
        unsafe { numbers.set_len(count) };
        Some(numbers)
    }

    /// Returns a copy of the number at `offset`, which need not be aligned; `None` if the region
    /// has not so many bytes there.
    #[inline]
    pub(crate) fn number<T: bytemuck::AnyBitPattern>(&self, offset: usize) -> Option<T> {
        let source = self.range(offset, size_of::<T>())?.cast::<T>();
        // SAFETY: the range lies in the mapping, and any bytes are a value of T.
        Some(unsafe { source.read_unaligned() })
    }

    /// Returns the bytes of a chunk to the worker that has claimed it.
    ///
    /// The claim gives the chunk to this worker alone: the parent does not write to a claimed
    /// chunk, and other workers do not touch it.
    pub(crate) fn claimed_bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        let source = self.range(offset, len)?;
        // SAFETY: the range lies in the mapping and, by the claim, nobody writes to it.
        Some(unsafe { std::slice::from_raw_parts(source, len) })
    }

    /// Returns the value at `offset` to the holder of the lock that protects it; `None` if the
    /// region has no room for it there, or the offset is not aligned.
    ///
    /// The lock gives the value to one thread of all processes, and the caller's reference does not
    /// outlive the lock.
    pub(crate) fn locked<T: Pod>(&self, offset: usize) -> Option<&T> {
        let value = self.range(offset, size_of::<T>())?.cast::<T>();
        // SAFETY: the range lies in the mapping and, by the lock, nobody writes to it; any bytes
        // are a value of T; alignment is checked here.
        value.is_aligned().then(|| unsafe { &*value })
    }

    /// Like [`locked`](Region::locked), to change the value. The caller has no other reference to
    /// the value.
    #[expect(clippy::mut_from_ref, reason = "the lock, not the region, gives the value away")]
    pub(crate) fn locked_mut<T: Pod>(&self, offset: usize) -> Option<&mut T> {
        let value = self.range(offset, size_of::<T>())?.cast::<T>();
        // SAFETY: as in `locked`, and nobody else has a reference.
        value.is_aligned().then(|| unsafe { &mut *value })
    }

    /// Sets the flag in the first word. The region must be used for nothing else.
    pub(crate) fn raise(&self) {
        if let Some([flag]) = self.atomics::<AtomicU64>(0, 1) {
            flag.store(1, Ordering::Relaxed);
        }
    }

    /// Whether any process has set the flag. Also true if the region has no room for a flag.
    pub(crate) fn is_raised(&self) -> bool {
        !matches!(self.atomics::<AtomicU64>(0, 1), Some([flag]) if flag.load(Ordering::Relaxed) == 0)
    }

    /// Returns `count` objects at `offset`, of a type that is made of atomics; `None` if the region
    /// has no room for them there, or the offset is not aligned.
    #[cfg(not(all(test, loom)))]
    pub(crate) fn atomics<T: AllAtomic>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let source = self.range(offset, count.checked_mul(size_of::<T>())?)?.cast::<T>();
        // SAFETY: the range lies in the mapping; T is valid for any bytes and may be shared with
        // other processes, as AllAtomic promises; alignment is checked here.
        source.is_aligned().then(|| unsafe { std::slice::from_raw_parts(source, count) })
    }

    /// Returns objects of a model check, which lie beside the bytes of the region.
    #[cfg(all(test, loom))]
    pub(crate) fn atomics<T: AllAtomic>(&self, offset: usize, count: usize) -> Option<&[T]> {
        Some(self.objects.at(offset, count))
    }
}

/// Object of atomics in a region. The region stays mapped as long as this value exists.
#[derive(Debug)]
pub(crate) struct Placed<T> {
    object: *const T,
    /// Keeps what `object` points to.
    region: Arc<Region>,
}

// SAFETY: `object` points into the region, which any thread may use, and T is Send and Sync.
unsafe impl<T: AllAtomic> Send for Placed<T> {}
// SAFETY: as above.
unsafe impl<T: AllAtomic> Sync for Placed<T> {}

impl<T: AllAtomic> Placed<T> {
    /// Returns the object at `offset`; `None` if the region has no room for it there, or the offset
    /// is not aligned.
    pub(crate) fn new(region: Arc<Region>, offset: usize) -> Option<Placed<T>> {
        let object = std::ptr::from_ref(region.atomics::<T>(offset, 1)?.first()?);
        Some(Placed { object, region })
    }
}

impl<T> Clone for Placed<T> {
    fn clone(&self) -> Placed<T> {
        Placed { object: self.object, region: Arc::clone(&self.region) }
    }
}

impl<T: AllAtomic> Deref for Placed<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `new` has got the address from a reference into the region, which `self.region`
        // keeps mapped at the same place.
        unsafe { &*self.object }
    }
}

/// Copies `bytes` to `target`.
///
/// # Safety
///
/// `target` points to at least `bytes.len()` bytes of a region, in which no Rust object but atomics
/// lives.
#[inline]
unsafe fn copy(bytes: &[u8], target: *mut u8) {
    match (bytes.first_chunk::<WORD>(), bytes.last_chunk::<WORD>()) {
        // Copy two words that overlap, without calling a function: most results are that small.
        (Some(first), Some(last)) if bytes.len() <= 2 * WORD => {
            // SAFETY: by the caller's promise there are `bytes.len()` bytes, which is a word at
            // least.
            unsafe { target.copy_from_nonoverlapping(first.as_ptr(), WORD) };
            // SAFETY: as above; the result is a word before the end.
            let end = unsafe { target.add(bytes.len() - WORD) };
            // SAFETY: as above.
            unsafe { end.copy_from_nonoverlapping(last.as_ptr(), WORD) };
        }
        // SAFETY: by the caller's promise there are `bytes.len()` bytes.
        _ => unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) },
    }
}

/// Type that consists of atomic integers and padding, is `repr(C)`, and is all zero by default.
///
/// # Safety
///
/// Any bytes must be a valid value, and every field must be an atomic.
pub(crate) unsafe trait AllAtomic: Default + Send + Sync + 'static {}

// SAFETY: the type is an atomic integer.
unsafe impl AllAtomic for AtomicU32 {}
// SAFETY: the type is an atomic integer.
unsafe impl AllAtomic for AtomicU64 {}
// SAFETY: the type is an atomic integer.
unsafe impl AllAtomic for std::sync::atomic::AtomicU8 {}
// SAFETY: the type is an atomic integer.
unsafe impl AllAtomic for std::sync::atomic::AtomicU16 {}
// SAFETY: the type is an atomic integer.
#[cfg(all(test, loom))]
unsafe impl AllAtomic for std::sync::atomic::AtomicU32 {}
// SAFETY: the type is an atomic integer.
#[cfg(all(test, loom))]
unsafe impl AllAtomic for std::sync::atomic::AtomicU64 {}
// SAFETY: an array consists of its elements, which are all atomic.
unsafe impl<T: AllAtomic, const N: usize> AllAtomic for [T; N] where [T; N]: Default {}

/// Declares a struct that may lie in shared memory. Its fields must be [`AllAtomic`], which the
/// compiler checks.
macro_rules! shared_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$about:meta])* $field_vis:vis $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Default)]
        #[repr(C)]
        $vis struct $name { $($(#[$about])* $field_vis $field: $type,)* }
        $crate::memory::shared_struct! { @check $name: $($type,)* }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident($type:ty);) => {
        $(#[$meta])*
        #[derive(Default)]
        #[repr(C)]
        $vis struct $name($type);
        $crate::memory::shared_struct! { @check $name: $type, }
    };
    (@check $name:ident: $($type:ty,)*) => {
        const _: () = {
            const fn is_all_atomic<T: $crate::memory::AllAtomic>() {}
            $(is_all_atomic::<$type>();)*
        };
        // SAFETY: the struct is `repr(C)`, and the constant above compiles only if each of its
        // fields is all atomic.
        #[allow(unsafe_code)]
        unsafe impl $crate::memory::AllAtomic for $name {}
    };
}
pub(crate) use shared_struct;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn read_returns_what_was_written_for_each_length() {
        let region = Region::new(100).expect("there is memory");
        let bytes: Vec<u8> = (1..=40).collect();
        for len in 0..=bytes.len() {
            assert!(region.write(7, &[0xff; 42]));
            assert!(region.write(8, &bytes[..len]));
            let mut out = Vec::new();
            assert!(region.read(7, len + 2, &mut out));
            assert_eq!(out, [&[0xff], &bytes[..len], &[0xff]].concat());
            assert!(region.write(100 - len, &bytes[..len]));
            assert!(len == 0 || !region.write(101 - len, &bytes[..len]));
            assert!(len == 0 || !region.write(usize::MAX - len + 1, &bytes[..len]));
        }
    }

    #[test]
    fn read_and_write_stay_within_the_region() {
        let region = Region::new(100).expect("there is memory");
        assert!(region.write(90, b"0123456789"));
        assert!(!region.write(91, b"0123456789"));
        assert!(!region.write(usize::MAX, b"0"));
        let mut out = b"x".to_vec();
        assert!(region.read(90, 10, &mut out));
        assert_eq!(out, b"x0123456789");
        assert!(!region.read(91, 10, &mut out));
        assert!(!region.read(usize::MAX, 2, &mut out));
        assert_eq!(region.claimed_bytes(99, 2), None);
        assert!(region.atomics::<std::sync::atomic::AtomicU64>(1, 1).is_none(), "not aligned");
        assert!(region.atomics::<std::sync::atomic::AtomicU64>(0, usize::MAX).is_none());
    }
}
