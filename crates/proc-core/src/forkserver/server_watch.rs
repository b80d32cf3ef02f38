//! Notices that a fork server has ended, and kills what it has left behind.
//!
//! The children of a fork server end with it, because they ask the kernel for that in their first
//! step. A child that somebody stops before this step stays, and it still has copies of all
//! channels of its fork server. Whoever waits for a report would then wait until somebody continues
//! the child. So whoever waits for a report also waits for the end of the fork server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys;

/// Name of a fork server, and of its child until the child takes a name of its own.
pub(super) const FORK_SERVER_NAME: &str = "forkserver";

/// How long the children of a fork server may take to end with it, before they are looked for.
pub(super) const ORPHAN_PATIENCE: Duration = Duration::from_millis(100);

/// How often the children that are left are looked for. A look reads `/proc`.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// Watches a fork server, for the process that has made it or asked for it.
#[derive(Debug)]
pub(super) struct ServerWatch {
    /// Readable when the fork server has ended.
    end: OwnedFd,
    /// The inode of its listener. Besides the fork server, only a new child has the listener, until
    /// its first step.
    listener: u64,
    last_search: Mutex<Option<Instant>>,
}

impl ServerWatch {
    /// Watches the fork server `pid`, whose listener has this inode. Returns `None` if the system
    /// has no descriptors for the ends of processes.
    pub(super) fn new(pid: u32, listener: io::Result<u64>) -> Option<Arc<ServerWatch>> {
        let (end, listener) = (sys::watch_process(pid)?, listener.ok()?);
        Some(Arc::new(ServerWatch { end, listener, last_search: Mutex::default() }))
    }

    /// Returns the descriptor that is readable when the fork server has ended.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Kills the children that the fork server has left behind, if it has ended.
    pub(super) fn kill_orphans(&self) {
        let has_ended = sys::wait_readable(&[self.end()], Some(Duration::ZERO));
        let mut last_search = self.last_search.lock().unwrap_or_else(PoisonError::into_inner);
        if has_ended.is_ok_and(|ready| ready[0])
            && last_search.is_none_or(|last| last.elapsed() >= SEARCH_INTERVAL)
        {
            sys::kill_holders_of_socket(self.listener, FORK_SERVER_NAME);
            *last_search = Some(Instant::now());
        }
    }
}
