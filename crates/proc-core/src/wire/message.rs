//! What may cross between processes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What may be sent between processes: any owned value that serde can write and read back.
///
/// Implemented for every such type; nobody implements it by hand. The encoding is not
/// self-describing, so types that ask for that (`untagged`, `flatten`, `skip_serializing_if`) are
/// refused with an error; values nest at most 256 levels deep, and a sequence of zero-sized elements
/// has at most 65,536 of them.
///
/// A number that is the whole value is copied as it is, which costs less than serde's way. From 64 KiB
/// on, a `Vec` of numbers, a string or a byte buffer is copied once on each side, where a message would
/// need more copies. Within tuples, structs and the like that holds for strings, and for bytes that
/// `serde_bytes` marks: there serde walks other vectors element by element, which is slow. A result
/// above 16 MiB whose argument was smaller, and a value with several large pieces, is copied twice.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross to another process",
    note = "argument and result must own their data and implement serde's Serialize and Deserialize: \
            derive both for a type of yours"
)]
pub trait Message: Serialize + DeserializeOwned + 'static {}

impl<T: Serialize + DeserializeOwned + 'static> Message for T {}
