//! Python's `multiprocessing` for Rust: processes and pools that survive a crash.
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
//!    while the program has one thread; the fork server makes all other processes. Without `init`,
//!    or where there are other threads by then (`#[tokio::main]`), the first use executes the
//!    program again, and that copy becomes the fork server before its `main` begins: it costs about
//!    a millisecond, and nothing of the program runs twice. Tests need no preparation. With
//!    [`StartMethod::Fork`] each process or pool gets a fork server of its own, which is a copy of
//!    the program at that moment; the program must have one thread. What a process inherits in each
//!    case is in the table of `docs/new-processes.md` of the repository.
//! 2. **A function captures nothing.** It is a `fn` item, or a closure that uses only its argument;
//!    anything else does not build (`cargo check` alone does not see it). What it needs becomes
//!    part of the argument, as a tuple: not `|x| x * k` but `|(x, k)| x * k` over
//!    `xs.map(|x| (x, k))`. If the compiler advises `move`, do not. (A captured value without bytes
//!    is let through, and made anew on the other side: do not capture tokens that prove something
//!    of one process.)
//! 3. **Arguments and results are copies**, but for [`Shared`]. Whatever serde can write and read
//!    back may cross, see [`Message`]; ipc-channel's senders, receivers and shared memory may be
//!    part of it.
//! 4. **A process is contained.** A panic is an [`Error`] with message and place, and the worker
//!    lives on. A worker that exits, crashes or is killed costs the task it was at; the others
//!    finish, the worker is replaced.
//! 5. **Nothing is left behind.** The end of `main` waits for processes that are no
//!    [daemons](Process::daemon), as in Python. When the program ends, every process that this
//!    library has started for it ends too, also if the program is killed or executes another
//!    program. That does not hold for programs that a task executes. A thread that a function
//!    leaves behind is killed with its process.
//!
//! # When not to use it
//!
//! Rust's threads run in parallel and share memory, so for pure computing threads (or rayon) are
//! the first answer. Processes are for what must be *contained*: code that may crash, leak or hang,
//! and state that must not be shared. (It is no sandbox: workers have your program's rights.)
//!
//! # Side by side with Python
//!
//! | Python | here |
//! |---|---|
//! | `Process(target=f, args=(x,), name="n")` | [`Process::new(f, x).name("n")`](Process::new) |
//! | `p.start()`, `p.join()`, `p.join(5)` | [`start()?`](Process::start), [`join()?`](Child::join), [`join_timeout(d)`](Child::join_timeout) |
//! | `p.pid`, `p.is_alive()`, `p.exitcode` | [`pid()`](Child::pid), [`is_alive()`](Child::is_alive), [`exit_status()`](Child::exit_status) |
//! | `p.terminate()`, `p.kill()` | [`terminate()?`](Child::terminate), [`kill()?`](Child::kill), both with a grace: [`stop(d)`](Child::stop) |
//! | `connection.wait([p.sentinel, q.sentinel])` | [`wait(&[p.sentinel(), q.sentinel()], None)`](wait) |
//! | `resource.setrlimit(…)` in the process | [`.limits(…)`](Process::limits) of processes and pools: [`Limits`] |
//! | `daemon=True` | [`.daemon(true)`](Process::daemon) |
//! | `Popen(env=…, cwd=…, stdout=…)` | [`.env("K", "v")`](Process::env), [`.current_dir(path)`](Process::current_dir), [`.stdout(file)`](Process::stdout) |
//! | `Pool(5, f, (x,), 100)` | [`Pool::builder()`](Pool::builder)`.processes(5).initializer(f, x).max_tasks_per_child(100).build()?` |
//! | `get_context("spawn")` | [`StartMethod::Spawn`] |
//! | `map`, `imap`, `imap_unordered`, `apply`, `apply_async` | the same names on [`Pool`] |
//! | `map(f, xs, chunksize=10)` | [`options()`](Pool::options)`.chunksize(10).map(f, xs)?` |
//! | `set_forkserver_preload([…])` | [`preload(f, x)`](PoolBuilder::preload): run once, in memory of every worker |
//! | a global, set by the initializer | [`state(f, x)`](PoolBuilder::state), lent to tasks by [`with_state()`](Pool::with_state) |
//! | `shared_memory`, `Array` (read-only here) | [`Shared::from_slice(&data)?`](Shared), as part of an argument |
//! | (a pool has the size it has) | [`resize(n)?`](Pool::resize), [`idle_timeout(d)`](PoolBuilder::idle_timeout) |
//! | (a pool holds what it is given) | [`memory_limit(bytes)`](PoolBuilder::memory_limit): at most so much at a time |
//! | (a pool replaces workers for ever) | [`restart_intensity(n, d)`](PoolBuilder::restart_intensity) |
//! | (an error drops every result) | [`try_map`](Pool::try_map): each input's own fate |
//! | (no progress) | [`options()`](Pool::options)[`.progress(show)`](Options::progress) |
//! | `concurrent.futures.Executor` | [`Executor`]: a function that runs on a pool or on a cluster |
//! | `close()`, `join()`, `terminate()`, `with` | the same names; dropping a pool ends it |
//!
//! What a new process inherits, and what to know before real use (signals, seeds, forks of your
//! own, libraries that another program loads, limits), is told in `docs/new-processes.md` of the
//! repository. The traps of ipc-channel, which carries the messages, are told in
//! `docs/ipc-channel.md`. How it works inside is told in `ARCHITECTURE.md`.

// The layers: a module uses those that stand below it, and none that stands above it.

// A pool: many calls on few processes.
mod pool;

// What a pool and a cluster have in common: calls, and what they return.
mod executor;

// What processes share.
mod sync;

// One function in one process.
mod process;

// How processes come into being.
mod forkserver;

// What can go wrong, in words and as data.
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

pub use error::{Error, ErrorKind};
pub use executor::{Executor, Imap, ImapUnordered, Options, Progress, Task};
pub use forkserver::{Limits, StartMethod, Stdio, init};
pub use pool::{Pool, PoolBuilder, WithState};
pub use process::{Child, Process, Sentinel, wait};
pub use sync::Shared;
pub use wire::Message;

/// The channels that may be part of arguments and results: those of the ipc-channel that this crate
/// is built with. Ends of another version's cannot cross.
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

/// What macros of this crate need where they are used; not part of its interface.
#[doc(hidden)]
pub mod __private {
    pub use ctor;
}
