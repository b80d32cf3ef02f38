//! Defines [`Manager`]: a process that has objects, which other processes use by calls.
//!
//! A client puts a request into one queue that all clients share, and waits at a *line* of its own,
//! which is one direction of a pipe, for the reply. A request names a function as a pool's tasks
//! do. The manager makes one call after another. If it dies, whoever waits at a line learns from
//! the kernel that nobody else has the line; if a client dies, its line is dropped.

mod client;
mod dict;
mod list;
mod managed;
mod server;

use std::fmt::{self, Debug};

use serde::{Deserialize, Serialize};

pub use self::dict::Dict;
pub use self::list::List;
pub use self::managed::Managed;
use crate::error::Error;
use crate::wire::Message;

/// Process that has objects for all processes: dictionaries, lists, and objects of any other type.
///
/// The process ends when nobody has the manager or one of its objects any more, or with the process
/// that has made the manager. (If a function of an object has called `fork`, or has started a
/// thread that still runs, the manager's process ends only with the process that has made the
/// manager.) If the manager's process is killed, each call is an error of kind
/// [`Closed`](crate::ErrorKind::Closed), and the objects are lost. The death of a client changes
/// nothing.
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
/// use proc_core::sync::Manager;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let manager = Manager::new()?;
///     let lengths = manager.dict::<String, usize>()?;
///     let pool = Pool::builder().processes(2).build()?;
///     pool.with(lengths.clone()).map(
///         |lengths, word: String| {
///             lengths.insert(word.clone(), word.len()).expect("the manager lives");
///         },
///         ["one", "three"].map(String::from),
///     )?;
///     assert_eq!(lengths.get(&"three".to_owned())?, Some(5));
///     assert_eq!(lengths.len()?, 2);
///     Ok(())
/// }
/// ```
#[doc(alias = "multiprocessing.Manager")]
#[derive(Clone, Serialize, Deserialize)]
pub struct Manager {
    server: client::Server,
}

impl Manager {
    /// Starts the process of a manager without objects.
    ///
    /// # Errors
    ///
    /// The process cannot be started, or there is no memory or descriptor for it
    /// ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Manager`].
    pub fn new() -> Result<Manager, Error> {
        Ok(Manager { server: client::Server::start()? })
    }

    /// Makes an empty dictionary.
    ///
    /// # Errors
    ///
    /// - [`Closed`](crate::ErrorKind::Closed): the manager has died.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory or descriptor for the channels of
    ///   this process to the manager.
    ///
    /// See the example of [`Manager`].
    pub fn dict<K, V>(&self) -> Result<Dict<K, V>, Error>
    where
        K: Message + Eq + std::hash::Hash,
        V: Message + Clone,
    {
        Dict::new(&self.server)
    }

    /// Makes an empty list.
    ///
    /// # Errors
    ///
    /// - [`Closed`](crate::ErrorKind::Closed): the manager has died.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory or descriptor for the channels of
    ///   this process to the manager.
    ///
    /// See the example of [`List`].
    pub fn list<T: Message + Clone>(&self) -> Result<List<T>, Error> {
        List::new(&self.server)
    }
}

impl Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").finish_non_exhaustive()
    }
}
