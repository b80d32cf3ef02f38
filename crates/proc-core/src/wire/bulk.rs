//! Encodes values whose bytes in memory are also their encoding: plain numbers, vectors of them,
//! strings and byte buffers. Each is copied as a whole.
//!
//! serde walks a vector element by element. For a vector of megabytes, this costs more than the
//! rest of the way to the other process. The codec also makes and reads an integer one byte at a
//! time. Here the type alone tells that a value is of this kind; both sides are the same program,
//! so they agree. If such a value is part of another value, serde (or `serde_bytes`) encodes it.

use std::any::{Any, TypeId};

use serde_bytes::ByteBuf;

use crate::memory::Region;

/// Bytes of a value, and where they are.
#[derive(Clone, Copy)]
pub(crate) enum ValueBytes<'a> {
    /// In this process's own memory, or in a part of shared memory to which nobody else writes (see
    /// [`Region::claimed_bytes`]).
    Own(&'a [u8]),
    /// `len` bytes at offset `at` of shared memory, which may change while they are copied.
    Shared { region: &'a Region, at: usize, len: usize },
}

/// Why a value cannot be made of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    CutNumber,
    NotUtf8,
    NoMemory,
}

impl From<Unreadable> for String {
    fn from(why: Unreadable) -> String {
        match why {
            Unreadable::CutNumber => "the data end in the middle of a number",
            Unreadable::NotUtf8 => "a string in the data is not UTF-8",
            Unreadable::NoMemory => "there is not enough memory for the value",
        }
        .into()
    }
}

impl ValueBytes<'_> {
    fn len(self) -> usize {
        match self {
            ValueBytes::Own(bytes) => bytes.len(),
            ValueBytes::Shared { len, .. } => len,
        }
    }

    /// Copies the bytes as one number.
    #[inline]
    fn number<T: bytemuck::Pod>(self) -> Result<T, Unreadable> {
        let number = match self {
            ValueBytes::Own(bytes) => bytemuck::try_pod_read_unaligned(bytes).ok(),
            ValueBytes::Shared { len, .. } if len != size_of::<T>() => None,
            ValueBytes::Shared { region, at, .. } => region.number(at),
        };
        number.ok_or(Unreadable::CutNumber)
    }

    /// Copies the bytes as numbers.
    fn numbers<T: bytemuck::Pod>(self) -> Result<Vec<T>, Unreadable> {
        if !self.len().is_multiple_of(size_of::<T>()) {
            return Err(Unreadable::CutNumber);
        }
        match self {
            ValueBytes::Own(bytes) => {
                let mut numbers: Vec<T> = Vec::new();
                let count = bytes.len() / size_of::<T>();
                numbers.try_reserve_exact(count).map_err(|_| Unreadable::NoMemory)?;
                match bytemuck::try_cast_slice(bytes) {
                    Ok(aligned) => numbers.extend_from_slice(aligned),
                    Err(_) => {
                        numbers.resize(count, T::zeroed());
                        bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(bytes);
                    }
                }
                Ok(numbers)
            }
            ValueBytes::Shared { region, at, len } => {
                region.numbers(at, len / size_of::<T>()).ok_or(Unreadable::NoMemory)
            }
        }
    }
}

/// Calls the macro `$with` with each type of number.
macro_rules! each_number {
    ($with:ident) => {
        each_number! { $with u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 usize isize f32 f64 }
    };
    ($with:ident $($T:ident)+) => {$( $with!($T); )+};
}

/// Returns the size of the encoding of each `T` in bytes, if `T` is a plain number.
#[inline]
pub(crate) fn number_size<T: 'static>() -> Option<usize> {
    macro_rules! look {
        ($T:ident) => {
            if TypeId::of::<T>() == TypeId::of::<$T>() {
                return Some(size_of::<$T>());
            }
        };
    }
    each_number!(look);
    None
}

/// Returns the bytes of `value`, if it is a plain number.
#[inline]
pub(crate) fn number<T: 'static>(value: &T) -> Option<&[u8]> {
    number_size::<T>().and_then(|_| bytes_of(value))
}

/// Whether [`bytes_of`] knows the type.
#[inline]
pub(super) fn is_known<T: 'static>() -> bool {
    let this = TypeId::of::<T>();
    macro_rules! look {
        ($T:ident) => {
            if this == TypeId::of::<Vec<$T>>() || this == TypeId::of::<$T>() {
                return true;
            }
        };
    }
    each_number!(look);
    this == TypeId::of::<String>() || this == TypeId::of::<ByteBuf>()
}

/// Returns the bytes of `value`, if it is a number, a vector of numbers, a string or a byte buffer.
#[inline]
pub(crate) fn bytes_of<T: 'static>(value: &T) -> Option<&[u8]> {
    let value: &dyn Any = value;
    macro_rules! look {
        ($T:ident) => {
            if let Some(numbers) = value.downcast_ref::<Vec<$T>>() {
                return Some(bytemuck::cast_slice(numbers));
            }
            if let Some(number) = value.downcast_ref::<$T>() {
                return Some(bytemuck::bytes_of(number));
            }
        };
    }
    each_number!(look);
    let text = value.downcast_ref::<String>().map(String::as_bytes);
    text.or_else(|| value.downcast_ref::<ByteBuf>().map(|bytes| &bytes[..]))
}

/// Returns the value that has these bytes, if its type is one that [`bytes_of`] knows. The inner
/// result is an error if the bytes are not a whole number of numbers, or not UTF-8.
#[inline]
pub(crate) fn from_bytes<T: 'static>(bytes: ValueBytes<'_>) -> Option<Result<T, Unreadable>> {
    let mut value: Option<T> = None;
    let target: &mut dyn Any = &mut value;
    macro_rules! look {
        ($T:ident) => {
            if let Some(target) = target.downcast_mut::<Option<Vec<$T>>>() {
                match bytes.numbers() {
                    Ok(numbers) => *target = Some(numbers),
                    Err(why) => return Some(Err(why)),
                }
            }
            if let Some(target) = target.downcast_mut::<Option<$T>>() {
                match bytes.number() {
                    Ok(number) => *target = Some(number),
                    Err(why) => return Some(Err(why)),
                }
            }
        };
    }
    each_number!(look);
    if let Some(target) = target.downcast_mut::<Option<String>>() {
        let text = bytes
            .numbers()
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8));
        match text {
            Ok(text) => *target = Some(text),
            Err(why) => return Some(Err(why)),
        }
    }
    if let Some(target) = target.downcast_mut::<Option<ByteBuf>>() {
        match bytes.numbers() {
            Ok(bytes) => *target = Some(ByteBuf::from(bytes)),
            Err(why) => return Some(Err(why)),
        }
    }
    value.map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn from_bytes_returns_what_bytes_of_gave(
            floats: Vec<f64>,
            bytes: Vec<u8>,
            wide: Vec<i128>,
            text: String,
            number: i32,
        ) {
            fn from_bytes<T: 'static>(bytes: &[u8]) -> Option<Result<T, Unreadable>> {
                super::from_bytes(ValueBytes::Own(bytes))
            }
            let sent = bytes_of(&floats).expect("a vector of numbers");
            let back: Vec<f64> = from_bytes(sent).expect("of its type").expect("whole");
            let bits = |floats: &[f64]| floats.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&back), bits(&floats));
            prop_assert_eq!(from_bytes(bytes_of(&number).expect("a number")), Some(Ok(number)));
            prop_assert_eq!(from_bytes(bytes_of(&bytes).expect("bytes")), Some(Ok(bytes)));
            prop_assert_eq!(from_bytes(bytes_of(&wide).expect("numbers")), Some(Ok(wide)));
            let buffer = ByteBuf::from(text.clone());
            prop_assert_eq!(from_bytes(bytes_of(&text).expect("text")), Some(Ok(text)));
            prop_assert_eq!(from_bytes(bytes_of(&buffer).expect("bytes")), Some(Ok(buffer)));
        }
    }

    #[test]
    fn from_bytes_refuses_half_a_number() {
        let read = from_bytes::<Vec<u32>>(ValueBytes::Own(&[1, 2, 3, 4, 5]));
        assert_eq!(read, Some(Err(Unreadable::CutNumber)));
        for len in [0, 3, 5, 8] {
            let read = from_bytes::<u32>(ValueBytes::Own(&[1; 8][..len]));
            assert_eq!(read, Some(Err(Unreadable::CutNumber)));
        }
    }

    #[test]
    fn from_bytes_refuses_a_string_that_is_not_utf8() {
        let read = from_bytes::<String>(ValueBytes::Own(&[0xff]));
        assert_eq!(read, Some(Err(Unreadable::NotUtf8)));
    }

    #[test]
    fn other_types_are_not_bulk() {
        assert_eq!(bytes_of(&true), None);
        assert_eq!(bytes_of(&vec![true]), None);
        assert_eq!(from_bytes::<Vec<String>>(ValueBytes::Own(&[])), None);
    }
}
