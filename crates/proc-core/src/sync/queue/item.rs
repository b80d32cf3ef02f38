//! Encodes and decodes the items of a queue.

use std::cell::Cell;
use std::io;

use super::items::Record;
use super::locked::no_room;
use crate::error::Error;
use crate::wire::{self, Message, Unreadable};

thread_local! {
    /// Memory for the bytes of an item, so that not each call allocates some.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with an empty buffer.
pub(super) fn with_buffer<R>(work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    /// The most bytes that a thread keeps.
    const KEPT: usize = 64 << 10;
    // While the thread ends, and in a call within `work`, there is no kept buffer: use a new one.
    let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
    buffer.clear();
    let result = work(&mut buffer);
    if buffer.capacity() <= KEPT {
        let _ = BUFFER.try_with(|kept| kept.set(buffer));
    }
    result
}

/// Calls `put` with the bytes of an item.
pub(super) fn with_bytes<T: Message, R>(
    item: &T,
    put: impl FnOnce(&[u8]) -> Result<R, Error>,
) -> Result<R, Error> {
    match wire::bytes_of(item) {
        Some(bytes) => put(bytes), // without a copy in between
        None => with_buffer(|bytes| encode_into(item, bytes).and_then(|()| put(bytes))),
    }
}

/// Like [`with_bytes`], for an item of this library, which certainly contains no channel ends.
pub(super) fn with_plain_bytes<T: Message, R>(
    item: &T,
    put: impl FnOnce(&[u8]) -> Result<R, Error>,
) -> Result<R, Error> {
    with_buffer(|bytes| {
        wire::encode_plain_into(item, bytes).map_err(Error::encode_item)?;
        put(bytes)
    })
}

/// Appends the encoding of an item.
pub(super) fn encode_into<T: Message>(item: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    if let Some(bytes) = wire::bytes_of(item) {
        if out.try_reserve(bytes.len()).is_err() {
            return Err(no_room(io::ErrorKind::OutOfMemory.into()));
        }
        out.extend_from_slice(bytes);
        return Ok(());
    }
    let may_have_handles = wire::may_have_handles::<T>();
    match wire::encode_without_handles(item, out, may_have_handles).map_err(Error::encode_item)? {
        false => Ok(()),
        true => {
            let why = "a queue or a pipe carries no channel ends, shared memory or other shared state: send \
                       them as an argument, or with `with`";
            Err(Error::encode_item(why.into()))
        }
    }
}

/// Copies an item out of a queue: returns its value, or appends its bytes to `bytes`, which are
/// [decoded](decode) when the queue is not locked any more.
#[inline]
pub(super) fn copy<T: Message>(
    Record { region, at, len }: Record<'_>,
    bytes: &mut Vec<u8>,
) -> io::Result<Option<Result<T, Error>>> {
    match wire::bulk_from_shared(region, at, len) {
        None if region.read(at, len, bytes) => Ok(None),
        None | Some(Err(Unreadable::NoMemory)) => Err(io::ErrorKind::OutOfMemory.into()),
        Some(value) => Ok(Some(value.map_err(|why| Error::decode_item(why.into())))),
    }
}

/// Decodes an item.
pub(super) fn decode<T: Message>(bytes: &[u8]) -> Result<T, Error> {
    wire::decode(bytes, None).map_err(Error::decode_item)
}

/// Calls `get` with a function that copies one item out of the queue. Returns the item that was
/// copied last, if there is one, and what `get` has returned.
pub(super) fn copied<T: Message, R>(
    get: impl FnOnce(&mut super::items::CopyOut<'_>) -> Result<R, Error>,
) -> Result<(R, Option<Result<T, Error>>), Error> {
    with_buffer(|bytes| {
        let mut item = None;
        let got = get(&mut |record| {
            bytes.clear();
            item = Some(copy(record, bytes)?);
            Ok(())
        })?;
        Ok((got, item.map(|value| value.unwrap_or_else(|| decode(bytes)))))
    })
}
