//! Defines what a program and its fork servers tell each other, and what a new process reports.

use ipc_channel::ipc::{IpcSender, OpaqueIpcReceiver, OpaqueIpcSender};
use serde::{Deserialize, Serialize};

use super::Limits;
use crate::call::Name;
use crate::error::Exit;
use crate::memory::Descriptor;
use crate::wire::Payload;

/// Key of a process: the pid of the process that asked for it, and a serial number from that
/// process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) owner: u32,
    pub(crate) serial: u64,
}

/// Request of a program, or of a process that it has started, to a fork server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Starts a process and reports on it.
    Start(Box<Start>),
    /// Sends a signal to a process, unless the process has been reaped.
    Signal { to: Key, signal: i32 },
    /// Sends a signal to the daemons of the process `owner`.
    SignalDaemons { owner: u32, signal: i32 },
    /// Closes the streams that were sent ahead of a `Start` that will not come, or was lost.
    Forget(Key),
    /// Ends the fork server when its last process has ended. The sender asks it for no more
    /// processes, but processes that it has made may.
    Retire,
}

/// Lifetime of a process: what happens to it when the process that started it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lifetime {
    /// The process is waited for.
    #[default]
    Joined,
    /// The process is told to end, and killed if it does not end soon. Python calls this a daemon.
    Daemon,
    /// The process is killed. This is for a pool's worker: nobody can fetch its results any more.
    Worker,
}

/// Description of a process that is to be started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) key: Key,
    /// Name that `ps` shows.
    pub(crate) name: String,
    pub(crate) report: IpcSender<Report<()>>,
    pub(crate) lifetime: Lifetime,
    /// Lifeline that the process holds until its death.
    pub(crate) lifeline: Option<IpcSender<()>>,
    /// Encoded [`EnvironmentChanges`](super::environment::EnvironmentChanges), which may be long.
    pub(crate) environment: Payload,
    pub(crate) limits: Limits,
    /// Number of streams for this process that were sent ahead.
    pub(crate) streams: usize,
    pub(crate) job: Job,
}

/// Job of a new process: what it does, and what it is given for that. The fork server does not look
/// into it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Name of the entry of a [`Main`](super::Main).
    pub(crate) main: Name,
    /// Value that the main function knows how to decode.
    pub(crate) setup: Payload,
    pub(crate) payloads: Vec<Payload>,
    pub(crate) receivers: Vec<OpaqueIpcReceiver>,
    pub(crate) senders: Vec<OpaqueIpcSender>,
    pub(crate) memory: Vec<Descriptor>,
}

/// Report on a process, by the process itself or by its fork server. Both use one channel, so an
/// exit comes last.
///
/// The fork server does not know the type `T` of the process's own reports. It sends `Report<()>`;
/// the variants that it sends are encoded alike in every `Report`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report<T> {
    /// The fork server has made the process.
    Started { pid: u32 },
    /// The fork server could not make the process; `errno` is the system's error number.
    NotStarted { errno: i32 },
    /// The process could not set its environment, streams or limits, or did not find its main
    /// function. The text says why.
    NotReady(String),
    /// The process has been reaped. The last words explain its status.
    Exited(Exit),
    /// Report of the process itself on its job.
    Said(T),
}
