//! How programs print results and errors.

use proc_core::{Error, ErrorKind};

use crate::support::Finished;

/// An error as one line: its kind, its data, and its text with the texts of its causes.
pub(crate) fn describe(error: &Error) -> String {
    let mut line = vec![kind_of(error).to_owned()];
    line.extend(error.is_limit().then(|| "limit".to_owned()));
    if let Some(status) = error.exit_status() {
        use std::os::unix::process::ExitStatusExt;
        line.extend(status.code().map(|code| format!("code={code}")));
        line.extend(status.signal().map(|signal| format!("signal={signal}")));
    }
    line.extend(error.task().map(|task| format!("task={task}")));
    line.extend(error.worker().map(|worker| format!("worker={worker}")));
    line.extend(error.pid().map(|pid| format!("pid={pid}")));
    line.extend(error.panic_message().map(|message| format!("message={message:?}")));
    line.extend(error.panic_location().map(|location| format!("location={location}")));
    let text = error.to_string();
    assert!(error.pid().is_none_or(|pid| text.contains(&format!("pid {pid})"))), "{text}");
    assert!(error.worker().is_none_or(|w| text.contains(&format!("(worker {w}"))), "{text}");
    assert!(error.task().is_none_or(|task| text.starts_with(&format!("task {task}: "))), "{text}");
    format!("{} | {}", line.join(" "), chain(error))
}

/// The text of an error, and those of its causes.
fn chain(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<String>>().join(": ")
}

/// The kind of an error as one word.
fn kind_of(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Panic => "panic",
        ErrorKind::Death => "death",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Encode => "encode",
        ErrorKind::Decode => "decode",
        ErrorKind::Start => "start",
        ErrorKind::Initializer => "initializer",
        ErrorKind::Closed => "closed",
        ErrorKind::RestartLimit => "restart-limit",
        ErrorKind::Abandoned => "abandoned",
        ErrorKind::Invalid => "invalid",
        other => panic!("no process gives an error of the kind {other:?}"),
    }
}

/// Prints the result or the error of each task in turn.
pub(crate) fn print_results<R: std::fmt::Debug>(
    results: impl IntoIterator<Item = Result<R, Error>>,
) {
    for (task, result) in results.into_iter().enumerate() {
        match result {
            Ok(value) => println!("{task}: {value:?}"),
            Err(error) => println!("{task}: {}", describe(&error)),
        }
    }
}

/// Prints a line that ends with "fine" or describes the error.
pub(crate) fn print_result<T>(what: &str, result: Result<T, Error>) {
    match result {
        Ok(_) => println!("{what}: fine"),
        Err(error) => println!("{what}: {}", describe(&error)),
    }
}

/// Asserts that each line of [`print_result`] is fine or contains all of the words.
#[track_caller]
pub(crate) fn assert_fine_or_contains(finished: &Finished, words: &[&str]) {
    for line in finished.succeeded().lines() {
        let lower = line.to_lowercase();
        let has_words = words.iter().all(|word| lower.contains(word)) && !line.contains("panicked");
        assert!(line.ends_with(": fine") || has_words, "without {words:?}: {line}");
    }
}
