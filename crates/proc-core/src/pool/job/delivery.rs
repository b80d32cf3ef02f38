//! Results on their way to the caller. A [`Delivery`] is still encoded, and does not know the types
//! of results. [`Delivery::decode`] decodes it in the thread that waits for the results.

use std::collections::BTreeMap;

use crate::error::{Error, Origin};
use crate::memory::Part;
use crate::panics::{self, PanicReport};
use crate::pool::records::{self, Outcome};
use crate::wire::{self, Handles, Message, Payload};

/// The bytes of results, as a worker wrote them.
#[derive(Debug)]
pub(crate) enum Results {
    /// Copied out of shared memory.
    Own(Vec<u8>),
    /// Large results, still in shared memory, so that they are copied only once.
    Lent(Part),
}

impl From<Vec<u8>> for Results {
    fn from(bytes: Vec<u8>) -> Results {
        Results::Own(bytes)
    }
}

impl Results {
    fn len(&self) -> usize {
        match self {
            Results::Own(bytes) => bytes.len(),
            Results::Lent(part) => part.len(),
        }
    }

    /// Returns the bytes of all results. Copies them if they are still in shared memory. Returns
    /// `None` if there is no memory for the copy.
    #[cfg(feature = "remote")]
    pub(crate) fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Results::Own(bytes) => Some(bytes),
            Results::Lent(part) => {
                let mut bytes = Vec::new();
                part.read(0, part.len(), &mut bytes).then_some(bytes)
            }
        }
    }
}

/// The encoded results of the tasks of one chunk, or the failure of one task.
#[derive(Debug)]
pub(crate) enum Delivery {
    Results {
        first: usize,
        count: usize,
        bytes: Results,
        out_of_band: BTreeMap<u32, Payload>,
        origin: Origin,
    },
    Failed {
        task: usize,
        error: Error,
    },
}

impl Delivery {
    /// The number of bytes of results.
    pub(super) fn len(&self) -> usize {
        match self {
            Delivery::Results { bytes, out_of_band, .. } => {
                bytes.len() + out_of_band.values().map(Payload::len).sum::<usize>()
            }
            Delivery::Failed { .. } => 0,
        }
    }

    /// The number of tasks whose result or failure this is.
    pub(crate) fn count(&self) -> usize {
        match self {
            Delivery::Results { count, .. } => *count,
            Delivery::Failed { .. } => 1,
        }
    }

    /// Decodes the results. Calls `settle` with each task's number and its result or error.
    pub(crate) fn decode<R: Message>(self, mut settle: impl FnMut(usize, Result<R, Error>)) {
        let (first, count, bytes, mut out_of_band, origin) = match self {
            Delivery::Results { first, count, bytes, out_of_band, origin } => {
                (first, count, bytes, out_of_band, origin)
            }
            Delivery::Failed { task, error } => return settle(task, Err(error)),
        };
        let mut settle = |index: usize, result: Result<R, Error>| {
            let task = first + index;
            let at =
                |error: Error| error.with_origin(Origin { task: Some(task), ..origin.clone() });
            settle(task, result.map_err(at));
        };
        let mut decode_out_of_band =
            |index: usize| decode_out_of_band(out_of_band.remove(&(index as u32)));
        match bytes {
            Results::Own(bytes) => {
                let mut rest = &bytes[..];
                settle_each(count, settle, |index| match records::take_result(&mut rest) {
                    Some(Outcome::Value(value)) => decode(value, None),
                    Some(Outcome::OutOfBand) => decode_out_of_band(index),
                    Some(Outcome::Fault(fault)) => Err(Error::from_fault(fault)),
                    None => Err(no_result()),
                });
            }
            Results::Lent(part) => {
                let mut at = 0;
                // Decoding a large result takes much longer than an indirect call.
                let settle: &mut dyn FnMut(usize, Result<R, Error>) = &mut settle;
                settle_each(count, settle, |index| match records::take_shared(&part, &mut at) {
                    Some(Outcome::Value(value)) => {
                        wire::decode_shared(&part, value).map_err(Error::decode_result)
                    }
                    Some(Outcome::OutOfBand) => decode_out_of_band(index),
                    Some(Outcome::Fault(fault)) => Err(Error::from_fault(fault)),
                    None => Err(no_result()),
                });
            }
        }
    }
}

/// Calls `settle` for each of `count` results, which `next` decodes.
#[inline]
fn settle_each<R>(
    count: usize,
    mut settle: impl FnMut(usize, Result<R, Error>),
    mut next: impl FnMut(usize) -> Result<R, Error>,
) {
    let mut index = 0;
    // If a type's `Deserialize` panics, only that result is lost. A new catch begins with the next
    // result.
    while index < count {
        let caught = panics::catch(|| {
            while index < count {
                index += 1;
                settle(index - 1, next(index - 1));
            }
        });
        if let Err(panic) = caught {
            settle_panic(index - 1, &panic, &mut settle);
        }
    }
}

#[cold]
fn settle_panic<R>(
    index: usize,
    panic: &PanicReport,
    settle: &mut dyn FnMut(usize, Result<R, Error>),
) {
    let why = wire::deserialize_panicked(&panic.message);
    settle(index, Err(Error::decode_result(why)));
}

#[inline]
fn decode<R: Message>(bytes: &[u8], handles: Option<Handles>) -> Result<R, Error> {
    wire::decode_or_panic(bytes, handles).map_err(Error::decode_result)
}

#[cold]
fn no_result() -> Error {
    Error::decode_result("the worker wrote bytes that are no result".into())
}

/// Decodes a result that was sent out of band.
#[cold]
fn decode_out_of_band<R: Message>(payload: Option<Payload>) -> Result<R, Error> {
    let Some(mut payload) = payload else {
        return Err(Error::decode_result("it did not arrive".into()));
    };
    let (mut bytes, handles) = payload.parts().map_err(Error::decode_result)?;
    match records::take_result(&mut bytes) {
        Some(Outcome::Value(value)) => decode(value, handles),
        Some(Outcome::Fault(fault)) => Err(Error::from_fault(fault)),
        _ => Err(Error::decode_result("the worker sent bytes that are no result".into())),
    }
}
