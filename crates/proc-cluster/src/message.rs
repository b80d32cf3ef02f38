//! What drivers and agents tell each other, and under which subjects.
//!
//! Everything decoded here may have been sent by anybody whom the server lets in: decoding is
//! strict, and what it gives is checked where it is used.

use std::time::Duration;

use proc_core::Error;
use proc_core::remote::{self, Function};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Bodies above this are stored in pieces of this size, since a server takes messages of 1 MiB.
pub(crate) const PIECE: usize = 512 << 10;

/// The longest time within which an agent must give word.
pub(crate) const MAX_LEASE: Duration = Duration::from_secs(24 * 3600);

/// The most tasks of a chunk.
const MAX_TASKS: u64 = 1 << 32;

/// Some tasks, on their way to an agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) build: String,
    pub(crate) driver: u64,
    pub(crate) job: u64,
    pub(crate) chunk: Chunk,
    pub(crate) function: Function,
    /// How many of the tasks run one after the other in one worker; all of them without it.
    pub(crate) chunksize: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: u32,
    /// Within which an agent must give word of them.
    pub(crate) lease: Duration,
    pub(crate) arguments: Body,
}

impl Work {
    /// Whether times and counts can be reckoned with; no driver of ours says anything else.
    pub(crate) fn is_within_reason(&self) -> bool {
        self.lease <= MAX_LEASE && self.chunk.count as u64 <= MAX_TASKS
    }
}

/// Names tasks of a job: `count` from `first`, handed out for the `attempt`-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) attempt: u32,
    /// How many of these attempts were given back or lost, rather than met by a machine without room.
    pub(crate) returns: u32,
    /// How many machines were lost that had these tasks.
    pub(crate) losses: u32,
}

impl Chunk {
    /// Whether it is to run with nothing beside it, so that it takes nothing with it.
    pub(crate) fn must_be_alone(&self) -> bool {
        self.losses >= 2
    }
}

/// Encoded arguments or fates.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Body {
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// `pieces` messages in the stream of data.
    Stored {
        pieces: u32,
        len: u64,
    },
}

/// What has become of [`Work`], from agent to driver.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) job: u64,
    pub(crate) chunk: Chunk,
    /// How often the server had handed it out by then.
    pub(crate) delivered: u64,
    pub(crate) host: String,
    /// Where the driver acknowledges the work, once it has this reply.
    pub(crate) acknowledge: String,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Each task's fate, and how long all took, in nanoseconds.
    Done { fates: Body, nanoseconds: u64 },
    /// No task has a result, for one reason.
    Failed(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Not done, through no fault of the tasks: to be handed out anew.
    Returned,
    /// Not even begun, since there is no room for it here: the same, and no sign of anything.
    Busy,
    /// The machine that had it was lost, and one of its tasks may be why.
    Suspect,
}

/// A driver lives, and waits for these jobs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DriverHeartbeat {
    pub(crate) driver: u64,
    /// Jobs after this one are not told of.
    pub(crate) newest: u64,
    pub(crate) open: Vec<u64>,
}

/// An agent lives, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentHeartbeat {
    pub(crate) agent: u64,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) build: String,
    pub(crate) workers: usize,
    pub(crate) counts: Counts,
    /// It takes no more work.
    pub(crate) leaving: bool,
}

/// What an agent has done so far, in tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) in_flight: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// Tasks that had been handed out before.
    pub(crate) redelivered: u64,
}

/// The message as bytes.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(message)
        .map_err(|error| remote::invalid_error(format!("a message cannot be encoded: {error}")))
}

/// The message that became these bytes, if it is one and nothing more.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

/// The subjects and streams of a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    fleet: String,
}

impl Names {
    /// # Errors
    ///
    /// The name has a character that means something in subjects.
    pub(crate) fn new(fleet: &str) -> Result<Names, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if fleet.is_empty() || fleet.len() > 64 || !fleet.chars().all(plain) {
            return Err(remote::invalid_error(format!(
                "a fleet's name has 1 to 64 letters, digits, '-' and '_', and {fleet:?} does not"
            )));
        }
        Ok(Names { fleet: fleet.to_owned() })
    }

    fn subject(&self, rest: std::fmt::Arguments<'_>) -> String {
        format!("proc.{}.{rest}", self.fleet)
    }

    /// The stream of work.
    pub(crate) fn tasks(&self) -> String {
        format!("proc-{}-tasks", self.fleet)
    }

    /// The stream of large arguments and results.
    pub(crate) fn data(&self) -> String {
        format!("proc-{}-data", self.fleet)
    }

    pub(crate) fn all_work(&self) -> String {
        self.subject(format_args!("task.>"))
    }

    pub(crate) fn work_of_build(&self, build: &str) -> String {
        self.subject(format_args!("task.{build}.>"))
    }

    /// Where a chunk lies; each has a place of its own, so that the server can be asked for it.
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

    /// Where a driver hears of its work.
    pub(crate) fn replies(&self, driver: u64) -> String {
        self.subject(format_args!("reply.{driver:016x}"))
    }

    /// Where drivers say that they live.
    pub(crate) fn heartbeats(&self) -> String {
        self.subject(format_args!("driver"))
    }

    /// Where agents say that they live.
    pub(crate) fn presences(&self) -> String {
        self.subject(format_args!("agent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_mean_more_is_refused() {
        for name in ["", "a.b", "*", ">", "a b", &"x".repeat(65)] {
            assert!(Names::new(name).is_err_and(|error| error.is_invalid()), "{name:?}");
        }
        let names = Names::new("night_run-2").expect("a plain name");
        let chunk = Chunk { first: 7, count: 2, attempt: 1, returns: 0, losses: 0 };
        let work = names.work("b1", 10, 3, chunk);
        assert_eq!(work, "proc.night_run-2.task.b1.000000000000000a.3.7.2.1");
    }

    #[test]
    fn rubbish_is_no_message() {
        let heartbeat =
            encode(&DriverHeartbeat { driver: 1, newest: 2, open: vec![1, 2] }).expect("numbers");
        assert!(decode::<DriverHeartbeat>(&heartbeat).is_some());
        assert!(decode::<DriverHeartbeat>(&heartbeat[..heartbeat.len() - 1]).is_none(), "cut off");
        assert!(
            decode::<DriverHeartbeat>(&[&heartbeat[..], &[0]].concat()).is_none(),
            "something is left over"
        );
        let endless = [1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert!(decode::<DriverHeartbeat>(&endless).is_none(), "a length of nearly 2^64");
    }
}
