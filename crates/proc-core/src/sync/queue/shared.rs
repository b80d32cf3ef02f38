//! A queue of bytes in shared memory, without the type of its items: waits, wakes, and is sent.
//!
//! Each process that has the queue, and each message that carries it, has its own open file
//! description of the queue's memory, with a read lock on it (`F_OFD_SETLK`). The kernel drops the
//! lock with the last descriptor. So a process that waits in vain can ask the kernel whether
//! anybody else has the queue, also a message that is still on its way.

use std::sync::atomic::{AtomicU32 as OwnAtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::items::{CopyOut, Items};
use super::locked::{locked, no_room};
use crate::error::Error;
use crate::memory::atomics::AtomicU32;
use crate::memory::{Descriptor, Family, SparseMemory, Spin, now, shared_struct};
use crate::sync::raw_lock::{Locker, Patience};
use crate::sync::sleepers::Sleepers;
use crate::sys::{self, PerProcess};
use crate::wire;

shared_struct! {
    /// The words of a queue besides its items.
    #[derive(Debug)]
    pub(super) struct QueueWords {
        /// The most items; 0 if there is no bound.
        bound: AtomicU32,
        /// Those that wait for an item.
        pub(super) getters: Sleepers,
        /// Those that wait for room.
        putters: Sleepers,
        /// Those that wait until all items are done.
        pub(super) joiners: Sleepers,
        /// 1 if the queue is one direction of a pipe.
        pub(super) is_direction: AtomicU32,
        /// The process at the end that sends, if it is a direction of a pipe.
        pub(super) sender: AtomicU32,
        /// The process at the end that receives.
        pub(super) receiver: AtomicU32,
        /// How often a process has given the queue up. (The family counts those that have ended.)
        departures: AtomicU32,
    }
}

/// Offset of [`QueueWords`] in the memory.
const WORDS: u64 = 256;

/// A queue, as this process has it.
#[derive(Debug)]
pub(super) struct SharedQueue {
    pub(super) items: Items,
    pub(super) family: &'static Family,
    id: u64,
    /// Pid of the process that made or received this value, and its count of forks then.
    made: (u32, u64),
    /// Number of ends of a pipe in this process that have this queue.
    pub(super) ends: OwnAtomicU32,
    /// Count of deaths when this process last looked for leases of dead processes. In a direction
    /// of a pipe: when it last looked for the other end.
    pub(super) deaths_seen: OwnAtomicU32,
    /// Of threads that wait for an item.
    spin_for_item: Spin,
    /// Of threads that wait for room.
    spin_for_room: Spin,
    /// What [`SharedQueue::changes`] was when the answer of [`SharedQueue::is_alone`] was no.
    others_seen: AtomicU64,
}

/// Queues that this process has, by number.
static QUEUES: PerProcess<Mutex<FxHashMap<u64, Weak<SharedQueue>>>> = PerProcess::new();

fn queues() -> MutexGuard<'static, FxHashMap<u64, Weak<SharedQueue>>> {
    QUEUES.get().lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedQueue {
    pub(super) fn new(bound: u32) -> Result<Arc<SharedQueue>, Error> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let make = || {
            let family = Family::get()?;
            // A process makes fewer than 2^32 queues, and no other process has its number.
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX);
            let id = u64::from(family.own_id()?.get()) << 32 | serial;
            let items = Items::new()?;
            let _ = sys::share_file(items.memory.fd());
            Ok(SharedQueue::keep(items, family, id))
        };
        let queue: Arc<SharedQueue> = make().map_err(|error| Error::make("a queue", error))?;
        let words: &QueueWords = queue.words();
        words.bound.store(bound, Ordering::Relaxed);
        Ok(queue)
    }

    fn keep(items: Items, family: &'static Family, id: u64) -> Arc<SharedQueue> {
        let made = (sys::pid(), sys::count_of_forks());
        // Processes may have died with leases before this process had the queue.
        let deaths_seen = OwnAtomicU32::new(family.deaths().wrapping_sub(1));
        let queue = Arc::new(SharedQueue {
            items,
            family,
            id,
            made,
            ends: OwnAtomicU32::new(0),
            deaths_seen,
            spin_for_item: Spin::default(),
            spin_for_room: Spin::default(),
            others_seen: AtomicU64::new(u64::MAX),
        });
        let mut queues = queues();
        if queues.len() == queues.capacity() {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        queues.insert(id, Arc::downgrade(&queue));
        queue
    }

    pub(super) fn words(&self) -> &QueueWords {
        self.items.other(WORDS)
    }

    /// Adds as many of `pieces` as there is room for, and waits until there is room for one.
    /// Returns how many were added.
    pub(super) fn put(&self, pieces: &[&[u8]], patience: Patience) -> Result<usize, Error> {
        let me = Locker::current(self.family)?;
        if let Some(put) = self.put_now(pieces, me, patience)? {
            return Ok(put);
        }
        if let Patience::None = patience {
            return Ok(0);
        }
        let (begin, bound) = (now(), u64::from(self.words().bound.load(Ordering::Relaxed)));
        let may_put = || self.items.len() < bound || self.closed().is_some();
        if self.spin_for_room.until(begin, patience.deadline(), may_put)
            && let Some(put) = self.put_now(pieces, me, patience)?
        {
            return Ok(put);
        }
        let mut sleeper = self.words().putters.sleeper(self.family);
        let put = loop {
            sleeper.announce();
            if may_put()
                && let Some(put) = self.put_now(pieces, me, patience).transpose()
            {
                break put;
            }
            // Before a wait gives up, it asks the kernel who has the queue, also if it never slept.
            let is_over = patience.is_over();
            if let Err(gone) = self.check_other_end(sleeper.has_slept() || is_over) {
                break Err(gone);
            }
            if is_over {
                break Ok(0);
            }
            sleeper.sleep(patience.deadline());
        };
        if sleeper.has_slept() {
            self.spin_for_room.note_sleep(begin);
        }
        sleeper.leave(may_put);
        put
    }

    /// Adds as many of `pieces` as there is room for. Returns `None` if there is room for none.
    fn put_now(
        &self,
        pieces: &[&[u8]],
        me: Locker,
        patience: Patience,
    ) -> Result<Option<usize>, Error> {
        let (items, words) = (&self.items, self.words());
        let tail = items.tail();
        self.check_deaths()?;
        let append = || {
            if tail.closed.load(Ordering::SeqCst) != 0 {
                return Err(Error::ended("the queue was closed: nobody can put an item any more"));
            }
            let room = match words.bound.load(Ordering::Relaxed) {
                0 => pieces.len(),
                bound => items.room(bound.into(), pieces.len()),
            };
            items.append(&pieces[..room]).map_err(no_room)
        };
        let put = locked(&tail.lock, me, patience, || items.repair_tail(), append);
        match put?.transpose()?.unwrap_or(0) {
            0 => Ok(None),
            put => {
                words.getters.wake(put as u32);
                Ok(Some(put))
            }
        }
    }

    /// Takes up to `most` items, and waits until there is one. Returns how many.
    pub(super) fn get(
        &self,
        most: usize,
        patience: Patience,
        copy: &mut CopyOut<'_>,
    ) -> Result<usize, Error> {
        let me = Locker::current(self.family)?;
        let taken = self.wait_for_item(patience, || {
            self.take_now(most, copy, me, patience).map(|taken| (taken > 0).then_some(taken))
        });
        Ok(taken?.unwrap_or(0))
    }

    /// Waits until `take` returns something, or nobody can put an item any more.
    pub(super) fn wait_for_item<R>(
        &self,
        patience: Patience,
        mut take: impl FnMut() -> Result<Option<R>, Error>,
    ) -> Result<Option<R>, Error> {
        // A queue that is seen to be empty need not be locked.
        if self.items.may_have_one()
            && let Some(found) = take()?
        {
            return Ok(Some(found));
        }
        if let Patience::None = patience {
            return match self.closed() {
                Some(closed) => self.take_last(closed, patience, take),
                None => Ok(None),
            };
        }
        let begin = now();
        let is_there =
            || self.items.len() + u64::from(self.returned()) > 0 || self.closed().is_some();
        if self.spin_for_item.until(begin, patience.deadline(), is_there)
            && let Some(found) = take()?
        {
            return Ok(Some(found));
        }
        let mut sleeper = self.words().getters.sleeper(self.family);
        let found = loop {
            sleeper.announce();
            if self.items.may_have_one()
                && let Some(found) = take().transpose()
            {
                break found.map(Some);
            }
            // Before a wait gives up, it asks the kernel who has the queue, also if it never slept.
            let is_over = patience.is_over();
            if let Some(end) = self.end(sleeper.has_slept() || is_over) {
                break self.take_last(end, patience, take);
            }
            if is_over {
                break Ok(None);
            }
            sleeper.sleep(patience.deadline());
        };
        if sleeper.has_slept() {
            self.spin_for_item.note_sleep(begin);
        }
        // Whoever has closed the queue may have woken nobody: since this thread was woken for an
        // item, the others have slept without being announced (see `Sleepers`).
        sleeper.leave(is_there);
        found
    }

    /// Calls `take` when nobody can put an item any more. Returns `end` if there is none.
    fn take_last<R>(
        &self,
        end: Error,
        patience: Patience,
        mut take: impl FnMut() -> Result<Option<R>, Error>,
    ) -> Result<Option<R>, Error> {
        let (items, me) = (&self.items, Locker::current(self.family)?);
        // A producer that has the lock may have looked before the queue was closed.
        let have_all_put =
            locked(&items.tail().lock, me, patience, || items.repair_tail(), || ())?.is_some();
        match take()? {
            Some(found) => Ok(Some(found)),
            None if have_all_put && items.len() + u64::from(self.returned()) == 0 => Err(end),
            None => Ok(None), // a lock was not got in time
        }
    }

    /// Returns why nobody can put an item any more; `None` if somebody may. `asks_again` is that of
    /// [`is_alone`](SharedQueue::is_alone).
    fn end(&self, asks_again: bool) -> Option<Error> {
        self.closed().or_else(|| {
            let why = "the queue is empty, and nobody else has it any more who could put an item";
            self.is_alone(asks_again).then(|| Error::ended(why))
        })
    }

    fn closed(&self) -> Option<Error> {
        let is_closed = self.items.tail().closed.load(Ordering::SeqCst) != 0;
        is_closed.then(|| Error::ended("the queue is empty, and it was closed"))
    }

    /// Returns how many leased items have come back.
    pub(super) fn returned(&self) -> u32 {
        self.items.head().returned.load(Ordering::SeqCst)
    }

    fn take_now(
        &self,
        most: usize,
        copy: &mut CopyOut<'_>,
        me: Locker,
        patience: Patience,
    ) -> Result<usize, Error> {
        let (items, head) = (&self.items, self.items.head());
        let take = || {
            self.give_back_leases_of_the_dead(me);
            let mut taken = 0;
            while taken < most && head.returned.load(Ordering::Relaxed) > 0 {
                match self.take_returned(copy, None) {
                    Ok(Some(_)) => taken += 1,
                    Ok(None) => break,
                    Err(_) if taken > 0 => return Ok(taken), // the next call has the error
                    Err(error) => return Err(error),
                }
            }
            match items.take(most - taken, copy) {
                Ok(more) => Ok(taken + more),
                Err(_) if taken > 0 => Ok(taken),
                Err(error) => Err(error),
            }
        };
        let taken = locked(&head.lock, me, patience, || items.repair_head(), take)?;
        let taken = taken.transpose().map_err(no_room)?.unwrap_or(0);
        if taken > 0 {
            self.after_taking(taken);
        }
        Ok(taken)
    }

    /// Wakes those that wait for room, or until all items are done.
    pub(super) fn after_taking(&self, count: usize) {
        let words = self.words();
        if words.bound.load(Ordering::Relaxed) != 0 {
            words.putters.wake(count as u32);
        }
        words.joiners.wake_if(u32::MAX, || self.items.len() == 0);
    }

    pub(super) fn close(&self) {
        self.items.tail().closed.store(1, Ordering::SeqCst);
        self.words().getters.wake(u32::MAX);
        self.words().putters.wake(u32::MAX);
    }

    /// Waits until no item is in the queue or leased. Returns whether that is so.
    pub(super) fn join(&self, patience: Patience) -> Result<bool, Error> {
        let me = Locker::current(self.family)?;
        let head = self.items.head();
        let is_done = || {
            if self.items.len() > 0 {
                return Ok(false);
            }
            let look = || {
                self.give_back_leases_of_the_dead(me);
                // Whoever had a lease until now may have put another item before.
                head.leases.load(Ordering::Relaxed) == 0 && self.items.len() == 0
            };
            let looked = locked(&head.lock, me, patience, || self.items.repair_head(), look)?;
            // A lock that is not got in time is no sign that all is done.
            Ok(looked.unwrap_or(false))
        };
        let mut sleeper = self.words().joiners.sleeper(self.family);
        loop {
            sleeper.announce();
            match is_done()? {
                true => return Ok(true),
                false if patience.is_over() => return Ok(false),
                // All that wait are woken at once, so none needs to wake the next.
                false => sleeper.sleep(patience.deadline()),
            }
        }
    }

    /// Whether it is certain that nobody but the calling thread has the queue.
    ///
    /// If `asks_again` is false, the answer no is given again until a process has given the queue
    /// up or has ended. Other changes go unnoticed: the end of a thread that had the queue, or of a
    /// message that nobody received; a process that executes another program; and the end of a
    /// process that no fork server announces.
    fn is_alone(&self, asks_again: bool) -> bool {
        // The processes of a model are threads, which all have the queue until the model ends.
        if cfg!(all(test, loom)) {
            return false;
        }
        let changes = self.changes();
        if !asks_again && self.others_seen.load(Ordering::Relaxed) == changes {
            return false;
        }
        let is_last_here = match self.words().is_direction.load(Ordering::Relaxed) {
            // Other threads may have a reference to it, and a copy of this process may have it too.
            0 => sys::has_one_thread() && self.made.1 == sys::count_of_forks(),
            // One thread uses an end of a pipe, and copies do not have it.
            _ => self.ends.load(Ordering::Relaxed) <= 1,
        };
        // Ask the kernel last: a thread that ended before the first check may have sent the queue.
        let is_alone = is_last_here
            && self.is_of_this_process()
            && sys::is_file_ours_alone(self.items.memory.fd());
        if !is_alone {
            self.others_seen.store(changes, Ordering::Relaxed);
        }
        is_alone
    }

    /// Returns a number that changes when a process has given the queue up, or has ended.
    fn changes(&self) -> u64 {
        let departures = self.words().departures.load(Ordering::SeqCst);
        u64::from(departures) << 32 | u64::from(self.family.deaths())
    }

    /// In a direction of a pipe: checks that the other end is there, if a process has died since
    /// this was checked last.
    fn check_deaths(&self) -> Result<(), Error> {
        let deaths = self.family.deaths();
        if self.words().is_direction.load(Ordering::Relaxed) == 0
            || self.deaths_seen.swap(deaths, Ordering::Relaxed) == deaths
        {
            return Ok(());
        }
        self.check_other_end(true)
    }

    /// In a direction of a pipe: checks that the other end is there. `asks_again` is that of
    /// [`is_alone`](SharedQueue::is_alone).
    pub(super) fn check_other_end(&self, asks_again: bool) -> Result<(), Error> {
        let is_direction = self.words().is_direction.load(Ordering::Relaxed) != 0;
        match is_direction && self.is_alone(asks_again) {
            true => Err(Error::ended("the other end of the pipe is gone")),
            false => Ok(()),
        }
    }

    /// Whether this process has made or received this value, and is not a copy of the one that has.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.made.0 == sys::pid()
    }

    /// Prepares the queue for sending.
    pub(super) fn sent(&self) -> Result<Sent, String> {
        use std::os::fd::AsFd;
        let send = || {
            let fd = sys::reopen(self.items.memory.fd())?;
            let _ = sys::share_file(fd.as_fd());
            Ok(Sent { run: self.family.run(), id: self.id, fd: Descriptor::new(fd.as_fd())? })
        };
        send().map_err(|error: std::io::Error| {
            format!("the queue cannot be sent: {}", wire::explain(&error))
        })
    }

    /// Maps the queue that has arrived.
    pub(super) fn arrive(Sent { run, id, fd }: Sent) -> Result<Arc<SharedQueue>, String> {
        let arrive = || {
            let family = Family::get()?;
            if family.run() != run {
                return Err(std::io::Error::other(
                    "the queue belongs to another run of a program: it can only be sent to processes \
                     that this run has started",
                ));
            }
            family.own_id()?; // so that its use cannot fail later
            if let Some(queue) = queues().get(&id).and_then(Weak::upgrade) {
                // Until now, the message had the queue, too. Perhaps nobody else has it.
                queue.others_seen.store(u64::MAX, Ordering::Relaxed);
                return Ok(queue);
            }
            let memory = SparseMemory::map(fd.into_fd()?)?;
            Ok(SharedQueue::keep(Items::of(memory), family, id))
        };
        arrive().map_err(|error| format!("the queue cannot be mapped: {}", wire::explain(&error)))
    }
}

impl Drop for SharedQueue {
    fn drop(&mut self) {
        // A copy of the process shares the open file description with its original, which may have
        // the queue still.
        if !self.is_of_this_process() {
            return;
        }
        // Once this process has it no more, those that wait look whether anybody else has it.
        let _ = sys::unshare_file(self.items.memory.fd());
        self.words().departures.fetch_add(1, Ordering::SeqCst);
        self.words().getters.wake(u32::MAX);
    }
}

#[cfg(all(test, loom))]
impl SharedQueue {
    /// The queue as another process of the model has it.
    pub(super) fn received(&self) -> Arc<SharedQueue> {
        let items = Items::of(self.items.memory.received());
        items.make_atomics();
        SharedQueue::keep(items, self.family, self.id)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn answer_counts_until_a_process_has_given_the_queue_up() {
        let queue = SharedQueue::new(0).expect("there is memory");
        // Of a pipe, since tests have several threads.
        queue.words().is_direction.store(1, Ordering::Relaxed);
        let other = sys::reopen(queue.items.memory.fd()).expect("there is a descriptor");
        sys::share_file(other.as_fd()).expect("there are locks");
        assert!(!queue.is_alone(false), "nobody was asked before");
        drop(other);
        assert!(!queue.is_alone(false), "the last answer counts");
        assert!(queue.is_alone(true));
        queue.words().departures.fetch_add(1, Ordering::SeqCst);
        assert!(queue.is_alone(false));
    }

    #[test]
    fn drop_counts_as_departure() {
        let queue = SharedQueue::new(0).expect("there is memory");
        let other = sys::reopen(queue.items.memory.fd()).expect("there is a descriptor");
        let other = Items::of(SparseMemory::map(other).expect("there is room"));
        let departures = || other.other::<QueueWords>(WORDS).departures.load(Ordering::Relaxed);
        assert_eq!(departures(), 0);
        drop(queue);
        assert_eq!(departures(), 1);
    }
}

/// Form in which a queue is sent.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sent {
    run: u64,
    id: u64,
    fd: Descriptor,
}
