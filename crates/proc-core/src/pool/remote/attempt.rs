//! Which attempt at which task a worker is at, for tasks whose effects must not come about twice.
//!
//! The agent writes it before each argument; the function that is called between machines is a
//! wrapper that takes it off again, and keeps it while the user's function runs.

use std::cell::Cell;
use std::fmt::{self, Formatter};
use std::marker::PhantomData;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::wire::{self, Message, Sink};

/// One attempt at one task of a call on a fleet.
///
/// Job and task together name the task for ever: a key for what must come about once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attempt {
    /// The call; no other, of any program, has this number.
    pub job: u128,
    /// The task's place among the call's inputs.
    pub task: usize,
    /// How often it was handed out before, by a loss or since an agent gave it back; retries on the same
    /// machine do not count.
    pub number: u32,
}

thread_local! {
    static CURRENT: Cell<Option<Attempt>> = const { Cell::new(None) };
}

/// What this thread's task is an attempt at; `None` outside a task of a fleet.
pub fn attempt() -> Option<Attempt> {
    CURRENT.get()
}

/// How many bytes an attempt takes.
const LEN: usize = size_of::<u128>() + size_of::<u64>() + size_of::<u32>();

impl Attempt {
    /// An encoded argument with this before it, as [`Argument`] reads it.
    pub(super) fn before(self, argument: &[u8]) -> Vec<u8> {
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

/// An argument and what it is an attempt at; bytes to serde, so that vectors of numbers stay whole.
pub(super) struct Argument<A> {
    attempt: Attempt,
    value: A,
}

impl<A> Argument<A> {
    /// Calls the user's function.
    pub(super) fn give_to<R>(self, function: impl Fn(A) -> R) -> R {
        /// Forgets the attempt, also when the function panics.
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        let Argument { attempt, value } = self;
        let _over = Over;
        CURRENT.set(Some(attempt));
        function(value)
    }
}

impl<A: Message> Serialize for Argument<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Sink::default();
        wire::encode_into(&self.value, &mut bytes).map_err(ser::Error::custom)?;
        serializer.serialize_bytes(&self.attempt.before(&bytes))
    }
}

impl<'de, A: Message> Deserialize<'de> for Argument<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole<A>(PhantomData<A>);
        impl<A: Message> Visitor<'_> for Whole<A> {
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
        deserializer.deserialize_bytes(Whole(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_knows_its_attempt_while_it_is_used() {
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
    fn a_panic_leaves_no_attempt_behind() {
        let attempt = Attempt { job: 1, task: 2, number: 3 };
        let argument = Argument { attempt, value: () };
        let caught = std::panic::catch_unwind(|| argument.give_to(|()| panic!("as it should")));
        assert!(caught.is_err());
        assert_eq!(super::attempt(), None);
    }
}
