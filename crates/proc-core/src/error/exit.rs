//! How a process ended, and what it said of that before.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::panics::PanicReport;

/// What a process has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LastWords {
    /// It panicked; where that cannot unwind, it is aborted.
    Panicked(PanicReport),
    /// It was about to die, and the last system call that had failed in its thread wanted memory,
    /// or an allocation of Rust's had failed.
    NoMemory,
}

impl LastWords {
    /// Whether a process that said this may have died of it in this way.
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

/// How a process ended, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exit {
    /// `None` where nobody is left who knew it.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) last_words: Option<LastWords>,
}

impl Exit {
    /// As a fork server tells it.
    pub(crate) fn told(status: i32, last_words: Option<LastWords>) -> Exit {
        Exit { status: Some(ExitStatus::from_raw(status)), last_words }
    }
}
