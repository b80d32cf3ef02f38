//! What a job is told, and what its call asks for.

use std::time::Duration;

use proc_core::Error;

use super::feed::Batch;
use crate::message::Reply;

/// How long the server may take over a request that nobody waits for.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What a job is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// More tasks to do.
    Tasks(Batch),
    /// There will be no more.
    End,
    Reply(Reply),
    /// Nobody waits any more; whoever still does gets the reason.
    Close(Error),
}

/// What a call asks for beside results.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) chunksize: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: u32,
}
