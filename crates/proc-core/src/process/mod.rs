//! Runs one function in one process: [`Process`] describes the process, [`Child`] is the process
//! after its start.

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
use crate::sys::RightsReader;
use crate::wire::{Message, Payload};

/// Description of a process that calls one function with one argument.
///
/// The function is a `fn` item or a closure that captures nothing; the compiler refuses all others.
/// Argument and result are [`Message`]s. To pass several arguments, use a tuple; to pass none, use
/// `()`.
///
/// ```
/// use proc_core::Process;
///
/// fn even(n: u32) -> Vec<u32> {
///     (0..n).filter(|i| i % 2 == 0).collect()
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let child = Process::new(even, 7).name("even").start()?;
///     assert_eq!(child.join()?, [0, 2, 4, 6]);
///     Ok(())
/// }
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
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn power((base, exponent): (u64, u32)) -> u64 {
    ///     base.pow(exponent)
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let child = Process::new(power, (2, 10)).start()?;
    ///     assert_eq!(child.join()?, 1024);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "target")]
    #[doc(alias = "args")]
    pub fn new(function: F, argument: A) -> Self {
        refuse_captures!(F);
        let (start_method, attributes) = (StartMethod::default(), Attributes::default());
        Process { function, argument, name: None, start_method, attributes }
    }

    /// Sets the name of the process, which errors and `ps` show. `ps` shows the first 15 bytes.
    ///
    /// The default name is `Process-` and a number. Workers of pools take numbers, too.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let child = Process::new(|x: u32| 12 / x, 0).name("divide").start()?;
    ///     assert_eq!(child.name(), "divide");
    ///     let error = child.join().expect_err("12 / 0 panics");
    ///     assert!(error.to_string().contains("process \"divide\""));
    ///     Ok(())
    /// }
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses how the process comes into being.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Process, StartMethod};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let child = Process::new(|x: u32| x + 1, 41).start_method(StartMethod::Spawn).start()?;
    ///     assert_eq!(child.join()?, 42);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "context")]
    pub fn start_method(mut self, start_method: StartMethod) -> Self {
        self.start_method = start_method;
        self
    }

    /// Sets whether the process is a daemon. By default it is not.
    ///
    /// When a program ends (because `main` returns or panics, or by `std::process::exit`), it tells
    /// its daemons to end (SIGTERM), and kills them after half a second. It waits for the other
    /// processes that it has started. A process does the same when its function has ended. A pool's
    /// workers do not wait: a process that a task has started and not joined ends with its worker.
    ///
    /// A daemon may start processes of its own, which end together with it. Python does not allow
    /// this.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn serve(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let mut server = Process::new(serve, ()).daemon(true).start()?;
    ///     assert!(server.is_alive());
    ///     Ok(()) // `main` ends, and the server with it
    /// }
    /// ```
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.attributes.lifetime = if daemon { Lifetime::Daemon } else { Lifetime::Joined };
        self
    }

    /// Sets an environment variable of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let read = |name: String| std::env::var(name).ok();
    ///     let hello = Process::new(read, "GREETING".to_owned()).env("GREETING", "hello").start()?;
    ///     assert_eq!(hello.join()?.as_deref(), Some("hello"));
    ///     let nothing = Process::new(read, "PATH".to_owned()).env_clear().start()?;
    ///     assert_eq!(nothing.join()?, None);
    ///     Ok(())
    /// }
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.attributes.overrides.set(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the environment of the process.
    ///
    /// See the example of [`env`](Process::env).
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.attributes.overrides.set(name.as_ref(), None);
        self
    }

    /// Empties the environment of the process. Variables that are set after this call are in it.
    ///
    /// See the example of [`env`](Process::env).
    pub fn env_clear(mut self) -> Self {
        self.attributes.overrides.clear();
        self
    }

    /// Sets the working directory of the process. A relative path begins at the caller's working
    /// directory.
    ///
    /// If the directory cannot be entered, [`join`](Child::join) returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::path::PathBuf;
    ///
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let process = Process::new(|()| std::env::current_dir().ok(), ());
    ///     let child = process.current_dir("/").start()?;
    ///     assert_eq!(child.join()?, Some(PathBuf::from("/")));
    ///     Ok(())
    /// }
    /// ```
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.attributes.overrides.enter(directory.into());
        self
    }

    /// Sets the stdin of the process: a file, the reading end of [`std::io::pipe`], or another
    /// [`Stdio`]. By default it is empty.
    ///
    /// With [`StartMethod::Fork`], the process is a copy of the caller. So it begins with the input
    /// that the caller has buffered from its own stdin. If `stdin` is the reading end of a pipe,
    /// the process also holds a copy of the writing end. It then never reads the end of its input,
    /// unless the caller closes the writing end before the start.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     proc_core::init();
    ///     let (reader, mut writer) = std::io::pipe()?;
    ///     let count = |()| std::io::stdin().lines().count();
    ///     let child = Process::new(count, ()).stdin(reader).start()?;
    ///     writer.write_all(b"one\ntwo\n")?;
    ///     drop(writer); // the end of the input
    ///     assert_eq!(child.join()?, 2);
    ///     Ok(())
    /// }
    /// ```
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.attributes.stdio.set(0, stdin.into());
        self
    }

    /// Sets the stdout of the process: a file, the writing end of [`std::io::pipe`], or another
    /// [`Stdio`]. By default it is the stdout that the calling process was given, if it is a
    /// `Process` or a worker. Otherwise it is the program's.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     proc_core::init();
    ///     let (reader, writer) = std::io::pipe()?;
    ///     let child = Process::new(|()| println!("hello"), ()).stdout(writer).start()?;
    ///     assert_eq!(std::io::read_to_string(reader)?, "hello\n"); // until the process ends
    ///     child.join()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.attributes.stdio.set(1, stdout.into());
        self
    }

    /// Sets the stderr of the process, as [`stdout`](Process::stdout) sets the stdout.
    ///
    /// See the example of [`stdout`](Process::stdout).
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.attributes.stdio.set(2, stderr.into());
        self
    }

    /// Limits what the process may use.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Limits, Process};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let allocate = |bytes: usize| vec![1_u8; bytes].len();
    ///     let limits = Limits::new().address_space(1 << 30).no_core_dumps();
    ///     let child = Process::new(allocate, 2 << 30).limits(limits).start()?;
    ///     assert!(child.join().is_err_and(|error| error.is_limit()));
    ///     Ok(())
    /// }
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.attributes.limits = limits;
        self
    }

    /// Starts the process. Returns when the process exists, and does not wait for its function.
    ///
    /// By default, the process has the working directory and the environment that the caller has
    /// now, and an empty stdin. Its stdout and stderr are those that the caller was given, or else
    /// the program's. [`StartMethod`] describes the rest.
    ///
    /// # Errors
    ///
    /// The argument cannot be encoded, the process cannot be started, or a setting is invalid
    /// ([`ErrorKind::Invalid`](crate::ErrorKind::Invalid)).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let square = |x: u64| x * x;
    ///     let nine = Process::new(square, 3).start()?;
    ///     let sixteen = Process::new(square, 4).start()?; // both run now
    ///     assert_eq!(nine.join()? + sixteen.join()?, 25);
    ///     Ok(())
    /// }
    /// ```
    pub fn start(self) -> Result<Child<R>, Error> {
        let _ = self.function;
        let serial = next_serial();
        let name = self.name.unwrap_or_else(|| format!("Process-{serial}"));
        let origin = || Origin { name: Some(name.clone()), ..Origin::default() };
        let function = Name::of::<F, A, R>().map_err(Error::invalid)?;
        let mut failed = None;
        let stdio = &self.attributes.stdio;
        let rights = &mut RightsReader::default();
        start_method::with_fork_server(self.start_method, stdio, rights, |fork_server| {
            // If the first fork server was killed, the receivers in the argument may have been sent
            // to it. Then the argument cannot be encoded again.
            let arguments = Payload::encode(&self.argument)
                .map_err(|why| failed.take().unwrap_or_else(|| Error::encode_argument(why)))?;
            let job = main::job(function, arguments).map_err(Error::invalid)?;
            let link = Link::start(fork_server, serial, &name, &self.attributes, job, true)
                .inspect_err(|error| failed = Some(error.clone()))?;
            Ok(Child::new(link, name.clone(), self.attributes.limits.clone()))
        })
        .map_err(|error| error.with_origin(origin()))
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
