//! Defines [`Queue`], the handle of a queue with the type of its items.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::item::{copied, copy, decode, encode_into, with_buffer, with_bytes, with_plain_bytes};
use super::lease::Leased;
use super::shared::{Sent, SharedQueue};
use crate::error::Error;
use crate::memory::Family;
use crate::sync::raw_lock::Patience;
use crate::wire::{self, Message};

/// Queue of items between any number of processes and threads, first in, first out.
///
/// Items are values of any type that may cross between processes, except channel ends, shared
/// memory and other shared state. An item is encoded before the queue is locked, so no code of the
/// user runs while others wait. Numbers, vectors of numbers, strings and byte buffers are copied
/// once on each side (`put_all` copies small ones twice); other items once more, by their encoding.
///
/// A queue takes its memory in pieces, as its items need them. When the items of a piece are taken,
/// its memory goes back to the system, except for 4 MiB that the next items use, and for the piece
/// in which the next item will lie. That piece has at most 64 KiB, or about a sixteenth of the most
/// that the queue has held, or twice the size of the largest item that it has held, whichever is
/// most.
///
/// If a process dies, at any instruction, the others go on. An item is lost only if the dead
/// process had taken it with [`get`](Queue::get); with [`lease`](Queue::lease) not even then. An
/// item whose [`put`](Queue::put) has returned is in the queue.
///
/// A clone is the same queue, and so is what another process receives.
///
/// # Examples
///
/// ```
/// use proc_core::Process;
/// use proc_core::sync::Queue;
///
/// fn square((numbers, squares): (Queue<u32>, Queue<(u32, u32)>)) {
///     for x in numbers.iter() {
///         squares.put((x, x * x)).expect("the queue is open");
///     }
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let (numbers, squares) = (Queue::new()?, Queue::bounded(10)?);
///     let queues = || (numbers.clone(), squares.clone());
///     let consumers = [Process::new(square, queues()).start()?, Process::new(square, queues()).start()?];
///     for x in 0..5 {
///         numbers.put(x)?;
///     }
///     numbers.close();
///     let mut results = squares.get_many(5)?;
///     while results.len() < 5 {
///         results.push(squares.get()?);
///     }
///     results.sort();
///     assert_eq!(results, [(0, 0), (1, 1), (2, 4), (3, 9), (4, 16)]);
///     for consumer in consumers {
///         consumer.join()?;
///     }
///     Ok(())
/// }
/// ```
#[doc(alias = "multiprocessing.Queue")]
#[doc(alias = "SimpleQueue")]
#[doc(alias = "JoinableQueue")]
pub struct Queue<T> {
    shared: Arc<SharedQueue>,
    kind: PhantomData<fn(T) -> T>,
}

impl<T: Message> Queue<T> {
    /// Makes a queue that takes items as long as there is memory.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Queue`].
    pub fn new() -> Result<Queue<T>, Error> {
        SharedQueue::new(0).map(Queue::of)
    }

    /// Makes a queue that takes at most so many items at a time. Items that are
    /// [leased](Queue::lease) do not count, so after some have come back, the queue may have more.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid): `items` is 0, or more than 2³¹.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory or descriptor for it.
    ///
    /// See the example of [`Queue`].
    #[doc(alias = "maxsize")]
    pub fn bounded(items: usize) -> Result<Queue<T>, Error> {
        match u32::try_from(items) {
            Ok(items @ 1..=0x8000_0000) => SharedQueue::new(items).map(Queue::of),
            _ => Err(Error::invalid(format!(
                "a bounded queue has room for 1 item up to 2^31 items, not {items}: use Queue::new() \
                 for one without a bound"
            ))),
        }
    }

    /// Adds an item. Waits while a bounded queue has no room.
    ///
    /// # Errors
    ///
    /// - [`Closed`](crate::ErrorKind::Closed): the queue was closed.
    /// - [`Encode`](crate::ErrorKind::Encode): the item cannot be encoded, or contains what a queue
    ///   cannot carry.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory for the item.
    ///
    /// See the example of [`Queue`].
    pub fn put(&self, item: T) -> Result<(), Error> {
        loop {
            if self.put_within(&item, Patience::Endless)? {
                return Ok(());
            }
        }
    }

    /// Adds an item if there is room, else returns it.
    ///
    /// # Errors
    ///
    /// As for [`put`](Queue::put).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::Queue;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let queue = Queue::bounded(1)?;
    ///     assert_eq!(queue.try_put("first".to_owned())?, None);
    ///     let second = queue.try_put("second".to_owned())?;
    ///     assert_eq!(second.as_deref(), Some("second")); // there was no room
    ///     assert!(queue.put_timeout("second".to_owned(), Duration::from_millis(1))?.is_some());
    ///     assert_eq!(queue.get()?, "first");
    ///     assert_eq!(queue.try_get()?, None);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, item: T) -> Result<Option<T>, Error> {
        Ok(if self.put_within(&item, Patience::None)? { None } else { Some(item) })
    }

    /// Waits like [`put`](Queue::put), but for at most `timeout`. Returns the item if there is no
    /// room still.
    ///
    /// # Errors
    ///
    /// As for [`put`](Queue::put).
    ///
    /// See the example of [`try_put`](Queue::try_put).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<Option<T>, Error> {
        let is_put = self.put_within(&item, Patience::at_most(timeout))?;
        Ok(if is_put { None } else { Some(item) })
    }

    /// Adds several items in their order, which costs less than adding them one by one. Waits while
    /// a bounded queue has no room. Items of other producers may come in between.
    ///
    /// Takes up to 64 items from the iterator before it puts the first of them. If the iterator
    /// panics meanwhile, or the process dies, these items are not put.
    ///
    /// # Errors
    ///
    /// As for [`put`](Queue::put). The items before the one with the error were added.
    ///
    /// See the example of [`get_many`](Queue::get_many).
    pub fn put_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), Error> {
        /// The most items that are encoded before the queue is locked.
        const BATCH: usize = 64;
        /// With so many bytes, they are put at once.
        const BATCH_BYTES: usize = 64 << 10;
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            with_buffer(|encoded| {
                let (mut ends, mut result) = (Vec::with_capacity(BATCH), Ok(()));
                let mut large = None;
                for item in items.by_ref().take(BATCH) {
                    if wire::bytes_of(&item).is_some_and(|bytes| bytes.len() >= BATCH_BYTES) {
                        large = Some(item); // is put without a copy in between
                        break;
                    }
                    result = encode_into(&item, encoded);
                    if result.is_err() {
                        break;
                    }
                    ends.push(encoded.len());
                    if encoded.len() >= BATCH_BYTES {
                        break;
                    }
                }
                let starts = std::iter::once(0).chain(ends.iter().copied());
                let pieces: Vec<&[u8]> =
                    starts.zip(&ends).map(|(start, end)| &encoded[start..*end]).collect();
                let mut rest = &pieces[..];
                while !rest.is_empty() {
                    let put = self.shared.put(rest, Patience::Endless)?;
                    rest = &rest[put..];
                }
                result?;
                large.map_or(Ok(()), |item| self.put(item))
            })?;
        }
        Ok(())
    }

    /// Takes the first item. Waits while there is none.
    ///
    /// # Errors
    ///
    /// - [`Closed`](crate::ErrorKind::Closed): the queue is empty and was closed; or it is empty,
    ///   and nobody else has it any more who could put an item. (Only a process with one thread
    ///   notices the latter, and only if it was not copied since it got the queue: by `fork`, or by
    ///   a start with [`StartMethod::Fork`](crate::StartMethod::Fork).)
    /// - [`Decode`](crate::ErrorKind::Decode): the item cannot be decoded. It is taken.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory for a copy of the item. The item
    ///   stays in the queue.
    ///
    /// See the example of [`Queue`].
    pub fn get(&self) -> Result<T, Error> {
        loop {
            if let Some(item) = self.get_within(Patience::Endless)? {
                return Ok(item);
            }
        }
    }

    /// Takes the first item if there is one.
    ///
    /// # Errors
    ///
    /// As for [`get`](Queue::get). But it does not find out whether anybody else has the queue: an
    /// empty queue that was not closed has no item, and that is no error. To find out, call
    /// [`get_timeout`](Queue::get_timeout) with a duration of zero.
    ///
    /// See the example of [`try_put`](Queue::try_put).
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<Option<T>, Error> {
        self.get_within(Patience::None)
    }

    /// Waits like [`get`](Queue::get), but for at most `timeout`. Returns `None` if there is no
    /// item still.
    ///
    /// # Errors
    ///
    /// As for [`get`](Queue::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Process;
    /// use proc_core::sync::Queue;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let queue = Queue::new()?;
    ///     let put_late = |queue: Queue<u32>| {
    ///         std::thread::sleep(Duration::from_secs(1));
    ///         queue.put(7)
    ///     };
    ///     let child = Process::new(put_late, queue.clone()).start()?;
    ///     assert_eq!(queue.get_timeout(Duration::from_millis(1))?, None); // nothing yet
    ///     assert_eq!(queue.get()?, 7);
    ///     child.join()?
    /// }
    /// ```
    pub fn get_timeout(&self, timeout: Duration) -> Result<Option<T>, Error> {
        self.get_within(Patience::at_most(timeout))
    }

    /// Waits like [`get`](Queue::get) for one item, and takes up to `most` items that are there.
    /// This costs less than to take them one by one.
    ///
    /// # Errors
    ///
    /// As for [`get`](Queue::get). If an item cannot be decoded, all items that this call has taken
    /// are lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::sync::Queue;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let queue = Queue::new()?;
    ///     queue.put_all(0..100)?;
    ///     assert_eq!(queue.get_many(3)?, [0, 1, 2]);
    ///     assert_eq!(queue.len(), 97);
    ///     Ok(())
    /// }
    /// ```
    pub fn get_many(&self, most: usize) -> Result<Vec<T>, Error> {
        if most == 0 {
            return Ok(Vec::new());
        }
        loop {
            let items = with_buffer(|bytes| self.get_encoded(most, bytes))?;
            if !items.is_empty() {
                return Ok(items);
            }
        }
    }

    fn get_encoded(&self, most: usize, bytes: &mut Vec<u8>) -> Result<Vec<T>, Error> {
        let (mut items, mut ends) = (Vec::new(), Vec::new());
        self.shared.get(most, Patience::Endless, &mut |record| {
            match copy(record, bytes)? {
                Some(item) => items.push(item),
                None => ends.push(bytes.len()),
            }
            Ok(())
        })?;
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let encoded = starts.zip(&ends).map(|(start, end)| &bytes[start..*end]);
        items.into_iter().chain(encoded.map(decode)).collect()
    }

    /// Returns an iterator that takes items until the queue is empty and closed, or empty and
    /// nobody else has it. The iterator also ends at any other error of [`get`](Queue::get). To see
    /// such errors, call `get` in a loop instead.
    ///
    /// See the example of [`Queue`].
    pub fn iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.get().ok())
    }

    /// Like [`put`](Queue::put), for an item of this library, which certainly contains no channel
    /// ends.
    pub(crate) fn put_plain(&self, item: &T) -> Result<(), Error> {
        let put = |bytes: &[u8]| self.shared.put(&[bytes], Patience::Endless);
        while with_plain_bytes(item, put)? == 0 {}
        Ok(())
    }

    fn put_within(&self, item: &T, patience: Patience) -> Result<bool, Error> {
        with_bytes(item, |bytes| Ok(self.shared.put(&[bytes], patience)? == 1))
    }

    fn get_within(&self, patience: Patience) -> Result<Option<T>, Error> {
        copied(|copy| self.shared.get(1, patience, copy))?.1.transpose()
    }
}

impl<T> Queue<T> {
    fn of(shared: Arc<SharedQueue>) -> Queue<T> {
        Queue { shared, kind: PhantomData }
    }

    /// Returns the family of the processes that share the queue.
    pub(crate) fn family(&self) -> &'static Family {
        self.shared.family
    }

    /// Returns how many items are in the queue now. Leased items do not count.
    ///
    /// See the example of [`get_many`](Queue::get_many).
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        (self.shared.items.len() + u64::from(self.shared.returned())) as usize
    }

    /// Whether there is no item in the queue now.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::sync::Queue;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     assert!(Queue::<u32>::new()?.is_empty());
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes the queue in all processes: nobody can put an item any more. Items that are in the
    /// queue can still be taken. Leased items are not in the queue: consumers are told of its end
    /// while another process has a lease. If that process dies, its item comes back, and perhaps no
    /// consumer is left to take it. So wait with [`join_timeout`](Queue::join_timeout), and take
    /// what is in the queue if that returns false.
    ///
    /// See the example of [`Queue`].
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until all items are taken, and all [leased](Queue::lease) ones are
    /// [done](Leased::done).
    ///
    /// # Errors
    ///
    /// The kernel has no more record locks, of which each process needs one; or this process has no
    /// address space to repair what a dead one has left
    /// ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`lease`](Queue::lease).
    pub fn join(&self) -> Result<(), Error> {
        while !self.shared.join(Patience::Endless)? {}
        Ok(())
    }

    /// Waits like [`join`](Queue::join), but for at most `timeout`. Returns whether all items are
    /// done.
    ///
    /// # Errors
    ///
    /// As for [`join`](Queue::join).
    ///
    /// See the example of [`lease`](Queue::lease).
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.shared.join(Patience::at_most(timeout))
    }
}

impl<T: Message> Queue<T> {
    /// Takes the first item, and gives it back unless the caller says that it is
    /// [done](Leased::done). Waits while there is no item. At most 512 items can be leased at a
    /// time.
    ///
    /// # Errors
    ///
    /// As for [`get`](Queue::get), but an item that cannot be decoded goes back. Also
    /// [`Invalid`](crate::ErrorKind::Invalid) if 512 items are leased.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Process;
    /// use proc_core::sync::Queue;
    ///
    /// fn die_with_an_item(queue: Queue<String>) {
    ///     let _leased = queue.lease().expect("there is an item");
    ///     std::process::abort();
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let queue = Queue::new()?;
    ///     queue.put("precious".to_owned())?;
    ///     assert!(Process::new(die_with_an_item, queue.clone()).start()?.join().is_err());
    ///     let leased = queue.lease()?;
    ///     assert_eq!((leased.as_str(), leased.was_returned()), ("precious", true));
    ///     assert!(!queue.join_timeout(Duration::from_millis(1))?); // it is not done
    ///     leased.done();
    ///     queue.join()?;
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "task_done")]
    pub fn lease(&self) -> Result<Leased<T>, Error> {
        loop {
            if let Some(leased) = self.lease_within(Patience::Endless)? {
                return Ok(leased);
            }
        }
    }

    /// Waits like [`lease`](Queue::lease), but for at most `timeout`. Returns `None` if there is no
    /// item still.
    ///
    /// # Errors
    ///
    /// As for [`lease`](Queue::lease).
    ///
    /// See the example of [`lease`](Queue::lease).
    pub fn lease_timeout(&self, timeout: Duration) -> Result<Option<Leased<T>>, Error> {
        self.lease_within(Patience::at_most(timeout))
    }

    fn lease_within(&self, patience: Patience) -> Result<Option<Leased<T>>, Error> {
        Leased::take(&self.shared, patience)
    }
}

#[cfg(all(test, loom))]
impl<T> Queue<T> {
    /// The queue as another process of the model has it.
    pub(in crate::sync) fn received(&self) -> Queue<T> {
        Queue::of(self.shared.received())
    }

    /// Returns how many items were put and taken, as far as the calling thread knows.
    pub(in crate::sync) fn counts(&self) -> (u64, u64) {
        self.shared.items.counts()
    }

    /// Whether process `id` has leased an item, as far as the calling thread knows.
    pub(in crate::sync) fn has_lease(&self, id: u32) -> bool {
        self.shared.items.has_lease(id)
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { shared: Arc::clone(&self.shared), kind: PhantomData }
    }
}

impl<T> Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shared.sent().map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queue<T>, D::Error> {
        SharedQueue::arrive(Sent::deserialize(deserializer)?)
            .map(Queue::of)
            .map_err(de::Error::custom)
    }
}
