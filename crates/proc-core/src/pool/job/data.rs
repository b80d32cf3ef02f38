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
    /// Taken when the data are dropped.
    source: Option<Source>,
    dropped: Arc<DroppedData>,
}

enum Source {
    /// The lock makes a payload usable by several threads.
    Encoded(Mutex<Payload>),
    /// Data with channel ends or shared memory. They are encoded for each worker, because each
    /// needs ends of its own.
    Value(Box<dyn Fn() -> Result<Payload, String> + Send + Sync>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Source::Encoded(_) => "Encoded",
            Source::Value(_) => "Value",
        })
    }
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
        Ok(BoundData { id, bytes, source: Some(source), dropped: Arc::clone(dropped) })
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
        Ok(BoundData { id, bytes, source: Some(source), dropped: Arc::clone(dropped) })
    }

    /// Returns the data for one worker.
    ///
    /// # Errors
    ///
    /// There is no descriptor, or the data cannot be encoded again.
    pub(crate) fn for_worker(&self) -> Result<Payload, String> {
        match self.source.as_ref().expect("the data are not dropped") {
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
        let mut dropped = self.dropped.data.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.push((self.id, self.source.take()));
        drop(dropped);
        self.dropped.any.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for BoundData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundData").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Data that were dropped and that workers may still hold. Data may be dropped while the pool's
/// lock is held, and dropping the user's value runs the user's code. So the number and the value
/// are only kept here, until [`take`](DroppedData::take).
#[derive(Debug)]
pub(crate) struct DroppedData {
    /// The pid of the process that has the pool.
    pid: u32,
    data: Mutex<Vec<(DataId, Option<Source>)>>,
    any: AtomicBool,
}

impl Default for DroppedData {
    fn default() -> DroppedData {
        DroppedData { pid: sys::pid(), data: Mutex::default(), any: AtomicBool::default() }
    }
}

impl DroppedData {
    /// Whether any data were dropped since the last [`take`](DroppedData::take).
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes the data that were dropped: their numbers, and what the caller must drop without the
    /// pool's lock.
    pub(crate) fn take(&self) -> (Vec<DataId>, impl Sized + use<>) {
        self.any.store(false, Ordering::Release);
        let data = std::mem::take(&mut *self.data.lock().unwrap_or_else(PoisonError::into_inner));
        data.into_iter().unzip::<_, _, Vec<_>, Vec<_>>()
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

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::sync::Shared;

    /// Data whose destructor is the user's.
    #[derive(Serialize, Deserialize)]
    struct Noticed {
        shared: Shared<u8>,
        #[serde(skip)]
        is_dropped: Arc<AtomicBool>,
    }

    impl Drop for Noticed {
        fn drop(&mut self) {
            self.is_dropped.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn destructor_of_the_users_data_runs_where_dropped_data_are_taken() {
        let (dropped, is_dropped) = (Arc::new(DroppedData::default()), Arc::default());
        let shared = Shared::from_slice(&[1]).expect("there is memory");
        let data = Noticed { shared, is_dropped: Arc::clone(&is_dropped) };
        let bound = BoundData::new(1, data, usize::MAX, &dropped).expect("it can be encoded");
        assert!(bound.for_worker().is_ok() && !dropped.any());
        drop(bound);
        assert!(dropped.any() && !is_dropped.load(Ordering::Relaxed));
        let (ids, values) = dropped.take();
        assert!(ids == [1] && !is_dropped.load(Ordering::Relaxed));
        drop(values);
        assert!(is_dropped.load(Ordering::Relaxed) && dropped.take().0.is_empty());
    }
}
