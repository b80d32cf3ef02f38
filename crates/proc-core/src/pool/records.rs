//! How tasks lie in a chunk's bytes: arguments one after another, and results likewise.
//!
//! An argument is its length (4 or, from 4 GiB, 12 bytes) and its bytes. A result is a tag, its
//! length and its bytes. Everything read here may have been written by a worker gone wrong, so
//! reading is checked and borrows from private copies only.

use std::ops::Range;

use crate::call::Fault;
use crate::memory::{Part, Region};
use crate::wire::Sink;

/// How many bytes a length takes, if it is not a long one.
const LEN: usize = 4;

/// The length that says "the real one follows in eight bytes".
const LONG_TAG: u32 = u32::MAX;

/// A result's tag and the longest length.
const MAX_HEAD_BYTES: usize = 13;

/// The least room that each result needs: a tag and the length of nothing.
pub(crate) const MIN_RESULT_BYTES: usize = 5;

/// Appends a record with the bytes that `write` appends. On an error nothing is left of it.
#[inline]
pub(crate) fn append<T, E>(
    out: &mut Sink,
    write: impl FnOnce(&mut Sink) -> Result<T, E>,
) -> Result<T, E> {
    append_after([0; LEN], out, write)
}

/// The same after a head whose last bytes are the place of the length.
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
                _ => lengthen(out, at, len),
            }
            Ok(value)
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Makes room for a length that needs eight bytes more.
#[cold]
fn lengthen(out: &mut Sink, at: usize, len: usize) {
    // So long a value has no large pieces elsewhere.
    let gathered = out.inline_large();
    debug_assert_eq!(gathered, Ok(()));
    out[at..at + LEN].copy_from_slice(&LONG_TAG.to_le_bytes());
    out.splice(at + LEN..at + LEN, (len as u64).to_le_bytes());
}

/// Takes the first record's bytes off `bytes`; `None` if there is no whole one.
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

/// One result, as far as it can be told without its type.
#[derive(Debug)]
pub(crate) enum Outcome<V> {
    /// The encoded value, or where it is.
    Value(V),
    /// The value came, or comes, in a message: it is large or holds channel ends.
    OutOfBand,
    Fault(Fault),
}

const VALUE: u8 = 0;
const APART: u8 = 1;
const FAULT: u8 = 2;

/// Appends the result of one task; `call` appends the value's bytes.
///
/// Returns what `call` gave beside the bytes.
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
    // Strings can always be encoded; an empty record would read as a fault without words.
    let _ = append_after([FAULT, 0, 0, 0, 0], out, text);
}

/// Copies a result's record to its place; false if it does not fit.
///
/// In the pieces in which it was put together just now: a processor has these at hand, and waits
/// for any other piece until it has stored them.
#[inline]
pub(crate) fn place_result(region: &Region, at: usize, record: &[u8]) -> bool {
    let Some((tag, rest)) = record.split_first_chunk::<1>() else { return false };
    let Some((len, value)) = rest.split_first_chunk::<LEN>() else { return false };
    region.write_all(at, [tag, len, value])
}

/// Puts the record of a short value in its place; false if it does not fit.
#[inline]
pub(crate) fn place_value(region: &Region, at: usize, value: &[u8]) -> bool {
    let len = (value.len() as u32).to_le_bytes();
    region.write_all(at, [&[VALUE], &len, value])
}

/// The length of the record of a value so short.
pub(crate) const fn short(len: usize) -> usize {
    LEN + len
}

/// Writes the record of a short value to a place of its [length](short).
#[inline]
pub(crate) fn put_short(place: &mut [u8], value: &[u8]) {
    let (len, rest) = place.split_at_mut(LEN);
    len.copy_from_slice(&(value.len() as u32).to_le_bytes());
    rest.copy_from_slice(value);
}

/// Says that the result goes another way.
pub(crate) fn append_out_of_band(out: &mut Vec<u8>) {
    out.extend_from_slice(&[APART, 0, 0, 0, 0]);
}

/// Takes the first result off `bytes`; `None` if there is no whole one.
#[inline]
pub(crate) fn take_result<'a>(bytes: &mut &'a [u8]) -> Option<Outcome<&'a [u8]>> {
    let (tag, rest) = bytes.split_first()?;
    let mut rest = rest;
    let record = take(&mut rest)?;
    let outcome = match *tag {
        VALUE => Outcome::Value(record),
        APART => Outcome::OutOfBand,
        FAULT => Outcome::Fault(read_fault(record)?),
        _ => return None,
    };
    *bytes = rest;
    Some(outcome)
}

/// Takes the result at `at` of shared memory, and moves `at` on: a value's place, or a copy of what
/// else it is. `None` if there is no whole one.
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
            // It was something else a moment ago.
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
        fn records_come_back(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
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
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut rest = &bytes[..];
            while take_result(&mut rest).is_some() {}
            let mut rest = &bytes[..];
            while take(&mut rest).is_some() {}
        }
    }

    #[test]
    fn an_error_leaves_nothing() {
        let mut out = Sink::from(b"before".to_vec());
        let failed: Result<(), u8> = append(&mut out, |out| {
            out.extend(b"half");
            Err(7)
        });
        assert_eq!(failed, Err(7));
        assert_eq!(out[..], b"before"[..]);
    }
}
