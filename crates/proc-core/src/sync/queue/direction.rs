//! One direction of a pipe: a queue with one sender and one receiver, which know of each other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::item::{copied, with_bytes, with_plain_bytes};
use super::items::CopyOut;
use super::shared::{Sent, SharedQueue};
use crate::error::{Error, Origin, Peer};
use crate::memory::ProcessId;
use crate::memory::atomics::AtomicU32;
use crate::sync::raw_lock::Patience;
use crate::wire::Message;

/// One direction of a pipe.
#[derive(Clone, Debug)]
pub(crate) struct Direction(Arc<SharedQueue>);

impl Direction {
    pub(crate) fn new(bound: u32) -> Result<Direction, Error> {
        let queue = SharedQueue::new(bound)?;
        queue.words().is_direction.store(1, Ordering::Relaxed);
        Ok(Direction(queue))
    }

    /// Sends an item as soon as there is room. Returns false if `patience` is over before.
    pub(crate) fn send<T: Message>(&self, item: &T, patience: Patience) -> Result<bool, Error> {
        self.sent_to_receiver(with_bytes(item, |bytes| self.0.put(&[bytes], patience)))
    }

    /// Like [`send`](Direction::send), for an item of this library, which certainly contains no
    /// channel ends.
    pub(crate) fn send_plain<T: Message>(
        &self,
        item: &T,
        patience: Patience,
    ) -> Result<bool, Error> {
        self.sent_to_receiver(with_plain_bytes(item, |bytes| self.0.put(&[bytes], patience)))
    }

    fn sent_to_receiver(&self, put: Result<usize, Error>) -> Result<bool, Error> {
        let sent = put.map(|count| count == 1);
        sent.map_err(|error| self.explain(error, &self.0.words().receiver))
    }

    /// Receives an item as soon as there is one. Returns `None` if `patience` is over before.
    pub(crate) fn receive<T: Message>(&self, patience: Patience) -> Result<Option<T>, Error> {
        let got = |copy: &mut CopyOut<'_>| {
            let got = self.0.get(1, patience, copy);
            got.map_err(|error| self.explain(error, &self.0.words().sender))
        };
        copied(got)?.1.transpose()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.items.len() == 0
    }

    /// Notes that this process has the end that sends.
    pub(crate) fn note_sender(&self) {
        self.note(&self.0.words().sender);
    }

    /// Notes that this process has the end that receives.
    pub(crate) fn note_receiver(&self) {
        self.note(&self.0.words().receiver);
    }

    /// Whether both ends are there.
    pub(crate) fn is_open(&self) -> bool {
        self.0.items.tail().closed.load(Ordering::SeqCst) == 0
            && self.0.check_other_end(true).is_ok()
    }

    /// Whether a process has ever had the end that sends.
    pub(crate) fn has_sender(&self) -> bool {
        self.0.words().sender.load(Ordering::Relaxed) != 0
    }

    fn note(&self, word: &AtomicU32) {
        let own = self.0.family.own_id().map_or(0, ProcessId::get);
        word.store(own, Ordering::Relaxed);
        self.0.ends.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that an end is dropped here. Closes the direction if the end was not moved to another
    /// process, and if this process is no copy.
    pub(crate) fn leave(&self, is_moved: bool) {
        self.0.ends.fetch_sub(1, Ordering::Relaxed);
        if !is_moved && self.0.is_of_this_process() {
            self.0.close();
        }
    }

    /// Lets nobody send any more.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    pub(crate) fn sent(&self) -> Result<Sent, String> {
        self.0.sent()
    }

    pub(crate) fn arrive(sent: Sent) -> Result<Direction, String> {
        SharedQueue::arrive(sent).map(Direction)
    }

    /// Turns the error of a queue that has ended into the error of a pipe. It has the pid of the
    /// process at the other end if that process has died.
    fn explain(&self, error: Error, other_end: &AtomicU32) -> Error {
        if !error.is_closed() {
            return error;
        }
        let other = ProcessId::of(other_end.load(Ordering::Relaxed));
        match other.is_some_and(|other| !self.0.family.is_alive(other)) {
            false => Error::ended("the other end of the pipe was dropped"),
            true => {
                let (pid, status) =
                    other.map(|dead| self.0.family.obituary_soon(dead)).unwrap_or_default();
                let origin = Origin { pid, ..Origin::default() };
                Error::peer_died(Peer::Pipe, status).with_origin(origin)
            }
        }
    }
}
