//! The data that functions of a call borrow, as the parent keeps them.
//!
//! Data are encoded once, or anew for each worker if they hold channel ends or shared memory. Each
//! worker that needs them asks for them, decodes them once, and keeps them until the parent has
//! dropped them. The parent drops them when no handle of the user and no call has them any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::pool::board::DataId;
use crate::sys;
use crate::wire::{Message, Payload};

/// Data of one `with`.
pub(crate) struct BoundData {
    pub(crate) id: DataId,
    /// The number of encoded bytes.
    pub(crate) bytes: usize,
    source: Source,
    dropped: Arc<DroppedData>,
}

enum Source {
    /// The lock makes a payload usable by several threads.
    Encoded(Mutex<Payload>),
    /// Data with channel ends or shared memory. They are encoded for each worker, because each
    /// needs ends of its own.
    Value(Box<dyn Fn() -> Result<Payload, String> + Send + Sync>),
}

impl BoundData {
    /// Encodes `data`. Their number goes to `dropped` when they are dropped.
    ///
    /// # Errors
    ///
    /// The data cannot be encoded, or are larger than `max_bytes`.
    pub(crate) fn new<D: Message + Send + Sync>(
        id: DataId,
        data: D,
        max_bytes: usize,
        dropped: &Arc<DroppedData>,
    ) -> Result<BoundData, String> {
        let payload = Payload::encode(&data)?;
        let bytes = check_size(&payload, max_bytes)?;
        let source = match payload.has_handles() {
            true => Source::Value(Box::new(move || Payload::encode(&data))),
            false => Source::Encoded(Mutex::new(payload)),
        };
        Ok(BoundData { id, bytes, source, dropped: Arc::clone(dropped) })
    }

    /// Like [`new`](BoundData::new), for data without channel ends that are encoded already.
    #[cfg(feature = "remote")]
    pub(crate) fn of_encoded(
        id: DataId,
        encoded: Vec<u8>,
        max_bytes: usize,
        dropped: &Arc<DroppedData>,
    ) -> Result<BoundData, String> {
        let payload = Payload::new(encoded, None)?;
        let bytes = check_size(&payload, max_bytes)?;
        let source = Source::Encoded(Mutex::new(payload));
        Ok(BoundData { id, bytes, source, dropped: Arc::clone(dropped) })
    }

    /// Returns the data for one worker.
    ///
    /// # Errors
    ///
    /// There is no descriptor, or the data cannot be encoded again.
    pub(crate) fn for_worker(&self) -> Result<Payload, String> {
        match &self.source {
            Source::Encoded(payload) => {
                payload.lock().unwrap_or_else(PoisonError::into_inner).try_clone()
            }
            Source::Value(encode) => encode(),
        }
    }
}

/// Returns the number of encoded bytes.
fn check_size(payload: &Payload, max_bytes: usize) -> Result<usize, String> {
    match payload.len() {
        len if len > max_bytes => Err(too_large(len, max_bytes)),
        len => Ok(len),
    }
}

impl Drop for BoundData {
    fn drop(&mut self) {
        // Do this only in the process that has the pool. In a copy of it that was forked since, the
        // lock may be held forever.
        if self.dropped.pid != sys::pid() {
            return;
        }
        self.dropped.ids.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        self.dropped.any.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for BoundData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundData").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Data that were dropped and that workers may still hold. Data may be dropped while the pool's
/// lock is held, so they are only noted here.
#[derive(Debug)]
pub(crate) struct DroppedData {
    /// The pid of the process that has the pool.
    pid: u32,
    ids: Mutex<Vec<DataId>>,
    any: AtomicBool,
}

impl Default for DroppedData {
    fn default() -> DroppedData {
        DroppedData { pid: sys::pid(), ids: Mutex::default(), any: AtomicBool::default() }
    }
}

impl DroppedData {
    /// Whether any data were dropped since the last [`take`](DroppedData::take).
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes the numbers of the data that were dropped.
    pub(crate) fn take(&self) -> Vec<DataId> {
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Says that no worker can map an argument, or data.
#[cold]
pub(super) fn too_large(size: usize, max: usize) -> String {
    format!(
        "it takes {} KiB of memory, and with the limit of address space of the pool's workers \
         (Limits::address_space) an argument may take {} KiB: raise the limit, or send a smaller \
         argument",
        size >> 10,
        max >> 10
    )
}
