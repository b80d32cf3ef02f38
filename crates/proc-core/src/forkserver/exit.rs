//! The end of this process, in order: its daemons are told to end, its other children are waited for,
//! and its fork servers are collected.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::known::{self, Known};
use super::lifeline;
use crate::sys::{self, PerProcess};

/// How long the end of a program waits for the end of its fork servers.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Has this process end in order: what is left when `main` returns, or `exit` is called, is seen
/// to.
pub(crate) fn tidy_at_exit() {
    static IS_REGISTERED: PerProcess<AtomicBool> = PerProcess::new();
    if !IS_REGISTERED.get().swap(true, Ordering::Relaxed) {
        sys::at_exit(end_at_exit);
    }
}

/// Runs when `main` has returned or somebody has called `exit`: ends what is left, and collects the
/// fork servers, which would else stay as zombies where the first process of the system does not
/// reap.
extern "C" fn end_at_exit() {
    lifeline::end_at_exit();
    let deadline = Instant::now() + END_TIMEOUT;
    // Another thread may hold the lock for long, and goes on while this one ends the program.
    let Some(children) = known::end(deadline) else { return };
    end_fork_servers(children, deadline);
    // A thread may have been making one meanwhile; it makes no other.
    while known::is_making() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    if let Some(children) = known::end(Instant::now()) {
        end_fork_servers(children, deadline);
    }
}

fn end_fork_servers(fork_servers: Vec<Known>, deadline: Instant) {
    for line in fork_servers.iter().filter_map(|known| known.line.as_ref()) {
        let _ = line.order_end();
    }
    for known in fork_servers {
        if sys::reap_until(known.pid, deadline).is_none() {
            sys::signal_child(known.pid, Signal::SIGKILL);
            sys::reap_until(known.pid, Instant::now() + END_TIMEOUT);
        }
    }
}
