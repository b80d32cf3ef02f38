//! How arguments and results lie in a chunk's bytes: as records, one after another.
//!
//! The record of an argument is its length (4 bytes, or 12 bytes from 4 GiB) and its bytes. The
//! record of a result is a tag, its length and its bytes. A corrupt worker may have written any
//! bytes, so reading is checked, and in the parent it borrows from private copies only.

use std::convert::Infallible;
use std::ops::Range;

use crate::call::Fault;
use crate::memory::{Part, Region};
use crate::wire::Sink;

/// The size of a short length, in bytes.
const LEN: usize = 4;

/// A short length that says: the length follows in eight bytes.
const LONG_TAG: u32 = u32::MAX;

/// The size of a result's tag and a long length.
const MAX_HEAD_BYTES: usize = 13;

/// The least room that each result needs: its tag, and the length of an empty value.
pub(crate) const MIN_RESULT_BYTES: usize = 5;

/// Appends a record with the bytes that `write` appends. On an error, appends nothing.
#[inline]
pub(crate) fn append<T, E>(
    out: &mut Sink,
    write: impl FnOnce(&mut Sink) -> Result<T, E>,
) -> Result<T, E> {
    append_after([0; LEN], out, write)
}

/// Appends a record with these bytes.
pub(crate) fn append_bytes(out: &mut Sink, bytes: &[u8]) {
    let Ok(()) = append(out, |out| {
        out.extend_from_slice(bytes);
        Ok::<_, Infallible>(())
    });
}

/// Like [`append`], but begins the record with `head`, whose last bytes are replaced by the length.
#[inline]
fn append_after<const HEAD: usize, T, E>(
    head: [u8; HEAD],
    out: &mut Sink,
    write: impl FnOnce(&mut Sink) -> Result<T, E>,
) -> Result<T, E> {
    let start = out.len();
    out.extend_from_slice(&head);
    let (at, before) = (out.len() - LEN, out.total());
    match write(out) {
        Ok(value) => {
            let len = out.total() - before;
            match (u32::try_from(len), out.get_mut(at..at + LEN)) {
                (Ok(short), Some(place)) if short != LONG_TAG => {
                    place.copy_from_slice(&short.to_le_bytes());
                }
                _ => insert_long_len(out, at, len),
            }
            Ok(value)
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Writes a long length, which needs eight more bytes.
#[cold]
fn insert_long_len(out: &mut Sink, at: usize, len: usize) {
    // The sink knows large pieces by their places in the vector, which the bytes inserted below
    // would shift. So the pieces come into the vector first. Few values of this length have any.
    let gathered = out.inline_large();
    debug_assert_eq!(gathered, Ok(()));
    out[at..at + LEN].copy_from_slice(&LONG_TAG.to_le_bytes());
    out.splice(at + LEN..at + LEN, (len as u64).to_le_bytes());
}

/// Takes the first record off `bytes`, and returns its value. Returns `None` if there is no whole
/// record.
#[inline]
pub(crate) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = *bytes;
    let len = take_len(&mut rest)?;
    let (record, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(record)
}

/// Takes a record's length off `bytes`.
#[inline]
fn take_len(bytes: &mut &[u8]) -> Option<u64> {
    let (len, rest) = bytes.split_first_chunk::<LEN>()?;
    *bytes = rest;
    let len = u32::from_le_bytes(*len);
    if len != LONG_TAG {
        return Some(u64::from(len));
    }
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*len))
}

/// The result of one task, as far as it is known without the result's type.
#[derive(Debug)]
pub(crate) enum Outcome<V> {
    /// The encoded value, or where the encoded value is.
    Value(V),
    /// The value is sent in a message of its own, because it is large or holds channel ends.
    OutOfBand,
    Fault(Fault),
}

const VALUE: u8 = 0;
const OUT_OF_BAND: u8 = 1;
const FAULT: u8 = 2;

/// Appends the result of one task. `call` appends the value's bytes. If `call` fails, its fault is
/// appended instead.
///
/// Returns what `call` returned beside the bytes.
#[inline]
pub(crate) fn append_result<T>(
    out: &mut Sink,
    call: impl FnOnce(&mut Sink) -> Result<T, Fault>,
) -> Result<T, ()> {
    append_after([VALUE, 0, 0, 0, 0], out, call).map_err(|fault| append_fault(out, &fault))
}

/// Appends the result of a task that failed.
#[cold]
pub(crate) fn append_fault(out: &mut Sink, fault: &Fault) {
    let text = |out: &mut Sink| -> Result<(), postcard::Error> {
        out.extend(postcard::to_stdvec(fault)?);
        Ok(())
    };
    // Encoding a fault cannot fail, because a fault consists of strings.
    let _ = append_after([FAULT, 0, 0, 0, 0], out, text);
}

/// Copies a result's record to its place. Returns false if it does not fit.
///
/// Copies field by field, as the fields were written: reading across their boundaries would defeat
/// store-to-load forwarding.
#[inline]
pub(crate) fn place_result(region: &Region, at: usize, record: &[u8]) -> bool {
    let Some((tag, rest)) = record.split_first_chunk::<1>() else { return false };
    let Some((len, value)) = rest.split_first_chunk::<LEN>() else { return false };
    region.write_all(at, [tag, len, value])
}

/// Writes the record of a short result to its place. Returns false if it does not fit.
#[inline]
pub(crate) fn place_value(region: &Region, at: usize, value: &[u8]) -> bool {
    let len = (value.len() as u32).to_le_bytes();
    region.write_all(at, [&[VALUE], &len, value])
}

/// The length of the record of a short argument of `len` bytes.
pub(crate) const fn short_record_len(len: usize) -> usize {
    LEN + len
}

/// Writes the record of a short argument to `place`, which has the [length](short_record_len) of
/// the record.
#[inline]
pub(crate) fn write_short_record(place: &mut [u8], value: &[u8]) {
    let (len, rest) = place.split_at_mut(LEN);
    len.copy_from_slice(&(value.len() as u32).to_le_bytes());
    rest.copy_from_slice(value);
}

/// Appends the note that a result is sent out of band.
pub(crate) fn append_out_of_band(out: &mut Vec<u8>) {
    out.extend_from_slice(&[OUT_OF_BAND, 0, 0, 0, 0]);
}

/// Takes the first result off `bytes`. Returns `None` if there is no whole result.
#[inline]
pub(crate) fn take_result<'a>(bytes: &mut &'a [u8]) -> Option<Outcome<&'a [u8]>> {
    let (tag, rest) = bytes.split_first()?;
    let mut rest = rest;
    let record = take(&mut rest)?;
    let outcome = match *tag {
        VALUE => Outcome::Value(record),
        OUT_OF_BAND => Outcome::OutOfBand,
        FAULT => Outcome::Fault(read_fault(record)?),
        _ => return None,
    };
    *bytes = rest;
    Some(outcome)
}

/// Reads the result at `at` of shared memory, and moves `at` behind it. Returns where a value lies,
/// or a copy of a fault. Returns `None` if there is no whole result.
pub(crate) fn take_shared(part: &Part, at: &mut usize) -> Option<Outcome<Range<usize>>> {
    let mut head = Vec::with_capacity(MAX_HEAD_BYTES);
    part.read(*at, MAX_HEAD_BYTES.min(part.len().checked_sub(*at)?), &mut head);
    let (tag, mut rest) = head.split_first()?;
    let len = usize::try_from(take_len(&mut rest)?).ok()?;
    let start = *at + head.len() - rest.len();
    let end = start.checked_add(len).filter(|end| *end <= part.len())?;
    let outcome = if *tag == VALUE {
        Outcome::Value(start..end)
    } else {
        let mut copy = Vec::new();
        part.read(*at, end - *at, &mut copy);
        match take_result(&mut &copy[..])? {
            Outcome::OutOfBand => Outcome::OutOfBand,
            Outcome::Fault(fault) => Outcome::Fault(fault),
            // The tag has changed since it was read: a corrupt worker is writing.
            Outcome::Value(_) => return None,
        }
    };
    *at = end;
    Some(outcome)
}

#[cold]
fn read_fault(record: &[u8]) -> Option<Fault> {
    postcard::from_bytes(record).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn appended_records_can_be_taken(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut out = Sink::default();
            for value in &values {
                append(&mut out, |out| { out.extend(value); Ok::<_, ()>(()) }).expect("it is written");
            }
            let mut rest = &out[..];
            for value in &values {
                prop_assert_eq!(take(&mut rest), Some(&value[..]));
            }
            prop_assert!(take(&mut rest).is_none());
        }

        #[test]
        fn any_bytes_can_be_taken(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut rest = &bytes[..];
            while take_result(&mut rest).is_some() {}
            let mut rest = &bytes[..];
            while take(&mut rest).is_some() {}
        }
    }

    #[test]
    fn failed_append_leaves_nothing() {
        let mut out = Sink::from(b"before".to_vec());
        let failed: Result<(), u8> = append(&mut out, |out| {
            out.extend(b"half");
            Err(7)
        });
        assert_eq!(failed, Err(7));
        assert_eq!(out[..], b"before"[..]);
    }
}
