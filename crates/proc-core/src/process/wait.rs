//! Waits for whichever of several children ends first: [`Sentinel`] and [`wait`].

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::outcome::Outcome;
use crate::sys;

/// How often children are checked if they have no descriptors that tell of their end. This is also
/// how long `wait` waits for the fork server's report after a descriptor has become readable.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Longest wait before every child is checked, whatever its descriptor says. A descriptor is opened
/// by pid, so it may belong to another process if the child had ended before.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Sentinel of a process: tells [`wait`] whether the process has ended, separately from its
/// [`Child`](crate::Child).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use proc_core::Process;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let child = Process::new(|x: u32| x + 1, 41).start()?;
///     let sentinel = child.sentinel();
///     assert_eq!(child.join()?, 42);
///     assert_eq!(proc_core::wait(&[sentinel], Some(Duration::ZERO)), [0]); // it has ended
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Sentinel {
    outcome: Arc<Outcome>,
    /// Pid of the process that started the child.
    owner: u32,
    /// Readable when the process has ended; `None` if the system has no such descriptor.
    end: Option<Arc<OwnedFd>>,
}

impl Sentinel {
    pub(crate) fn new(outcome: &Arc<Outcome>, pid: u32, owner: u32) -> Sentinel {
        Sentinel { outcome: Arc::clone(outcome), owner, end: sys::watch_process(pid).map(Arc::new) }
    }
}

/// Waits until at least one of the processes has ended, but for at most `timeout` if that is given.
///
/// Returns the indices in `sentinels` of all processes that have ended, in ascending order. A child
/// among them can be joined without waiting. The result is empty if `timeout` has passed, if
/// `sentinels` is empty, or if this process is a copy of the one that started the processes.
///
/// # Examples
///
/// ```
/// use proc_core::Process;
///
/// fn never(_: ()) {
///     loop {
///         std::thread::park();
///     }
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let quick = Process::new(|x: u32| x + 1, 41).start()?;
///     let slow = Process::new(never, ()).start()?;
///     let sentinels = [slow.sentinel(), quick.sentinel()];
///     assert_eq!(proc_core::wait(&sentinels, None), [1]); // `quick` has ended
///     assert_eq!(quick.join()?, 42);
///     slow.kill()?;
///     Ok(())
/// }
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
            sentinels.iter().enumerate().filter(has_ended).map(|(index, _)| index).collect();
        let now = Instant::now();
        if !ended.is_empty() || sentinels.is_empty() || deadline.is_some_and(|d| d <= now) {
            return ended;
        }
        let left = deadline.map_or(longest, |d| (d - now).min(longest));
        let Ok(ready) = sys::wait_readable(&fds, Some(left)) else {
            // For example, there are more descriptors than the process may have by now.
            std::thread::sleep(left.min(POLL_INTERVAL));
            continue;
        };
        for ((sentinel, _), _) in ends.iter().zip(ready).filter(|(_, ready)| *ready) {
            sentinel.outcome.wait_for_end(Instant::now() + POLL_INTERVAL);
        }
    }
}
