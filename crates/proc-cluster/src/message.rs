//! The messages between drivers and agents, and the subjects on which they are sent.
//!
//! Any client that the server admits can send the bytes that are decoded here. Decoding is
//! therefore strict, and decoded values are checked where they are used.

use std::collections::HashSet;
use std::time::Duration;

use proc_core::Error;
use proc_core::remote::{self, CallOptions, Function};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most bytes of a body that travel in the message itself. Larger bodies are stored in pieces
/// of this size, since a server accepts messages of at most 1 MiB.
pub(crate) const PIECE_BYTES: usize = 512 << 10;

/// The most bytes of data of `with` that travel in each message of work. Larger data are stored.
pub(crate) const MAX_INLINE_DATA: usize = 4 << 10;

/// The longest lease that a driver may ask for.
pub(crate) const MAX_LEASE: Duration = Duration::from_secs(24 * 3600);

/// The most tasks in one chunk.
const MAX_TASKS: u64 = 1 << 32;

/// A chunk of tasks, sent from a driver to an agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) build: String,
    pub(crate) driver: u64,
    pub(crate) job: u64,
    pub(crate) chunk: Chunk,
    pub(crate) function: Function,
    pub(crate) options: AgentOptions,
    /// The time within which an agent must renew its claim on the chunk.
    pub(crate) lease: Duration,
    /// The data that the function borrows.
    pub(crate) data: Option<Data>,
    pub(crate) arguments: Body,
}

impl Work {
    /// Whether lease and count are small enough to calculate with. A driver of this crate never
    /// exceeds these limits.
    pub(crate) fn is_within_limits(&self) -> bool {
        self.lease <= MAX_LEASE && self.chunk.count as u64 <= MAX_TASKS
    }
}

/// The settings of a call that agents obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentOptions {
    /// How many of the tasks run one after the other in one worker; `None` means all of a chunk.
    chunksize: Option<usize>,
    timeout: Option<Duration>,
    grace: Option<Duration>,
    retries: u32,
    priority: i32,
    seed: Option<u64>,
}

impl From<CallOptions> for AgentOptions {
    fn from(options: CallOptions) -> AgentOptions {
        // Agents need not know `fail_fast`: the driver ends such a call at its first failure.
        let CallOptions { chunksize, timeout, grace, retries, priority, seed, fail_fast: _ } =
            options;
        AgentOptions { chunksize, timeout, grace, retries, priority, seed }
    }
}

impl AgentOptions {
    /// The settings for an agent's pool, of a chunk of `count` tasks.
    pub(crate) fn of_chunk(self, count: usize) -> CallOptions {
        let AgentOptions { chunksize, timeout, grace, retries, priority, seed } = self;
        let chunksize = Some(chunksize.unwrap_or(count).max(1));
        CallOptions { chunksize, timeout, grace, retries, priority, seed, fail_fast: false }
    }
}

/// Names a chunk of a job: the `count` tasks from `first`, handed out `attempt` times before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) attempt: u32,
    /// How many of these attempts were returned or lost. Attempts for which a machine had no room
    /// do not count.
    pub(crate) returns: u32,
    /// How many machines were lost while they had these tasks.
    pub(crate) losses: u32,
}

impl Chunk {
    /// Whether the chunk must be the only one on its machine, so that no other work is lost if the
    /// machine is lost.
    pub(crate) fn must_be_alone(&self) -> bool {
        self.losses >= 2
    }
}

/// The data of a `with`. Small data are in the message itself. Larger data are stored, and the
/// message says where.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Data {
    /// The number of the `with`, among those of the driver.
    pub(crate) id: u64,
    /// How often they were lost at the server before they were stored for this message.
    pub(crate) losses: u32,
    pub(crate) body: Body,
}

/// Encoded arguments, encoded data, or the encoded fates (results or errors) of tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Body {
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// `pieces` messages in the stream of data, of `len` bytes in all.
    Stored {
        pieces: u32,
        len: u64,
    },
}

impl Body {
    /// The number of bytes. Nobody has checked it if they are stored.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Stored { len, .. } => *len,
        }
    }
}

/// The answer to [`Work`], sent from an agent to a driver.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) job: u64,
    pub(crate) chunk: Chunk,
    /// How often the server has delivered the work, including this time.
    pub(crate) delivered: u64,
    pub(crate) host: String,
    /// The subject on which the driver acknowledges the work, when it has this reply.
    pub(crate) acknowledge: String,
    pub(crate) outcome: Outcome,
}

/// How an agent has dealt with [`Work`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// All tasks have run: the fate of each task, how many nanoseconds all of them took, and how
    /// often one of them was tried again.
    Done { fates: Body, nanoseconds: u64, retried: u64 },
    /// No task has a result. All tasks have this error, encoded.
    Failed(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The chunk was not done, through no fault of its tasks. The driver must hand it out again.
    Returned,
    /// The chunk was not begun, because this agent has no room. The driver must hand it out again,
    /// and does not count this among the returns.
    Busy,
    /// The server has redelivered the chunk, so the machine that had it may be lost. The driver
    /// finds out whether it is.
    Suspect,
    /// The whole call has this error, encoded: workers cannot use the data of `with`, or the pool
    /// cannot take them.
    CallFailed(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The server does not have the data any more: `losses` is that of the [`Data`]. The driver
    /// must store them again, and hand out the chunk again.
    DataLost { losses: u32 },
}

/// Tells agents that a driver is alive, for which jobs it waits, and which data it may still use.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DriverHeartbeat {
    pub(crate) driver: u64,
    /// The jobs for which the driver waits.
    pub(crate) jobs: Numbers,
    /// The data of its `with`s.
    pub(crate) data: Numbers,
}

/// The numbers of a driver's jobs, or of its data, that are open. The driver counts from 1 on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Numbers {
    /// The newest number. Nothing is said about later ones.
    pub(crate) newest: u64,
    pub(crate) open: HashSet<u64>,
}

impl Numbers {
    /// Opens the next number.
    pub(crate) fn open_next(&mut self) -> u64 {
        self.newest += 1;
        self.open.insert(self.newest);
        self.newest
    }

    /// Whether the number was open, and is not any more.
    pub(crate) fn is_over(&self, number: u64) -> bool {
        number <= self.newest && !self.open.contains(&number)
    }
}

/// Tells drivers that an agent is alive, and how much work it has and has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentHeartbeat {
    pub(crate) agent: u64,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) build: String,
    pub(crate) workers: usize,
    pub(crate) counts: Counts,
    /// Whether the agent takes no more work.
    pub(crate) leaving: bool,
}

/// How many tasks an agent has in hand, and has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) in_flight: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// Tasks that had been handed out before.
    pub(crate) redelivered: u64,
}

/// Encodes a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(message)
        .map_err(|error| remote::invalid_error(format!("a message cannot be encoded: {error}")))
}

/// Decodes a message. Returns `None` if the bytes are not exactly one message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

/// The names of a fleet's subjects and streams.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    fleet: String,
}

impl Names {
    /// The names for the fleet that is called `fleet`.
    ///
    /// # Errors
    ///
    /// The fleet's name is empty, too long, or contains a character that is special in subjects.
    pub(crate) fn new(fleet: &str) -> Result<Names, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if fleet.is_empty() || fleet.len() > 64 || !fleet.chars().all(plain) {
            return Err(remote::invalid_error(format!(
                "the fleet's name {fleet:?} is invalid: use 1 to 64 letters, digits, '-' and '_'"
            )));
        }
        Ok(Names { fleet: fleet.to_owned() })
    }

    fn subject(&self, rest: std::fmt::Arguments<'_>) -> String {
        format!("proc.{}.{rest}", self.fleet)
    }

    /// The name of the stream of work.
    pub(crate) fn tasks(&self) -> String {
        format!("proc-{}-tasks", self.fleet)
    }

    /// The name of the stream of large arguments, data and results.
    pub(crate) fn data(&self) -> String {
        format!("proc-{}-data", self.fleet)
    }

    pub(crate) fn all_work(&self) -> String {
        self.subject(format_args!("task.>"))
    }

    pub(crate) fn work_of_build(&self, build: &str) -> String {
        self.subject(format_args!("task.{build}.>"))
    }

    /// The subject of a chunk. Each chunk has its own, so that a driver can ask the server whether
    /// it has the chunk.
    pub(crate) fn work(&self, build: &str, driver: u64, job: u64, chunk: Chunk) -> String {
        let Chunk { first, count, attempt, .. } = chunk;
        let rest = format_args!("{first}.{count}.{attempt}");
        self.subject(format_args!("task.{build}.{driver:016x}.{job}.{rest}"))
    }

    pub(crate) fn work_of_driver(&self, build: &str, driver: u64) -> String {
        self.subject(format_args!("task.{build}.{driver:016x}.>"))
    }

    pub(crate) fn work_of_job(&self, build: &str, driver: u64, job: u64) -> String {
        self.subject(format_args!("task.{build}.{driver:016x}.{job}.>"))
    }

    pub(crate) fn all_data(&self) -> String {
        self.subject(format_args!("data.>"))
    }

    pub(crate) fn data_of_job(&self, driver: u64, job: u64) -> String {
        self.subject(format_args!("data.*.{driver:016x}.{job}.>"))
    }

    pub(crate) fn arguments(&self, driver: u64, job: u64, chunk: Chunk) -> String {
        let Chunk { first, count, attempt, .. } = chunk;
        self.subject(format_args!("data.in.{driver:016x}.{job}.{first}.{count}.{attempt}"))
    }

    pub(crate) fn fates(&self, driver: u64, job: u64, chunk: Chunk, delivered: u64) -> String {
        let Chunk { first, count, attempt, .. } = chunk;
        let rest = format_args!("{first}.{count}.{attempt}.{delivered}");
        self.subject(format_args!("data.out.{driver:016x}.{job}.{rest}"))
    }

    /// The subject of the data of a `with`. It begins with `data.in`, because the server lets
    /// agents fetch only such data (see `docs/cluster/nats-server.conf`).
    pub(crate) fn bound_data(&self, driver: u64, id: u64) -> String {
        self.subject(format_args!("data.in.{driver:016x}.with.{id}"))
    }

    pub(crate) fn bound_data_of_driver(&self, driver: u64) -> String {
        self.subject(format_args!("data.in.{driver:016x}.with.>"))
    }

    /// The subject on which a driver receives replies.
    pub(crate) fn replies(&self, driver: u64) -> String {
        self.subject(format_args!("reply.{driver:016x}"))
    }

    /// The subject of the heartbeats of drivers.
    pub(crate) fn driver_heartbeats(&self) -> String {
        self.subject(format_args!("driver"))
    }

    /// The subject of the heartbeats of agents.
    pub(crate) fn agent_heartbeats(&self) -> String {
        self.subject(format_args!("agent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_special_characters_of_subjects() {
        for name in ["", "a.b", "*", ">", "a b", &"x".repeat(65)] {
            assert!(
                Names::new(name).is_err_and(|error| error.kind() == crate::ErrorKind::Invalid),
                "{name:?}"
            );
        }
        let names = Names::new("night_run-2").expect("a plain name");
        let chunk = Chunk { first: 7, count: 2, attempt: 1, returns: 0, losses: 0 };
        let work = names.work("b1", 10, 3, chunk);
        assert_eq!(work, "proc.night_run-2.task.b1.000000000000000a.3.7.2.1");
    }

    #[test]
    fn decode_refuses_bytes_that_are_not_exactly_one_message() {
        let mut jobs = Numbers::default();
        jobs.open_next();
        let heartbeat = DriverHeartbeat { driver: 1, jobs, data: Numbers::default() };
        let heartbeat = encode(&heartbeat).expect("numbers");
        assert!(decode::<DriverHeartbeat>(&heartbeat).is_some());
        assert!(decode::<DriverHeartbeat>(&heartbeat[..heartbeat.len() - 1]).is_none(), "cut off");
        assert!(
            decode::<DriverHeartbeat>(&[&heartbeat[..], &[0]].concat()).is_none(),
            "something is left over"
        );
        let endless = [1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert!(decode::<DriverHeartbeat>(&endless).is_none(), "a length of nearly 2^64");
    }

    #[test]
    fn agents_get_all_settings_that_they_obey() {
        let options = CallOptions {
            chunksize: Some(3),
            timeout: Some(Duration::from_secs(4)),
            grace: Some(Duration::from_secs(5)),
            retries: 6,
            priority: -7,
            seed: Some(8),
            fail_fast: false,
        };
        let sent = encode(&AgentOptions::from(options)).expect("numbers");
        let arrived = decode::<AgentOptions>(&sent).expect("they were sent");
        assert_eq!(format!("{:?}", arrived.of_chunk(60)), format!("{options:?}"));
        let without = AgentOptions::from(CallOptions { chunksize: None, ..options });
        assert_eq!(without.of_chunk(60).chunksize, Some(60));
    }

    #[test]
    fn numbers_know_what_is_over() {
        let mut numbers = Numbers::default();
        let (first, second) = (numbers.open_next(), numbers.open_next());
        numbers.open.remove(&first);
        assert!(numbers.is_over(first) && !numbers.is_over(second));
        assert!(!numbers.is_over(second + 1), "nothing is known of it");
    }
}
