//! Python's `multiprocessing` for Rust: processes and pools that survive a crash.
//!
//! This page is a short guide. Each item that is listed below the guide has an example, or names an
//! item that has one: paste the example into `src/main.rs` of a new crate, and it runs. The whole
//! story is in [the book](#the-book), which is in `docs/` of the repository: `mdbook serve docs
//! --open` shows it in a browser (`cargo install mdbook`).
//!
//! # A first program
//!
//! ```
//! use proc_core::{Pool, Process};
//!
//! fn even(n: u32) -> Vec<u32> {
//!     (0..n).filter(|i| i % 2 == 0).collect()
//! }
//!
//! fn square(x: i64) -> i64 {
//!     x * x
//! }
//!
//! fn main() -> Result<(), proc_core::Error> {
//!     proc_core::init(); // first line of main
//!
//!     let child = Process::new(even, 7).start()?; // one function in one process
//!     assert_eq!(child.join()?, [0, 2, 4, 6]);
//!
//!     let pool = Pool::builder().processes(2).build()?; // many calls, few processes
//!     assert_eq!(pool.map(square, [3, 4, 5])?, [9, 16, 25]);
//!     Ok(())
//! }
//! ```
//!
//! # Five things to know
//!
//! 1. **`init()` is the recommended first line of `main`.** It forks a small *fork server* process,
//!    while the program has one thread. The fork server makes all other processes. If `init` is
//!    missing, or if there are other threads when it is called (`#[tokio::main]`), the first use
//!    executes the program again. That copy becomes the fork server before its `main` begins, so
//!    `main` does not run twice. This costs about a millisecond. Tests need no preparation. With
//!    [`StartMethod::Fork`], each process or pool gets a fork server of its own, which is a copy of
//!    the program at that moment; the program must have one thread. The table in
//!    `docs/new-processes.md`, a page of [the book](#the-book), shows what a process inherits in
//!    each case.
//! 2. **A function captures nothing.** It is a `fn` item, or a closure that uses only its argument.
//!    Other functions do not compile (`cargo build` reports this, `cargo check` does not). Data for
//!    all tasks go by [`with`](Pool::with), once to each worker: not `|x| x * k`, but
//!    `pool.with(k).map(|k, x| x * k, xs)`. For a [`Process`], put data and argument into one
//!    tuple. If the compiler advises `move`, ignore that advice. (The compiler accepts a captured
//!    value of size zero, and the other process makes such a value anew. So do not capture values
//!    whose existence proves something about one process.)
//! 3. **Arguments and results are copies**, except [`Shared`] and the objects of [`sync`]. All
//!    owned values that serde can write and read back may cross. Some of them need a wrapper, and
//!    are errors without it: [`Described`] for `serde_json::Value` and for serde's `untagged`,
//!    `tag` and `flatten`, and [`Deep`] for values that nest deeper than 256 levels. An [`Error`]
//!    may cross, too. Senders, receivers and shared memory of ipc-channel may be part of a value.
//! 4. **A process is contained.** A panic becomes an [`Error`] with its message and source
//!    position, and the worker lives on. If a worker exits, crashes or is killed, the task that it
//!    was running fails. The other tasks finish, and the worker is replaced.
//! 5. **Nothing is left behind.** At the end of `main`, the program waits for processes that are
//!    not [daemons](Process::daemon), as in Python. When the program ends, every process that this
//!    library has started for it ends too, also if the program is killed or executes another
//!    program. (This is not so for programs that a task has started with
//!    [`Command`](std::process::Command).) A thread that a function leaves behind is killed with
//!    its process.
//!
//! # When not to use it
//!
//! Rust's threads run in parallel and share memory. So for pure computing, threads (or rayon) are
//! the first choice. Use processes for code that must be *contained*: code that may crash, leak or
//! hang, or that has state which must not be shared. (A process is no sandbox: workers have your
//! program's rights.)
//!
//! # Side by side with Python
//!
//! | Python | here |
//! |---|---|
//! | `Process(target=f, args=(x,), name="n")` | [`Process::new(f, x).name("n")`](Process::new) |
//! | `p.start()`, `p.join()`, `p.join(5)` | [`start()?`](Process::start), [`join()?`](Child::join), [`join_timeout(d)`](Child::join_timeout) |
//! | `p.pid`, `p.is_alive()`, `p.exitcode` | [`pid()`](Child::pid), [`is_alive()`](Child::is_alive), [`exit_status()`](Child::exit_status) |
//! | `p.terminate()`, `p.kill()` | [`terminate()?`](Child::terminate), [`kill()?`](Child::kill); [`stop(d)?`](Child::stop) does one, and after a grace period the other |
//! | `connection.wait([p.sentinel, q.sentinel])` | [`wait(&[p.sentinel(), q.sentinel()], None)`](wait) |
//! | `resource.setrlimit(…)` in the process | [`.limits(…)`](Process::limits) of processes and pools: [`Limits`] |
//! | `daemon=True` | [`.daemon(true)`](Process::daemon) |
//! | `Popen(env=…, cwd=…, stdout=…)` | [`.env("K", "v")`](Process::env), [`.current_dir(path)`](Process::current_dir), [`.stdout(file)`](Process::stdout) |
//! | `Pool(5, f, (x,), 100)` | [`Pool::builder()`](Pool::builder)`.processes(5).initializer(f, x).max_tasks_per_child(100).build()?` |
//! | `get_context("spawn")` | [`StartMethod::Spawn`] |
//! | `map`, `imap`, `imap_unordered`, `apply`, `apply_async` | the same names on [`Pool`] |
//! | `map(f, xs, chunksize=10)` | [`options()`](Pool::options)`.chunksize(10).map(f, xs)?` |
//! | `set_forkserver_preload([…])` | [`preload(f, x)`](PoolBuilder::preload): `f` runs once, and all workers have what it left in memory |
//! | a global, set by the initializer | [`state(f, x)`](PoolBuilder::state), which [`with_state()`](Pool::with_state) lends to tasks |
//! | `Value("i", 0)` | [`sync::Value::new(0)?`](sync::Value): `get`, `set`, `update`, `fetch_add` |
//! | `Array("d", n)`, a `SharedMemory` that is written | [`sync::Array::zeroed(n)?`](sync::Array): each element is whole at any time |
//! | a `SharedMemory` that is only read | [`Shared::from_slice(&data)?`](Shared) |
//! | `Lock()`, `RLock()` | [`sync::Lock::new()?`](sync::Lock), [`sync::RLock::new()?`](sync::RLock): if a holder dies, the next one gets the lock |
//! | (no lock around data) | [`sync::Mutex::new(value)?`](sync::Mutex): after a death, an error until [`recover()?`](sync::Mutex::recover) |
//! | `Semaphore(n)`, `BoundedSemaphore(n)` | [`sync::Semaphore::new(n)?`](sync::Semaphore): a permit of a dead process comes back |
//! | `Event()`, `Condition()`, `Barrier(n)` | [`sync::Event`], [`sync::Condition`], [`sync::Barrier`] |
//! | `Queue(n)`, `SimpleQueue()`, `JoinableQueue()` | [`sync::Queue::bounded(n)?`](sync::Queue): with [`lease()?`](sync::Queue::lease), a killed consumer loses nothing |
//! | `Pipe()` | [`sync::pipe()?`](sync::pipe) |
//! | `Manager().dict()`, `.list()`, `register` | [`sync::Manager::new()?`](sync::Manager), [`sync::Managed::new(make, x)?`](sync::Managed) |
//! | (the size of a pool is fixed) | [`resize(n)?`](Pool::resize), [`idle_timeout(d)`](PoolBuilder::idle_timeout) |
//! | (no limit on the memory of values) | [`memory_limit(bytes)`](PoolBuilder::memory_limit): arguments and results take at most so much at a time |
//! | (a pool replaces workers forever) | [`restart_intensity(n, d)`](PoolBuilder::restart_intensity) |
//! | (an error loses all results) | [`try_map`](Pool::try_map): a result or an error for each input |
//! | `map(partial(f, k), xs)` | [`pool.with(k)`](Pool::with)`.map(f, xs)?`: `k` crosses once to each worker |
//! | `current_process()` | [`current()`]: the worker's number, the task's index, a seed, whether to stop |
//! | (no progress) | [`options()`](Pool::options)[`.progress(show)`](Options::progress): counts, failures, remaining time; as `tqdm`, `.progress(progress_bar())` with the feature `progress` |
//! | (no end at the first error, no priority, no grace) | [`fail_fast()`](Options::fail_fast), [`priority(n)`](Options::priority), [`grace(d)`](Options::grace), [`seed(n)`](Options::seed) |
//! | (no limit on memory or on what waits) | [`max_memory_per_child(bytes)`](PoolBuilder::max_memory_per_child), [`max_pending(n)`](PoolBuilder::max_pending) |
//! | `concurrent.futures.Executor` | [`Executor`]: the trait of pools, clusters and [`InProcess`], for functions that take any of them |
//! | `close()`, `join()`, `terminate()` | the same names |
//! | `with Pool() as pool:` | dropping a pool ends it |
//!
//! # The book
//!
//! The book is in `docs/` of the repository. `mdbook serve docs --open` shows it in a browser; its
//! pages can also be read as they are.
//!
//! | page | what it tells |
//! |---|---|
//! | `docs/README.md` | six questions about processes, each answered in Python and in Rust |
//! | `docs/tour.md` | a tour in the order of Python's own introduction to `multiprocessing` |
//! | `docs/recipes.md` | what people ask of a pool, from progress to a web handler, each as a program |
//! | `docs/shared-state.md` | shared state: the objects of [`sync`], and what the death of a process does to each |
//! | `docs/names.md` | every name of `multiprocessing`, and of its relatives: what it is here |
//! | `docs/processes-threads-async.md` | processes, threads or async: which to use when |
//! | `docs/contain.md` | settings and errors for code that crashes, hangs or uses too much memory |
//! | `docs/crossing.md` | what may cross between processes, and how fast |
//! | `docs/new-processes.md` | what a new process inherits, and what to know before real use |
//! | `docs/signals.md` | what Ctrl-C, SIGTERM and others do to the program, its workers and processes |
//! | `docs/ipc-channel.md` | the traps of ipc-channel, which carries the messages |
//! | `docs/inside.md` | how the library works inside |
//! | `docs/cluster.md` | the same calls on many machines, by the crate `proc-cluster` |
//!
//! `ARCHITECTURE.md`, beside `docs/`, is for those who change the library. (The feature `remote` is
//! for `proc-cluster`.)
//!
//! # Features
//!
//! | cargo feature | what |
//! |---|---|
//! | `progress` | `progress_bar()`: a bar for [`Options::progress`], drawn by `indicatif` |

// A model check with loom does without some of the system calls.
#![cfg_attr(all(test, loom), allow(dead_code, unused_imports))]

// The layers. A module uses only modules that are declared below it here.

// A pool: many calls on few processes.
mod pool;

// Calls and what they return, for a pool and for a cluster.
mod executor;

// State that processes share, and locks.
pub mod sync;

// One function in one process.
mod process;

// How processes are made, signalled and reaped.
mod forkserver;

// Errors, in words and as data.
mod error;

// A function that is named across processes, how it is called, and how a call fails.
mod call;

// A value as bytes, with its channel ends beside it.
mod wire;

// Memory that several processes map.
mod memory;

// System calls.
mod sys;

// A panic as data.
mod panics;

pub use call::{Current, current};
pub use error::{Error, ErrorKind};
#[cfg(feature = "progress")]
pub use executor::progress_bar;
pub use executor::{
    Executor, Imap, ImapUnordered, InProcess, Indexed, Options, Progress, Task, With,
};
pub use forkserver::{Limits, StartMethod, Stdio, init};
pub use pool::{Pool, PoolBuilder, WithState, WithStateAndData};
pub use process::{Child, Process, Sentinel, wait};
pub use sync::Shared;
pub use wire::{Deep, Described, Message};

/// Channels whose ends may be part of arguments and results. They are those of the version of
/// ipc-channel that this crate is built with. Ends of channels of another version cannot cross.
///
/// ```
/// use proc_core::ipc::{self, IpcSender};
///
/// fn count(to: IpcSender<u32>) {
///     (0..3).for_each(|n| to.send(n).expect("somebody receives it"));
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     proc_core::init();
///     let (sender, receiver) = ipc::channel()?;
///     let child = proc_core::Process::new(count, sender).start()?;
///     assert_eq!([receiver.recv()?, receiver.recv()?, receiver.recv()?], [0, 1, 2]);
///     child.join()?;
///     Ok(())
/// }
/// ```
pub use ipc_channel::ipc;

#[cfg(feature = "remote")]
#[doc(hidden)]
pub use pool::remote;

/// Items that the expansions of this crate's macros use; not part of its interface.
#[doc(hidden)]
pub mod __private {
    pub use ctor;
}
