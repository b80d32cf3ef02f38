//! The messages to a job.

use std::time::Duration;

use proc_core::Error;

use super::task_queue::Batch;
use crate::message::Reply;

/// How long the server may take to answer a request for which no caller waits.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A message to a job, from its caller or from the connection.
#[derive(Debug)]
pub(crate) enum Note {
    /// More tasks to do.
    Tasks(Batch),
    /// There will be no more tasks.
    End,
    /// The answer of an agent to a chunk.
    Reply(Reply),
    /// The job must end. A caller who still waits gets the error.
    Close(Error),
}
