//! Encodes an error as bytes, to send it between machines. Decoding makes the same error again.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, Kind, Origin};
use crate::panics::PanicReport;
use crate::wire::{self, Sink};

/// Encoded form of an [`Error`].
#[derive(Serialize, Deserialize)]
struct Portable {
    kind: PortableKind,
    origin: Origin,
}

/// Encoded form of a [`Kind`], member by member. A status is a number; an error of the system is a
/// number and a text.
#[derive(Serialize, Deserialize)]
enum PortableKind {
    Panicked(PanicReport),
    Died { status: Option<i32>, exceeded: Option<String>, panic: Option<PanicReport> },
    Timeout(Duration),
    Cancelled,
    EncodeArgument(String),
    EncodeResult(String),
    DecodeArgument(String),
    DecodeResult(String),
    Start { what: String, errno: Option<i32>, text: String },
    ForkServerGone,
    ForkWithThreads(Option<usize>),
    Initializer(Box<Portable>),
    Closed,
    Overwritten,
    Restarts { restarts: u32, period: Duration, last: Box<Portable> },
    Invalid(String),
    Lost(String),
    Fleet(String),
}

impl Error {
    /// Returns the error as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Sink::default();
        // Texts and numbers can always be encoded.
        let _ = wire::encode_into(&Portable::of(self), &mut bytes);
        bytes.into_bytes()
    }

    /// Returns the error that [`to_bytes`](Error::to_bytes) encoded. The bytes need not be valid.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Error {
        wire::decode::<Portable>(bytes, None)
            .map_or_else(Error::decode_result, Portable::into_error)
    }
}

impl Portable {
    fn of(error: &Error) -> Portable {
        let kind = match &*error.0.kind {
            Kind::Panicked(report) => PortableKind::Panicked(report.clone()),
            Kind::Died { status, exceeded, panic } => PortableKind::Died {
                status: status.map(ExitStatusExt::into_raw),
                exceeded: exceeded.clone(),
                panic: panic.clone(),
            },
            Kind::Timeout(after) => PortableKind::Timeout(*after),
            Kind::Cancelled => PortableKind::Cancelled,
            Kind::Encode { what: "argument", why } => PortableKind::EncodeArgument(why.clone()),
            Kind::Encode { why, .. } => PortableKind::EncodeResult(why.clone()),
            Kind::Decode { what: "argument", why } => PortableKind::DecodeArgument(why.clone()),
            Kind::Decode { why, .. } => PortableKind::DecodeResult(why.clone()),
            Kind::Start { what, source } => PortableKind::Start {
                what: what.clone(),
                errno: source.raw_os_error(),
                text: source.to_string(),
            },
            Kind::ForkServerGone => PortableKind::ForkServerGone,
            Kind::ForkWithThreads(threads) => PortableKind::ForkWithThreads(*threads),
            Kind::Initializer(cause) => PortableKind::Initializer(Box::new(Portable::of(cause))),
            Kind::Closed => PortableKind::Closed,
            Kind::Overwritten => PortableKind::Overwritten,
            Kind::Restarts { restarts, period, last } => PortableKind::Restarts {
                restarts: *restarts,
                period: *period,
                last: Box::new(Portable::of(last)),
            },
            Kind::Invalid(what) => PortableKind::Invalid(what.clone()),
            Kind::Lost(what) => PortableKind::Lost(what.clone()),
            Kind::Fleet(what) => PortableKind::Fleet(what.clone()),
        };
        Portable { kind, origin: error.0.origin.clone() }
    }
}

impl Portable {
    fn into_error(self) -> Error {
        let Portable { kind, origin } = self;
        let encode = |what, why| Kind::Encode { what, why };
        let decode = |what, why| Kind::Decode { what, why };
        let kind = match kind {
            PortableKind::Panicked(report) => Kind::Panicked(report),
            PortableKind::Died { status, exceeded, panic } => {
                Kind::Died { status: status.map(ExitStatus::from_raw), exceeded, panic }
            }
            PortableKind::Timeout(after) => Kind::Timeout(after),
            PortableKind::Cancelled => Kind::Cancelled,
            PortableKind::EncodeArgument(why) => encode("argument", why),
            PortableKind::EncodeResult(why) => encode("result", why),
            PortableKind::DecodeArgument(why) => decode("argument", why),
            PortableKind::DecodeResult(why) => decode("result", why),
            PortableKind::Start { what, errno, text } => {
                let source =
                    errno.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error);
                Kind::Start { what, source }
            }
            PortableKind::ForkServerGone => Kind::ForkServerGone,
            PortableKind::ForkWithThreads(threads) => Kind::ForkWithThreads(threads),
            PortableKind::Initializer(cause) => Kind::Initializer(cause.into_error()),
            PortableKind::Closed => Kind::Closed,
            PortableKind::Overwritten => Kind::Overwritten,
            PortableKind::Restarts { restarts, period, last } => {
                Kind::Restarts { restarts, period, last: last.into_error() }
            }
            PortableKind::Invalid(what) => Kind::Invalid(what),
            PortableKind::Lost(what) => Kind::Lost(what),
            PortableKind::Fleet(what) => Kind::Fleet(what),
        };
        Error::new(kind).with_origin(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn from_bytes_returns_the_same_error() {
        let panic = PanicReport {
            message: "no".into(),
            location: Some("a.rs:1:2".into()),
            backtrace: None,
        };
        let origin = Origin { worker: Some(1), pid: Some(42), task: Some(7), ..Origin::default() };
        for kind in [
            Kind::Panicked(panic.clone()),
            Kind::Died {
                status: Some(ExitStatus::from_raw(9)),
                exceeded: Some("much".into()),
                panic: None,
            },
            Kind::Died { status: None, exceeded: None, panic: Some(panic.clone()) },
            Kind::Restarts {
                restarts: 3,
                period: Duration::from_secs(1),
                last: Error::new(Kind::Died { status: None, exceeded: None, panic: None }),
            },
            Kind::Timeout(Duration::from_millis(5)),
            Kind::Cancelled,
            Kind::Encode { what: "argument", why: "a".into() },
            Kind::Encode { what: "result", why: "b".into() },
            Kind::Decode { what: "argument", why: "c".into() },
            Kind::Decode { what: "result", why: "d".into() },
            Kind::Start { what: "a worker".into(), source: io::Error::from_raw_os_error(11) },
            Kind::Start { what: "a worker".into(), source: io::Error::other("no luck") },
            Kind::ForkServerGone,
            Kind::ForkWithThreads(Some(3)),
            Kind::Initializer(Error::new(Kind::Panicked(panic))),
            Kind::Closed,
            Kind::Overwritten,
            Kind::Invalid("what".into()),
            Kind::Lost("gone".into()),
            Kind::Fleet("none".into()),
        ] {
            let error = Error::new(kind).with_origin(origin.clone());
            let back = Error::from_bytes(&error.to_bytes());
            assert_eq!(format!("{error:?}"), format!("{back:?}"));
        }
    }

    proptest! {
        #[test]
        fn from_bytes_makes_an_error_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(!Error::from_bytes(&bytes).to_string().is_empty());
        }
    }

    #[test]
    fn from_bytes_refuses_endlessly_nested_errors() {
        let initializer_in_initializer = vec![11; 1 << 20];
        assert!(Error::from_bytes(&initializer_in_initializer).is_decode());
    }
}
