//! An error as data: `Error` implements serde's traits, so that it can be part of a message, a file
//! or a log. Decoding returns the same error.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Error, Inner, Kind, Origin};
#[cfg(feature = "remote")]
use crate::wire::{self, Sink};

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Inner { kind, origin } = &*self.0;
        (&**kind, origin).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Error {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Error, D::Error> {
        let (kind, origin) = <(Kind, Origin)>::deserialize(deserializer)?;
        Ok(Error::new(kind).with_origin(origin))
    }
}

#[cfg(feature = "remote")]
impl Error {
    /// Returns the error as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Sink::default();
        // Texts and numbers can always be encoded.
        let _ = wire::encode_into(self, &mut bytes);
        bytes.into_bytes()
    }

    /// Returns the error that [`to_bytes`](Error::to_bytes) encoded. The bytes need not be valid.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Error {
        wire::decode(bytes, None).unwrap_or_else(Error::decode_result)
    }
}

/// An error of the system as its number and its text.
pub(super) mod io_error {
    use std::io;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        error: &io::Error,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (error.raw_os_error(), error.to_string()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<io::Error, D::Error> {
        let (number, text) = <(Option<i32>, String)>::deserialize(deserializer)?;
        Ok(number.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Abandoned, Part, Peer};
    use super::*;
    use crate::panics::PanicReport;
    use crate::wire::{self, Sink};

    fn to_bytes(error: &Error) -> Vec<u8> {
        let mut bytes = Sink::default();
        let _ = wire::encode_into(error, &mut bytes).expect("texts and numbers can be encoded");
        bytes.into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Error, String> {
        wire::decode(bytes, None)
    }

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
            Kind::Encode { what: Part::Argument, why: "a".into() },
            Kind::Encode { what: Part::Result, why: "b".into() },
            Kind::Decode { what: Part::Argument, why: "c".into() },
            Kind::Decode { what: Part::Result, why: "d".into() },
            Kind::Start {
                action: "start a worker".into(),
                source: io::Error::from_raw_os_error(11),
            },
            Kind::Start { action: "start a worker".into(), source: io::Error::other("no luck") },
            Kind::ForkServerGone,
            Kind::ForkWithThreads(Some(3)),
            Kind::Initializer(Error::new(Kind::Panicked(panic))),
            Kind::Closed,
            Kind::Overwritten,
            Kind::Abandoned { what: Abandoned::Mutex, status: Some(ExitStatus::from_raw(9)) },
            Kind::Abandoned { what: Abandoned::Barrier, status: None },
            Kind::Ended("what".into()),
            Kind::PeerDied { peer: Peer::Pipe, status: Some(ExitStatus::from_raw(9)) },
            Kind::PeerDied { peer: Peer::Manager, status: None },
            Kind::Invalid("what".into()),
            Kind::Lost("gone".into()),
            Kind::Fleet("none".into()),
        ] {
            let error = Error::new(kind).with_origin(origin.clone());
            let back = from_bytes(&to_bytes(&error)).expect("it was an error");
            assert_eq!(format!("{error:?}"), format!("{back:?}"));
            let json = serde_json::to_string(&error).expect("any format can tell it");
            let back: Error = serde_json::from_str(&json).expect("it was an error");
            assert_eq!(format!("{error:?}"), format!("{back:?}"));
        }
    }

    proptest! {
        #[test]
        fn an_error_of_any_bytes_has_words(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(error) = from_bytes(&bytes) {
                let own = matches!(*error.0.kind, Kind::Invalid(_) | Kind::Lost(_) | Kind::Fleet(_));
                prop_assert!(own || !error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn endlessly_nested_errors_are_refused() {
        // Kind 9, counted from 0, is `Initializer`, which holds an error.
        let initializer_in_initializer = vec![9; 1 << 20];
        assert!(from_bytes(&initializer_in_initializer).is_err_and(|why| why.contains("deep")));
    }
}
