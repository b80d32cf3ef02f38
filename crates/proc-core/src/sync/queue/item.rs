//! Encodes and decodes the items of a queue.

use crate::error::Error;
use crate::wire::{self, Message};

/// Appends the encoding of an item.
pub(super) fn encode_into<T: Message>(item: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    let (bytes, has_handles) = wire::encode_without_handles(item).map_err(Error::encode_item)?;
    if has_handles {
        let why = "a queue carries no channel ends, shared memory or other shared state: send them as \
                   an argument, or with `with`";
        return Err(Error::encode_item(why.into()));
    }
    match out.is_empty() {
        true => *out = bytes,
        false => out.extend_from_slice(&bytes),
    }
    Ok(())
}

/// Decodes an item.
pub(super) fn decode<T: Message>(bytes: &[u8]) -> Result<T, Error> {
    wire::decode(bytes, None).map_err(Error::decode_item)
}
