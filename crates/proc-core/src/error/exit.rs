//! Describes how a process ended, and which last words it sent before.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::panics::PanicReport;

/// Last words of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LastWords {
    /// The process panicked. A panic that cannot unwind aborts the process.
    Panicked(PanicReport),
    /// The process was about to die after memory was refused to it: the last system call that
    /// failed in its thread failed for lack of memory, or a Rust allocation failed.
    NoMemory,
}

impl LastWords {
    /// Whether these last words may tell the cause of an end with `status`.
    pub(crate) fn explains(&self, status: ExitStatus) -> bool {
        let signal = status.signal().and_then(|signal| Signal::try_from(signal).ok());
        match self {
            LastWords::Panicked(_) => signal == Some(Signal::SIGABRT),
            LastWords::NoMemory => {
                matches!(signal, Some(Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGBUS))
            }
        }
    }
}

/// End of a process, as far as it is known.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Exit status; `None` if it is not known, for example because the fork server died before it
    /// could report it.
    #[serde(with = "exit_status")]
    pub(crate) status: Option<ExitStatus>,
    /// Processor time that the process has used, without its children; 0 if it is not known.
    pub(crate) processor_time: Duration,
    pub(crate) last_words: Option<LastWords>,
}

/// An exit status as the number that `wait` has given.
pub(super) mod exit_status {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        status: &Option<ExitStatus>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        status.map(ExitStatusExt::into_raw).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ExitStatus>, D::Error> {
        Ok(Option::<i32>::deserialize(deserializer)?.map(ExitStatus::from_raw))
    }
}
