//! Describes how a call fails in a process that lives on.

use serde::{Deserialize, Serialize};

use crate::panics::PanicReport;
use crate::wire;

/// Fault: how a call failed in a process that lives on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Fault {
    Panicked(PanicReport),
    /// The arguments could not be decoded.
    Arguments(String),
    /// The data that the function borrows could not be decoded.
    Data(String),
    /// The result could not be encoded.
    Result(String),
    /// The function was not found, or cannot be called here. The text says why.
    Invalid(String),
}

/// Stage of a task: it decides which fault a panic becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Arguments,
    Function,
    Result,
}

impl Stage {
    /// Returns the fault that the caller gets for a panic at this stage.
    pub(crate) fn fault(self, panic: PanicReport) -> Fault {
        match self {
            Stage::Arguments => Fault::Arguments(wire::deserialize_panicked(&panic.message)),
            Stage::Function => Fault::Panicked(panic),
            Stage::Result => {
                wire::drop_collected_handles();
                Fault::Result(wire::serialize_panicked(&panic.message))
            }
        }
    }
}
