//! Defines [`Value`], plain data that processes read and change, and that are whole at any time.
//!
//! A value of up to 8 bytes is one atomic word. A larger one lies in memory twice: a writer changes
//! the copy that is not valid, and then makes it the valid one, in one step. A reader that was slow
//! sees that there were changes, and reads again. A writer that is killed leaves the old value, so
//! nothing needs to be repaired.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytemuck::Pod;

use super::object::{Kind, Slot, send_as_slot};
use super::raw_lock::{Locker, Patience, RawLock};
use crate::error::Error;
use crate::memory::atomics::{AtomicU64, fence};
use crate::memory::{Placed, shared_struct};

const WORD: usize = size_of::<u64>();

shared_struct! {
    /// Words of a value.
    #[derive(Debug)]
    struct ValueWords {
        /// The value, if it has at most 8 bytes.
        small: AtomicU64,
        /// Number of changes of a larger value. The copy with the number `changes % 2` is valid.
        changes: AtomicU64,
        /// Lock of those that change a larger value.
        writers: RawLock,
    }
}

/// Offset of the first copy of a larger value.
const COPIES: usize = 64;

/// Plain data that all processes read and change: a number, a few flags, a small struct.
///
/// The value is whole at any time: a reader sees an old or a new value, and never a mixture. A
/// process that dies while it changes the value leaves the old one, so no death makes anybody wait.
///
/// `T` is what bytemuck calls plain old data: integers, floats, arrays of these, and types of yours
/// that derive `bytemuck::Pod`. A clone is the same value, and so is what another process receives.
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
/// use proc_core::sync::Value;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let even = Value::new(0_u64)?;
///     let pool = Pool::builder().processes(2).build()?;
///     pool.with(even.clone()).map(
///         |even, x: u64| {
///             if x % 2 == 0 {
///                 even.fetch_add(1);
///             }
///         },
///         0..1000,
///     )?;
///     assert_eq!(even.get(), 500);
///     even.set(0);
///     Ok(())
/// }
/// ```
#[doc(alias = "multiprocessing.Value")]
pub struct Value<T> {
    slot: Arc<Slot>,
    words: Placed<ValueWords>,
    kind: PhantomData<fn() -> T>,
}

impl<T: Pod> Value<T> {
    /// Makes a value.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Value`].
    pub fn new(value: T) -> Result<Value<T>, Error> {
        let new = Value::of(Slot::new(Kind::Value, Value::<T>::LEN)?);
        new.set(value);
        Ok(new)
    }

    /// Returns the value as it is now.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::sync::Value;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let position = Value::new([0.5, 1.5, 2.5])?;
    ///     position.set([1.0; 3]);
    ///     assert_eq!(position.get(), [1.0; 3]);
    ///     Ok(())
    /// }
    /// ```
    #[inline]
    pub fn get(&self) -> T {
        if Value::<T>::IS_SMALL {
            return from_word(self.words.small.load(Ordering::Acquire));
        }
        loop {
            let changes = self.words.changes.load(Ordering::Acquire);
            let value = self.read(changes);
            // The next writer changes the other copy. Only the one after it changes this copy.
            fence(Ordering::Acquire);
            if self.words.changes.load(Ordering::Relaxed) == changes {
                return value;
            }
        }
    }

    /// Replaces the value.
    ///
    /// # Panics
    ///
    /// As for [`update`](Value::update).
    ///
    /// See the example of [`Value`].
    #[inline]
    pub fn set(&self, value: T) {
        if Value::<T>::IS_SMALL {
            self.words.small.store(to_word(value), Ordering::Release);
        } else {
            self.update(|old| *old = value);
        }
    }

    /// Changes the value: calls `change` with it, and makes the result the new value. The change is
    /// made whole or not at all, and no other change comes in between. Returns what `change`
    /// returns.
    ///
    /// If `T` has at most 8 bytes, `change` may be called several times, each time with the newest
    /// value; only its last call counts. It must not do anything else than change its argument.
    ///
    /// # Panics
    ///
    /// If `T` has more than 8 bytes: `change` itself changes the same value, and would wait for
    /// itself. Also if the process is a copy made by `fork` for which the kernel has no record
    /// lock.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::sync::Value;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let sum_and_count = Value::new([0_u64, 0])?;
    ///     for x in [3, 4] {
    ///         sum_and_count.update(|[sum, count]| {
    ///             *sum += x;
    ///             *count += 1;
    ///         });
    ///     }
    ///     assert_eq!(sum_and_count.get(), [7, 2]);
    ///     Ok(())
    /// }
    /// ```
    pub fn update<R>(&self, mut change: impl FnMut(&mut T) -> R) -> R {
        if Value::<T>::IS_SMALL {
            let mut old = self.words.small.load(Ordering::Acquire);
            loop {
                let mut value = from_word(old);
                let returned = change(&mut value);
                let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
                match self.words.small.compare_exchange(old, to_word(value), success, failure) {
                    Ok(_) => return returned,
                    Err(newer) => old = newer,
                }
            }
        }
        self.update_large(change)
    }

    fn update_large<R>(&self, mut change: impl FnMut(&mut T) -> R) -> R {
        let me = Locker::current(self.slot.family()).unwrap_or_else(|error| panic!("{error}"));
        if self.words.writers.lock(me, Patience::Endless).is_err() {
            panic!("this thread is changing the value already, and would wait for itself");
        }
        let writing = Writing { lock: &self.words.writers, me };
        let changes = self.words.changes.load(Ordering::Relaxed);
        let mut value: T = self.read(changes);
        let returned = change(&mut value);
        // A reader that still reads the copy which is overwritten now must see that there were
        // changes.
        fence(Ordering::Release);
        let copy = self.copy(changes + 1);
        for (word, bytes) in copy.iter().zip(bytemuck::bytes_of(&value).chunks(WORD)) {
            let mut padded = [0; WORD];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
        self.words.changes.store(changes + 1, Ordering::Release);
        drop(writing);
        returned
    }

    /// Reads the copy that is valid after so many changes.
    fn read(&self, changes: u64) -> T {
        let mut value = T::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut value).chunks_mut(WORD);
        for (word, bytes) in self.copy(changes).iter().zip(bytes) {
            let word = word.load(Ordering::Relaxed).to_ne_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
        value
    }

    fn copy(&self, changes: u64) -> &[AtomicU64] {
        let words = size_of::<T>().div_ceil(WORD);
        self.slot.atomics(COPIES + (changes % 2) as usize * words * WORD, words)
    }
}

impl<T> Value<T> {
    const IS_SMALL: bool = {
        assert!(size_of::<T>() > 0, "there is nothing to share in values without bytes");
        size_of::<T>() <= WORD
    };

    /// Size of the slot.
    const LEN: usize = match Value::<T>::IS_SMALL {
        true => size_of::<ValueWords>(),
        false => COPIES + 2 * size_of::<T>().next_multiple_of(WORD),
    };

    fn of(slot: Arc<Slot>) -> Value<T> {
        Value { words: slot.header(), slot, kind: PhantomData }
    }
}

/// Releases the lock of a value's writers, also if the user's function panics.
struct Writing<'a> {
    lock: &'a RawLock,
    me: Locker,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.lock.unlock(self.me);
    }
}

/// Returns a value whose bytes are the first ones of `word`.
#[inline]
fn from_word<T: Pod>(word: u64) -> T {
    bytemuck::pod_read_unaligned(&word.to_le_bytes()[..size_of::<T>()])
}

/// The inverse of [`from_word`]. The bytes that the value does not have are 0.
#[inline]
fn to_word<T: Pod>(value: T) -> u64 {
    let mut bytes = [0; WORD];
    bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
    u64::from_le_bytes(bytes)
}

/// Integers of up to 8 bytes.
///
/// See the example of [`Value`].
pub trait Integer: Pod + private::Sealed {
    /// Returns the sum, wrapping around at the limits of the type.
    #[doc(hidden)]
    fn plus(self, other: Self) -> Self;
    /// Returns the difference, wrapping around at the limits of the type.
    #[doc(hidden)]
    fn minus(self, other: Self) -> Self;
    #[doc(hidden)]
    fn larger(self, other: Self) -> Self;
    #[doc(hidden)]
    fn smaller(self, other: Self) -> Self;
    #[doc(hidden)]
    fn both(self, other: Self) -> Self;
    #[doc(hidden)]
    fn either(self, other: Self) -> Self;
    #[doc(hidden)]
    fn one_of(self, other: Self) -> Self;
}

mod private {
    pub trait Sealed {}
}

macro_rules! integers {
    ($($integer:ty),*) => { $(
        impl private::Sealed for $integer {}

        impl Integer for $integer {
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
            fn both(self, other: Self) -> Self {
                self & other
            }
            fn either(self, other: Self) -> Self {
                self | other
            }
            fn one_of(self, other: Self) -> Self {
                self ^ other
            }
        }
    )* };
}

integers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

/// Arithmetic as that of the atomics of the standard library: each method changes the value in one
/// step and returns the value as it was before.
impl<T: Integer> Value<T> {
    /// Adds `n`. The sum wraps around at the limits of the type.
    ///
    /// See the example of [`Value`].
    #[inline]
    pub fn fetch_add(&self, n: T) -> T {
        if cfg!(target_endian = "little") {
            // What carries over into the bytes that the value does not have is never read.
            return from_word(self.words.small.fetch_add(to_word(n), Ordering::AcqRel));
        }
        self.fetch(|value| value.plus(n))
    }

    /// Subtracts `n`. The difference wraps around at the limits of the type.
    ///
    /// See the example of [`Value`].
    #[inline]
    pub fn fetch_sub(&self, n: T) -> T {
        self.fetch(|value| value.minus(n))
    }

    /// Makes the value the larger one of itself and `n`.
    ///
    /// See the example of [`Value`].
    pub fn fetch_max(&self, n: T) -> T {
        self.fetch(|value| value.larger(n))
    }

    /// Makes the value the smaller one of itself and `n`.
    ///
    /// See the example of [`Value`].
    pub fn fetch_min(&self, n: T) -> T {
        self.fetch(|value| value.smaller(n))
    }

    /// Keeps the bits that `n` has too.
    ///
    /// See the example of [`Value`].
    pub fn fetch_and(&self, n: T) -> T {
        self.fetch(|value| value.both(n))
    }

    /// Sets the bits that `n` has.
    ///
    /// See the example of [`Value`].
    pub fn fetch_or(&self, n: T) -> T {
        self.fetch(|value| value.either(n))
    }

    /// Inverts the bits that `n` has.
    ///
    /// See the example of [`Value`].
    pub fn fetch_xor(&self, n: T) -> T {
        self.fetch(|value| value.one_of(n))
    }

    fn fetch(&self, change: impl Fn(T) -> T) -> T {
        self.update(|value| std::mem::replace(value, change(*value)))
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Value<T> {
        Value { slot: Arc::clone(&self.slot), words: self.words.clone(), kind: PhantomData }
    }
}

send_as_slot!(Value<T: Pod>, Kind::Value, Value::<T>::LEN);

impl<T: Pod + Debug> Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Value").field(&self.get()).finish()
    }
}
