//! What a process says of its death while it still can: the panic that ends it, or that it got no memory.
//!
//! It goes to the template by the doorbell, in one system call, since a dying process can do no more. The
//! template tells it to the parent, with the exit, where the way the process died fits what it said.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::panics::{self, PanicReport};
use crate::sys;
use crate::template::Line;

/// The longest message of a panic that is told in this way, in bytes.
const LONGEST_MESSAGE: usize = 1 << 10;
const LONGEST_BACKTRACE: usize = 2 << 10;

/// What a process has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LastWords {
    /// It panicked; where that cannot unwind, it is aborted.
    Panicked(PanicReport),
    /// It was about to die, and the last system call that had failed wanted memory.
    NoMemory,
}

impl LastWords {
    /// Whether a process that said this may have died of it in this way.
    pub(crate) fn explains(&self, status: ExitStatus) -> bool {
        let signal = status.signal().and_then(|signal| Signal::try_from(signal).ok());
        match self {
            LastWords::Panicked(_) => signal == Some(Signal::SIGABRT),
            LastWords::NoMemory => {
                matches!(signal, Some(Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGBUS))
            }
        }
    }
}

/// How a process ended, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exit {
    /// `None` where nobody is left who knew it.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) last_words: Option<LastWords>,
}

impl Exit {
    /// As a template tells it.
    pub(crate) fn told(status: i32, last_words: Option<LastWords>) -> Exit {
        Exit { status: Some(ExitStatus::from_raw(status)), last_words }
    }
}

/// In a new process: has its panics told to its template.
pub(crate) fn say_to(line: &Arc<Line>) {
    let line = Arc::clone(line);
    panics::set_witness(Arc::new(move |report| {
        let words = report.map(|report| LastWords::Panicked(shortened(report)));
        line.say_last_words(&encode(words.as_ref()));
    }));
}

/// In a new process with a limit of memory: has its template told if it dies for want of it.
pub(crate) fn say_if_no_memory(line: &Arc<Line>) {
    let line = Arc::clone(line);
    sys::before_a_crash_without_memory(line.ring(), &encode(Some(&LastWords::NoMemory)));
    // The descriptor is used as long as the process lives.
    std::mem::forget(line);
}

fn shortened(report: &PanicReport) -> PanicReport {
    let cut = |text: &str, longest: usize| {
        let end = (0..=longest.min(text.len())).rfind(|end| text.is_char_boundary(*end));
        text[..end.unwrap_or(0)].to_owned()
    };
    PanicReport {
        message: cut(&report.message, LONGEST_MESSAGE),
        location: report.location.as_ref().map(|location| cut(location, LONGEST_MESSAGE)),
        backtrace: report.backtrace.as_ref().map(|trace| cut(trace, LONGEST_BACKTRACE)),
    }
}

/// The pid of the calling process, then what it says; nothing if it takes back what it said.
fn encode(words: Option<&LastWords>) -> Vec<u8> {
    let said = (sys::pid(), words);
    postcard::to_stdvec(&said).unwrap_or_default()
}

/// In a template: notes what a process has said, where `place` finds the place for it.
pub(crate) fn note<'a>(said: &[u8], place: impl FnOnce(u32) -> Option<&'a mut Option<LastWords>>) {
    let Ok((pid, words)) = postcard::from_bytes::<(u32, Option<LastWords>)>(said) else { return };
    let Some(place) = place(pid) else { return };
    *place = match (words, place.take()) {
        // The panic that cannot unwind tells more than what says that it could not.
        (Some(LastWords::Panicked(new)), Some(old)) if new.is_about_unwinding() => Some(old),
        (Some(LastWords::NoMemory), Some(old)) => Some(old),
        (words, _) => words,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panicked(message: &str) -> LastWords {
        let message = message.to_owned();
        LastWords::Panicked(PanicReport { message, location: None, backtrace: None })
    }

    #[test]
    fn the_panic_that_tells_most_is_kept() {
        let mut place = None;
        let mut say = |words: Option<LastWords>| {
            note(&encode(words.as_ref()), |pid| (pid == sys::pid()).then_some(&mut place));
            place.clone()
        };
        assert_eq!(say(Some(panicked("first"))), Some(panicked("first")));
        let second = panicked("panic in a function that cannot unwind");
        assert_eq!(say(Some(second.clone())), Some(panicked("first")));
        assert_eq!(say(Some(LastWords::NoMemory)), Some(panicked("first")));
        assert_eq!(say(None), None, "it was caught");
        assert_eq!(say(Some(second.clone())), Some(second));
        assert_eq!(say(Some(panicked("next"))), Some(panicked("next")));
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let report = PanicReport { message: "ä".repeat(2000), location: None, backtrace: None };
        let cut = shortened(&report);
        assert_eq!(cut.message, "ä".repeat(512));
    }
}
