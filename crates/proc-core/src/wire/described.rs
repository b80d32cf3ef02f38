//! Values in a format that describes itself, for types that the codec refuses.
//!
//! The format is MessagePack with the names of fields, by the crate rmp-serde. It is human-readable
//! in the sense of serde, as JSON is: serde's attributes `untagged`, `tag` and `flatten` read a
//! value through buffers, and these tell the type that they are human-readable, whatever the format
//! is. (An `IpAddr` inside `untagged`, for example, is text.)

use std::borrow::Cow;
use std::io;
use std::ops::{Deref, DerefMut};

use rmp_serde::decode::Error as DecodeError;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Sink, codec};

/// Maximum number of levels that decoded values may nest.
const MAX_DEPTH: usize = 256;

/// Number of levels that most values do not exceed. The stack of nearly every thread is enough for
/// these; a larger stack would cost more time than a small value takes.
const FEW_LEVELS: usize = 16;

/// A value that crosses in a format that describes itself, for types that are refused otherwise.
///
/// The usual encoding stores no names and no types, so that it is small and fast. Some types of
/// serde cannot be read from it: those that have the attributes `untagged`, `tag`, `flatten` or
/// `skip_serializing_if`, and those that contain a `serde_json::Value`. Such a type crosses in a
/// `Described`: as an argument, as a result, as data that [`Pool::with`](crate::Pool::with) keeps,
/// or as a part of any of these.
///
/// # Examples
///
/// ```
/// use proc_core::{Described, Pool};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(untagged)]
/// enum Setting {
///     Number(f64),
///     Names(Vec<String>),
/// }
///
/// fn size(Described(setting): Described<Setting>) -> usize {
///     match setting {
///         Setting::Number(_) => 1,
///         Setting::Names(names) => names.len(),
///     }
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(2).build()?;
///     let names = Setting::Names(vec!["a".into(), "b".into()]);
///     let settings = [Setting::Number(0.5), names];
///     assert_eq!(pool.map(size, settings.map(Described))?, [1, 2]);
///     Ok(())
/// }
/// ```
///
/// # What crosses
///
/// The format is MessagePack, with the names of fields and variants. Maps with keys of any kind,
/// bytes, infinities and NaN cross. Channel ends and [`Shared`](crate::Shared) may be inside. In a
/// human-readable format, such as JSON, a `Described<T>` is just a `T`.
///
/// - `Some(None)` and `Some(())` arrive as `None`, as with JSON.
/// - Integers of 128 bits are refused where serde's buffers do not hold them: inside `untagged`,
///   `tag` and `flatten`.
/// - Values nest at most 256 levels. Each struct, tuple, sequence and map is a level. A variant
///   with one unnamed field is a level, and one with several fields or with names is two. A
///   [`Deep`](crate::Deep) inside does not change that.
/// - Strings, byte buffers, sequences and maps have at most 2³² - 1 bytes or elements.
///
/// A struct takes more bytes and more time than in the usual encoding, since the names of its
/// fields cross too. So wrap only the part of a value that needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Described<T>(pub T);

impl<T: Serialize> Serialize for Described<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        serializer.serialize_bytes(&encode(&self.0).map_err(S::Error::custom)?)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Described<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Described<T>, D::Error> {
        if deserializer.is_human_readable() {
            return T::deserialize(deserializer).map(Described);
        }
        let bytes: Cow<'de, [u8]> = serde_bytes::deserialize(deserializer)?;
        decode(&bytes).map(Described).map_err(D::Error::custom)
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut out = Sink::default();
    let format = rmp_serde::Serializer::new(Out(&mut out)).with_struct_map();
    let mut format = format.with_human_readable();
    match with_stack::<T, _>(FEW_LEVELS, || value.serialize(&mut format)) {
        Ok(()) => Ok(out.into_bytes()),
        Err(error) => Err(out.take_shortage().unwrap_or_else(|| error.to_string())),
    }
}

/// Writes into a sink, where a lack of memory is an error.
struct Out<'a>(&'a mut Sink);

impl io::Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes bytes, which may be anything.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let levels = if check(bytes, FEW_LEVELS).is_ok() { FEW_LEVELS } else { MAX_DEPTH };
    with_stack::<T, _>(levels, || {
        if levels > FEW_LEVELS {
            check(bytes, levels)?;
        }
        let mut format = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
        T::deserialize(&mut format).map_err(|error| error.to_string())
    })
}

/// Walks through bytes, and makes no value of them. If the result is `Ok`, the bytes are one value
/// that nests at most `levels` levels, and all elements that it announces are there. (While
/// rmp-serde decodes a type, it does not count all levels.)
fn check(bytes: &[u8], levels: usize) -> Result<(), String> {
    let mut rest = bytes;
    let mut format = rmp_serde::Deserializer::new(&mut rest);
    format.set_max_depth(levels + 1);
    match IgnoredAny::deserialize(&mut format) {
        Ok(_) if rest.is_empty() => Ok(()),
        Ok(_) => Err(codec::left_over(rest.len())),
        Err(DecodeError::DepthLimitExceeded) => {
            Err(format!("values nest deeper than the {levels} levels that a Described carries"))
        }
        Err(error) => Err(format!("the data are not what a Described holds: {error}")),
    }
}

/// Calls `run` with enough stack for so many levels of a value of type `T`. (A stack that grows at
/// each level would not help: serde reads its buffers by functions of its own, where nobody looks
/// at the stack.)
///
/// Measured for each level: up to 4 KiB in a debug build with small types, 22 KiB with types of
/// 1 KiB. Only the pages that are used take memory.
fn with_stack<T, R>(levels: usize, run: impl FnOnce() -> R) -> R {
    let level_bytes = (16 << 10) + 32 * size_of::<T>();
    stacker::maybe_grow((levels + 4) * level_bytes, (MAX_DEPTH + 4) * level_bytes, run)
}

impl<T> From<T> for Described<T> {
    fn from(value: T) -> Described<T> {
        Described(value)
    }
}

impl<T> Deref for Described<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Described<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
mod tests;
