//! Leases of items: an item goes back to the queue unless its process has said that it is done.

use std::fmt::{self, Debug};
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::item::copied;
use super::items::{CopyOut, MAX_LEASES, RETURNED};
use super::locked::{locked, no_room};
use super::shared::SharedQueue;
use crate::error::Error;
use crate::memory::ProcessId;
use crate::sync::raw_lock::{Locker, Patience};
use crate::wire::Message;

/// Item that was [leased](super::Queue::lease). It goes back to the front of the queue when this
/// value is dropped, or when its process dies, unless [`done`](Leased::done) was called.
///
/// See the example of [`Queue::lease`](super::Queue::lease).
#[must_use = "the item goes back to the queue when this is dropped"]
pub struct Leased<T> {
    item: T,
    was_returned: bool,
    held: Held,
}

/// Lease that this process has.
struct Held {
    queue: Arc<SharedQueue>,
    index: usize,
    me: Locker,
    is_done: bool,
}

impl SharedQueue {
    /// Leases the first item. Returns the index of the lease, and whether the item was leased
    /// before.
    fn lease_now(
        &self,
        copy: &mut CopyOut<'_>,
        me: Locker,
        patience: Patience,
    ) -> Result<Option<(usize, bool)>, Error> {
        let (items, owner) = (&self.items, me.process.get());
        let lease = || {
            self.give_back_leases_of_the_dead(me);
            if let Some(index) = self.take_returned(copy, Some(owner)).map_err(no_room)? {
                return Ok(Some((index, true)));
            }
            let is_free = |index: &usize| items.leases()[*index].owner.load(Ordering::Relaxed) == 0;
            let Some(index) = (0..MAX_LEASES).find(is_free) else {
                return Err(Error::invalid(format!(
                    "{MAX_LEASES} items are leased: say done() for some first"
                )));
            };
            let is_taken = items.take_leased(index, owner, copy).map_err(no_room)?;
            Ok(is_taken.then_some((index, false)))
        };
        let head = items.head();
        let leased = locked(&head.lock, me, patience, || items.repair_head(), lease);
        let leased = leased?.transpose()?.flatten();
        if leased.is_some() {
            self.after_taking(1);
        }
        Ok(leased)
    }

    /// Takes an item that was leased before and came back: for `owner`, or for good. Returns the
    /// index of its lease. The caller has the head's lock.
    pub(super) fn take_returned(
        &self,
        copy: &mut CopyOut<'_>,
        owner: Option<u32>,
    ) -> io::Result<Option<usize>> {
        let (items, head) = (&self.items, self.items.head());
        if head.returned.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let is_back =
            |index: &usize| items.leases()[*index].owner.load(Ordering::Relaxed) == RETURNED;
        let Some(index) = (0..MAX_LEASES).filter(is_back).min_by_key(|i| items.number(*i)) else {
            head.returned.store(0, Ordering::Relaxed);
            return Ok(None);
        };
        items.copy_leased(index, copy)?;
        match owner {
            Some(owner) => items.leases()[index].owner.store(owner, Ordering::Relaxed),
            None => items.end_lease(index),
        }
        let returned = head.returned.load(Ordering::Relaxed);
        head.returned.store(returned.saturating_sub(1), Ordering::Relaxed);
        Ok(Some(index))
    }

    /// Gives the items back that were leased by processes which have died. Looks for such leases
    /// only if any process has died since this one looked last, or if all items were taken. The
    /// caller has the head's lock.
    pub(super) fn give_back_leases_of_the_dead(&self, me: Locker) {
        if self.items.head().leases.load(Ordering::Relaxed) == 0 {
            return;
        }
        let deaths = self.family.deaths();
        let seen = self.deaths_seen.load(Ordering::Relaxed);
        let is_empty = self.items.len() == 0;
        if seen == deaths && !is_empty {
            return;
        }
        for lease in self.items.leases() {
            let owner = lease.owner.load(Ordering::Relaxed);
            let is_dead = |id| owner != RETURNED && !me.family.is_alive(id);
            if ProcessId::of(owner).is_some_and(is_dead) {
                self.give_back(lease);
            }
        }
        self.deaths_seen.store(deaths, Ordering::Relaxed);
    }

    fn give_back(&self, lease: &super::items::LeaseWords) {
        lease.owner.store(RETURNED, Ordering::Relaxed);
        let returned = &self.items.head().returned;
        returned.store(returned.load(Ordering::Relaxed) + 1, Ordering::SeqCst);
    }
}

impl<T: Message> Leased<T> {
    /// Leases the first item of a queue. Returns `None` if there is none when `patience` is over.
    pub(super) fn take(
        queue: &Arc<SharedQueue>,
        patience: Patience,
    ) -> Result<Option<Leased<T>>, Error> {
        let me = Locker::current(queue.family)?;
        let lease = |copy: &mut CopyOut<'_>| {
            queue.wait_for_item(patience, || queue.lease_now(copy, me, patience))
        };
        let (Some((index, was_returned)), Some(item)) = copied(lease)? else { return Ok(None) };
        // If it cannot be decoded, it goes back.
        let held = Held { queue: Arc::clone(queue), index, me, is_done: false };
        Ok(Some(Leased { item: item?, was_returned, held }))
    }
}

impl<T> Leased<T> {
    /// Whether the item was leased before, by a process that died or did not say that it is done.
    ///
    /// See the example of [`Queue::lease`](super::Queue::lease).
    pub fn was_returned(&self) -> bool {
        self.was_returned
    }

    /// Says that the item is done. It does not go back. Returns the item.
    ///
    /// See the example of [`Queue::lease`](super::Queue::lease).
    pub fn done(mut self) -> T {
        self.held.is_done = true;
        self.item
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A copy of the process must not give back what its original has.
        if !self.me.is_this_process() {
            return;
        }
        // It may be dropped in another thread than the one that has leased it.
        let Ok(me) = Locker::current(self.queue.family) else { return };
        let items = &self.queue.items;
        let end = || match self.is_done {
            true => items.end_lease(self.index),
            false => self.queue.give_back(&items.leases()[self.index]),
        };
        let head = items.head();
        // If this process cannot repair the head, the lock stays abandoned, and the next holder
        // counts the leases anew.
        let repair = || {
            items.repair_head().inspect_err(|_| {
                let owner = if self.is_done { 0 } else { RETURNED };
                items.leases()[self.index].owner.store(owner, Ordering::Release);
            })
        };
        let _ = locked(&head.lock, me, Patience::Endless, repair, end);
        match self.is_done {
            true => self.queue.words().joiners.wake(u32::MAX),
            false => self.queue.words().getters.wake(1),
        }
    }
}

impl<T> Deref for Leased<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> DerefMut for Leased<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<T: Debug> Debug for Leased<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leased").field(&self.item).finish()
    }
}
