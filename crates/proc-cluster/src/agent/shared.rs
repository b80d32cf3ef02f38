//! What all chunks of an agent share, and where one lies in the stream.

use std::time::Duration;

use async_nats::{Client, Message};
use proc_core::Pool;
use tokio::sync::Semaphore;

use crate::data::Store;
use crate::message::Names;

/// How many chunks a worker may have at hand where they take no time, and what that means.
pub(super) const MAX_CHUNKS_PER_WORKER: usize = 32;

/// How long what was asked for ahead may wait for a worker, before another machine is to have it.
pub(super) const MAX_WAIT_AHEAD: Duration = Duration::from_millis(200);

/// What all executions of an agent share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) store: Store,
    pub(super) names: Names,
    pub(super) pool: Pool,
    pub(super) host: String,
    /// Room for executions; one that must be alone takes it all.
    pub(super) room: Semaphore,
}

impl Shared {
    /// How many chunks each worker has to do with, those that wait for it included.
    pub(super) fn chunks_a_worker(&self) -> usize {
        let workers = self.pool.processes();
        (workers * MAX_CHUNKS_PER_WORKER)
            .saturating_sub(self.room.available_permits())
            .div_ceil(workers)
            .max(1)
    }
}

/// Where in the stream some work lies.
pub(super) struct Place {
    pub(super) acknowledge: String,
    pub(super) sequence: u64,
    pub(super) delivered: u64,
}

impl Place {
    pub(super) fn of(message: &Message) -> Option<Place> {
        let acknowledge = message.reply.as_ref()?.to_string();
        let fields: Vec<&str> = acknowledge.strip_prefix("$JS.ACK.")?.split('.').collect();
        // Newer servers put domain and account before the stream.
        let from_stream = fields.get(if fields.len() >= 9 { 2.. } else { 0.. })?;
        let [_, _, delivered, sequence, ..] = from_stream else { return None };
        let (delivered, sequence) = (delivered.parse().ok()?, sequence.parse().ok()?);
        Some(Place { acknowledge, sequence, delivered })
    }
}
