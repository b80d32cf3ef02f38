//! The data of a `with`, as a driver keeps them: encoded once, stored at the server once, and
//! removed from there when neither the user nor a call has them any more.
//!
//! Small data travel in each message of work. Larger data are stored when the first chunk that
//! needs them is sent. If the server loses them, an agent says so, and the next chunk stores them
//! again. So the driver keeps the encoded bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proc_core::Error;
use tokio::runtime::Handle;
use tracing::warn;

use crate::link::Link;
use crate::message::{self, Body, MAX_INLINE_DATA};

/// The data of a `with`, as the user and the jobs hold them.
pub(crate) struct BoundData {
    link: Arc<Link>,
    runtime: Handle,
    id: u64,
    bytes: Vec<u8>,
    /// How often the server has lost the data.
    losses: AtomicU32,
    /// How often the server had lost the data when they were stored last, and the body that refers
    /// to them. The lock is held while they are stored, so that all chunks wait for the same
    /// pieces.
    stored: tokio::sync::Mutex<Option<(u32, Body)>>,
}

impl BoundData {
    /// Keeps encoded data. Nothing is sent yet.
    pub(crate) fn new(link: &Arc<Link>, runtime: &Handle, bytes: Vec<u8>) -> BoundData {
        BoundData {
            link: Arc::clone(link),
            runtime: runtime.clone(),
            id: link.data.open_next(),
            bytes,
            losses: AtomicU32::new(0),
            stored: tokio::sync::Mutex::default(),
        }
    }

    /// Returns what a message of work says about the data. Stores them first, if the server does
    /// not have them.
    ///
    /// # Errors
    ///
    /// The server did not confirm that it has stored them.
    pub(crate) async fn for_message(&self) -> Result<message::Data, Error> {
        let id = self.id;
        if self.bytes.len() <= MAX_INLINE_DATA {
            return Ok(message::Data { id, losses: 0, body: Body::Inline(self.bytes.clone()) });
        }
        let mut stored = self.stored.lock().await;
        let losses = self.losses.load(Ordering::Relaxed);
        let body = match &*stored {
            Some((l, body)) if *l == losses => body.clone(),
            _ => {
                let Link { store, names, driver, data, .. } = &*self.link;
                // If the server does not answer, it may have stored some pieces all the same.
                data.note_stored(id);
                let body = store.store(&self.bytes, &names.bound_data(*driver, id)).await?;
                *stored = Some((losses, body.clone()));
                body
            }
        };
        Ok(message::Data { id, losses, body })
    }

    /// Whether a message can name the data now: they are small, or the server has them.
    pub(crate) fn can_be_named(&self) -> bool {
        let losses = self.losses.load(Ordering::Relaxed);
        let is_stored =
            |stored: &Option<(u32, Body)>| matches!(stored, Some((l, _)) if *l == losses);
        self.bytes.len() <= MAX_INLINE_DATA
            || self.stored.try_lock().is_ok_and(|stored| is_stored(&stored))
    }

    /// Notes that the server has lost the data which it had after `losses` earlier losses. Several
    /// agents may report the same loss.
    pub(crate) fn note_loss(&self, losses: u32) {
        let (seen, next) = (losses, losses.wrapping_add(1));
        let _ = self.losses.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Drop for BoundData {
    fn drop(&mut self) {
        let (id, link) = (self.id, Arc::clone(&self.link));
        if link.data.close(id) {
            // If the runtime has ended, so has the cluster, which removes all data at its end.
            self.runtime.spawn(async move {
                if let Err(error) = link.remove_data(id).await {
                    warn!(%error, "data may be left at the server");
                }
            });
        }
    }
}
