//! Shares read-only data between processes. The data are copied only once, into shared memory.
//!
//! A [`Shared`] is sent as its number and two pieces of shared memory. One holds the data, to which
//! nobody can write any more; the other is a word that says whether the creator (the process that
//! made the data) has released them. A worker keeps its mapping of the data for the next task that
//! brings the same number. It drops the mapping after the creator has released the data, or when it
//! has too many mappings.

use std::fmt::{self, Debug};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::error::Error;
use crate::memory::{Descriptor, Region};
use crate::sys;
use crate::sys::memory::{self, Frozen};
use crate::wire;

/// Numbers (or other plain data) that processes share: all processes read the data in one place,
/// without a copy for each.
///
/// [`from_slice`](Shared::from_slice) copies the data once, into shared memory. After that, a
/// `Shared` of any size crosses to other processes without a copy of its data: as an argument, as
/// part of one, or as the argument of a pool's [`initializer`](crate::PoolBuilder::initializer) or
/// [`state`](crate::PoolBuilder::state). A clone does not copy the data either. A worker keeps one
/// mapping of the data, so a later task that brings the same data costs a few system calls. Once
/// the last clone in the process that made the data is dropped, a worker drops its mapping the next
/// time that it has no work.
///
/// `T` is what bytemuck calls plain old data: integers, floats, arrays of these, and types of yours
/// that derive `bytemuck::Pod`.
///
/// ```
/// use proc_core::{Pool, Shared};
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let table = Shared::from_slice(&[0.5, 1.5, 2.5])?;
///     let pool = Pool::builder().processes(2).build()?;
///     let look_up = |(table, at): (Shared<f64>, usize)| table[at];
///     assert_eq!(pool.map(look_up, (0..3).map(|at| (table.clone(), at)))?, [0.5, 1.5, 2.5]);
///     Ok(())
/// }
/// ```
///
/// For very many small tasks, give the `Shared` to the pool's state or initializer rather than to
/// each task: a value with channel ends or shared memory takes a message of its own.
///
/// # Who can write
///
/// Nobody can write to the data, not even the process that made them. On Linux the memory is sealed
/// against writing before it is sent, and a process refuses memory without that seal. Other systems
/// have no such seals: accept a `Shared` there only from processes that run your code, not from one
/// that has been taken over.
pub struct Shared<T> {
    /// `None` if the slice is empty: then nothing is shared.
    memory: Option<Arc<Memory>>,
    kind: std::marker::PhantomData<fn() -> T>,
}

/// Data of one or more clones.
struct Memory {
    number: u64,
    data: Frozen,
    released: ReleasedFlag,
    /// Pid of the creator; `None` in other processes.
    creator: Option<u32>,
}

impl<T: Pod> Shared<T> {
    /// Copies `data` into shared memory.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for the data
    /// ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Process, Shared};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let primes = Shared::from_slice(&[2_u32, 3, 5, 7])?;
    ///     assert_eq!(primes.len(), 4); // a `Shared` is a slice
    ///     let sum = |primes: Shared<u32>| primes.iter().sum::<u32>();
    ///     assert_eq!(Process::new(sum, primes.clone()).start()?.join()?, 17);
    ///     Ok(())
    /// }
    /// ```
    pub fn from_slice(data: &[T]) -> Result<Shared<T>, Error> {
        Shared::build(data.len(), |copy| copy.copy_from_slice(data))
    }

    /// Makes shared memory for `len` values, and lets `fill` write them where they lie. They are 0
    /// before.
    ///
    /// # Errors
    ///
    /// As for [`from_slice`](Shared::from_slice).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Shared;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let squares = Shared::build(4, |squares: &mut [u64]| {
    ///         for (n, square) in (0..).zip(squares) {
    ///             *square = n * n;
    ///         }
    ///     })?;
    ///     assert_eq!(squares[..], [0, 1, 4, 9]);
    ///     Ok(())
    /// }
    /// ```
    pub fn build(len: usize, fill: impl FnOnce(&mut [T])) -> Result<Shared<T>, Error> {
        const { assert!(size_of::<T>() > 0, "there is nothing to share in values without bytes") };
        let memory = match len {
            0 => {
                fill(&mut []);
                None
            }
            _ => {
                let bytes = len.saturating_mul(size_of::<T>());
                // A mapping starts at a page.
                let fill = |bytes: &mut [u8]| fill(bytemuck::cast_slice_mut(bytes));
                Some(Arc::new(Memory::new(bytes, fill)?))
            }
        };
        Ok(Shared { memory, kind: std::marker::PhantomData })
    }
}

impl Memory {
    fn new(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Memory, Error> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let cannot = |error| Error::make("shared memory", error);
        memory::check_memory(len).map_err(cannot)?;
        let data = Frozen::build(len, fill).map_err(cannot)?;
        let released = ReleasedFlag::new().map_err(cannot)?;
        // Forked processes have the same random keys, and a pid may be used again: hash the time
        // too.
        let (creator, serial) = (sys::pid(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let number = RandomState::new().hash_one((creator, serial, SystemTime::now()));
        Ok(Memory { number, data, released, creator: Some(creator) })
    }

    /// Whether the creator has dropped the last of its clones.
    fn is_released(&self) -> bool {
        self.released.region.is_raised()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Do this only in the creator, not in a copy of it that was forked since.
        if self.creator == Some(sys::pid()) {
            self.released.region.raise();
        }
    }
}

/// Word that says whether the creator has released the data, with the descriptor by which other
/// processes map the word.
struct ReleasedFlag {
    region: Region,
    fd: OwnedFd,
}

impl ReleasedFlag {
    fn new() -> io::Result<ReleasedFlag> {
        let fd = memory::create(size_of::<u64>())?;
        memory::seal(&fd, memory::Access::Write)?;
        ReleasedFlag::map(fd)
    }

    fn map(fd: OwnedFd) -> io::Result<ReleasedFlag> {
        Ok(ReleasedFlag { region: Region::map(fd.try_clone()?)?, fd })
    }
}

impl<T: Pod> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // A mapping starts at a page, and its length was checked.
        self.memory.as_ref().map_or(&[], |memory| bytemuck::cast_slice(&memory.data))
    }
}

impl<T: Pod> AsRef<[T]> for Shared<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared { memory: self.memory.clone(), kind: self.kind }
    }
}

impl<T> Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.memory.as_ref().map_or(0, |memory| memory.data.len());
        f.debug_struct("Shared").field("bytes", &bytes).finish_non_exhaustive()
    }
}

/// Form in which a [`Memory`] is sent: its number, the data, and the word of [`ReleasedFlag`].
type Sent = (u64, Descriptor, Descriptor);

impl<T> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let copy = |fd: BorrowedFd<'_>| {
            let cannot =
                |error| format!("the shared data cannot be sent: {}", wire::explain(&error));
            Descriptor::new(fd).map_err(cannot)
        };
        let send = |memory: &Arc<Memory>| -> Result<Sent, String> {
            Ok((memory.number, copy(memory.data.as_fd())?, copy(memory.released.fd.as_fd())?))
        };
        let sent = self.memory.as_ref().map(send).transpose();
        sent.map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shared<T>, D::Error> {
        let sent = Option::<Sent>::deserialize(deserializer)?;
        let memory = sent.map(map_arrived).transpose().map_err(de::Error::custom)?;
        let len = memory.as_ref().map_or(0, |memory| memory.data.len());
        if size_of::<T>() == 0 || !len.is_multiple_of(size_of::<T>()) {
            return Err(de::Error::custom("the shared data end in the middle of a value"));
        }
        Ok(Shared { memory, kind: std::marker::PhantomData })
    }
}

/// Maps data that have arrived. If this process keeps the same data already, returns the mapping
/// that it has.
fn map_arrived((number, data, released): Sent) -> Result<Arc<Memory>, String> {
    let cannot =
        |error: io::Error| format!("the shared data cannot be mapped: {}", wire::explain(&error));
    let data = data.into_fd().and_then(Frozen::map).map_err(cannot)?;
    let released = released.into_fd().and_then(ReleasedFlag::map).map_err(cannot)?;
    let memory = Arc::new(Memory { number, data, released, creator: None });
    if !KEEPS_ARRIVED.load(Ordering::Relaxed) || memory.is_released() {
        return Ok(memory);
    }
    let mut kept = kept();
    let index = kept
        .iter()
        .position(|old| old.number == memory.number && old.data.len() == memory.data.len());
    let memory = index.map_or(memory, |index| kept.remove(index));
    kept.retain(|old| !old.is_released());
    if kept.len() == MAX_KEPT_MAPPINGS {
        kept.remove(0);
    }
    kept.push(Arc::clone(&memory));
    Ok(memory)
}

/// Number of mappings that a worker keeps for later tasks.
const MAX_KEPT_MAPPINGS: usize = 16;

/// Whether this process keeps the data that arrive. Only workers keep them, since a worker runs
/// many tasks.
static KEEPS_ARRIVED: AtomicBool = AtomicBool::new(false);

/// Data that a worker keeps, the most recently used at the end.
static KEPT: Mutex<Vec<Arc<Memory>>> = Mutex::new(Vec::new());

fn kept() -> MutexGuard<'static, Vec<Arc<Memory>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a worker: keeps data that arrive, for later tasks.
pub(crate) fn keep_mappings() {
    KEEPS_ARRIVED.store(true, Ordering::Relaxed);
}

/// In a worker: drops the kept data that their creator has released.
pub(crate) fn drop_released() {
    kept().retain(|memory| !memory.is_released());
}
