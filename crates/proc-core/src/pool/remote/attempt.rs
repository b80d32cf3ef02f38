//! Attempts: a task can ask which task it is, and how often this task was handed out before. So it
//! can make sure that its effects happen only once.
//!
//! The agent writes the attempt before each argument. The function that is called on another
//! machine is a wrapper: it takes the attempt off the argument, and keeps it while the user's
//! function runs.

use std::cell::Cell;
use std::fmt::{self, Formatter};
use std::marker::PhantomData;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::wire::{self, Message, Sink};

/// One attempt at one task of a call on a fleet.
///
/// `job` and `task` together identify the task forever. They are a key for effects that must happen
/// only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attempt {
    /// The number of the call. No other call, of any program, has this number.
    pub job: u128,
    /// The number of the task in its call.
    pub task: usize,
    /// How many times the task was handed out before this attempt. (It is handed out again if an
    /// agent is lost or gives it back.) Retries on the same machine do not count.
    pub number: u32,
}

thread_local! {
    static CURRENT: Cell<Option<Attempt>> = const { Cell::new(None) };
}

/// The attempt that this thread is running; `None` outside a task of a fleet.
///
/// The first page of `proc-cluster` has an example.
pub fn attempt() -> Option<Attempt> {
    CURRENT.get()
}

/// The number of bytes of an encoded attempt.
const LEN: usize = size_of::<u128>() + size_of::<u64>() + size_of::<u32>();

impl Attempt {
    /// Returns the bytes of an [`Argument`]: the encoded attempt, then the encoded argument.
    pub(super) fn encode_with(self, argument: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN + argument.len());
        bytes.extend_from_slice(&self.job.to_le_bytes());
        bytes.extend_from_slice(&(self.task as u64).to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(argument);
        bytes
    }

    fn split(bytes: &[u8]) -> Option<(Attempt, &[u8])> {
        let (job, rest) = bytes.split_first_chunk()?;
        let (task, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let task = usize::try_from(u64::from_le_bytes(*task)).ok()?;
        let (job, number) = (u128::from_le_bytes(*job), u32::from_le_bytes(*number));
        Some((Attempt { job, task, number }, rest))
    }
}

/// An argument, and the attempt that it belongs to. For serde it is bytes, so that vectors of
/// numbers are still copied whole.
pub(super) struct Argument<A> {
    attempt: Attempt,
    value: A,
}

impl<A> Argument<A> {
    /// Calls the user's function with the argument.
    pub(super) fn give_to<R>(self, function: impl Fn(A) -> R) -> R {
        /// Clears the current attempt when the function returns or panics.
        struct ClearAttempt;
        impl Drop for ClearAttempt {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        let Argument { attempt, value } = self;
        let _clear = ClearAttempt;
        CURRENT.set(Some(attempt));
        function(value)
    }
}

impl<A: Message> Serialize for Argument<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Sink::default();
        wire::encode_into(&self.value, &mut bytes).map_err(ser::Error::custom)?;
        serializer.serialize_bytes(&self.attempt.encode_with(&bytes))
    }
}

impl<'de, A: Message> Deserialize<'de> for Argument<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArgumentVisitor<A>(PhantomData<A>);
        impl<A: Message> Visitor<'_> for ArgumentVisitor<A> {
            type Value = Argument<A>;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("an attempt and an argument")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Argument<A>, E> {
                let (attempt, rest) =
                    Attempt::split(bytes).ok_or_else(|| E::custom("the data end too early"))?;
                let value = wire::decode_or_panic(rest, None).map_err(E::custom)?;
                Ok(Argument { attempt, value })
            }
        }
        deserializer.deserialize_bytes(ArgumentVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_can_ask_for_its_attempt() {
        let attempt = Attempt { job: 1 << 100, task: 7, number: 2 };
        let mut bytes = Sink::default();
        let sent = Argument { attempt, value: vec![1.5_f64, 2.5] };
        wire::encode_into(&sent, &mut bytes).expect("numbers");
        let read: Argument<Vec<f64>> = wire::decode(&bytes, None).expect("what was sent");
        let seen = read.give_to(|value| (value, super::attempt()));
        assert_eq!(seen, (vec![1.5, 2.5], Some(attempt)));
        assert_eq!(super::attempt(), None);
        for len in 0..bytes.len() {
            assert!(
                wire::decode::<Argument<Vec<f64>>>(&bytes[..len], None).is_err(),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn panic_clears_the_attempt() {
        let attempt = Attempt { job: 1, task: 2, number: 3 };
        let argument = Argument { attempt, value: () };
        let caught = std::panic::catch_unwind(|| argument.give_to(|()| panic!("as it should")));
        assert!(caught.is_err());
        assert_eq!(super::attempt(), None);
    }
}
