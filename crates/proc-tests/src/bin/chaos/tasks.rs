//! What tasks are told to do, and which fates of theirs are right.

use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::ForkResult;
use proc_core::{Error, ErrorKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_bytes::ByteBuf;

use crate::twins;

/// What a task does with its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    Work,
    /// Takes some microseconds.
    Toil(u32),
    Panic,
    /// Panics with a payload that is no text.
    PanicOddly,
    Exit(u8),
    Abort,
    OverflowStack,
    ExhaustMemory,
    /// Never returns; only for calls that end it.
    Hang,
    UnwritableArgument,
    UnreadableArgument,
    UnwritableResult,
    UnreadableResult,
    /// Forks, and returns as the worker; the copy does that too, or something else.
    Fork(Copied),
}

/// What the copy of a worker does before it would return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Copied {
    Returns,
    Panics,
    /// Returns after so many microseconds, when the worker is elsewhere.
    Lingers(u32),
}

/// A task as its caller remembers it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) number: u64,
    pub(crate) act: Act,
    /// Bytes of the argument and of the result beside what they say.
    pub(crate) sizes: (u32, u32),
}

/// A task as its worker gets it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    number: u64,
    act: Act,
    balky: Balky,
    ballast: ByteBuf,
    wanted: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) number: u64,
    mixed: u64,
    /// It comes from a copy of the worker.
    is_copied: bool,
    balky: Balky,
    ballast: ByteBuf,
}

/// A value that cannot be written, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Balky {
    Sound,
    Unwritable,
    Unreadable,
}

impl Serialize for Balky {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Balky::Unwritable => Err(ser::Error::custom("it stays at home")),
            other => (*other == Balky::Sound).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Balky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Balky, D::Error> {
        if bool::deserialize(deserializer)? {
            Ok(Balky::Sound)
        } else {
            Err(de::Error::custom("it is not recognized"))
        }
    }
}

/// The function of tiny tasks: cheap, and wrong for every other input.
pub(crate) fn mix(x: u64) -> u64 {
    (x ^ x >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ 0x5dee_ce66_d1ce_4e5b
}

fn ballast(number: u64, len: u32) -> ByteBuf {
    ByteBuf::from(vec![number as u8; len as usize])
}

fn is_ballast(bytes: &[u8], number: u64, len: u32) -> bool {
    bytes.len() == len as usize && bytes.iter().all(|byte| *byte == number as u8)
}

/// Does what the order says.
pub(crate) fn obey(order: Order) -> Answer {
    let Order { number, act, wanted, ballast: sent, .. } = order;
    assert!(sent.iter().all(|byte| *byte == number as u8), "the argument of {number} is spoiled");
    let mut is_copied = false;
    match act {
        Act::Toil(microseconds) => {
            let end = Instant::now() + Duration::from_micros(microseconds.into());
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        Act::Panic => panic!("{}", complaint(number)),
        Act::PanicOddly => std::panic::panic_any(number),
        Act::Exit(code) => process::exit(code.into()),
        Act::Abort => process::abort(),
        Act::OverflowStack => {
            silence();
            overflow(number);
        }
        Act::ExhaustMemory => {
            silence();
            // More than the address space has: refused at once, which aborts the process.
            std::hint::black_box(Vec::<u8>::with_capacity(1 << 50));
        }
        Act::Hang => loop {
            nix::unistd::pause();
        },
        Act::Fork(copied) if matches!(twins::fork(), Some(ForkResult::Child)) => {
            is_copied = true;
            match copied {
                Copied::Returns => {}
                Copied::Panics => {
                    silence();
                    panic!("the copy of a worker");
                }
                Copied::Lingers(time) => std::thread::sleep(Duration::from_micros(time.into())),
            }
        }
        _ => {}
    }
    let balky = match act {
        Act::UnwritableResult => Balky::Unwritable,
        Act::UnreadableResult => Balky::Unreadable,
        _ => Balky::Sound,
    };
    let mixed = mix(number);
    Answer { number, mixed, is_copied, balky, ballast: ballast(mixed, wanted) }
}

/// Like [`obey`], in a process whose panics nobody is to read.
pub(crate) fn obey_quietly(order: Order) -> Answer {
    silence();
    obey(order)
}

fn complaint(number: u64) -> String {
    format!("order {number} is refused")
}

/// Sends what this process says on stderr nowhere: it would be about faults that are meant.
fn silence() {
    if let Ok(null) = std::fs::File::create("/dev/null") {
        nix::unistd::dup2_stderr(null).expect("it is open");
    }
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 128]);
    frame[1] + overflow(depth.wrapping_add(1)) + frame[0]
}

/// An initializer that fails now and then, by the time and the pid.
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
    pub(crate) fn order(&self) -> Order {
        let balky = match self.act {
            Act::UnwritableArgument => Balky::Unwritable,
            Act::UnreadableArgument => Balky::Unreadable,
            _ => Balky::Sound,
        };
        let ballast = ballast(self.number, self.sizes.0);
        Order { number: self.number, act: self.act, balky, ballast, wanted: self.sizes.1 }
    }

    /// Whether the task must fail, whatever happens.
    pub(crate) fn is_bad(&self) -> bool {
        !matches!(self.act, Act::Work | Act::Toil(_) | Act::Fork(_))
    }

    /// Whether this is the task's result.
    pub(crate) fn is_answer(&self, answer: &Answer) -> bool {
        let mixed = mix(self.number);
        !self.is_bad()
            && !answer.is_copied
            && (answer.number, answer.mixed) == (self.number, mixed)
            && is_ballast(&answer.ballast, mixed, self.sizes.1)
    }

    /// Whether what the task does makes this error.
    pub(crate) fn makes(&self, error: &Error) -> bool {
        let died = |expected: &dyn Fn(ExitStatus) -> bool| {
            error.is_death() && error.exit_status().is_some_and(expected)
        };
        let signals = |signals: &'static [Signal]| {
            move |status: ExitStatus| signals.iter().any(|s| status.signal() == Some(*s as i32))
        };
        match self.act {
            Act::Work | Act::Toil(_) | Act::Fork(_) | Act::Hang => false,
            Act::Panic => error.panic_message() == Some(&complaint(self.number)),
            Act::PanicOddly => error.is_panic(),
            Act::Exit(code) => died(&|status| status.code() == Some(code.into())),
            Act::Abort | Act::ExhaustMemory => died(&signals(&[Signal::SIGABRT])),
            Act::OverflowStack => died(&signals(&[Signal::SIGABRT, Signal::SIGSEGV])),
            Act::UnwritableArgument | Act::UnwritableResult => error.kind() == ErrorKind::Encode,
            Act::UnreadableArgument | Act::UnreadableResult => error.kind() == ErrorKind::Decode,
        }
    }
}
