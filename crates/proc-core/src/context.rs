//! Start methods, and the one call that makes them possible: [`init`].
//!
//! Which template serves which start method is decided here; what a template is, is told in
//! `template`. No system calls here, no messages.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::Error;
use crate::streams::Streams;
use crate::sys::image::Image;
use crate::sys::{self, PerProcess, SingleThread};
use crate::template::{self, Line, Template};
use crate::wire::Request;
use crate::{ending, panics};

/// How a new process comes into being; Python's start methods, under their names.
///
/// In all three a small *template* process forks the new process on request. They differ in where
/// the template comes from, and so in what memory the new process starts with.
///
/// Whatever the start method, a new process has the working directory, the environment and the
/// processors that the caller has when it asks, and no more rights than the calling thread has then
/// (where these have changed since `init`, a template is executed anew). What else it has is in the
/// table of `docs/new-processes.md`: resource limits, umask, niceness and signal mask are the
/// template's, as old as `init` with `Forkserver`, and so are statics, loggers and panic hooks (set
/// these in a pool's initializer). `std::env::args` is the program's name alone in a spawned
/// process.
#[doc(alias = "get_context")]
#[doc(alias = "set_start_method")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartMethod {
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
    /// The template is the same program, executed again; its `main` does not begin. The default
    /// elsewhere.
    ///
    /// Works on every Unix (only Linux is tested), and is what `Forkserver` falls back to without
    /// [`init`], where `init` found other threads, and where its template was killed or has other
    /// rights than the program has now.
    Spawn,
}

impl Default for StartMethod {
    fn default() -> StartMethod {
        if cfg!(target_os = "linux") { StartMethod::Forkserver } else { StartMethod::Spawn }
    }
}

/// The templates of this process.
#[derive(Default)]
struct Program {
    initialized: bool,
    /// It makes no more templates.
    ends: bool,
    /// Made by `init`, or in a child, the one it was forked by.
    main: Option<Arc<Template>>,
    spawned: Option<Arc<Template>>,
    /// Templates that are children of this process and not collected yet.
    children: Vec<Known>,
    /// The way to templates of others that have made daemons of ours.
    of_daemons: Vec<Arc<Line>>,
}

/// A template that is a child of this process.
struct Known {
    pid: u32,
    /// `None` once there is nothing more to tell it.
    line: Option<Arc<Line>>,
    /// It was told to end, or was found dead.
    ends: bool,
    /// It has made daemons of this process.
    has_daemons: bool,
}

impl Program {
    /// Has no more templates made; those that there are.
    fn end(&mut self) -> Vec<Known> {
        self.ends = true;
        std::mem::take(&mut self.children)
    }

    fn collect_ended(&mut self) {
        self.children.retain(|child| !child.ends || sys::reap_one(child.pid).is_none());
    }
}

/// A copy of this process, made by a user's `fork`, begins without templates: those of its parent
/// serve its parent.
static PROGRAM: PerProcess<Mutex<Program>> = PerProcess::new();

fn program() -> MutexGuard<'static, Program> {
    PROGRAM.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepares this program for processes; best called first thing in `main`.
///
/// Forks the template while the program is small and has one thread, which makes the first process
/// start a millisecond sooner. Nothing depends on it: without it, or where other threads exist by
/// then (`#[tokio::main]`), the first use executes the program again, and that copy becomes the
/// template *before* its `main`, so nothing of the program runs twice. What `main` did before
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
    // A constructor of the program has called it, in a process that is about to be a template.
    if template::is_executed_for_it() {
        return;
    }
    // The lock is not held while forking: it would stay locked in the copy.
    if std::mem::replace(&mut program().initialized, true) {
        return;
    }
    // Before the fork: the file may be touched any time later.
    Image::get();
    panics::install_hook();
    // Without a template of its own the program spawns one when it needs it, and tells then if that
    // fails too.
    let main = SingleThread::prove()
        .ok()
        .and_then(|alone| Template::fork(alone, &Streams::default()).ok());
    program().main = main.map(Arc::new);
}

/// Runs [`init`] in tests, before the harness starts its threads; one line at the top level of a
/// test file.
///
/// Tests need it no more than programs need [`init`]: with it the template is forked, without it
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

/// In a new template: takes over what the process had that it is a copy of, to let go of it later.
pub(crate) fn inherit() {
    PROGRAM.inherit();
}

/// In a new child: the template that made it serves it too.
pub(crate) fn adopt(template: Template) {
    PROGRAM.inherit();
    let ours = Program { initialized: true, main: Some(Arc::new(template)), ..Program::default() };
    // What the parent had is dropped with the lock free.
    let inherited = std::mem::replace(&mut *program(), ours);
    drop(inherited);
}

/// Notes a new template that is a child of this process, to be collected.
pub(crate) fn note_template(pid: u32, line: &Arc<Line>) {
    tidy_at_exit();
    let line = Some(Arc::clone(line));
    program().children.push(Known { pid, line, ends: false, has_daemons: false });
}

/// Has this process end in order: what is left when `main` returns, or `exit` is called, is seen
/// to.
pub(crate) fn tidy_at_exit() {
    static IS_REGISTERED: PerProcess<AtomicBool> = PerProcess::new();
    if !IS_REGISTERED.get().swap(true, Ordering::Relaxed) {
        sys::at_exit(end_at_exit);
    }
}

/// Notes a template, told to end, whose exit is to be collected when convenient.
pub(crate) fn collect_later(template: u32) {
    let mut program = program();
    for child in program.children.iter_mut().filter(|child| child.pid == template) {
        child.ends = true;
        child.line.take_if(|_| !child.has_daemons);
    }
    program.collect_ended();
}

/// Waits for the exit of a template that was told to end.
pub(crate) fn collect_until(template: u32, deadline: Instant) {
    let is_known = |program: &Program| program.children.iter().any(|child| child.pid == template);
    // Somebody else may have collected it.
    if is_known(&program()) && sys::reap_until(template, deadline).is_some() {
        program().children.retain(|child| child.pid != template);
    }
}

/// How long the end of a program waits for the end of its templates.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs when `main` has returned or somebody has called `exit`: ends what is left, and collects the
/// templates, which would else stay as zombies where the first process of the system does not reap.
extern "C" fn end_at_exit() {
    ending::end_at_exit();
    let deadline = Instant::now() + FAREWELL;
    // Another thread may hold the lock for long, and goes on while this one ends the program.
    let children = loop {
        match PROGRAM.get().try_lock() {
            Ok(mut program) => break program.end(),
            Err(TryLockError::Poisoned(program)) => break program.into_inner().end(),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => return,
        }
    };
    end_templates(children, deadline);
    // A thread may have been making one meanwhile; it makes no other.
    while MAKING.get().try_lock().is_err_and(|error| matches!(error, TryLockError::WouldBlock))
        && Instant::now() < deadline
    {
        std::thread::yield_now();
    }
    if let Ok(mut program) = PROGRAM.get().try_lock() {
        let children = program.end();
        drop(program);
        end_templates(children, deadline);
    }
}

fn end_templates(templates: Vec<Known>, deadline: Instant) {
    for line in templates.iter().filter_map(|template| template.line.as_ref()) {
        let _ = line.order_end();
    }
    for template in templates {
        if sys::reap_until(template.pid, deadline).is_none() {
            sys::signal_child(template.pid, Signal::SIGKILL);
            sys::reap_until(template.pid, Instant::now() + FAREWELL);
        }
    }
}

/// Notes that a template is asked for a daemon, which is told to end also when the template is out
/// of use.
pub(crate) fn note_daemon(template: Option<u32>, line: &Arc<Line>) {
    let mut program = program();
    let Program { children, of_daemons, .. } = &mut *program;
    match children.iter_mut().find(|child| Some(child.pid) == template) {
        Some(child) => child.has_daemons = true,
        None if of_daemons.iter().any(|known| Arc::ptr_eq(known, line)) => {}
        None => of_daemons.push(Arc::clone(line)),
    }
}

/// Sends a signal to all daemons of this process.
pub(crate) fn signal_daemons(signal: Signal) {
    let of = sys::pid();
    // The lock is not held while sending, which waits where a template is stopped.
    let lines: Vec<Arc<Line>> = {
        let program = program();
        let children = program.children.iter().filter(|child| child.has_daemons);
        children
            .filter_map(|child| child.line.as_ref())
            .chain(&program.of_daemons)
            .cloned()
            .collect()
    };
    for line in lines {
        // Where the template is gone, so are its children.
        let _ = line.ask(Request::SignalDaemons { of, signal: signal as i32 });
    }
}

/// Runs `start` with the template for `context`, and again with a new one if that was found dead.
///
/// A template that is a copy of this process has no copy of `streams`.
pub(crate) fn with_template<T>(
    context: StartMethod,
    streams: &Streams,
    mut start: impl FnMut(&Arc<Template>) -> Result<T, Error>,
) -> Result<T, Error> {
    let template = template_for(context, streams)?;
    match start(&template) {
        Err(error) if error.is_template_gone() && context != StartMethod::Fork => {
            forget(&template);
            start(&template_for(context, streams)?)
        }
        result => result,
    }
}

fn template_for(context: StartMethod, streams: &Streams) -> Result<Arc<Template>, Error> {
    let cannot = |error| Error::start("a template", error);
    // What `main` has closed of them must not become a channel.
    sys::fill_standard_streams();
    let mut program = program();
    program.collect_ended();
    if program.ends {
        return Err(cannot(io::Error::other("the program is ending")));
    }
    if context == StartMethod::Fork {
        drop(program);
        let alone = SingleThread::prove().map_err(Error::fork_with_threads)?;
        return Template::fork(alone, streams).map(Arc::new).map_err(cannot);
    }
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
        return template_for(context, streams);
    }
    if let Some(spawned) = &program.spawned {
        return Ok(Arc::clone(spawned));
    }
    drop(program);
    make_template(context).map_err(cannot)
}

/// Held while a template is made: one at a time, and without the lock of the program, since it
/// takes a while.
static MAKING: PerProcess<Mutex<()>> = PerProcess::new();

/// Makes a template for all that is started from now on.
fn make_template(context: StartMethod) -> io::Result<Arc<Template>> {
    let _making = MAKING.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spawned) = &program().spawned {
        return Ok(Arc::clone(spawned)); // another thread was faster
    }
    if program().ends {
        return Err(io::Error::other("the program is ending"));
    }
    panics::install_hook();
    if let Some(error) = template::why_not_executed() {
        // In a library the template is a copy of the program that has loaded it, as late as this.
        let alone = SingleThread::prove().ok().filter(|_| context == StartMethod::Forkserver);
        let alone = alone.ok_or(error)?;
        let main = Arc::new(Template::fork(alone, &Streams::default())?);
        let outdated = program().main.replace(Arc::clone(&main));
        drop(outdated); // without the lock: its drop may ask for the program
        return Ok(main);
    }
    let spawned = Arc::new(Template::spawn()?);
    program().spawned = Some(Arc::clone(&spawned));
    Ok(spawned)
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
