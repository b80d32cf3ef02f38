//! State that all executions of an agent share, and the delivery of a chunk by the server.

use std::time::Duration;

use async_nats::{Client, Message};
use proc_core::Pool;
use tokio::sync::Semaphore;

use super::data_cache::DataCache;
use crate::data::Store;
use crate::message::Names;

/// The most chunks in hand for each worker. Only chunks that take almost no time reach this limit.
pub(super) const MAX_CHUNKS_PER_WORKER: usize = 32;

/// How long a chunk that was requested ahead may wait for a worker, before the driver hands the
/// chunk to another machine.
pub(super) const MAX_WAIT_AHEAD: Duration = Duration::from_millis(200);

/// State that all executions of an agent share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) store: Store,
    pub(super) names: Names,
    pub(super) pool: Pool,
    pub(super) host: String,
    /// The data of `with`s.
    pub(super) data: DataCache,
    /// One permit for each execution that may run. A chunk that must run alone takes all permits.
    pub(super) permits: Semaphore,
}

impl Shared {
    /// How many chunks each worker has, including chunks that wait for it, rounded up.
    pub(super) fn chunks_per_worker(&self) -> usize {
        let workers = self.pool.processes();
        (workers * MAX_CHUNKS_PER_WORKER)
            .saturating_sub(self.permits.available_permits())
            .div_ceil(workers)
            .max(1)
    }

    /// Sends an acknowledgement of the given kind to the server: `+TERM` removes the chunk, and
    /// `-NAK` with a delay makes the server redeliver it later.
    pub(super) async fn acknowledge(&self, delivery: &DeliveryInfo, kind: &'static str) {
        // If the acknowledgement is lost, the agent sends it again at the next delivery.
        let _ = self.client.publish(delivery.acknowledge.clone(), kind.into()).await;
    }
}

/// One delivery of a chunk by the server.
pub(super) struct DeliveryInfo {
    /// The subject on which the server expects acknowledgements of this delivery.
    pub(super) acknowledge: String,
    /// The chunk's sequence number in the stream of work.
    pub(super) sequence: u64,
    /// How often the server has delivered the chunk, including this time.
    pub(super) count: u64,
}

impl DeliveryInfo {
    pub(super) fn of(message: &Message) -> Option<DeliveryInfo> {
        let acknowledge = message.reply.as_ref()?.to_string();
        let fields: Vec<&str> = acknowledge.strip_prefix("$JS.ACK.")?.split('.').collect();
        // Newer servers put a domain and an account before the stream's name.
        let from_stream = fields.get(if fields.len() >= 9 { 2.. } else { 0.. })?;
        let [_, _, count, sequence, ..] = from_stream else { return None };
        let (count, sequence) = (count.parse().ok()?, sequence.parse().ok()?);
        Some(DeliveryInfo { acknowledge, sequence, count })
    }
}
