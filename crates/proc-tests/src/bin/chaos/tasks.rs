//! Tasks: what they do, and which fates of theirs are right.

use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::ForkResult;
use proc_core::{Error, ErrorKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_bytes::ByteBuf;

use crate::forked_copies;

/// What a task does with its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    Work,
    /// Keeps a processor busy for this number of microseconds.
    Spin(u32),
    Panic,
    /// Panics with a payload that is no text.
    PanicWithoutText,
    Exit(u8),
    Abort,
    OverflowStack,
    ExhaustMemory,
    /// Never returns. Only for calls that end the task.
    Hang,
    UnwritableArgument,
    UnreadableArgument,
    UnwritableResult,
    UnreadableResult,
    /// Forks. The worker returns. The copy does one of several things.
    Fork(CopyAct),
}

/// What the copy of a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CopyAct {
    Returns,
    Panics,
    /// Returns after this number of microseconds, when the worker has gone on.
    Lingers(u32),
}

/// A task, as its caller knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) number: u64,
    pub(crate) act: Act,
    /// How many bytes of padding the argument and the result have.
    pub(crate) sizes: (u32, u32),
}

/// A task, as its worker receives it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    number: u64,
    act: Act,
    odd_value: OddValue,
    padding: ByteBuf,
    wanted: u32,
}

/// The result of a task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) number: u64,
    mixed: u64,
    /// Whether a copy of the worker has made the answer.
    is_copied: bool,
    odd_value: OddValue,
    padding: ByteBuf,
}

/// A value that may fail to be encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OddValue {
    Sound,
    Unwritable,
    Unreadable,
}

impl Serialize for OddValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            OddValue::Unwritable => Err(ser::Error::custom("it stays at home")),
            other => (*other == OddValue::Sound).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OddValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OddValue, D::Error> {
        if bool::deserialize(deserializer)? {
            Ok(OddValue::Sound)
        } else {
            Err(de::Error::custom("it is not recognized"))
        }
    }
}

/// The function of tiny tasks. It is cheap, and has another result for each input.
pub(crate) fn mix(x: u64) -> u64 {
    (x ^ x >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ 0x5dee_ce66_d1ce_4e5b
}

fn padding(number: u64, len: u32) -> ByteBuf {
    ByteBuf::from(vec![number as u8; len as usize])
}

fn is_padding(bytes: &[u8], number: u64, len: u32) -> bool {
    bytes.len() == len as usize && bytes.iter().all(|byte| *byte == number as u8)
}

/// Does what the order says.
pub(crate) fn obey(order: Order) -> Answer {
    let Order { number, act, wanted, padding: sent, .. } = order;
    assert!(sent.iter().all(|byte| *byte == number as u8), "the argument of {number} is spoiled");
    let mut is_copied = false;
    match act {
        Act::Spin(microseconds) => {
            let end = Instant::now() + Duration::from_micros(microseconds.into());
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        Act::Panic => panic!("{}", complaint(number)),
        Act::PanicWithoutText => std::panic::panic_any(number),
        Act::Exit(code) => process::exit(code.into()),
        Act::Abort => process::abort(),
        Act::OverflowStack => {
            silence();
            overflow(number);
        }
        Act::ExhaustMemory => {
            silence();
            // No address space has so much memory. The allocation fails, which aborts the process.
            std::hint::black_box(Vec::<u8>::with_capacity(1 << 50));
        }
        Act::Hang => loop {
            nix::unistd::pause();
        },
        Act::Fork(copied) if matches!(forked_copies::fork(), Some(ForkResult::Child)) => {
            is_copied = true;
            match copied {
                CopyAct::Returns => {}
                CopyAct::Panics => {
                    silence();
                    panic!("the copy of a worker");
                }
                CopyAct::Lingers(time) => std::thread::sleep(Duration::from_micros(time.into())),
            }
        }
        _ => {}
    }
    let odd_value = match act {
        Act::UnwritableResult => OddValue::Unwritable,
        Act::UnreadableResult => OddValue::Unreadable,
        _ => OddValue::Sound,
    };
    let mixed = mix(number);
    Answer { number, mixed, is_copied, odd_value, padding: padding(mixed, wanted) }
}

/// Like [`obey`], but stderr is silenced.
pub(crate) fn obey_quietly(order: Order) -> Answer {
    silence();
    obey(order)
}

fn complaint(number: u64) -> String {
    format!("order {number} is refused")
}

/// Redirects stderr to /dev/null: its messages would be about intended faults.
fn silence() {
    if let Ok(null) = std::fs::File::create("/dev/null") {
        nix::unistd::dup2_stderr(null).expect("it is open");
    }
}

#[expect(unconditional_recursion, reason = "the function overflows the stack on purpose")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 128]);
    frame[1] + overflow(depth.wrapping_add(1)) + frame[0]
}

/// An initializer that fails about once in `every` calls.
pub(crate) fn initialize(every: u32) {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
    match mix(now ^ u64::from(process::id())) % (3 * u64::from(every)) {
        0 => panic!("a bad day"),
        1 => process::exit(9),
        2 => process::abort(),
        _ => {}
    }
}

impl Spec {
    /// Returns the task as its worker receives it.
    pub(crate) fn order(&self) -> Order {
        let odd_value = match self.act {
            Act::UnwritableArgument => OddValue::Unwritable,
            Act::UnreadableArgument => OddValue::Unreadable,
            _ => OddValue::Sound,
        };
        let padding = padding(self.number, self.sizes.0);
        Order { number: self.number, act: self.act, odd_value, padding, wanted: self.sizes.1 }
    }

    /// Whether the task must fail in any case.
    pub(crate) fn is_bad(&self) -> bool {
        !matches!(self.act, Act::Work | Act::Spin(_) | Act::Fork(_))
    }

    /// Whether this is the task's result.
    pub(crate) fn is_answer(&self, answer: &Answer) -> bool {
        let mixed = mix(self.number);
        !self.is_bad()
            && !answer.is_copied
            && (answer.number, answer.mixed) == (self.number, mixed)
            && is_padding(&answer.padding, mixed, self.sizes.1)
    }

    /// Whether the task itself causes this error.
    pub(crate) fn causes(&self, error: &Error) -> bool {
        let died = |expected: &dyn Fn(ExitStatus) -> bool| {
            error.is_death() && error.exit_status().is_some_and(expected)
        };
        let signals = |signals: &'static [Signal]| {
            move |status: ExitStatus| signals.iter().any(|s| status.signal() == Some(*s as i32))
        };
        match self.act {
            Act::Work | Act::Spin(_) | Act::Fork(_) | Act::Hang => false,
            Act::Panic => error.panic_message() == Some(&complaint(self.number)),
            Act::PanicWithoutText => error.is_panic(),
            Act::Exit(code) => died(&|status| status.code() == Some(code.into())),
            Act::Abort | Act::ExhaustMemory => died(&signals(&[Signal::SIGABRT])),
            Act::OverflowStack => died(&signals(&[Signal::SIGABRT, Signal::SIGSEGV])),
            Act::UnwritableArgument | Act::UnwritableResult => error.kind() == ErrorKind::Encode,
            Act::UnreadableArgument | Act::UnreadableResult => error.kind() == ErrorKind::Decode,
        }
    }
}
