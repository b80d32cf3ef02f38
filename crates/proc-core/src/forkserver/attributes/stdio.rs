//! Defines [`Stdio`], which chooses what a new process has as stdin, stdout or stderr.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::streams::{self, Streams};
use crate::sys;

/// Standard stream of a new process; the counterpart of [`std::process::Stdio`].
///
/// By default, a new process has an empty stdin, and the stdout and stderr of the program. If the
/// process that starts it was given a stdout or stderr of its own, it has that one.
///
/// ```
/// use proc_core::{Process, Stdio};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     proc_core::init();
///     let mut child = Process::new(|()| println!("hello"), ()).stdout(Stdio::piped()).start()?;
///     let stdout = child.stdout.take().expect("stdout is a pipe");
///     assert_eq!(std::io::read_to_string(stdout)?, "hello\n"); // until the process ends
///     child.join()?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Stdio(StdioKind);

/// What the stream is.
#[derive(Clone, Debug)]
enum StdioKind {
    Null,
    Inherit,
    Piped,
    Given(Arc<OwnedFd>),
}

impl Stdio {
    /// Makes stdin empty; makes stdout or stderr drop what is written.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Process, Stdio};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let speak = |()| eprintln!("nobody hears this");
    ///     Process::new(speak, ()).stderr(Stdio::null()).start()?.join()
    /// }
    /// ```
    pub fn null() -> Stdio {
        Stdio(StdioKind::Null)
    }

    /// Uses the stream that the caller has when it starts the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Process, Stdio};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let count = |()| std::io::stdin().lines().count();
    ///     let child = Process::new(count, ()).stdin(Stdio::inherit()).start()?;
    ///     println!("{} lines came from the program's stdin", child.join()?);
    ///     Ok(())
    /// }
    /// ```
    pub fn inherit() -> Stdio {
        Stdio(StdioKind::Inherit)
    }

    /// Makes a pipe, whose other end is in the [`Child`](crate::Child).
    ///
    /// See the example of [`Stdio`].
    pub fn piped() -> Stdio {
        Stdio(StdioKind::Piped)
    }

    /// Whether this is a pipe, whose other end the caller must hold.
    pub(crate) fn is_piped(&self) -> bool {
        matches!(self.0, StdioKind::Piped)
    }
}

/// Uses any value that owns a descriptor: a file, an end of a pipe, a socket, or a stream of a
/// [`std::process::Child`].
impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(stream: T) -> Stdio {
        Stdio(StdioKind::Given(Arc::new(stream.into())))
    }
}

/// Choice for each standard stream; `None` is the default.
#[derive(Clone, Debug, Default)]
pub(crate) struct StdioConfig([Option<Stdio>; 3]);

/// Caller's ends of the pipes to a new process.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
}

impl StdioConfig {
    /// Sets the choice for the stream with this number.
    pub(crate) fn set(&mut self, number: usize, stdio: Stdio) {
        self.0[number] = Some(stdio);
    }

    /// Whether any of the streams is a pipe.
    pub(crate) fn is_piped(&self) -> bool {
        self.0.iter().flatten().any(Stdio::is_piped)
    }

    /// In a fork server that is a copy of this process: closes the descriptors that the user has
    /// given. Their owners in the copy never drop them.
    pub(crate) fn close_copies(&self) {
        for stdio in self.0.iter().flatten() {
            if let StdioKind::Given(fd) = &stdio.0 {
                sys::close_copy(fd.as_fd());
            }
        }
    }

    /// Puts into `streams` the streams in which a new process differs from its fork server. Returns
    /// the caller's ends of the pipes.
    ///
    /// # Errors
    ///
    /// There is no descriptor left, or this process does not have the stream to inherit.
    pub(crate) fn open(&self, streams: &mut Streams) -> io::Result<Pipes> {
        let mut pipes = Pipes::default();
        for (number, stdio) in self.0.iter().enumerate() {
            let fd: Arc<OwnedFd> = match stdio.as_ref().map(|stdio| &stdio.0) {
                // If this process was given its own stdout or stderr, its children inherit it. The
                // fork server does not have it. (Every fork server has an empty stdin.)
                None if number > 0 && streams::is_given(number) => {
                    sys::copy_standard_stream(number)?.into()
                }
                None => continue,
                Some(StdioKind::Null) => sys::null_stream(number)?.into(),
                Some(StdioKind::Inherit) => sys::copy_standard_stream(number)?.into(),
                Some(StdioKind::Given(fd)) => Arc::clone(fd),
                Some(StdioKind::Piped) => {
                    let (reader, writer) = io::pipe()?;
                    let end: OwnedFd = match number {
                        0 => {
                            pipes.stdin = Some(writer);
                            reader.into()
                        }
                        1 => {
                            pipes.stdout = Some(reader);
                            writer.into()
                        }
                        _ => {
                            pipes.stderr = Some(reader);
                            writer.into()
                        }
                    };
                    end.into()
                }
            };
            streams.set(number, fd);
        }
        Ok(pipes)
    }
}
