//! Passes descriptors to a new process: its standard streams, and the descriptor channel of a
//! process that becomes a fork server.
//!
//! The descriptors are sent before the request to start the process, through the fork server's
//! descriptor channel. The fork server keeps them until the request comes, hands them to the new
//! process, and closes its copies.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustc_hash::FxHashMap;

use crate::forkserver::Key;
use crate::sys::{self, Notifier, Tag};

/// One bit for each standard stream that this process was given when it was started.
static GIVEN: AtomicU8 = AtomicU8::new(0);

/// Descriptors to send to a new process, by number. A stream without one stays that of the fork
/// server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams([Option<Arc<OwnedFd>>; 5]);

/// Two more descriptors that are sent in the same way: the two ends of the descriptor channel of a
/// process that becomes a fork server.
pub(crate) const LISTENER: u8 = 3;
pub(crate) const NOTIFIER: u8 = 4;

impl Streams {
    /// Sets the stream with this number. The descriptor may have other owners too.
    pub(crate) fn set(&mut self, number: usize, fd: Arc<OwnedFd>) {
        self.0[number] = Some(fd);
    }

    /// Returns the number of descriptors.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// Sends the descriptors ahead of the request to start process `key`.
    pub(crate) fn pass(&self, notifier: &Notifier, key: Key) -> io::Result<()> {
        for (number, fd) in (0..).zip(&self.0) {
            if let Some(fd) = fd {
                notifier.pass(&tag(key, number), fd.as_fd())?;
            }
        }
        Ok(())
    }
}

/// Whether this process was given the stream with this number when it was started.
pub(crate) fn is_given(number: usize) -> bool {
    GIVEN.load(Ordering::Relaxed) & 1 << number != 0
}

fn tag(Key { owner, serial }: Key, number: u8) -> Tag {
    let mut tag = Tag::default();
    tag[..4].copy_from_slice(&owner.to_le_bytes());
    tag[4..12].copy_from_slice(&serial.to_le_bytes());
    tag[12] = number;
    tag
}

fn untag(tag: Tag) -> (Key, u8) {
    let [a, b, c, d, serial @ .., number] = tag;
    (Key { owner: u32::from_le_bytes([a, b, c, d]), serial: u64::from_le_bytes(serial) }, number)
}

/// Streams that have arrived at a fork server, each with its number, by process.
#[derive(Debug, Default)]
pub(crate) struct ArrivedStreams(FxHashMap<Key, Vec<(u8, io::Result<OwnedFd>)>>);

impl ArrivedStreams {
    /// Keeps a descriptor until its process is started.
    pub(crate) fn keep(&mut self, tag: Tag, fd: io::Result<OwnedFd>) {
        let (key, number) = untag(tag);
        self.0.entry(key).or_default().push((number, fd));
    }

    /// Returns the streams of process `key`.
    ///
    /// # Errors
    ///
    /// Not exactly `count` streams have arrived, or one of them could not be opened.
    pub(crate) fn take(&mut self, key: Key, count: usize) -> io::Result<Vec<(u8, OwnedFd)>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let streams = self.0.remove(&key).unwrap_or_default();
        if streams.len() != count {
            return Err(nix::errno::Errno::EBADF.into());
        }
        streams.into_iter().map(|(number, fd)| Ok((number, fd?))).collect()
    }

    /// Closes the streams of the processes that will not be started.
    pub(crate) fn forget(&mut self, is_cancelled: impl Fn(Key) -> bool) {
        self.0.retain(|key, _| !is_cancelled(*key));
    }
}

/// In a new process: makes the descriptors its standard streams.
pub(crate) fn install(streams: Vec<(u8, OwnedFd)>) -> Result<(), String> {
    for (number, fd) in streams {
        sys::set_standard_stream(number, fd)
            .map_err(|error| format!("cannot set standard stream {number}: {error}"))?;
        GIVEN.fetch_or(1 << number, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{ChannelMessage, Listener};
    use std::io::{Read, Write};

    const KEY: Key = Key { owner: 0x0102_0304, serial: u64::MAX - 5 };

    /// Keeps the descriptors that come before the next notification. Returns false if there is no
    /// notification.
    fn read_to_notification(arrived: &mut ArrivedStreams, listener: &Listener) -> bool {
        loop {
            match listener.receive() {
                None => return false,
                Some(ChannelMessage::Descriptor(tag, fd)) => arrived.keep(tag, fd),
                Some(_) => return true,
            }
        }
    }

    #[test]
    fn untag_returns_what_was_tagged() {
        assert_eq!(untag(tag(KEY, 2)), (KEY, 2));
    }

    #[test]
    fn streams_arrive_between_notifications_and_are_closed_when_forgotten() {
        let (notifier, listener) = sys::fd_channel().expect("sockets can be made");
        let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
        let mut streams = Streams::default();
        streams.set(1, Arc::new(writer.into()));
        notifier.notify().expect("somebody listens");
        streams.pass(&notifier, KEY).expect("there is room");
        notifier.notify().expect("somebody listens");
        let mut arrived = ArrivedStreams::default();
        assert!(read_to_notification(&mut arrived, &listener), "the first notification");
        let other = Key { owner: 1, ..KEY };
        assert!(read_to_notification(&mut arrived, &listener), "the second notification");
        assert!(arrived.take(other, 1).is_err(), "these are not its own");
        let mut taken = arrived.take(KEY, 1).expect("they were sent");
        let (number, fd) = taken.pop().expect("there is one");
        assert_eq!(number, 1);
        std::fs::File::from(fd).write_all(b"hello").expect("it is a pipe");
        streams.pass(&notifier, KEY).expect("there is room");
        drop(streams);
        assert!(!read_to_notification(&mut arrived, &listener));
        arrived.forget(|key| key == KEY);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("nobody holds the other end");
        assert_eq!(text, "hello");
    }

    #[test]
    fn pass_waits_for_room_in_the_channel() {
        let (notifier, listener) = sys::fd_channel().expect("sockets can be made");
        for _ in 0..100_000 {
            notifier.notify().expect("a notification too many is dropped");
        }
        let mut streams = Streams::default();
        let null = std::fs::File::open("/dev/null").expect("it exists");
        streams.set(0, Arc::new(null.into()));
        let taken = std::thread::scope(|scope| {
            scope.spawn(|| streams.pass(&notifier, KEY).expect("there is room soon"));
            let mut arrived = ArrivedStreams::default();
            while arrived.0.is_empty() {
                let _ = sys::wait_readable(&[listener.as_fd()], None);
                read_to_notification(&mut arrived, &listener);
            }
            arrived.take(KEY, 1)
        });
        assert_eq!(taken.expect("it was sent").len(), 1);
    }

    #[test]
    fn notify_succeeds_when_full_and_fails_without_listener() {
        let (notifier, listener) = sys::fd_channel().expect("sockets can be made");
        for _ in 0..100_000 {
            notifier.notify().expect("a notification too many is dropped");
        }
        drop(listener);
        assert!(notifier.notify().is_err());
    }
}
