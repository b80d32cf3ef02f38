//! Values that nest deeper than others may, on a stack that grows.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Sink, codec};

/// Maximum number of `Deep`s that are decoded inside each other. Each has the full number of
/// levels, so nothing else would limit the stack of a type that has a `Deep` of itself inside.
const MAX_DEEP_IN_DEEP: u32 = 16;

/// A value that may nest up to 100,000 levels deep. Other values may nest 256 levels.
///
/// Each struct, tuple, enum, sequence, map and `Some` is a level. (A `Box`, and a struct with one
/// unnamed field, are not.) A value beyond its limit is not decoded: the call returns an error,
/// which says so. (A value that is not in a `Deep`, and has very many levels, can overflow the
/// stack before that, when it is encoded.)
///
/// Encoding and decoding a `Deep` do not overflow the stack: they continue on a new piece of stack
/// when the thread has little left. (The stack does not grow in this way inside a
/// [`Described`](crate::Described).) But most other code that calls itself for each level of a
/// value, such as `drop`, `==` and `{:?}`, can overflow the stack. By `Deep`, you say that your
/// code can cope with such values.
///
/// # Examples
///
/// ```
/// use proc_core::{Deep, Pool};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct List {
///     number: u32,
///     next: Option<Box<List>>,
/// }
///
/// // Without this, dropping a list calls itself for each of its parts.
/// impl Drop for List {
///     fn drop(&mut self) {
///         let mut next = self.next.take();
///         while let Some(mut list) = next {
///             next = list.next.take();
///         }
///     }
/// }
///
/// fn count_up(to: u32) -> Deep<List> {
///     let list = |next, number| List { number, next: Some(Box::new(next)) };
///     Deep((0..to).rev().fold(List::default(), list))
/// }
///
/// fn length(Deep(list): Deep<List>) -> usize {
///     std::iter::successors(list.next.as_ref(), |list| list.next.as_ref()).count()
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(1).build()?;
///     let list = pool.apply(count_up, 10_000)?;
///     assert_eq!(list.number, 0); // a `Deep` derefs to what it holds
///     assert_eq!(pool.apply(length, list)?, 10_000);
///     Ok(())
/// }
/// ```
///
/// # What crosses
///
/// A `Deep` may be a part of a value, and it may contain channel ends and
/// [`Shared`](crate::Shared). It is encoded as bytes, which are copied once more than other values.
/// So wrap the outermost value of a deep type, and not each of its parts. In a human-readable
/// format, such as JSON, and inside a [`Described`](crate::Described), a `Deep<T>` is just a `T`,
/// and has the limit of that format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deep<T>(pub T);

impl<T: Serialize> Serialize for Deep<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        let mut bytes = Sink::default();
        let encoded = codec::encode_deep(&self.0, &mut bytes);
        encoded.map_err(|error| match bytes.take_shortage() {
            Some(shortage) => S::Error::custom(shortage),
            None => S::Error::custom(error),
        })?;
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Deep<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Deep<T>, D::Error> {
        if deserializer.is_human_readable() {
            return T::deserialize(deserializer).map(Deep);
        }
        let bytes: Cow<'de, [u8]> = serde_bytes::deserialize(deserializer)?;
        let _guard = Decoding::begin().ok_or_else(|| {
            D::Error::custom("too many Deeps are inside each other: wrap only the outermost value")
        })?;
        match codec::decode_deep(&bytes).map_err(D::Error::custom)? {
            (value, []) => Ok(Deep(value)),
            (_, rest) => Err(D::Error::custom(codec::left_over(rest.len()))),
        }
    }
}

/// Counts the `Deep`s that this thread is decoding, each inside the one before.
struct Decoding;

thread_local! {
    static DECODING: Cell<u32> = const { Cell::new(0) };
}

impl Decoding {
    fn begin() -> Option<Decoding> {
        let count = DECODING.get();
        (count < MAX_DEEP_IN_DEEP).then(|| {
            DECODING.set(count + 1);
            Decoding
        })
    }
}

impl Drop for Decoding {
    fn drop(&mut self) {
        DECODING.set(DECODING.get() - 1);
    }
}

impl<T> From<T> for Deep<T> {
    fn from(value: T) -> Deep<T> {
        Deep(value)
    }
}

impl<T> Deref for Deep<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Deep<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
mod tests;
