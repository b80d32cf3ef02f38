//! Takes the locks of a queue.

use std::io;
use std::time::Duration;

use crate::error::Error;
use crate::sync::raw_lock::{Acquired, Locker, Patience, RawLock};

/// Makes the error of a queue that has no room, memory or address space.
pub(super) fn no_room(error: io::Error) -> Error {
    Error::make("room for an item of a queue or a pipe", error)
}

/// How long `try_get` and `try_put` wait for the lock, which others hold while they copy an item.
/// (Nobody holds it for so long, unless it is stopped, gets no processor, or copies gigabytes.)
const COPY_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes a lock of a queue, and calls `repair` if a process died while it had the lock. Returns
/// `None` if another thread has the lock for longer than `patience`.
///
/// # Errors
///
/// `repair` has failed. The lock stays abandoned, so another process can repair what it protects.
pub(super) fn locked<R>(
    lock: &RawLock,
    me: Locker,
    patience: Patience,
    repair: impl FnOnce() -> io::Result<()>,
    work: impl FnOnce() -> R,
) -> Result<Option<R>, Error> {
    // The thread does not have this lock, since no code of the user runs while it has.
    let mut acquired = lock.lock(me, patience);
    if acquired.is_err() && matches!(patience, Patience::None) {
        acquired = lock.lock(me, Patience::at_most(COPY_TIMEOUT));
    }
    let Ok(acquired) = acquired else { return Ok(None) };
    if acquired != Acquired::Clean
        && let Err(error) = repair()
    {
        lock.unlock_abandoned(me);
        return Err(no_room(error));
    }
    let result = work();
    lock.unlock(me);
    Ok(Some(result))
}
