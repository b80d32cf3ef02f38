//! Shares state between processes, and lets them wait for each other.
//!
//! Each type is a *handle*: a clone is the same object, and so is what another process receives
//! when the handle is part of an argument, of data of [`with`](crate::Pool::with), of a pool's
//! state or initializer, or of another value. A handle may also lie in a `static` that is set
//! before the fork server is made: before `init`, or, with
//! [`StartMethod::Fork`](crate::StartMethod::Fork), before the start. (With
//! [`StartMethod::Spawn`](crate::StartMethod::Spawn) this does not work.) An end of a [`pipe`] is
//! no handle: it belongs to one process, and is moved to another one.
//!
//! A process that dies, at any instruction, never makes the others wait forever for what it held.
//! (A process that is *stopped*, by SIGSTOP, is not dead: the calls with a timeout are for that.)
//! The memory of an object goes with the last process that has it. There is no file or name that
//! somebody would have to remove.
//!
//! | Python | here |
//! |---|---|
//! | `Value('i', 0)` | [`Value`] |
//! | `Array('d', n)`, a `SharedMemory` that is written | [`Array`] |
//! | `Lock()`, `RLock()` | [`Lock`], [`RLock`] |
//! | (a lock around data) | [`Mutex`] |
//! | `Semaphore(n)`, `BoundedSemaphore(n)` | [`Semaphore`] |
//! | `Event()` | [`Event`] |
//! | `Condition()` | [`Condition`] |
//! | `Barrier(n)` | [`Barrier`] |
//! | `Queue(maxsize)`, `SimpleQueue()`, `JoinableQueue()` | [`Queue`] |
//! | `Pipe()` | [`pipe`] |
//! | `Manager()`, `.dict()`, `.list()`, `register` | [`Manager`], [`Dict`], [`List`], [`Managed`] |
//! | a `SharedMemory` that is only read | [`Shared`] |

mod array;
mod barrier;
mod condition;
mod event;
mod lock;
mod manager;
#[cfg(all(test, loom))]
mod model;
mod mutex;
mod object;
mod pipe;
mod queue;
mod raw_lock;
mod semaphore;
pub(crate) mod shared;
mod sleepers;
mod value;

pub use array::Array;
pub use barrier::Barrier;
pub use condition::{Condition, Guard};
pub use event::Event;
pub use lock::{Lock, LockGuard, RLock, RLockGuard};
pub use manager::{Dict, List, Managed, Manager};
pub use mutex::{Mutex, MutexGuard};
pub use pipe::{Connection, pipe};
pub use queue::{Leased, Queue};
pub use semaphore::{Permit, Semaphore};
pub use shared::Shared;
pub use value::{Integer, Value};
