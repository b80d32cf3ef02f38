//! The programs that the process tests run: `scenario NAME CONTEXT [ARGUMENT…]`.
//!
//! Each prints what it saw, in an order that does not depend on time; what is right is said in
//! `tests/`. A program that cannot go on panics.

mod aborts;
mod calls;
mod closed;
mod copies;
mod data;
mod descriptors;
mod ending;
mod failures;
mod fork;
mod forking;
mod halted;
mod hardships;
mod hooks;
mod kills;
mod life;
mod limits;
mod many_ends;
mod marks;
mod nesting;
mod outliving;
mod output;
mod preload;
mod processes;
mod raw;
mod released;
mod respawns;
mod rights;
mod rubbish;
mod scarcity;
mod seeds;
mod shared;
mod sizes;
mod staff;
mod start;
mod streams;
mod tasks;
mod waiting;
mod words;

use nix::sys::signal::Signal;
use proc_core::{Error, ErrorKind, Pool, StartMethod};

/// A scenario, with what the command line says.
type Scenario = fn(&Arguments);

/// What a scenario is told.
struct Arguments {
    context: StartMethod,
    rest: Vec<String>,
}

impl Arguments {
    /// The argument after the context, if it can be read.
    fn number(&self) -> usize {
        self.word().parse().expect("a number comes after the context")
    }

    fn word(&self) -> &str {
        self.rest.first().expect("a word comes after the context")
    }

    /// A pool of so many workers.
    fn pool(&self, processes: usize) -> Pool {
        Pool::builder()
            .processes(processes)
            .start_method(self.context)
            .build()
            .expect("the pool can be built")
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next();
    if name.is_some() {
        // Nothing is left behind where the test itself is killed. Children do not inherit it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("Linux can");
    }
    // A program that is executed again by StartMethod::Spawn sees no arguments, so it ends up here
    // too.
    match name.as_deref() {
        Some(name) if start::is_without_init(name) || closed::is_without_init(name) => {}
        _ => proc_core::init(),
    }
    let name = name.expect("a scenario is named");
    let context = match arguments.next().as_deref() {
        Some("forkserver") => StartMethod::Forkserver,
        Some("spawn") => StartMethod::Spawn,
        Some("fork") => StartMethod::Fork,
        other => panic!("no context: {other:?}"),
    };
    let lists = [
        aborts::SCENARIOS,
        calls::SCENARIOS,
        closed::SCENARIOS,
        copies::SCENARIOS,
        data::SCENARIOS,
        descriptors::SCENARIOS,
        ending::SCENARIOS,
        failures::SCENARIOS,
        forking::SCENARIOS,
        halted::SCENARIOS,
        hardships::SCENARIOS,
        hooks::SCENARIOS,
        kills::SCENARIOS,
        life::SCENARIOS,
        limits::SCENARIOS,
        many_ends::SCENARIOS,
        nesting::SCENARIOS,
        outliving::SCENARIOS,
        output::SCENARIOS,
        preload::SCENARIOS,
        processes::SCENARIOS,
        released::SCENARIOS,
        respawns::SCENARIOS,
        rights::SCENARIOS,
        rubbish::SCENARIOS,
        scarcity::SCENARIOS,
        seeds::SCENARIOS,
        shared::SCENARIOS,
        sizes::SCENARIOS,
        staff::SCENARIOS,
        start::SCENARIOS,
        streams::SCENARIOS,
        tasks::SCENARIOS,
        waiting::SCENARIOS,
        words::SCENARIOS,
    ];
    let (_, scenario) = lists
        .into_iter()
        .flatten()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no scenario {name:?}"));
    scenario(&Arguments { context, rest: arguments.collect() });
}

/// An error as one line: its kind, what it carries, and its text with those of its causes.
fn describe(error: &Error) -> String {
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

/// The kind of an error, in a word.
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
        ErrorKind::Invalid => "invalid",
        other => panic!("no process gives {other:?}"),
    }
}

/// Prints the fate of each task in turn.
fn print_fates<R: std::fmt::Debug>(results: impl IntoIterator<Item = Result<R, Error>>) {
    for (task, result) in results.into_iter().enumerate() {
        match result {
            Ok(value) => println!("{task}: {value:?}"),
            Err(error) => println!("{task}: {}", describe(&error)),
        }
    }
}

/// Never returns; the work of a task that is to be found busy.
///
/// Not of type `!`, which is no value that could cross.
fn work_for_ever() {
    loop {
        nix::unistd::pause();
    }
}

/// Sends a signal to the calling process; returns if that survives it.
fn signal_self(signal: Signal) {
    nix::sys::signal::kill(nix::unistd::getpid(), signal).expect("it may signal itself");
}
