//! Vectors of plain numbers, whose memory is their encoding: copied whole, never walked.
//!
//! serde shows a vector element by element, which for megabytes costs more than everything else on
//! their way. Here such a vector is known by its type alone; both sides are the same program, so they
//! agree. What holds one among other things takes serde's way (or `serde_bytes`).

use std::any::Any;

/// Calls `$then` with each type of number as `$T`.
macro_rules! each_number {
    ($($T:ident)*; $with:ident) => {$( $with!($T); )*};
}

/// The bytes of `value`, if it is a vector of numbers.
#[inline]
pub(crate) fn bytes_of<T: 'static>(value: &T) -> Option<&[u8]> {
    let value: &dyn Any = value;
    macro_rules! look {
        ($T:ident) => {
            if let Some(numbers) = value.downcast_ref::<Vec<$T>>() {
                return Some(bytemuck::cast_slice(numbers));
            }
        };
    }
    each_number! { u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 usize isize f32 f64; look }
    None
}

/// The value that has these bytes, if it is a vector of numbers; an error where they are no whole
/// number of numbers.
#[inline]
pub(crate) fn from_bytes<T: 'static>(bytes: &[u8]) -> Option<Result<T, String>> {
    let mut value: Option<T> = None;
    let place: &mut dyn Any = &mut value;
    macro_rules! look {
        ($T:ident) => {
            if let Some(place) = place.downcast_mut::<Option<Vec<$T>>>() {
                if bytes.len() % size_of::<$T>() != 0 {
                    return Some(Err("the data end in the middle of a number".into()));
                }
                *place = Some(bytemuck::pod_collect_to_vec(bytes));
            }
        };
    }
    each_number! { u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 usize isize f32 f64; look }
    value.map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(floats: Vec<f64>, bytes: Vec<u8>, wide: Vec<i128>) {
            let sent = bytes_of(&floats).expect("a vector of numbers");
            let back: Vec<f64> = from_bytes(sent).expect("of its type").expect("whole");
            let bits = |floats: &[f64]| floats.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&back), bits(&floats));
            prop_assert_eq!(from_bytes(bytes_of(&bytes).expect("bytes")), Some(Ok(bytes)));
            prop_assert_eq!(from_bytes(bytes_of(&wide).expect("numbers")), Some(Ok(wide)));
        }
    }

    #[test]
    fn half_a_number_is_refused() {
        let read: Option<Result<Vec<u32>, String>> = from_bytes(&[1, 2, 3, 4, 5]);
        assert!(read.expect("of its type").expect_err("five bytes").contains("middle of a number"));
    }

    #[test]
    fn other_types_are_left_alone() {
        assert_eq!(bytes_of(&7_u64), None);
        assert_eq!(bytes_of(&vec![true]), None);
        assert_eq!(from_bytes::<Vec<String>>(&[]), None);
    }
}
