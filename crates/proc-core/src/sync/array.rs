//! Defines [`Array`], numbers that processes read and change.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use bytemuck::Pod;

use super::object::{Kind, Slot};
use crate::error::Error;
use crate::memory::shared_struct;

shared_struct! {
    /// Words before the elements of an array.
    #[derive(Debug)]
    struct ArrayWords {
        len: crate::memory::atomics::AtomicU64,
    }
}

/// Offset of the elements in an array's slot.
const ELEMENTS: usize = 64;

/// Numbers (or other plain data of 1, 2, 4 or 8 bytes) that all processes read and change.
///
/// Each element is whole at any time, so a process that dies while it writes never leaves half an
/// element. Several elements are not changed together: protect them with a
/// [`Lock`](crate::sync::Lock) if they belong together. For data that nobody changes, a
/// [`Shared`](crate::Shared) is faster.
///
/// A clone is the same array, and so is what another process receives. The elements are never
/// copied on the way.
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
/// use proc_core::sync::Array;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let squares = Array::zeroed(5)?;
///     let pool = Pool::builder().processes(2).build()?;
///     pool.with(squares.clone()).map(|squares, i: usize| squares.set(i, (i * i) as f64), 0..5)?;
///     assert_eq!(squares.snapshot(), [0.0, 1.0, 4.0, 9.0, 16.0]);
///     Ok(())
/// }
/// ```
#[doc(alias = "multiprocessing.Array")]
#[doc(alias = "SharedMemory")]
pub struct Array<T> {
    slot: Arc<Slot>,
    len: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: Pod> Array<T> {
    /// Makes an array with a copy of `elements`.
    ///
    /// # Errors
    ///
    /// As for [`zeroed`](Array::zeroed).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::sync::Array;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let array = Array::from_slice(&[1_u32, 2, 3])?;
    ///     array.update(1, |x| *x *= 10);
    ///     array.write(2.., &[7]);
    ///     assert_eq!((array.get(0), array.len(), array.snapshot()), (1, 3, vec![1, 20, 7]));
    ///     Ok(())
    /// }
    /// ```
    pub fn from_slice(elements: &[T]) -> Result<Array<T>, Error> {
        let array = Array::zeroed(elements.len())?;
        array.write(.., elements);
        Ok(array)
    }

    /// Makes an array of `len` elements whose bytes are all 0. A page of elements takes memory
    /// when one of them is first read or changed. (A small array takes its memory at once.)
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid): `len` is 0.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory or descriptor for it.
    ///
    /// See the example of [`Array`].
    pub fn zeroed(len: usize) -> Result<Array<T>, Error> {
        const {
            let size = size_of::<T>();
            assert!(
                size == 1 || size == 2 || size == 4 || size == 8,
                "an element of an Array has 1, 2, 4 or 8 bytes: use one Value for larger data"
            );
        }
        if len == 0 {
            return Err(Error::invalid("an Array has at least one element"));
        }
        let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(ELEMENTS));
        let slot = Slot::new(Kind::Array, bytes.unwrap_or(usize::MAX))?;
        slot.header::<ArrayWords>().len.store(len as u64, Ordering::Release);
        Ok(Array { slot, len, kind: PhantomData })
    }

    /// Returns element `index`.
    ///
    /// # Panics
    ///
    /// There is no such element.
    ///
    /// See the example of [`from_slice`](Array::from_slice).
    #[inline]
    pub fn get(&self, index: usize) -> T {
        let get = Ordering::Acquire;
        match size_of::<T>() {
            1 => bytemuck::cast(self.elements::<AtomicU8>()[index].load(get)),
            2 => bytemuck::cast(self.elements::<AtomicU16>()[index].load(get)),
            4 => bytemuck::cast(self.elements::<AtomicU32>()[index].load(get)),
            _ => bytemuck::cast(self.elements::<AtomicU64>()[index].load(get)),
        }
    }

    /// Replaces element `index`.
    ///
    /// # Panics
    ///
    /// There is no such element.
    ///
    /// See the example of [`Array`].
    #[inline]
    pub fn set(&self, index: usize, element: T) {
        let set = Ordering::Release;
        match size_of::<T>() {
            1 => self.elements::<AtomicU8>()[index].store(bytemuck::cast(element), set),
            2 => self.elements::<AtomicU16>()[index].store(bytemuck::cast(element), set),
            4 => self.elements::<AtomicU32>()[index].store(bytemuck::cast(element), set),
            _ => self.elements::<AtomicU64>()[index].store(bytemuck::cast(element), set),
        }
    }

    /// Changes element `index`: calls `change` with it, and makes the result the new element. No
    /// other change of this element comes in between. Returns what `change` returns.
    ///
    /// `change` may be called several times, each time with the newest element; only its last call
    /// counts. It must not do anything else than change its argument.
    ///
    /// # Panics
    ///
    /// There is no such element.
    ///
    /// See the example of [`from_slice`](Array::from_slice).
    pub fn update<R>(&self, index: usize, mut change: impl FnMut(&mut T) -> R) -> R {
        loop {
            let old = self.get(index);
            let mut new = old;
            let returned = change(&mut new);
            if self.replace(index, old, new) {
                return returned;
            }
        }
    }

    /// Replaces element `index` if it is still `old`.
    fn replace(&self, index: usize, old: T, new: T) -> bool {
        macro_rules! exchange {
            ($atomic:ty) => {{
                let (old, new) = (bytemuck::cast(old), bytemuck::cast(new));
                let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
                self.elements::<$atomic>()[index]
                    .compare_exchange(old, new, success, failure)
                    .is_ok()
            }};
        }
        match size_of::<T>() {
            1 => exchange!(AtomicU8),
            2 => exchange!(AtomicU16),
            4 => exchange!(AtomicU32),
            _ => exchange!(AtomicU64),
        }
    }

    /// Replaces the elements in `range` by `elements`, one after the other.
    ///
    /// # Panics
    ///
    /// There are no such elements, or `elements` are not as many.
    ///
    /// See the example of [`from_slice`](Array::from_slice).
    pub fn write(&self, range: impl RangeBounds<usize>, elements: &[T]) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len,
        };
        let len = self.len;
        assert!(start <= end && end <= len, "the array has {len} elements, not {start}..{end}");
        let count = elements.len();
        assert!(count == end - start, "{start}..{end} of an array cannot be {count} elements");
        for (index, element) in (start..).zip(elements) {
            self.set(index, *element);
        }
    }

    /// Returns a copy of the elements. Each element is whole, but others may change meanwhile.
    ///
    /// See the example of [`Array`].
    pub fn snapshot(&self) -> Vec<T> {
        (0..self.len).map(|index| self.get(index)).collect()
    }

    #[inline]
    fn elements<A: crate::memory::AllAtomic>(&self) -> &[A] {
        self.slot.atomics(ELEMENTS, self.len)
    }
}

impl<T> Array<T> {
    /// Returns the number of elements, which is at least 1.
    ///
    /// See the example of [`from_slice`](Array::from_slice).
    #[expect(clippy::len_without_is_empty, reason = "an array is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Array<T> {
        Array { slot: Arc::clone(&self.slot), len: self.len, kind: PhantomData }
    }
}

impl<T> serde::Serialize for Array<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.slot.send().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T: Pod> serde::Deserialize<'de> for Array<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Array<T>, D::Error> {
        let sent = super::object::Sent::deserialize(deserializer)?;
        let slot = sent.arrive(Kind::Array, ELEMENTS).map_err(serde::de::Error::custom)?;
        let len = usize::try_from(slot.header::<ArrayWords>().len.load(Ordering::Acquire)).ok();
        let fits = |len: &usize| {
            let bytes = len.checked_mul(size_of::<T>());
            bytes.is_some_and(|bytes| bytes <= slot.len() - ELEMENTS)
        };
        let len = len.filter(fits);
        let len =
            len.ok_or_else(|| serde::de::Error::custom("the array is shorter than it says"))?;
        Ok(Array { slot, len, kind: PhantomData })
    }
}

impl<T> Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ranges_beyond_the_end_are_refused_whatever_their_bounds() {
        let array = Array::<u8>::zeroed(3).expect("there is memory");
        let beyond = [
            (Bound::Included(0), Bound::Included(usize::MAX)),
            (Bound::Included(0), Bound::Included(3)),
            (Bound::Excluded(usize::MAX), Bound::Unbounded),
            (Bound::Included(4), Bound::Unbounded),
        ];
        for range in beyond {
            let write = std::panic::AssertUnwindSafe(|| array.write(range, &[]));
            let why = std::panic::catch_unwind(write).expect_err("there are no such elements");
            let why = why.downcast_ref::<String>().expect("a text");
            assert!(why.starts_with("the array has 3 elements, not "), "{range:?}: {why}");
        }
        array.write((Bound::Excluded(0), Bound::Included(2)), &[1, 2]);
        assert_eq!(array.snapshot(), [0, 1, 2]);
    }
}
