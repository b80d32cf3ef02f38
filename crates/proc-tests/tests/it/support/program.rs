//! Programs: functions that tests run in processes of their own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use proc_core::{Pool, PoolBuilder, StartMethod};

use crate::support::procfs::{SignalSets, bit};
use crate::support::{Finished, Running};

/// The function that a test runs in a process. It prints what it sees, in an order that does not
/// depend on time, and the test says what is right. A program that cannot go on panics.
pub(crate) type Program = fn(&Arguments);

/// The first argument if this test program is executed to run a program. No test filter begins
/// like that.
pub(crate) const MARKER: &str = "--program";

/// A program in the list of its file.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// Whether [`proc_core::init`] is called before the program. The others call it themselves, or
    /// never.
    pub(crate) is_initialized: bool,
}

/// Lists the programs of a file, so that they are found by name.
///
/// `programs![first, second, #[without_init] third];`
macro_rules! programs {
    ($($(#[$without_init:ident])? $program:ident),+ $(,)?) => {
        pub(crate) const PROGRAMS: &[$crate::support::Entry] = &[$($crate::support::Entry {
            name: concat!(module_path!(), "::", stringify!($program)),
            program: $program,
            is_initialized: programs!(@is_initialized $($without_init)?),
        }),+];
    };
    (@is_initialized) => { true };
    (@is_initialized without_init) => { false };
}

/// The arguments of a program.
pub(crate) struct Arguments {
    pub(crate) start_method: StartMethod,
    pub(crate) rest: Vec<String>,
}

impl Arguments {
    /// The argument after the start method, which must be a number.
    pub(crate) fn number(&self) -> usize {
        self.word().parse().expect("a number comes after the start method")
    }

    /// The argument after the start method.
    pub(crate) fn word(&self) -> &str {
        self.rest.first().expect("a word comes after the start method")
    }

    /// Builds a pool with this number of workers.
    pub(crate) fn pool(&self, processes: usize) -> Pool {
        self.pool_builder(processes).build().expect("the pool can be built")
    }

    pub(crate) fn pool_builder(&self, processes: usize) -> PoolBuilder {
        Pool::builder().processes(processes).start_method(self.start_method)
    }
}

/// The start method as an argument.
pub(crate) fn word(start_method: StartMethod) -> &'static str {
    match start_method {
        StartMethod::Forkserver => "forkserver",
        StartMethod::Spawn => "spawn",
        StartMethod::Fork => "fork",
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    crate::PROGRAMS.iter().copied().flatten()
}

/// The entry of a program.
///
/// A linker may merge two functions with the same code. Then either entry is right.
fn entry(program: Program) -> &'static Entry {
    let mut entries = entries();
    let found = entries.find(|entry| std::ptr::fn_addr_eq(entry.program, program));
    found.expect("`programs!` of its file lists the program, and main.rs lists the file")
}

/// Runs the program that the arguments after [`MARKER`] name.
pub(crate) fn be_program(mut arguments: impl Iterator<Item = String>) {
    // If the test is killed, the kernel kills this program. Children do not inherit that.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("Linux can");
    let name = arguments.next().expect("a program is named");
    let entry = entries().find(|entry| entry.name == name);
    let entry = entry.unwrap_or_else(|| panic!("no program {name:?}"));
    if entry.is_initialized {
        proc_core::init();
    }
    let start_method = match arguments.next().as_deref() {
        Some("forkserver") => StartMethod::Forkserver,
        Some("spawn") => StartMethod::Spawn,
        Some("fork") => StartMethod::Fork,
        other => panic!("no start method: {other:?}"),
    };
    (entry.program)(&Arguments { start_method, rest: arguments.collect() });
}

/// Runs a program, and waits for its end.
pub(crate) fn run(program: Program, start_method: StartMethod, rest: &[&str]) -> Finished {
    start(program, start_method, rest).finish()
}

/// Starts a program.
pub(crate) fn start(program: Program, start_method: StartMethod, rest: &[&str]) -> Running {
    let mut command = command(program, start_method);
    command.args(rest);
    Running::start(command)
}

/// The command that runs a program, in a clean environment.
pub(crate) fn command(program: Program, start_method: StartMethod) -> Command {
    let mut command = if a_signal_is_ignored() {
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,QUIT,TERM").arg(own_file());
        command
    } else {
        Command::new(own_file())
    };
    command.args(own_arguments(program, start_method));
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command.stdout(Stdio::piped());
    command
}

/// Starts a program through `env` with an option.
pub(crate) fn start_through_env(
    option: &str,
    program: Program,
    start_method: StartMethod,
) -> Running {
    let mut command = Command::new("env");
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command.arg(option).arg(own_file()).args(own_arguments(program, start_method));
    command.stdout(Stdio::piped());
    Running::start(command)
}

/// The file of this test program.
pub(crate) fn own_file() -> PathBuf {
    std::env::current_exe().expect("/proc is mounted")
}

/// The arguments with which this file runs a program.
pub(crate) fn own_arguments(program: Program, start_method: StartMethod) -> [&'static str; 3] {
    [MARKER, entry(program).name, word(start_method)]
}

/// The name of a program for the kernel: the first 15 bytes of the name of this file.
pub(crate) fn program_name() -> String {
    let name = own_file().file_name().expect("it is a file").to_string_lossy().into_owned();
    name[..name.len().min(15)].to_owned()
}

/// Whether a signal that tests send is ignored, as in a background job of a shell and under nohup.
/// A program would inherit that.
fn a_signal_is_ignored() -> bool {
    let ignored = SignalSets::of_process("self").ignored;
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]
        .iter()
        .any(|signal| ignored & bit(*signal) != 0)
}
