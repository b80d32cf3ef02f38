//! Stores arguments, data and results that are too large for one message, as pieces in a stream of
//! their own.
//!
//! One subject pattern covers all pieces of a job, so that one request removes them. Another
//! pattern covers all pieces of the data of a `with`. The pieces of a lost driver are removed when
//! they reach the stream's maximum age.

use async_nats::StatusCode;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use proc_core::Error;
use proc_core::remote::fleet_error;

use crate::message::{Body, PIECE_BYTES};

/// How many pieces are sent or fetched at once.
const MAX_CONCURRENT_PIECES: usize = 8;

/// The largest value that is fetched, in bytes. A message that announces more must be wrong.
const MAX_VALUE_BYTES: u64 = 64 << 30;

/// The stream of pieces.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    context: Context,
    stream: Stream<()>,
}

impl Store {
    /// A store that uses the stream of this name; the stream need not exist yet.
    pub(crate) async fn new(context: &Context, name: &str) -> Result<Store, Error> {
        let stream = context.get_stream_no_info(name).await;
        let stream = stream.map_err(|error| {
            fleet_error(format!("the stream of large values cannot be used: {error}"))
        })?;
        Ok(Store { context: context.clone(), stream })
    }

    /// Returns a body for a message. Up to [`PIECE_BYTES`] bytes travel in the body itself. More
    /// bytes are stored under `subject`, and the body refers to them.
    ///
    /// # Errors
    ///
    /// The server did not confirm all pieces.
    pub(crate) async fn put(&self, bytes: &[u8], subject: &str) -> Result<Body, Error> {
        if bytes.len() <= PIECE_BYTES {
            return Ok(Body::Inline(bytes.to_vec()));
        }
        self.store(bytes, subject).await
    }

    /// Stores bytes under `subject`, and returns a body that refers to them.
    ///
    /// # Errors
    ///
    /// The server did not confirm all pieces.
    pub(crate) async fn store(&self, bytes: &[u8], subject: &str) -> Result<Body, Error> {
        let len = bytes.len() as u64;
        let pieces = bytes.len().div_ceil(PIECE_BYTES);
        let failed = |error: &dyn std::fmt::Display| {
            fleet_error(format!("the server did not store a value of {len} bytes: {error}"))
        };
        stream::iter((0..pieces).map(Ok::<usize, Error>))
            .try_for_each_concurrent(MAX_CONCURRENT_PIECES, |index| {
                let piece = &bytes[index * PIECE_BYTES..bytes.len().min((index + 1) * PIECE_BYTES)];
                let piece = Bytes::copy_from_slice(piece);
                async move {
                    let sent = self.context.publish(format!("{subject}.{index}"), piece).await;
                    sent.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
                    Ok(())
                }
            })
            .await?;
        Ok(Body::Stored { pieces: pieces as u32, len })
    }

    /// Returns the bytes of a body that [`put`](Store::put) or [`store`](Store::store) made with
    /// the same `subject`.
    ///
    /// # Errors
    ///
    /// A piece is missing, or the number of bytes differs from the number that the body announces.
    pub(crate) async fn get(&self, body: Body, subject: &str) -> Result<Vec<u8>, Error> {
        self.fetch(body, subject).await.map_err(|unfetched| unfetched.error)
    }

    /// Like [`get`](Store::get). The error also says whether the server has lost the value.
    pub(crate) async fn fetch(&self, body: Body, subject: &str) -> Result<Vec<u8>, Unfetched> {
        let (pieces, len) = match body {
            Body::Inline(bytes) => return Ok(bytes),
            Body::Stored { pieces, len } => (pieces, len),
        };
        let unfetched = |why: &dyn std::fmt::Display, is_lost| {
            let why = format!("a stored value of {len} bytes cannot be fetched: {why}");
            Unfetched { error: fleet_error(why), is_lost }
        };
        if len > MAX_VALUE_BYTES || u64::from(pieces) != len.div_ceil(PIECE_BYTES as u64) {
            return Err(unfetched(&"the number of its pieces does not fit its size", false));
        }
        let mut bytes = Vec::new();
        let mut fetched = stream::iter(0..pieces)
            .map(|index| self.stream.direct_get_last_for_subject(format!("{subject}.{index}")))
            .buffered(MAX_CONCURRENT_PIECES);
        while let Some(piece) = fetched.next().await {
            let piece = piece.map_err(|error| {
                // No responders means that there is no stream.
                let is_lost = match error.kind() {
                    DirectGetErrorKind::NotFound => true,
                    DirectGetErrorKind::ErrorResponse(status, _) => {
                        status == StatusCode::NO_RESPONDERS
                    }
                    _ => false,
                };
                unfetched(&error, is_lost)
            })?;
            bytes.extend_from_slice(&piece.payload);
            if bytes.len() as u64 > len {
                break;
            }
        }
        if bytes.len() as u64 != len {
            Err(unfetched(&"its pieces have more or fewer bytes than that", true))
        } else {
            Ok(bytes)
        }
    }
}

/// Why a stored value was not fetched.
#[derive(Debug)]
pub(crate) struct Unfetched {
    pub(crate) error: Error,
    /// Whether the server does not have the value any more.
    pub(crate) is_lost: bool,
}
