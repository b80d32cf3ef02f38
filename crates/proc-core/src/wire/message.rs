//! Defines [`Message`], the trait of all values that may cross between processes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Marks the values that may be sent between processes: all owned values that serde can write and
/// read back.
///
/// The trait is implemented for every such type; nobody implements it by hand. A type of yours
/// derives serde's traits (`cargo add serde --features derive`):
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Point {
///     x: f64,
///     y: f64,
/// }
///
/// fn mirror(point: Point) -> Point {
///     Point { x: point.y, y: point.x }
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let child = proc_core::Process::new(mirror, Point { x: 1.0, y: 2.0 }).start()?;
///     assert_eq!(child.join()?, Point { x: 2.0, y: 1.0 });
///     Ok(())
/// }
/// ```
///
/// The encoding is not self-describing. A type that needs a self-describing format
/// (`serde_json::Value`, serde's `untagged`, `tag`, `flatten` or `skip_serializing_if`) is refused
/// with an error, and crosses inside a [`Described`](crate::Described). Values nest at most
/// 256 levels deep, and 100,000 levels inside a [`Deep`](crate::Deep). The sequences in a value may
/// have 65,536 zero-sized elements in all.
///
/// A value that is just one number is copied as it is, which costs less than encoding it by serde.
/// In a pool, a `Vec` of numbers, a string or a byte buffer of 64 KiB or more goes through shared
/// memory and is copied once on each side. Inside tuples, structs and the like, only strings and
/// bytes that `serde_bytes` marks are copied in this way, and in a result the caller copies them
/// twice. Other vectors inside them are slow, because serde walks them element by element. A result
/// above 16 MiB may be copied twice, and so may the first results of a function and a value with
/// several large pieces.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross to another process",
    note = "argument and result must own their data and implement serde's Serialize and Deserialize: \
            derive both for a type of yours"
)]
pub trait Message: Serialize + DeserializeOwned + 'static {}

impl<T: Serialize + DeserializeOwned + 'static> Message for T {}
