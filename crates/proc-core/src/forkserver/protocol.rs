//! What a program and its fork servers tell each other, and what a new process reports.

use ipc_channel::ipc::{IpcSender, OpaqueIpcReceiver, OpaqueIpcSender};
use serde::{Deserialize, Serialize};

use super::Limits;
use crate::call::Name;
use crate::error::LastWords;
use crate::memory::Descriptor;
use crate::wire::Payload;

/// Names a process within the one that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) owner: u32,
    pub(crate) serial: u64,
}

/// What a program, or a process of its tree, asks of its fork server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start a process and report on it.
    Start(Box<Start>),
    /// Send a signal to a process unless it has been reaped.
    Signal { to: Key, signal: i32 },
    /// Send a signal to the daemons that process `of` has started.
    SignalDaemons { of: u32, signal: i32 },
    /// Close the streams that have gone ahead of a `Start` that will not come, or was lost.
    Forget(Key),
    /// Start nothing more; end when the last process has.
    Retire,
}

/// What becomes of a process at the end of the one that started it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lifetime {
    /// It is waited for.
    #[default]
    Joined,
    /// It is told to end, and killed if it has not soon: Python's daemon.
    Daemon,
    /// It is killed: a pool's worker, whose results nobody can fetch any more.
    Worker,
}

/// A process to be started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) key: Key,
    /// What `ps` shows.
    pub(crate) name: String,
    pub(crate) report: IpcSender<Report<()>>,
    pub(crate) lifetime: Lifetime,
    /// What the process is to hold until its death.
    pub(crate) lifeline: Option<IpcSender<()>>,
    /// [`EnvironmentChanges`](super::environment::EnvironmentChanges), which may be long.
    pub(crate) environment: Payload,
    pub(crate) limits: Limits,
    /// How many standard streams of its own have gone ahead.
    pub(crate) streams: usize,
    pub(crate) job: Job,
}

/// What a new process does, and what it is given for that: opaque to the fork server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The entry of a [`Main`](super::Main).
    pub(crate) main: Name,
    /// What that knows how to decode.
    pub(crate) setup: Payload,
    pub(crate) payloads: Vec<Payload>,
    pub(crate) receivers: Vec<OpaqueIpcReceiver>,
    pub(crate) senders: Vec<OpaqueIpcSender>,
    pub(crate) memory: Vec<Descriptor>,
}

/// What a process and its fork server say about it. They share one channel, so an exit comes last.
///
/// The fork server knows nothing of what the process itself says: it sends `Report<()>`, whose
/// variants are encoded as those of every other `Report`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report<T> {
    /// The fork server has made it.
    Started { pid: u32 },
    /// The fork server could not make it: the system's error number.
    NotStarted { errno: i32 },
    /// It could not take the environment or limits that it was to start with.
    NotReady(String),
    /// It has been reaped: a raw wait status, and what it said before that explains it.
    Exited { status: i32, last_words: Option<LastWords> },
    /// What the process says of its job.
    Said(T),
}
