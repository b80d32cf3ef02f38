//! Start methods, and the one call that makes them possible: [`init`].
//!
//! Which fork server serves which start method is decided here. No messages are sent here.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::streams::Streams;
use super::{ForkServer, Newborn, exit, known, newborn, spawn};
use crate::error::Error;
use crate::panics;
use crate::sys::image::Image;
use crate::sys::{self, PerProcess, SingleThread};

/// How a new process comes into being; Python's start methods, under their names.
///
/// In all three a small *fork server* process forks the new process on request. They differ in where
/// the fork server comes from, and so in what memory the new process starts with.
///
/// Whatever the start method, a new process has the working directory, the environment and the
/// processors that the caller has when it asks, and no more rights than the calling thread has then
/// (where these have changed since `init`, a fork server is executed anew). What else it has is in the
/// table of `docs/new-processes.md`: resource limits, umask, niceness and signal mask are the
/// fork server's, as old as `init` with `Forkserver`, and so are statics, loggers and panic hooks (set
/// these in a pool's initializer). `std::env::args` is the program's name alone in a spawned
/// process.
#[doc(alias = "get_context")]
#[doc(alias = "set_start_method")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartMethod {
    /// The fork server is a copy of the program as it was in [`init`]. The default on Linux.
    ///
    /// Fast, and safe whatever threads and locks the program has later.
    Forkserver,
    /// The fork server is a copy of the caller as it is now, made for this process or pool.
    ///
    /// The new process sees everything the caller had in memory, without a copy until either side
    /// writes. Refused where the caller has more than one thread: a lock that another thread holds
    /// would stay locked in the copy for ever.
    Fork,
    /// The fork server is the same program, executed again; its `main` does not begin. The default
    /// elsewhere.
    ///
    /// Works on every Unix (only Linux is tested), and is what `Forkserver` falls back to without
    /// [`init`], where `init` found other threads, and where its fork server was killed or has other
    /// rights than the program has now.
    Spawn,
}

impl Default for StartMethod {
    fn default() -> StartMethod {
        if cfg!(target_os = "linux") { StartMethod::Forkserver } else { StartMethod::Spawn }
    }
}

/// The fork servers of this process.
#[derive(Default)]
struct Program {
    initialized: bool,
    /// Made by `init`, or in a child, the one it was forked by.
    main: Option<Arc<ForkServer>>,
    spawned: Option<Arc<ForkServer>>,
}

/// A copy of this process, made by a user's `fork`, begins without templates: those of its parent
/// serve its parent.
static PROGRAM: PerProcess<Mutex<Program>> = PerProcess::new();

fn program() -> MutexGuard<'static, Program> {
    PROGRAM.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepares this program for processes; best called first thing in `main`.
///
/// Forks the fork server while the program is small and has one thread, which makes the first process
/// start a millisecond sooner. Nothing depends on it: without it, or where other threads exist by
/// then (`#[tokio::main]`), the first use executes the program again, and that copy becomes the
/// fork server *before* its `main`, so nothing of the program runs twice. What `main` did before
/// `init` is in the memory of every process; without it, processes begin with what the program has
/// before `main`.
///
/// Calling it again, also in a child, does nothing. It corresponds to Python's
/// `if __name__ == "__main__":`.
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
    // A constructor of the program has called it, in a process that is about to be a fork server.
    if spawn::is_executed_for_it() {
        return;
    }
    // The lock is not held while forking: it would stay locked in the copy.
    if std::mem::replace(&mut program().initialized, true) {
        return;
    }
    exit::tidy_at_exit();
    // Before the fork: the file may be touched any time later.
    Image::get();
    panics::install_hook();
    // Without a fork server of its own the program spawns one when it needs it, and tells then if that
    // fails too.
    let main = SingleThread::prove()
        .ok()
        .and_then(|alone| ForkServer::fork(alone, &Streams::default(), become_process).ok());
    program().main = main.map(Arc::new);
}

/// Runs [`init`] in tests, before the harness starts its threads; one line at the top level of a
/// test file.
///
/// Tests need it no more than programs need [`init`]: with it the fork server is forked, without it
/// the test binary is executed again for it, and no test runs twice either way. It works under
/// `cargo test` and `cargo nextest run` alike, for unit tests (in `lib.rs` or `main.rs`) and in
/// each file of `tests/`. A crate that *forbids* unsafe code cannot use it (life before `main` is
/// unsafe); let it *deny* it.
///
/// ```no_run
/// #[cfg(test)]
/// proc_core::init_tests!();
///
/// #[test]
/// fn squares() -> Result<(), proc_core::Error> {
///     let pool = proc_core::Pool::new()?;
///     assert_eq!(pool.map(|x: i32| x * x, [1, 2, 3])?, [1, 4, 9]);
///     Ok(())
/// }
/// # fn main() {}
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

/// In a new process: the fork server that made it serves it too.
pub(crate) fn become_process(maker: ForkServer, newborn: Newborn) -> ! {
    known::begin();
    PROGRAM.inherit();
    let ours = Program { initialized: true, main: Some(Arc::new(maker)), ..Program::default() };
    // What the parent had is dropped with the lock free.
    let inherited = std::mem::replace(&mut *program(), ours);
    drop(inherited);
    newborn::run(newborn)
}

sys::before_main! { BECOME_FORK_SERVER: become_fork_server_if_asked }

/// In an executed program, before its `main` begins: becomes the fork server if it was executed for
/// that.
fn become_fork_server_if_asked(arguments: sys::Arguments) {
    if spawn::is_executed_for_it() {
        // What they prepare is there in every process of the program.
        sys::run_constructors_after(BECOME_FORK_SERVER, arguments);
        spawn::serve(become_process);
    }
}

/// Runs `start` with the fork server for `context`, and again with a new one if that was found dead.
///
/// A fork server that is a copy of this process has no copy of `streams`.
pub(crate) fn with_fork_server<T>(
    context: StartMethod,
    streams: &Streams,
    mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
) -> Result<T, Error> {
    let fork_server = fork_server_for(context, streams)?;
    match start(&fork_server) {
        Err(error) if error.is_fork_server_gone() && context != StartMethod::Fork => {
            forget(&fork_server);
            start(&fork_server_for(context, streams)?)
        }
        result => result,
    }
}

fn fork_server_for(context: StartMethod, streams: &Streams) -> Result<Arc<ForkServer>, Error> {
    let cannot = |error| Error::start("a fork server", error);
    // What `main` has closed of them must not become a channel.
    sys::fill_standard_streams();
    known::check_open().map_err(cannot)?;
    exit::tidy_at_exit();
    if context == StartMethod::Fork {
        let alone = SingleThread::prove().map_err(Error::fork_with_threads)?;
        return ForkServer::fork(alone, streams, become_process).map(Arc::new).map_err(cannot);
    }
    let mut program = program();
    if let (StartMethod::Forkserver, Some(main)) = (context, &program.main)
        && main.has_our_rights()?
    {
        return Ok(Arc::clone(main));
    }
    // A program that has given up rights since must not get processes that have them.
    if let Some(spawned) = &program.spawned
        && !spawned.has_our_rights()?
    {
        let outdated = program.spawned.take();
        drop(program);
        drop(outdated);
        return fork_server_for(context, streams);
    }
    if let Some(spawned) = &program.spawned {
        return Ok(Arc::clone(spawned));
    }
    drop(program);
    make_fork_server(context).map_err(cannot)
}

/// Makes a fork server for all that is started from now on.
fn make_fork_server(context: StartMethod) -> io::Result<Arc<ForkServer>> {
    let _making = known::make();
    if let Some(spawned) = &program().spawned {
        return Ok(Arc::clone(spawned)); // another thread was faster
    }
    known::check_open()?;
    panics::install_hook();
    // Read, so that no linker leaves it out.
    std::hint::black_box(BECOME_FORK_SERVER);
    if let Some(error) = spawn::why_not_executed() {
        // In a library the fork server is a copy of the program that has loaded it, as late as this.
        let alone = SingleThread::prove().ok().filter(|_| context == StartMethod::Forkserver);
        let alone = alone.ok_or(error)?;
        let main = Arc::new(ForkServer::fork(alone, &Streams::default(), become_process)?);
        let outdated = program().main.replace(Arc::clone(&main));
        drop(outdated); // without the lock: its drop may ask for the program
        return Ok(main);
    }
    let spawned = Arc::new(spawn::spawn()?);
    program().spawned = Some(Arc::clone(&spawned));
    Ok(spawned)
}

/// Takes a dead fork server out of use.
fn forget(dead: &Arc<ForkServer>) {
    let mut program = program();
    let Program { main, spawned, .. } = &mut *program;
    let mut gone = Vec::new();
    for place in [main, spawned] {
        gone.extend(place.take_if(|fork_server| Arc::ptr_eq(fork_server, dead)));
    }
    // Dropping one notes its pid, for which the lock must be free.
    drop(program);
}
