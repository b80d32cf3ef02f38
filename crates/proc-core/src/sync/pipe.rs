//! Defines [`pipe`], which makes the two ends of a connection between two processes.
//!
//! A connection is two queues, one for each direction. Nobody but the two ends has them, so an end
//! knows that the other one is gone when nobody else has the queues.

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::queue::Direction;
use super::raw_lock::Patience;
use crate::error::Error;
use crate::wire::Message;

/// Number of items that a direction of a pipe holds before a sender waits.
const ITEMS: u32 = 1024;

/// Makes the two ends of a pipe. What one end sends, the other one receives, in the same order.
/// Each end sends and receives.
///
/// An end belongs to one process: it is moved there as (part of) the argument of a
/// [`Process`](crate::Process) or of a task. Items are values of any type that may cross between
/// processes, except channel ends, shared memory and shared state.
///
/// If the other end is dropped, or its process dies, [`recv`](Connection::recv) returns what was
/// sent, and then an error.
///
/// # Errors
///
/// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
///
/// # Examples
///
/// ```
/// use proc_core::Process;
/// use proc_core::sync::{Connection, pipe};
///
/// fn measure(parent: Connection<usize, String>) {
///     while let Ok(text) = parent.recv() {
///         parent.send(text.len()).expect("the parent waits for it");
///     }
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let (here, there) = pipe::<String, usize>()?;
///     let child = Process::new(measure, there).start()?;
///     for text in ["one", "three"] {
///         here.send(text.to_owned())?;
///         assert_eq!(here.recv()?, text.len());
///     }
///     drop(here); // so the child's recv fails, and it returns
///     child.join()
/// }
/// ```
#[doc(alias = "multiprocessing.Pipe")]
#[expect(clippy::type_complexity, reason = "the two ends say what each direction carries")]
pub fn pipe<A: Message, B: Message>() -> Result<(Connection<A, B>, Connection<B, A>), Error> {
    let (there, back) = (Direction::new(ITEMS)?, Direction::new(ITEMS)?);
    let first = Connection::of(there.clone(), back.clone());
    Ok((first, Connection::of(back, there)))
}

/// End of a [`pipe`], which sends items of type `A` and receives items of type `B`.
///
/// Dropping it tells the other end.
///
/// See the example of [`pipe`].
pub struct Connection<A, B> {
    outgoing: Direction,
    incoming: Direction,
    /// Whether the end was moved to another process.
    is_moved: Cell<bool>,
    kind: PhantomData<fn(A) -> B>,
}

impl<A: Message, B: Message> Connection<A, B> {
    /// Sends an item. Waits while 1024 items are sent and not received.
    ///
    /// # Errors
    ///
    /// - [`Closed`](crate::ErrorKind::Closed): the other end is gone. If its process has died, the
    ///   error has the pid.
    /// - [`Encode`](crate::ErrorKind::Encode): the item cannot be encoded, or contains what a pipe
    ///   cannot carry.
    /// - [`Invalid`](crate::ErrorKind::Invalid): this end was moved to another process.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory for the item.
    ///
    /// See the example of [`pipe`].
    pub fn send(&self, item: A) -> Result<(), Error> {
        self.check_not_moved()?;
        while !self.noted(self.outgoing.send(&item, Patience::Endless))? {}
        Ok(())
    }

    /// Waits like [`send`](Connection::send), but for at most `timeout`. Returns the item if there
    /// is no room still.
    ///
    /// # Errors
    ///
    /// As for [`send`](Connection::send).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::pipe;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let (here, there) = pipe::<u32, ()>()?;
    ///     for x in 0..1024 {
    ///         here.send(x)?;
    ///     }
    ///     assert_eq!(here.send_timeout(1024, Duration::from_millis(1))?, Some(1024));
    ///     assert_eq!(there.recv()?, 0);
    ///     Ok(())
    /// }
    /// ```
    pub fn send_timeout(&self, item: A, timeout: Duration) -> Result<Option<A>, Error> {
        self.check_not_moved()?;
        let is_sent = self.noted(self.outgoing.send(&item, Patience::at_most(timeout)))?;
        Ok(if is_sent { None } else { Some(item) })
    }

    /// Receives the next item. Waits while there is none.
    ///
    /// # Errors
    ///
    /// - [`Closed`](crate::ErrorKind::Closed): all items were received, and the other end is gone.
    ///   If its process has died, the error has the pid.
    /// - [`Decode`](crate::ErrorKind::Decode): the item cannot be decoded. It is received.
    /// - [`Invalid`](crate::ErrorKind::Invalid): this end was moved to another process.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory for a copy of the item. The item
    ///   stays in the pipe.
    ///
    /// See the example of [`pipe`].
    pub fn recv(&self) -> Result<B, Error> {
        self.check_not_moved()?;
        loop {
            if let Some(item) = self.noted(self.incoming.receive(Patience::Endless))? {
                return Ok(item);
            }
        }
    }

    /// Waits like [`recv`](Connection::recv), but for at most `timeout`. Returns `None` if there is
    /// no item still.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Connection::recv).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::pipe;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let (one, other) = pipe::<u32, ()>()?;
    ///     assert_eq!(other.recv_timeout(Duration::from_millis(1))?, None);
    ///     one.send(5)?;
    ///     assert!(other.poll());
    ///     assert_eq!(other.recv_timeout(Duration::from_millis(1))?, Some(5));
    ///     Ok(())
    /// }
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<B>, Error> {
        self.check_not_moved()?;
        self.noted(self.incoming.receive(Patience::at_most(timeout)))
    }

    /// Whether an item can be received now.
    ///
    /// See the example of [`recv_timeout`](Connection::recv_timeout).
    pub fn poll(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Closes both directions once a call in one of them has found that the other end is gone, so
    /// that the calls in the other one fail too.
    fn noted<R>(&self, result: Result<R, Error>) -> Result<R, Error> {
        if result.as_ref().is_err_and(Error::is_closed) {
            self.outgoing.close();
            self.incoming.close();
        }
        result
    }

    fn check_not_moved(&self) -> Result<(), Error> {
        match self.is_moved.get() {
            false => Ok(()),
            true => Err(Error::invalid("this end of the pipe was moved to another process")),
        }
    }
}

impl<A, B> Connection<A, B> {
    fn of(outgoing: Direction, incoming: Direction) -> Connection<A, B> {
        outgoing.note_sender();
        incoming.note_receiver();
        Connection { outgoing, incoming, is_moved: Cell::new(false), kind: PhantomData }
    }
}

impl<A, B> Drop for Connection<A, B> {
    fn drop(&mut self) {
        self.outgoing.leave(self.is_moved.get());
        self.incoming.leave(self.is_moved.get());
    }
}

impl<A, B> Serialize for Connection<A, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_moved.get() {
            return Err(ser::Error::custom("this end of the pipe was moved to another process"));
        }
        let ends = (self.outgoing.sent(), self.incoming.sent());
        let sent = (ends.0.map_err(ser::Error::custom)?, ends.1.map_err(ser::Error::custom)?);
        self.is_moved.set(true);
        sent.serialize(serializer)
    }
}

impl<'de, A, B> Deserialize<'de> for Connection<A, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (outgoing, incoming) = Deserialize::deserialize(deserializer)?;
        let direction = |sent| Direction::arrive(sent).map_err(de::Error::custom);
        Ok(Connection::of(direction(outgoing)?, direction(incoming)?))
    }
}

impl<A, B> Debug for Connection<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
