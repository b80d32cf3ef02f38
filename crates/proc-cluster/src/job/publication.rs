//! Sends a chunk to the server, until the server has confirmed the chunk.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use futures_util::FutureExt as _;
use proc_core::Error;
use proc_core::remote::fleet_error;
use tracing::warn;

use super::call::Call;
use super::note::REQUEST_TIMEOUT;
use crate::connection::is_connected;
use crate::link::Link;
use crate::message::{self, Chunk, Work};

/// How long to wait between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A chunk on its way to the server.
pub(super) struct Publication {
    pub(super) link: Arc<Link>,
    pub(super) job: u64,
    pub(super) call: Call,
    pub(super) chunk: Chunk,
    pub(super) arguments: Arc<Vec<u8>>,
}

impl Publication {
    /// Sends the chunk until the server has confirmed it. The server does not store a copy that it
    /// receives within two minutes of the first. A later copy does no harm: its tasks are settled
    /// by then, or their first result counts.
    ///
    /// While the server is away, the publication waits, as all parts of a job do. If the server is
    /// there and refuses, the publication tries for as long as a call waits for agents
    /// (`patience`).
    pub(super) async fn run(self) -> Result<Chunk, (Chunk, Error)> {
        let mut refused_since = None;
        loop {
            if !is_connected(&self.link.client) {
                // The client would keep each attempt, and send all of them when it is connected.
                refused_since = None;
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            let error = match catch_panic(self.send()).await {
                Ok(()) => return Ok(self.chunk),
                Err(error) => error,
            };
            let since = refused_since.get_or_insert_with(Instant::now);
            if is_connected(&self.link.client) && since.elapsed() > self.link.config.patience {
                return Err((self.chunk, error));
            }
            warn!(job = self.job, %error, "work was not confirmed and is sent again");
            tokio::time::sleep(RETRY_INTERVAL).await;
            // A user may have removed the streams, or the server may have lost them.
            let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.link.make_streams()).await;
        }
    }

    async fn send(&self) -> Result<(), Error> {
        let Publication { link, chunk, call: Call { function, data, options }, .. } = self;
        let data_subject = link.names.arguments(link.driver, self.job, *chunk);
        let work = Work {
            build: link.build.clone(),
            driver: link.driver,
            job: self.job,
            chunk: *chunk,
            function: *function,
            options: (*options).into(),
            lease: link.config.lease,
            data: match data {
                Some(data) => Some(data.for_message().await?),
                None => None,
            },
            arguments: link.store.put(&self.arguments, &data_subject).await?,
        };
        let mut headers = HeaderMap::new();
        let Chunk { first, count, attempt, .. } = chunk;
        let id = format!("{:x}.{}.{first}.{count}.{attempt}", link.driver, self.job);
        headers.insert("Nats-Msg-Id", id);
        let work = message::encode(&work)?.into();
        let subject = link.names.work(&link.build, link.driver, self.job, *chunk);
        let failed = |error: &dyn std::fmt::Display| {
            fleet_error(format!(
                "the server did not confirm work: {error}; see its log (of the servers of a cluster, \
                 more than half must run)"
            ))
        };
        let sent = link.context.publish_with_headers(subject, headers, work).await;
        sent.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
        Ok(())
    }
}

/// Turns a panic of `send` into an error, which the waiting caller gets.
async fn catch_panic(send: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let sent = AssertUnwindSafe(send).catch_unwind().await;
    sent.unwrap_or_else(|_| Err(fleet_error("sending the work panicked: see the log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catch_panic_turns_a_panic_into_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let panics = catch_panic(async { panic!("a fault of ours") });
        let error = runtime.block_on(panics).expect_err("it panicked");
        assert!(
            error.kind() == crate::ErrorKind::Fleet && error.to_string().contains("panicked"),
            "{error}"
        );
    }
}
