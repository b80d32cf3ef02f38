//! What a process is to have for stdin, stdout and stderr: [`Stdio`].

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::streams::{self, Streams};
use crate::sys;

/// A standard stream of a new process; the counterpart of [`std::process::Stdio`].
///
/// Without one, stdin is empty, and stdout and stderr are the program's.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # proc_core::init();
/// use proc_core::{Process, Stdio};
///
/// let mut child = Process::new(|()| println!("hello"), ()).stdout(Stdio::piped()).start()?;
/// let stdout = child.stdout.take().expect("it was asked for");
/// assert_eq!(std::io::read_to_string(stdout)?, "hello\n"); // to the end of the process
/// child.join()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Stdio(Source);

#[derive(Clone, Debug)]
enum Source {
    Null,
    Inherit,
    Piped,
    Given(Arc<OwnedFd>),
}

impl Stdio {
    /// An empty stdin, or a stdout or stderr that drops what is written.
    pub fn null() -> Stdio {
        Stdio(Source::Null)
    }

    /// The stream that the caller has when it starts the process.
    pub fn inherit() -> Stdio {
        Stdio(Source::Inherit)
    }

    /// A pipe, whose other end is in the [`Child`](crate::Child).
    pub fn piped() -> Stdio {
        Stdio(Source::Piped)
    }

    /// Whether it makes a pipe, whose other end somebody must hold.
    pub(crate) fn is_piped(&self) -> bool {
        matches!(self.0, Source::Piped)
    }
}

/// A file, an end of a pipe, a socket, a stream of a [`std::process::Child`]: whatever owns a
/// descriptor.
impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(stream: T) -> Stdio {
        Stdio(Source::Given(Arc::new(stream.into())))
    }
}

/// What was asked for each standard stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct StdioConfig([Option<Stdio>; 3]);

/// The caller's ends of the pipes that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
}

impl StdioConfig {
    /// Sets what is asked for the stream with this number.
    pub(crate) fn set(&mut self, number: usize, stdio: Stdio) {
        self.0[number] = Some(stdio);
    }

    /// Whether a pipe is asked for.
    pub(crate) fn is_piped(&self) -> bool {
        self.0.iter().flatten().any(Stdio::is_piped)
    }

    /// In a fork server that is a copy of this process: closes the descriptors that were given,
    /// which nobody else there closes.
    pub(crate) fn close_copies(&self) {
        for stdio in self.0.iter().flatten() {
            if let Source::Given(fd) = &stdio.0 {
                sys::close_copy(fd.as_fd());
            }
        }
    }

    /// Puts into `streams` what a process gets otherwise than its fork server has, and makes the
    /// pipes.
    ///
    /// # Errors
    ///
    /// There are no descriptors, or this process has no such stream.
    pub(crate) fn open(&self, streams: &mut Streams) -> io::Result<Pipes> {
        let mut pipes = Pipes::default();
        for (number, stdio) in self.0.iter().enumerate() {
            let fd = match stdio.as_ref().map(|stdio| &stdio.0) {
                // A fork server has an empty stdin. What this process was given as its stdout or
                // stderr, its children have too, and their fork server does not.
                None if number > 0 && streams::is_given(number) => sys::own_stream(number)?,
                None => continue,
                Some(Source::Null) => sys::null_stream(number)?,
                Some(Source::Inherit) => sys::own_stream(number)?,
                Some(Source::Given(fd)) => {
                    streams.set_shared(number, Arc::clone(fd));
                    continue;
                }
                Some(Source::Piped) => {
                    let (reader, writer) = io::pipe()?;
                    match number {
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
                    }
                }
            };
            streams.set(number, fd);
        }
        Ok(pipes)
    }
}
