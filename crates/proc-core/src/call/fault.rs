//! What can go wrong in a call that its process survives.

use serde::{Deserialize, Serialize};

use crate::panics::PanicReport;
use crate::wire;

/// What can go wrong inside a worker that lives on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Fault {
    Panicked(PanicReport),
    /// The arguments could not be decoded.
    Arguments(String),
    /// The result could not be encoded.
    Result(String),
    /// The function is not the one that was meant.
    Unknown(String),
}

/// What a task is at, to tell what a panic means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Arguments,
    Function,
    Result,
}

impl Stage {
    /// What a panic at this stage is to the caller.
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
