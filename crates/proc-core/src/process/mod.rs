//! One function in one process: [`Process`] describes it, [`Child`] is it running.

mod child;
mod main;
mod outcome;
mod wait;

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

pub use self::child::Child;
pub use self::wait::{Sentinel, wait};
use crate::call::{Name, refuse_captures};
use crate::error::{Error, Origin};
use crate::forkserver::{
    Attributes, Lifetime, Limits, Link, StartMethod, Stdio, next_serial, start_method,
};
use crate::wire::{Message, Payload};

/// A function and its argument, to be run in a process of their own.
///
/// The function is a `fn` item or a closure that captures nothing; anything else is refused by the
/// compiler. Argument and result are [`Message`]s; several arguments are a tuple, none is `()`.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// use proc_core::Process;
///
/// fn even(n: u32) -> Vec<u32> {
///     (0..n).filter(|i| i % 2 == 0).collect()
/// }
///
/// let child = Process::new(even, 7).name("even").start()?;
/// assert_eq!(child.join()?, [0, 2, 4, 6]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing runs before `start`"]
pub struct Process<F, A> {
    function: F,
    argument: A,
    name: Option<String>,
    start_method: StartMethod,
    attributes: Attributes,
}

impl<F, A, R> Process<F, A>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
{
    /// Describes a process that calls `function` with `argument`.
    #[doc(alias = "target")]
    #[doc(alias = "args")]
    pub fn new(function: F, argument: A) -> Self {
        refuse_captures!(F);
        let (start_method, attributes) = (StartMethod::default(), Attributes::default());
        Process { function, argument, name: None, start_method, attributes }
    }

    /// Names the process, for people: in errors and, cut to 15 bytes, in `ps`.
    ///
    /// Without a name it is `Process-1`, `Process-2` and so on.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses how the process comes into being.
    #[doc(alias = "context")]
    pub fn start_method(mut self, start_method: StartMethod) -> Self {
        self.start_method = start_method;
        self
    }

    /// Makes the process a daemon, or not, as it is without this.
    ///
    /// When a program ends, by the return of `main`, by `std::process::exit` or by a panic of
    /// `main`, its daemons are told to end (SIGTERM), and killed after half a second; the other
    /// processes that it has started are waited for. The same holds for a process at the end of its
    /// function. A pool's workers do not wait: what a task has started and not joined ends with its
    /// worker.
    ///
    /// A daemon may start processes of its own, which Python refuses; they end with it.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # use std::time::Duration;
    /// let heartbeat = |()| -> () {
    ///     loop {
    ///         std::thread::sleep(Duration::from_secs(1));
    ///     }
    /// };
    /// let child = proc_core::Process::new(heartbeat, ()).daemon(true).start()?;
    /// drop(child); // main can return, and the daemon ends
    /// # Ok(())
    /// # }
    /// ```
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.attributes.lifetime = if daemon { Lifetime::Daemon } else { Lifetime::Joined };
        self
    }

    /// Sets an environment variable of the process.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// let ask = |name: String| std::env::var(name).ok();
    /// let child = proc_core::Process::new(ask, "GREETING".to_owned()).env("GREETING", "hello").start()?;
    /// assert_eq!(child.join()?.as_deref(), Some("hello"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.attributes.overrides.set(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the environment of the process.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.attributes.overrides.set(name.as_ref(), None);
        self
    }

    /// Gives the process an empty environment, but for what is set after this.
    pub fn env_clear(mut self) -> Self {
        self.attributes.overrides.clear();
        self
    }

    /// Sets the working directory of the process. A relative path begins at the caller's.
    ///
    /// A directory that cannot be entered is an error of [`join`](Child::join).
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.attributes.overrides.enter(directory.into());
        self
    }

    /// Gives the process a stdin: a file, the reading end of [`std::io::pipe`], or another
    /// [`Stdio`]. Without one it is empty.
    ///
    /// With [`StartMethod::Fork`] the process is a copy of the caller: it has what the caller has
    /// read ahead from its own stdin, and sees the end of a pipe only if the caller had closed the
    /// other end.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.attributes.stdio.set(0, stdin.into());
        self
    }

    /// Gives the process another stdout than the program's: a file, the writing end of
    /// [`std::io::pipe`], or another [`Stdio`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # proc_core::init();
    /// let (mut reader, writer) = std::io::pipe()?;
    /// let child = proc_core::Process::new(|()| println!("hello"), ()).stdout(writer).start()?;
    /// assert_eq!(std::io::read_to_string(&mut reader)?, "hello\n"); // to the end of the process
    /// child.join()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.attributes.stdio.set(1, stdout.into());
        self
    }

    /// Gives the process another stderr, as [`stdout`](Process::stdout).
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.attributes.stdio.set(2, stderr.into());
        self
    }

    /// Limits what the process may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.attributes.limits = limits;
        self
    }

    /// Starts the process.
    ///
    /// It has the working directory and environment that the caller has now, and shares the
    /// program's stdin, stdout and stderr, where nothing else was asked for; see [`StartMethod`]
    /// for the rest. Returns when it exists; what its function does is not waited for.
    ///
    /// # Errors
    ///
    /// The argument cannot be encoded, the process cannot be started, or what was asked for makes
    /// no sense ([`Error::is_invalid`]).
    pub fn start(self) -> Result<Child<R>, Error> {
        let _ = self.function;
        let serial = next_serial();
        let name = self.name.unwrap_or_else(|| format!("Process-{serial}"));
        let place = || Origin { name: Some(name.clone()), ..Origin::default() };
        let function = Name::of::<F, A, R>().map_err(Error::invalid)?;
        start_method::with_fork_server(self.start_method, &self.attributes.stdio, |fork_server| {
            let arguments = Payload::encode(&self.argument).map_err(Error::encode_argument)?;
            let job = main::job(function, arguments).map_err(Error::invalid)?;
            let link = Link::start(fork_server, serial, &name, &self.attributes, job)?;
            Ok(Child::new(link, name.clone(), self.attributes.limits.clone()))
        })
        .map_err(|error| error.with_origin(place()))
    }
}

// Functions are not `Debug`, and arguments need not be.
impl<F, A> fmt::Debug for Process<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("function", &std::any::type_name::<F>())
            .field("name", &self.name)
            .field("start_method", &self.start_method)
            .finish_non_exhaustive()
    }
}
