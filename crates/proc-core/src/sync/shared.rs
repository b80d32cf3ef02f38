//! Read-only data that processes share: copied once, never again.
//!
//! A [`Shared`] crosses as its number and two pieces of shared memory: the data, which nobody can
//! write to any more, and a word that says whether its maker still has it. A worker keeps what it
//! has mapped for the next task that brings the same number, until the maker has let go of it or
//! there are too many.

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

/// Numbers (or other plain data) that all processes read in one place, without a copy for each.
///
/// Making one copies the data once, into shared memory. As an argument, as part of one, or as the
/// argument of a pool's [`initializer`](crate::PoolBuilder::initializer) or
/// [`state`](crate::PoolBuilder::state) it crosses without being copied, whatever its size; clones
/// cost nothing either. A worker keeps one mapping of it, so that a task that brings it again costs
/// a few system calls, and lets go of it soon after the last clone in the process that made it is
/// dropped: when it next runs out of work.
///
/// `T` is what bytemuck calls plain old data: integers, floats, arrays of these, and types of yours
/// that derive `bytemuck::Pod`.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// use proc_core::{Pool, Shared};
///
/// let table = Shared::from_slice(&[0.5, 1.5, 2.5])?;
/// let pool = Pool::builder().processes(2).build()?;
/// let look_up = |(table, at): (Shared<f64>, usize)| table[at];
/// assert_eq!(pool.map(look_up, (0..3).map(|at| (table.clone(), at)))?, [0.5, 1.5, 2.5]);
/// # Ok(())
/// # }
/// ```
///
/// For very many small tasks give it to the pool's state or initializer rather than to each task:
/// whatever crosses as a channel end or as shared memory takes a message of its own.
///
/// # Who can write
///
/// Nobody, not even who made it: on Linux the memory is sealed against writing before it is sent,
/// and a process that receives memory without that seal refuses it. Other systems have no such
/// seals: there, take one from processes that run your code, not from one that has been taken over.
pub struct Shared<T> {
    /// Nothing is shared of an empty one.
    memory: Option<Arc<Memory>>,
    kind: std::marker::PhantomData<fn() -> T>,
}

/// The data of one or more clones.
struct Memory {
    number: u64,
    data: Frozen,
    /// Set once the maker has dropped the last of its clones.
    gone: Gone,
    /// The process that made it.
    maker: Option<u32>,
}

impl<T: Pod> Shared<T> {
    /// Copies `data` into shared memory.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`Error::is_start`]).
    pub fn from_slice(data: &[T]) -> Result<Shared<T>, Error> {
        const { assert!(size_of::<T>() > 0, "there is nothing to share in values without bytes") };
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let memory = if bytes.is_empty() { None } else { Some(Arc::new(Memory::new(bytes)?)) };
        Ok(Shared { memory, kind: std::marker::PhantomData })
    }
}

impl Memory {
    fn new(bytes: &[u8]) -> Result<Memory, Error> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let cannot = |error| Error::start("shared memory", error);
        memory::check_memory(bytes.len()).map_err(cannot)?;
        let fill = |memory: &mut [u8]| memory.copy_from_slice(bytes);
        let data = Frozen::build(bytes.len(), fill).map_err(cannot)?;
        let gone = Gone::new().map_err(cannot)?;
        // Processes that were forked have the same random keys, and a pid may come again.
        let (maker, made) = (sys::pid(), MADE.fetch_add(1, Ordering::Relaxed));
        let number = RandomState::new().hash_one((maker, made, SystemTime::now()));
        Ok(Memory { number, data, gone, maker: Some(maker) })
    }

    fn is_gone(&self) -> bool {
        self.gone.region.is_raised()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Not a copy of the maker, forked since.
        if self.maker == Some(sys::pid()) {
            self.gone.region.raise();
        }
    }
}

/// A word that says whether the maker has let go, and what others map it by.
struct Gone {
    region: Region,
    fd: OwnedFd,
}

impl Gone {
    fn new() -> io::Result<Gone> {
        let fd = memory::create(size_of::<u64>())?;
        memory::seal(&fd, memory::Access::Write)?;
        Gone::map(fd)
    }

    fn map(fd: OwnedFd) -> io::Result<Gone> {
        Ok(Gone { region: Region::map(fd.try_clone()?)?, fd })
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

/// What crosses of a [`Memory`].
type Crossing = (u64, Descriptor, Descriptor);

impl<T> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let send = |fd: BorrowedFd<'_>| Descriptor::new(fd).map_err(|error| wire::explain(&error));
        let cross = |memory: &Arc<Memory>| -> Result<Crossing, String> {
            Ok((memory.number, send(memory.data.as_fd())?, send(memory.gone.fd.as_fd())?))
        };
        let crossing = self.memory.as_ref().map(cross).transpose();
        crossing.map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shared<T>, D::Error> {
        let crossed = Option::<Crossing>::deserialize(deserializer)?;
        let memory = crossed.map(arrive).transpose().map_err(de::Error::custom)?;
        let len = memory.as_ref().map_or(0, |memory| memory.data.len());
        if size_of::<T>() == 0 || !len.is_multiple_of(size_of::<T>()) {
            return Err(de::Error::custom("shared data end in the middle of a value"));
        }
        Ok(Shared { memory, kind: std::marker::PhantomData })
    }
}

/// What has arrived, or the same if a worker has it already.
fn arrive((number, data, gone): Crossing) -> Result<Arc<Memory>, String> {
    let cannot = |error: io::Error| format!("shared data: {}", wire::explain(&error));
    let data = data.into_fd().and_then(Frozen::map).map_err(cannot)?;
    let gone = gone.into_fd().and_then(Gone::map).map_err(cannot)?;
    let memory = Arc::new(Memory { number, data, gone, maker: None });
    if !KEEPS.load(Ordering::Relaxed) || memory.is_gone() {
        return Ok(memory);
    }
    let mut kept = kept();
    let place = kept
        .iter()
        .position(|known| known.number == memory.number && known.data.len() == memory.data.len());
    let memory = place.map_or(memory, |place| kept.remove(place));
    kept.retain(|known| !known.is_gone());
    if kept.len() == MAX_KEPT_BUFFERS {
        kept.remove(0);
    }
    kept.push(Arc::clone(&memory));
    Ok(memory)
}

/// How many buffers a worker keeps mapped for tasks to come.
const MAX_KEPT_BUFFERS: usize = 16;

/// Whether this process keeps what arrives: only workers, of which each does many tasks.
static KEEPS: AtomicBool = AtomicBool::new(false);

/// What a worker keeps, the one used last at the end.
static KEPT: Mutex<Vec<Arc<Memory>>> = Mutex::new(Vec::new());

fn kept() -> MutexGuard<'static, Vec<Arc<Memory>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a worker: keeps what arrives for tasks to come.
pub(crate) fn keep() {
    KEEPS.store(true, Ordering::Relaxed);
}

/// Lets go of what its maker has let go of.
pub(crate) fn let_go() {
    kept().retain(|known| !known.is_gone());
}
