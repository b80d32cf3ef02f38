//! Start methods, and the one call that makes them possible: [`init`].
//!
//! Which template serves which start method is decided here; what a template is, is told in
//! `template`. No system calls here, no messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use crate::error::Error;
use crate::streams::Streams;
use crate::sys::image::Image;
use crate::sys::{self, SingleThread};
use crate::template::{Line, Template};
use crate::wire::{self, Request};

/// How a new process comes into being; Python's start methods, under their names.
///
/// In all three a small *template* process forks the new process on request. They differ in where
/// the template comes from, and so in what memory the new process starts with.
///
/// Whatever the start method, a new process has the working directory and the environment that the
/// caller has when it asks, and its effective user and group (where these have changed since `init`,
/// a template is executed anew). Resource limits, umask, niceness and signal mask are the template's:
/// with `Forkserver` they are as old as `init`, and so are statics, loggers and panic hooks (set these
/// in a pool's initializer). `std::env::args` is the program's name alone in a spawned process.
#[doc(alias = "get_context")]
#[doc(alias = "set_start_method")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// The template is a copy of the program as it was in [`init`]. The default on Linux.
    ///
    /// Fast, and safe whatever threads and locks the program has later.
    Forkserver,
    /// The template is a copy of the caller as it is now, made for this process or pool.
    ///
    /// The new process sees everything the caller had in memory, without a copy until either side
    /// writes. Refused where the caller has more than one thread: a lock that another thread holds
    /// would stay locked in the copy for ever.
    Fork,
    /// The template is the same program, executed again up to [`init`]. The default elsewhere.
    ///
    /// Works on every Unix (only Linux is tested), and is what `Forkserver` falls back to when `init` found other threads
    /// or its template was killed.
    Spawn,
}

impl Default for Context {
    fn default() -> Context {
        if cfg!(target_os = "linux") { Context::Forkserver } else { Context::Spawn }
    }
}

/// The templates of this process.
#[derive(Default)]
struct Program {
    initialized: bool,
    /// Made by `init`, or in a child, the one it was forked by.
    main: Option<Arc<Template>>,
    spawned: Option<Arc<Template>>,
    /// Templates of ours that were told to end, or were found dead, and are not collected yet.
    ended: Vec<u32>,
    /// The way to each template that has made daemons of ours, with its pid (0 if it is not ours).
    daemons: Vec<(u32, Arc<Line>)>,
}

impl Program {
    fn collect_ended(&mut self) {
        let Program { ended, daemons, .. } = self;
        ended.retain(|pid| {
            let over = sys::reap_one(*pid).is_some();
            if over {
                daemons.retain(|(template, _)| template != pid);
            }
            !over
        });
    }
}

static PROGRAM: Mutex<Program> = Mutex::new(Program {
    initialized: false,
    main: None,
    spawned: None,
    ended: Vec::new(),
    daemons: Vec::new(),
});

fn program() -> MutexGuard<'static, Program> {
    PROGRAM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepares this program for processes; to be called first thing in `main`.
///
/// Forks the template while the program is small and has one thread. In a process that was executed
/// for [`Context::Spawn`] it does not return. Calling it again, also in a child, does nothing.
///
/// It corresponds to Python's `if __name__ == "__main__":`; starting a process without it is an
/// error ([`Error::is_init_missing`]). In tests, where `main` is not yours, see
/// [`init_tests!`](crate::init_tests).
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
    // The lock is not held while forking: it would stay locked in the copy.
    if std::mem::replace(&mut program().initialized, true) {
        return;
    }
    Template::serve_if_spawned();
    // Before the fork: the file may be touched any time later.
    Image::get();
    wire::warm_up();
    // Without a template of its own the program spawns one when it needs it, and tells then if that
    // fails too.
    let main = SingleThread::prove()
        .ok()
        .and_then(|alone| Template::fork(alone, &Streams::default()).ok());
    program().main = main.map(Arc::new);
}

/// Lets the tests of a crate use processes and pools; one line at the top level of a test file.
///
/// Runs [`init`] before the test harness starts its threads, under `cargo test` and
/// `cargo nextest run` alike, for unit tests (in `lib.rs` or `main.rs`) and in each file of `tests/`.
/// A crate that *forbids* unsafe code cannot use it (life before `main` is unsafe); let it *deny* it.
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

/// In a new child: the template that made it serves it too.
pub(crate) fn adopt(template: Template) {
    let ours = Program { initialized: true, main: Some(Arc::new(template)), ..Program::default() };
    // What the parent had is dropped with the lock free.
    let inherited = std::mem::replace(&mut *program(), ours);
    drop(inherited);
}

/// Notes a template, told to end, whose exit is to be collected when convenient.
pub(crate) fn collect_later(template: u32) {
    program().ended.push(template);
}

/// Notes that a template is asked for a daemon, which is told to end also when the template is out
/// of use.
pub(crate) fn note_daemon(template: u32, line: &Arc<Line>) {
    let mut program = program();
    if !program.daemons.iter().any(|(_, known)| Arc::ptr_eq(known, line)) {
        program.daemons.push((template, Arc::clone(line)));
    }
}

/// Sends a signal to all daemons of this process.
pub(crate) fn signal_daemons(signal: Signal) {
    let of = std::process::id();
    // The lock is not held while sending, which waits where a template is stopped.
    let daemons = program().daemons.clone();
    for (_, line) in daemons {
        // Where the template is gone, so are its children.
        let _ = line.ask(Request::SignalDaemons { of, signal: signal as i32 });
    }
}

/// Runs `start` with the template for `context`, and again with a new one if that was found dead.
///
/// A template that is a copy of this process has no copy of `streams`.
pub(crate) fn with_template<T>(
    context: Context,
    streams: &Streams,
    mut start: impl FnMut(&Arc<Template>) -> Result<T, Error>,
) -> Result<T, Error> {
    let template = template_for(context, streams)?;
    match start(&template) {
        Err(error) if error.is_template_gone() && context != Context::Fork => {
            forget(&template);
            start(&template_for(context, streams)?)
        }
        result => result,
    }
}

fn template_for(context: Context, streams: &Streams) -> Result<Arc<Template>, Error> {
    let mut program = program();
    program.collect_ended();
    if !program.initialized {
        return Err(Error::init_missing());
    }
    if context == Context::Fork {
        drop(program);
        let alone = SingleThread::prove().map_err(Error::fork_with_threads)?;
        let template = Template::fork(alone, streams);
        return template.map(Arc::new).map_err(|e| Error::start("a template", e));
    }
    if let (Context::Forkserver, Some(main)) = (context, &program.main)
        && main.has_our_rights()
    {
        return Ok(Arc::clone(main));
    }
    // A program that has given up rights since must not get processes that have them.
    let outdated = program.spawned.take_if(|spawned| !spawned.has_our_rights());
    if outdated.is_some() {
        drop(program);
        drop(outdated);
        return template_for(context, streams);
    }
    if program.spawned.is_none() {
        let template = Template::spawn().map_err(|e| Error::start("a template", e))?;
        program.spawned = Some(Arc::new(template));
    }
    program.spawned.clone().ok_or_else(Error::init_missing)
}

/// Takes a dead template out of use.
fn forget(dead: &Arc<Template>) {
    let mut program = program();
    let Program { main, spawned, .. } = &mut *program;
    let mut gone = Vec::new();
    for place in [main, spawned] {
        gone.extend(place.take_if(|template| Arc::ptr_eq(template, dead)));
    }
    // Dropping one notes its pid, for which the lock must be free.
    drop(program);
}
