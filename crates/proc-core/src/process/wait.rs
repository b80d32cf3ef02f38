//! Waiting for whichever of several children ends first: [`Sentinel`] and [`wait`].

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::outcome::Outcome;
use crate::sys;

/// How often a look is taken where no descriptor tells that a process has ended, and how long its
/// fork server's word is waited for where one does.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long is waited at most before every child is looked at, whatever its descriptor says: it is
/// opened by pid, and a child that ended before may have left that to another process.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Tells whether a process has ended, apart from its [`Child`](crate::Child); for [`wait`].
#[derive(Clone, Debug)]
pub struct Sentinel {
    outcome: Arc<Outcome>,
    /// The process that has started it.
    owner: u32,
    /// Readable when the process has ended, where the system has that.
    end: Option<Arc<OwnedFd>>,
}

impl Sentinel {
    pub(crate) fn new(outcome: &Arc<Outcome>, pid: u32, owner: u32) -> Sentinel {
        Sentinel { outcome: Arc::clone(outcome), owner, end: sys::watch_process(pid).map(Arc::new) }
    }
}

/// Waits until at least one of the processes has ended, for ever or for `timeout`.
///
/// Gives the places in `sentinels` of all that have ended, in order: none when the time is over, or
/// there is nothing to wait for, as in a copy of the process that has started them. A child among
/// them can be joined without waiting.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// # use std::time::Duration;
/// use proc_core::Process;
///
/// let quick = Process::new(|x: u32| x + 1, 41).start()?;
/// let slow = Process::new(|()| std::thread::sleep(Duration::from_secs(60)), ()).start()?;
///
/// let sentinels = [slow.sentinel(), quick.sentinel()];
/// assert_eq!(proc_core::wait(&sentinels, None), [1]);
/// assert_eq!(quick.join()?, 42);
/// slow.kill()?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "multiprocessing.connection.wait")]
pub fn wait(sentinels: &[Sentinel], timeout: Option<Duration>) -> Vec<usize> {
    if sentinels.iter().any(|sentinel| sentinel.owner != sys::pid()) {
        return Vec::new();
    }
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let ends: Vec<_> =
        sentinels.iter().filter_map(|s| Some((s, s.end.as_ref()?.as_fd()))).collect();
    let fds: Vec<_> = ends.iter().map(|(_, fd)| *fd).collect();
    let longest = if fds.len() == sentinels.len() { RECHECK_INTERVAL } else { POLL_INTERVAL };
    loop {
        let has_ended = |(_, sentinel): &(usize, &Sentinel)| sentinel.outcome.has_ended();
        let ended: Vec<usize> =
            sentinels.iter().enumerate().filter(has_ended).map(|(place, _)| place).collect();
        let now = Instant::now();
        if !ended.is_empty() || sentinels.is_empty() || deadline.is_some_and(|d| d <= now) {
            return ended;
        }
        let left = deadline.map_or(longest, |d| (d - now).min(longest));
        let Ok(ready) = sys::wait_readable(&fds, Some(left)) else { continue };
        for ((sentinel, _), _) in ends.iter().zip(ready).filter(|(_, ready)| *ready) {
            sentinel.outcome.wait_for_end(Instant::now() + POLL_INTERVAL);
        }
    }
}
