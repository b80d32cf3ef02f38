//! Ends this process in order: tells its daemons to end, waits for its other children, and reaps
//! its fork servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::known::{self, Known};
use super::lifeline;
use crate::sys::{self, PerProcess};

/// How long a program that ends waits for the end of its fork servers.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Registers the orderly end of this process, which runs when `main` returns or `exit` is called.
pub(crate) fn tidy_at_exit() {
    static IS_REGISTERED: PerProcess<AtomicBool> = PerProcess::new();
    if !IS_REGISTERED.get().swap(true, Ordering::Relaxed) {
        sys::at_exit(end_at_exit);
    }
}

/// Ends the children that are left, and reaps the fork servers. Runs when `main` has returned or
/// somebody has called `exit`. A fork server that is not reaped stays as a zombie if the first
/// process of the system does not reap.
extern "C" fn end_at_exit() {
    lifeline::end_at_exit();
    let deadline = Instant::now() + END_TIMEOUT;
    // Another thread may hold the lock for long: that thread goes on while this one ends the
    // program.
    let Some(children) = known::end(deadline) else { return };
    end_fork_servers(children, deadline);
    // Another thread may have been making a fork server meanwhile. It makes no more after that.
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
        // Somebody else may have collected it: then its pid may be another process's.
        if sys::reap_until(known.pid, deadline).is_none() && sys::is_child(known.pid) {
            sys::signal_child(known.pid, Signal::SIGKILL);
            sys::reap_until(known.pid, Instant::now() + END_TIMEOUT);
        }
    }
}
