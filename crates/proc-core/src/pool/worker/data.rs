//! The data that functions borrow, as a worker holds them: decoded once, and kept until the parent
//! has dropped them.

use std::any::Any;

use crate::call::Fault;
use crate::panics;
use crate::pool::board::DataId;
use crate::wire::{Message, Payload};

/// How many data a worker holds at most, and how many encoded bytes they have together. Beyond
/// that, it drops those that were used least recently, and asks for them again if it needs them.
const MAX_HELD: usize = 64;
const MAX_HELD_BYTES: usize = 256 << 20;

/// All data that a worker holds.
#[derive(Default)]
pub(super) struct DataCache {
    /// The data that were used last come last.
    held: Vec<HeldData>,
    /// The board's count of dropped data when this worker looked last.
    pub(super) seen_drops: u64,
}

/// Data that a worker holds.
pub(crate) struct HeldData {
    id: DataId,
    /// The number of encoded bytes.
    bytes: usize,
    value: Value,
}

enum Value {
    /// Not decoded yet; `None` during the decoding.
    Encoded(Option<Payload>),
    Decoded(Box<dyn Any>),
    Failed(Fault),
}

impl DataCache {
    /// The numbers of the data that are held.
    pub(super) fn ids(&self) -> Vec<DataId> {
        self.held.iter().map(|data| data.id).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns data that are held, and notes that they were used.
    pub(super) fn get(&mut self, id: DataId) -> Option<&mut HeldData> {
        if self.held.last().is_none_or(|data| data.id != id) {
            let at = self.held.iter().position(|data| data.id == id)?;
            self.held[at..].rotate_left(1);
        }
        self.held.last_mut()
    }

    /// Holds data that have arrived. Drops others if these are too many.
    pub(super) fn put(&mut self, id: DataId, payload: Payload) {
        let bytes = payload.len();
        self.held.push(HeldData { id, bytes, value: Value::Encoded(Some(payload)) });
        let mut sum: usize = self.held.iter().map(|data| data.bytes).sum();
        while self.held.len() > 1 && (self.held.len() > MAX_HELD || sum > MAX_HELD_BYTES) {
            sum -= self.held[0].bytes;
            drop_data(self.held.remove(0));
        }
    }

    /// Drops data that the parent has dropped.
    pub(super) fn drop_all(&mut self, ids: &[DataId]) {
        for data in self.held.extract_if(.., |data| ids.contains(&data.id)) {
            drop_data(data);
        }
    }
}

/// Drops data. A panic in a destructor is printed, as in any thread.
fn drop_data(data: HeldData) {
    let _ = panics::catch_and_print(|| drop(data));
}

impl HeldData {
    /// Returns the data. Decodes them if that was not done before.
    ///
    /// # Errors
    ///
    /// The data cannot be decoded, or have another type.
    pub(super) fn value<D: Message>(&mut self) -> Result<&D, Fault> {
        let undecoded = match &mut self.value {
            Value::Encoded(payload) => payload.take(),
            _ => None,
        };
        if let Some(payload) = undecoded {
            self.value = match payload.decode::<D>() {
                Ok(data) => Value::Decoded(Box::new(data)),
                Err(why) => Value::Failed(Fault::Data(why)),
            };
        }
        match &self.value {
            Value::Decoded(data) => data.downcast_ref().ok_or_else(|| {
                Fault::Invalid("the data have another type than the function takes".into())
            }),
            Value::Failed(fault) => Err(fault.clone()),
            // Never reached: `decode` turns a panic in the type's code into an error.
            Value::Encoded(_) => Err(Fault::Data("the type's Deserialize panicked".into())),
        }
    }
}
