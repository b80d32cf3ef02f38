//! What the tests and their programs have in common.
//!
//! A test runs a *program* in a process group of its own. The program is a function beside the
//! test. To run it, the test executes this test program again, with the name of the function.

#[macro_use]
mod program;
#[macro_use]
mod trial;

pub(crate) mod cargo;
pub(crate) mod closed_streams;
pub(crate) mod descriptors;
pub(crate) mod fork;
#[path = "../../../../../tests/support/machine.rs"]
pub(crate) mod machine;
pub(crate) mod marker_files;
pub(crate) mod odd_value;
pub(crate) mod procfs;
pub(crate) mod raw;
mod report;
mod running;
mod snapshot;
pub(crate) mod terminal;
pub(crate) mod users;

use std::time::Duration;

use nix::sys::signal::Signal;
use proc_core::{Child, Process, StartMethod};

pub(crate) use program::{
    Arguments, Entry, MARKER, Program, be_program, command, own_arguments, own_file, program_name,
    run, start, start_through_env, word,
};
pub(crate) use report::{assert_fine_or_contains, describe, print_result, print_results};
pub(crate) use running::{Finished, Member, Running};
pub(crate) use snapshot::assert_snapshot;
pub(crate) use trial::trial;

/// The time limit, on a busy machine, of what takes less than a second on an idle one.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Never returns, so a task that calls it is always busy.
///
/// The result type is not `!`, because `!` cannot cross between processes.
pub(crate) fn work_forever() {
    loop {
        nix::unistd::pause();
    }
}

/// Sends a signal to the calling process. Returns if the process survives that.
pub(crate) fn signal_self(signal: Signal) {
    nix::sys::signal::kill(nix::unistd::getpid(), signal).expect("a process may signal itself");
}

/// Polls until a condition is true, or until the deadline of the test.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets the library drop what it has for processes that have ended. With `Fork`, each process has a
/// fork server of its own. The library reaps those that have ended when it next starts a process.
pub(crate) fn settle(start_method: StartMethod) {
    if start_method == StartMethod::Fork {
        // The fork server that `init` has made goes on.
        let running = || procfs::children().into_iter().filter(|pid| procfs::is_running(*pid));
        wait_until(|| running().count() == 1);
        let process = Process::new(|()| (), ()).start_method(StartMethod::Forkserver);
        process.start().and_then(Child::join).expect("it returns");
    }
}
