//! Ends this process in order: tells its daemons to end, waits for its other children, and reaps
//! its fork servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::registry::{self, ChildForkServer};
use super::{ServerLink, lifeline};
use crate::sys::{self, PerProcess};

/// How long a program that ends waits for the end of its fork servers.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Function that ends idle workers.
static END_IDLE_WORKERS: OnceLock<fn()> = OnceLock::new();

/// Registers the function that is called at the end of this process, while its fork servers still
/// serve. Workers that are left after the call are killed.
pub(crate) fn register_end_of_workers(end_idle_workers: fn()) {
    let _ = END_IDLE_WORKERS.set(end_idle_workers); // all callers give the same function
}

/// Ends the idle workers of this process in order, if a function for that was registered.
pub(crate) fn end_idle_workers() {
    if let Some(end) = END_IDLE_WORKERS.get() {
        end();
    }
}

/// Registers the exit handler that ends this process in order. It runs when `main` returns or
/// `exit` is called.
pub(crate) fn register_cleanup() {
    static IS_REGISTERED: PerProcess<AtomicBool> = PerProcess::new();
    if !IS_REGISTERED.get().swap(true, Ordering::Relaxed) {
        sys::register_exit_handler(clean_up);
    }
}

/// The exit handler: ends the children that are left, and reaps the fork servers. A fork server
/// that is not reaped here stays as a zombie if the first process of the system does not reap.
extern "C" fn clean_up() {
    lifeline::end_children_in_exit_handler();
    if END_IDLE_WORKERS.get().is_some() {
        lifeline::call_in_exit_handler(end_idle_workers);
    }
    let end_timeout = sys::time_to_end(END_TIMEOUT);
    let deadline = Instant::now() + end_timeout;
    // Other threads go on running while this one ends the program, and one of them may hold the
    // lock for long.
    let Some(children) = registry::close(deadline) else { return };
    end_fork_servers(children, deadline);
    // Another thread may be making a fork server. It makes no other after this one.
    while registry::is_making() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    if let Some(children) = registry::close(Instant::now()) {
        end_fork_servers(children, deadline);
    }
}

fn end_fork_servers(fork_servers: Vec<ChildForkServer>, deadline: Instant) {
    let links = fork_servers.iter().filter_map(|fork_server| fork_server.server_link.as_ref());
    // Do not let a fork server that is stopped keep the order from the others.
    let is_unordered = |link: &&Arc<ServerLink>| link.order_end(Instant::now()).is_err();
    let unordered: Vec<_> = links.filter(is_unordered).collect();
    for link in unordered {
        let _ = link.order_end(deadline);
    }
    for ChildForkServer { pid, .. } in fork_servers {
        // If the program itself has reaped it, another process may have its pid by now.
        if sys::reap_until(pid, deadline).is_none() && sys::is_child(pid) {
            sys::signal_child(pid, Signal::SIGKILL);
            sys::reap_until(pid, Instant::now() + END_TIMEOUT);
        }
    }
}
