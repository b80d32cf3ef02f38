//! temporary
use serde::{Serialize, Deserialize};
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), postcard::Error> { out.extend(postcard::to_stdvec(value)?); Ok(()) }
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<(T, &'de [u8]), postcard::Error> { postcard::take_from_bytes(bytes) }
