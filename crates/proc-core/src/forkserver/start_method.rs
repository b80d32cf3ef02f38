//! Defines the start methods, and [`init`], the one call that makes them possible.
//!
//! This module decides which fork server serves which start method. It sends no messages.

use std::fmt::{self, Display};
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StdioConfig;
use super::{ForkServer, Newborn, exit, newborn, registry, spawn};
use crate::error::Error;
use crate::panics;
use crate::sys::image::Image;
use crate::sys::{self, PerProcess, RightsReader, SingleThread};

/// Start method: how a new process comes into being. The variants are Python's start methods, under
/// their names.
///
/// With all three, a small *fork server* process forks the new process on request. They differ in
/// where the fork server comes from, and so in the memory with which the new process starts.
///
/// With each start method, a new process has the working directory, the environment and the
/// processors that the caller has when it asks for the process. The new process never has more
/// rights than the calling thread has at that moment: if the rights have changed since `init`, a
/// new fork server is executed.
///
/// Everything else is in the table of `docs/new-processes.md`, a page of [the
/// book](crate#the-book). Resource limits, umask and niceness are those that the fork server had
/// when it was made, and the signal mask is that of the thread that made it; with `Forkserver`,
/// `init` makes it. The same is true of statics, loggers and panic hooks; set these in a pool's
/// initializer. In a spawned process, `std::env::args` is the program's name alone.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use proc_core::{Process, StartMethod};
///
/// static LEVEL: AtomicU32 = AtomicU32::new(1);
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     LEVEL.store(2, Ordering::Relaxed);
///     for (method, level) in
///         [(StartMethod::Fork, 2), (StartMethod::Forkserver, 1), (StartMethod::Spawn, 1)]
///     {
///         let process = Process::new(|()| LEVEL.load(Ordering::Relaxed), ());
///         assert_eq!(process.start_method(method).start()?.join()?, level);
///     }
///     Ok(())
/// }
/// ```
#[doc(alias = "get_context")]
#[doc(alias = "set_start_method")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartMethod {
    /// The fork server is a copy of the program as it was in [`init`]. This is the default on
    /// Linux.
    ///
    /// It is fast, and it is safe whatever threads and locks the program has later.
    Forkserver,
    /// The fork server is a copy of the caller as it is now, made for this one process or pool.
    ///
    /// The new process sees everything that the caller had in memory, without a copy until either
    /// side writes. A start is an error if the caller has more than one thread: a lock that another
    /// thread holds would stay locked in the copy forever.
    Fork,
    /// The fork server is the same program, executed again; its `main` does not begin. This is the
    /// default on systems other than Linux.
    ///
    /// It works on every Unix (only Linux is tested). `Forkserver` falls back to it in five cases:
    /// without [`init`], if `init` found other threads, if the fork server was killed, if it had
    /// too few descriptors for a start, and if it has other rights than the program has now.
    Spawn,
}

impl Default for StartMethod {
    fn default() -> StartMethod {
        if cfg!(target_os = "linux") { StartMethod::Forkserver } else { StartMethod::Spawn }
    }
}

impl Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StartMethod::Forkserver => "forkserver",
            StartMethod::Fork => "fork",
            StartMethod::Spawn => "spawn",
        })
    }
}

/// Python's names, in whatever case.
///
/// ```
/// use proc_core::StartMethod;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     assert_eq!("Spawn".parse::<StartMethod>()?, StartMethod::Spawn);
///     assert_eq!(StartMethod::Forkserver.to_string(), "forkserver");
///     assert!("thread".parse::<StartMethod>().is_err());
///     Ok(())
/// }
/// ```
impl FromStr for StartMethod {
    type Err = Error;

    fn from_str(name: &str) -> Result<StartMethod, Error> {
        let all = [StartMethod::Forkserver, StartMethod::Fork, StartMethod::Spawn];
        let found = all.into_iter().find(|method| method.to_string().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let what = format!("unknown start method {name:?}: use forkserver, fork or spawn");
            Error::invalid(what)
        })
    }
}

/// Fork servers that this process asks for new processes.
#[derive(Default)]
struct CurrentServers {
    /// Whether [`init`] was called, or another process has made this one.
    is_initialized: bool,
    /// Fork server that was forked: by [`init`], or later in a library for which nothing can be
    /// executed. In a child, the one that forked the child.
    main: Option<Arc<ForkServer>>,
    /// Fork server that was executed.
    spawned: Option<Arc<ForkServer>>,
}

/// Fork servers of this process. A copy that a user's `fork` makes begins with none: the fork
/// servers of its parent serve the parent.
static CURRENT_SERVERS: PerProcess<Mutex<CurrentServers>> = PerProcess::new();

fn current_servers() -> MutexGuard<'static, CurrentServers> {
    CURRENT_SERVERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepares this program for starting processes. It is best called first in `main`.
///
/// It forks the fork server while the program is small and has one thread. The first process then
/// starts a millisecond sooner.
///
/// Programs also work without this call. Without it, or if other threads exist by then
/// (`#[tokio::main]`), the first use executes the program again. That copy becomes the fork server
/// *before* its `main`, so `main` does not run twice. A process begins with the memory that the
/// program has when it calls `init`. Without `init`, a process begins with the memory that the
/// program has before `main`.
///
/// A second call does nothing, also in a child. `init` corresponds to Python's
/// `if __name__ == "__main__":`. The page `docs/new-processes.md` of [the book](crate#the-book)
/// says what a process inherits with `init` and without it.
///
/// ```
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let child = proc_core::Process::new(|x: u32| x + 1, 41).start()?;
///     assert_eq!(child.join()?, 42);
///     Ok(())
/// }
/// ```
pub fn init() {
    // A constructor of the program has called this, in a process that is about to be a fork server.
    if spawn::is_to_be_fork_server() {
        return;
    }
    // Do not hold the lock while forking: it would stay locked in the copy.
    if std::mem::replace(&mut current_servers().is_initialized, true) {
        return;
    }
    exit::register_cleanup();
    // Look up the image before the fork: the program's file may change at any time later.
    Image::get();
    panics::install_hook();
    // If this fails, the program is executed again when it needs a fork server, and reports an
    // error if that fails too.
    let main = SingleThread::prove()
        .ok()
        .and_then(|alone| ForkServer::fork(alone, &StdioConfig::default(), become_process).ok());
    if let Some(main) = main {
        // In a library, an earlier start may have made one.
        let outdated = current_servers().main.replace(Arc::new(main));
        drop(outdated); // after the lock is released: its destructor sends a request
    }
}

/// Runs [`init`] in tests, before the test harness starts its threads. Write it as one line at the
/// top level of a test file.
///
/// Tests also work without this macro, as programs work without [`init`]. With it, the fork server
/// is forked; without it, the test binary is executed again to be the fork server. No test runs
/// twice in either case. The macro works with `cargo test` and with `cargo nextest run`, for unit
/// tests (in `lib.rs` or `main.rs`) and in each file of `tests/`. A crate that *forbids* unsafe
/// code cannot use the macro, because code before `main` is unsafe: let the crate *deny* unsafe
/// code instead.
///
/// ```no_run
/// fn main() {
///     proc_core::init();
/// }
///
/// #[cfg(test)]
/// proc_core::init_tests!();
///
/// #[test]
/// fn squares() -> Result<(), proc_core::Error> {
///     let pool = proc_core::Pool::new()?;
///     assert_eq!(pool.map(|x: i32| x * x, [1, 2, 3])?, [1, 4, 9]);
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! init_tests {
    () => {
        $crate::__private::ctor::declarative::ctor! {
            #[ctor(unsafe)]
            #[allow(unsafe_code)]
            fn proc_core_init_tests() {
                $crate::init();
            }
        }
    };
}

/// In a new process: keeps `fork_server`, which made this process, so that the process can start
/// others; then runs the job of the process.
pub(crate) fn become_process(fork_server: Arc<ForkServer>, newborn: Newborn) -> ! {
    registry::forget_inherited();
    CURRENT_SERVERS.inherit();
    let main = Some(fork_server);
    let ours = CurrentServers { is_initialized: true, main, ..CurrentServers::default() };
    // Drop the values of the fork server without holding the lock.
    let inherited = std::mem::replace(&mut *current_servers(), ours);
    drop(inherited);
    newborn::run(newborn)
}

sys::before_main! { BECOME_FORK_SERVER: become_fork_server_if_asked }

/// In an executed program, before its `main` begins: becomes the fork server if the program was
/// executed for that.
fn become_fork_server_if_asked(arguments: sys::Arguments) {
    if spawn::is_to_be_fork_server() {
        // Run the other constructors: every process of the program needs what they prepare.
        sys::run_constructors_after(BECOME_FORK_SERVER, arguments);
        spawn::serve(become_process);
    }
}

/// Runs `start` with the fork server for a start method. Runs it again with another fork server if
/// the first one is found dead or has lost the request, and with a third one if the second one
/// fails in the same way.
///
/// A fork server that is a copy of this process closes its copies of the descriptors in `stdio`.
pub(crate) fn with_fork_server<T>(
    start_method: StartMethod,
    stdio: &StdioConfig,
    rights: &mut RightsReader,
    mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
) -> Result<T, Error> {
    if start_method == StartMethod::Fork {
        return start(&fork_server_for(start_method, stdio, rights)?);
    }
    for _ in 0..2 {
        let fork_server = fork_server_for(start_method, stdio, rights)?;
        // Look before an argument is encoded: the receivers in it can be sent only once.
        if !fork_server.has_ended() {
            match start(&fork_server) {
                // To encode an argument, `start` may have called the user's code.
                Err(error) if error.is_fork_server_gone() => *rights = RightsReader::default(),
                result => return result,
            }
        }
        forget(&fork_server);
    }
    start(&fork_server_for(start_method, stdio, rights)?)
}

fn fork_server_for(
    start_method: StartMethod,
    stdio: &StdioConfig,
    rights: &mut RightsReader,
) -> Result<Arc<ForkServer>, Error> {
    let cannot = |error| Error::start("a fork server", error);
    // If `main` has closed a standard stream, its number must not become that of a channel.
    sys::fill_standard_streams();
    registry::check_open().map_err(cannot)?;
    exit::register_cleanup();
    if start_method == StartMethod::Fork {
        let alone = SingleThread::prove().map_err(Error::fork_with_threads)?;
        return ForkServer::fork(alone, stdio, become_process).map(Arc::new).map_err(cannot);
    }
    let mut servers = current_servers();
    if let (StartMethod::Forkserver, Some(main)) = (start_method, &servers.main)
        && main.has_our_rights(rights).map_err(cannot)?
    {
        return Ok(Arc::clone(main));
    }
    // A program that has given up rights since that fork server was made must not get processes
    // that have these rights.
    if let Some(spawned) = &servers.spawned
        && !spawned.has_our_rights(rights).map_err(cannot)?
    {
        let outdated = servers.spawned.take();
        drop(servers);
        drop(outdated);
        return fork_server_for(start_method, stdio, rights);
    }
    if let Some(spawned) = &servers.spawned {
        return Ok(Arc::clone(spawned));
    }
    drop(servers);
    make_fork_server(start_method, stdio, rights).map_err(cannot)
}

/// Makes a fork server for all processes that are started from now on.
fn make_fork_server(
    start_method: StartMethod,
    stdio: &StdioConfig,
    rights: &mut RightsReader,
) -> io::Result<Arc<ForkServer>> {
    let _making = registry::lock_making();
    // Another thread may have been faster. It may have other rights.
    let other = current_servers().spawned.clone();
    if let Some(spawned) = other
        && spawned.has_our_rights(rights)?
    {
        return Ok(spawned);
    }
    registry::check_open()?;
    panics::install_hook();
    // Read the value, so that no linker leaves it out.
    std::hint::black_box(BECOME_FORK_SERVER);
    if let Some(error) = spawn::why_not_executed() {
        // In a library, the fork server is a copy of the program that has loaded the library, as it
        // is now.
        let alone = SingleThread::prove().ok().filter(|_| start_method == StartMethod::Forkserver);
        let alone = alone.ok_or(error)?;
        let main = Arc::new(ForkServer::fork(alone, stdio, become_process)?);
        let outdated = current_servers().main.replace(Arc::clone(&main));
        drop(outdated); // after the lock is released: its destructor sends a request
        return Ok(main);
    }
    let spawned = Arc::new(spawn::spawn()?);
    let outdated = current_servers().spawned.replace(Arc::clone(&spawned));
    drop(outdated); // as above
    Ok(spawned)
}

/// Removes a fork server that is dead or has lost a request, so that no process asks it again.
fn forget(dead: &Arc<ForkServer>) {
    let mut servers = current_servers();
    let CurrentServers { main, spawned, .. } = &mut *servers;
    let mut gone = Vec::new();
    for field in [main, spawned] {
        gone.extend(field.take_if(|fork_server| Arc::ptr_eq(fork_server, dead)));
    }
    // Release the lock first: dropping a fork server takes another lock, and sends a request.
    drop(servers);
}
