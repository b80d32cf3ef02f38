//! Lets a process say why it dies, while it still can: which panic ends it, or that it got no
//! memory.
//!
//! The handler of the signal that ends the process sends these last words through the descriptor
//! channel of the fork server. It sends them by one system call, since a signal handler cannot use
//! ipc-channel. The fork server reports the last words to the parent, together with the exit.

use std::sync::Arc;

use super::ServerLink;
use crate::error::LastWords;
use crate::panics::{self, PanicReport};
use crate::sys;

/// Longest message of a panic in last words, in bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 10;
/// Longest backtrace in last words, in bytes.
const MAX_BACKTRACE_BYTES: usize = 2 << 10;

/// In a fork server: makes its children send last words through `server_link` when they crash after
/// a panic that cannot unwind, or for lack of memory. The children inherit what is set here.
pub(crate) fn make_children_send_to(server_link: &Arc<ServerLink>) {
    panics::set_observer(|report| {
        // After a panic that cannot unwind, the runtime panics again to say so. Keep the first
        // panic, which tells the cause.
        if !report.is_about_unwinding() {
            sys::prepare_last_words(&encode(&LastWords::Panicked(shortened(report))));
        }
    });
    sys::send_last_words_at_crash(server_link.notifier(), encode(&LastWords::NoMemory));
    // Leak a reference: children use the descriptor as long as they live.
    std::mem::forget(Arc::clone(server_link));
}

fn shortened(report: &PanicReport) -> PanicReport {
    let cut = |text: &str, longest: usize| {
        let end = (0..=longest.min(text.len())).rfind(|end| text.is_char_boundary(*end));
        text[..end.unwrap_or(0)].to_owned()
    };
    PanicReport {
        message: cut(&report.message, MAX_MESSAGE_BYTES),
        location: report.location.as_ref().map(|location| cut(location, MAX_MESSAGE_BYTES)),
        backtrace: report.backtrace.as_ref().map(|trace| cut(trace, MAX_BACKTRACE_BYTES)),
    }
}

fn encode(words: &LastWords) -> Vec<u8> {
    postcard::to_stdvec(words).unwrap_or_default()
}

/// In a fork server: returns the pid of the process that sent this message, and its last words.
pub(crate) fn decode(message: &[u8]) -> Option<(u32, LastWords)> {
    let (pid, words) = message.split_first_chunk()?;
    Some((u32::from_le_bytes(*pid), postcard::from_bytes(words).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_returns_what_was_encoded() {
        let report = PanicReport {
            message: "no".into(),
            location: Some("a.rs:1:2".into()),
            backtrace: None,
        };
        for words in [LastWords::Panicked(report), LastWords::NoMemory] {
            let message = [&42_u32.to_le_bytes(), &encode(&words)[..]].concat();
            assert_eq!(decode(&message), Some((42, words)));
        }
        assert_eq!(decode(b"rubbish"), None);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let report = PanicReport { message: "ä".repeat(2000), location: None, backtrace: None };
        let cut = shortened(&report);
        assert_eq!(cut.message, "ä".repeat(512));
    }
}
