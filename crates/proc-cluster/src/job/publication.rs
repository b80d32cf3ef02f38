//! A chunk on its way to the server, until that has confirmed it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use proc_core::Error;
use proc_core::remote::{Function, fleet_error};
use tracing::warn;

use super::{PATIENCE, Terms};
use crate::link::Link;
use crate::message::{self, Chunk, Work};

/// A chunk on its way to the server.
pub(super) struct Publication {
    pub(super) link: Arc<Link>,
    pub(super) job: u64,
    pub(super) function: Function,
    pub(super) terms: Terms,
    pub(super) chunk: Chunk,
    pub(super) arguments: Arc<Vec<u8>>,
}

impl Publication {
    /// Sends until the server has confirmed it; it counts what comes twice once.
    pub(super) async fn run(self) -> Result<Chunk, (Chunk, Error)> {
        let start = Instant::now();
        loop {
            let error = match self.send().await {
                Ok(()) => return Ok(self.chunk),
                Err(error) => error,
            };
            if start.elapsed() > self.link.manners.patience {
                return Err((self.chunk, error));
            }
            warn!(job = self.job, %error, "work was not confirmed and is sent again");
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Somebody may have removed the streams, or the server lost them.
            let _ = tokio::time::timeout(PATIENCE, self.link.make_streams()).await;
        }
    }

    async fn send(&self) -> Result<(), Error> {
        let Publication { link, chunk, .. } = self;
        let place = link.names.arguments(link.driver, self.job, *chunk);
        let work = Work {
            build: link.build.clone(),
            driver: link.driver,
            job: self.job,
            chunk: *chunk,
            function: self.function,
            chunksize: self.terms.chunksize,
            timeout: self.terms.timeout,
            retries: self.terms.retries,
            lease: link.manners.lease,
            arguments: link.store.put(&self.arguments, &place).await?,
        };
        let mut headers = HeaderMap::new();
        let Chunk { first, count, attempt, .. } = chunk;
        let id = format!("{:x}.{}.{first}.{count}.{attempt}", link.driver, self.job);
        headers.insert("Nats-Msg-Id", id);
        let work = message::encode(&work)?.into();
        let subject = link.names.work(&link.build, link.driver, self.job, *chunk);
        let failed = |error: &dyn std::fmt::Display| {
            fleet_error(format!("the server did not confirm work: {error}"))
        };
        let sent = link.context.publish_with_headers(subject, headers, work).await;
        sent.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
        Ok(())
    }
}
