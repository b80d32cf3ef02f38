//! Provides the descriptor channel: a pair of sockets that stands beside a channel of ipc-channel.
//! Its sending end, the notifier, tells the receiver of that channel that there is a message, and
//! passes open descriptors to the receiver. ipc-channel gives out no descriptor that a receiver
//! could poll together with others, and it passes no descriptors but its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, SockFlag, SockType,
    recv, recvmsg, send, sendmsg, socketpair,
};

use super::descriptors::{NOSIGNAL, wait_readable};

/// Type of socket that keeps messages separate and in order.
const KIND: SockType =
    if cfg!(target_vendor = "apple") { SockType::Datagram } else { SockType::SeqPacket };

/// Tag of a descriptor: tells the receiver what the descriptor is for.
pub(crate) type Tag = [u8; 13];

/// Start of a message with the last words of a process that may be about to die. The start alone is
/// longer than any other message, so the length of a message tells its kind.
pub(super) const LAST_WORDS: [u8; 14] = [0xff; 14];

/// Longest message in bytes, which is one with last words.
const MAX_LAST_WORDS_BYTES: usize = 4 << 10;

/// Message that orders the listener's process to kill its children and to end.
const END: [u8; 2] = [0xff; 2];

/// How long [`Notifier::pass`] waits for room in the socket. A fork server takes a descriptor at
/// once unless it is stopped.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a descriptor channel.
pub(crate) fn fd_channel() -> io::Result<(Notifier, Listener)> {
    let (listener, notifier) = socketpair(AddressFamily::Unix, KIND, None, SockFlag::empty())?;
    for fd in [&listener, &notifier] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok((Notifier(notifier), Listener(listener)))
}

/// Sending end of a descriptor channel.
#[derive(Debug)]
pub(crate) struct Notifier(OwnedFd);

impl Notifier {
    /// Notifies the listener. An error means that there is no listener any more.
    pub(crate) fn notify(&self) -> io::Result<()> {
        match self.send(&[0], &[], Instant::now()) {
            // The listener has enough messages to wake up for.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
            sent => sent,
        }
    }

    /// Orders the listener's process to kill its children and to end. Waits until `deadline` if the
    /// socket is full.
    ///
    /// # Errors
    ///
    /// There is no listener any more, or it has received nothing until `deadline`.
    pub(crate) fn order_end(&self, deadline: Instant) -> io::Result<()> {
        self.send(&END, &[], deadline)
    }

    /// Waits for the greeting of the listener in the process `child`, until `deadline` or the end
    /// of that process.
    pub(crate) fn await_greeting(&self, child: &mut Child, deadline: Instant) -> io::Result<u64> {
        let end = super::os::watch_process(child.id());
        let mut is_closed = false;
        loop {
            let mut greeting = [0; 8];
            match recv(self.0.as_raw_fd(), &mut greeting, MsgFlags::empty()) {
                Ok(8) => return Ok(u64::from_le_bytes(greeting)),
                // The process has closed its socket, as each process does when it ends. From now on
                // a wait for a message would return at once.
                Ok(0) => is_closed = true,
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(io::Error::other(format!("the new process ended first ({status})")));
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let greeting = (!is_closed).then(|| self.0.as_fd());
            let fds: Vec<_> =
                greeting.into_iter().chain(end.as_ref().map(OwnedFd::as_fd)).collect();
            let longest = if end.is_some() { deadline - now } else { Duration::from_millis(10) };
            wait_readable(&fds, Some(longest))?;
        }
    }

    /// Passes a copy of `fd`. The copy stays in the socket until [`Listener::receive`] takes it
    /// out.
    pub(crate) fn pass(&self, tag: &Tag, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fds = [fd.as_raw_fd()];
        let deadline = Instant::now() + SEND_TIMEOUT;
        self.send(tag, &[ControlMessage::ScmRights(&fds)], deadline).map_err(|error| {
            match error.kind() {
                io::ErrorKind::TimedOut => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "the fork server has received nothing for {SEND_TIMEOUT:?}: if it is \
                         stopped (SIGSTOP), continue it"
                    ),
                ),
                _ => error,
            }
        })
    }

    /// Sends a message. If the socket is full until `deadline`, the error is
    /// [`TimedOut`](io::ErrorKind::TimedOut).
    fn send(
        &self,
        bytes: &[u8],
        descriptors: &[ControlMessage<'_>],
        deadline: Instant,
    ) -> io::Result<()> {
        loop {
            let body = [IoSlice::new(bytes)];
            match sendmsg::<()>(self.0.as_raw_fd(), &body, descriptors, NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) if Instant::now() < deadline => {
                    let mut room = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut room, PollTimeout::from(100_u8));
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Puts a copy of the descriptor `fd` into the open socket `number`.
pub(crate) fn put_into_socket(number: RawFd, fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    loop {
        match sendmsg::<()>(number, &[IoSlice::new(&[0])], &rights, NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Takes the descriptor that has arrived at the open socket `number`, because [`put_into_socket`]
/// has put it into the socket at the other end. Never waits.
///
/// # Errors
///
/// The socket has no descriptor, or this process cannot open one more.
pub(crate) fn take_from_socket(number: RawFd) -> io::Result<OwnedFd> {
    receive_descriptor(number, MsgFlags::empty())
}

/// Returns a copy of the descriptor that [`take_from_socket`] would take, and leaves the descriptor
/// in the socket.
///
/// # Errors
///
/// As for [`take_from_socket`].
pub(crate) fn copy_from_socket(number: RawFd) -> io::Result<OwnedFd> {
    receive_descriptor(number, MsgFlags::MSG_PEEK)
}

fn receive_descriptor(number: RawFd, peek: MsgFlags) -> io::Result<OwnedFd> {
    let mut space = nix::cmsg_space!(RawFd);
    let mut byte = [0];
    let mut body = [IoSliceMut::new(&mut byte)];
    let flags = RECEIVE | MsgFlags::MSG_DONTWAIT | peek;
    let received = loop {
        match recvmsg::<()>(number, &mut body, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    // The kernel drops a descriptor for which this process has no free number.
    let is_dropped = received.flags.contains(MsgFlags::MSG_CTRUNC);
    let fd = descriptor_in(&received).ok_or_else(|| match is_dropped {
        true => io::Error::from(Errno::EMFILE),
        false => io::ErrorKind::InvalidData.into(),
    });
    fd.and_then(close_on_exec)
}

/// Returns the descriptor that came with a message.
fn descriptor_in(message: &RecvMsg<'_, '_, ()>) -> Option<OwnedFd> {
    match message.cmsgs().ok()?.next()? {
        ControlMessageOwned::ScmRights(fds) => fds.first().map(|fd| {
            // SAFETY: the kernel has just made this descriptor for us alone.
            unsafe { OwnedFd::from_raw_fd(*fd) }
        }),
        _ => None,
    }
}

/// Makes the message that carries `words`, with room for a pid before them. The end of words that
/// are too long is cut off.
pub(super) fn last_words_message(words: &[u8]) -> Vec<u8> {
    let head = [&LAST_WORDS[..], &[0; size_of::<u32>()]].concat();
    let words = &words[..words.len().min(MAX_LAST_WORDS_BYTES - head.len())];
    [&head, words].concat()
}

/// Message that a listener has received.
pub(crate) enum ChannelMessage {
    /// A notification.
    Notification,
    /// The order to kill the children and to end.
    End,
    /// The pid of a process, and its last words, as bytes. The process may be dead by now.
    LastWords(Vec<u8>),
    /// A descriptor and its tag; an error if this process cannot open one more.
    Descriptor(Tag, io::Result<OwnedFd>),
}

/// Receiving end of a descriptor channel.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// Sends `greeting` to the notifier, to say that somebody listens.
    pub(crate) fn greet(&self, greeting: u64) -> io::Result<()> {
        send(self.0.as_raw_fd(), &greeting.to_le_bytes(), NOSIGNAL)?;
        Ok(())
    }

    /// Returns the next message without waiting; `None` if there is none.
    pub(crate) fn receive(&self) -> Option<ChannelMessage> {
        // Each message carries at most one descriptor, so none arrives with a part of its
        // descriptors.
        let mut space = nix::cmsg_space!(std::os::fd::RawFd);
        let mut text = [0; MAX_LAST_WORDS_BYTES];
        let mut body = [IoSliceMut::new(&mut text)];
        let received = loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut body, Some(&mut space), RECEIVE) {
                Err(Errno::EINTR) => {}
                received => break received.ok()?,
            }
        };
        let bytes = received.bytes;
        let fd = descriptor_in(&received);
        match bytes {
            0 => None, // there is no notifier any more
            1 => Some(ChannelMessage::Notification),
            2 => Some(ChannelMessage::End),
            len if len >= LAST_WORDS.len() => {
                Some(ChannelMessage::LastWords(text[LAST_WORDS.len()..len].to_vec()))
            }
            _ => {
                let mut tag = Tag::default();
                tag.copy_from_slice(&text[..size_of::<Tag>()]);
                let fd = fd.ok_or_else(|| Errno::EMFILE.into());
                Some(ChannelMessage::Descriptor(tag, fd.and_then(close_on_exec)))
            }
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const RECEIVE: MsgFlags = MsgFlags::MSG_CMSG_CLOEXEC;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RECEIVE: MsgFlags = MsgFlags::empty();

/// Marks a descriptor close-on-exec on systems where receiving does not. In a process with one
/// thread, no program can be executed in between.
fn close_on_exec(fd: OwnedFd) -> io::Result<OwnedFd> {
    if RECEIVE.is_empty() {
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(fd)
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Listener {
        Listener(fd)
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> OwnedFd {
        listener.0
    }
}

impl From<OwnedFd> for Notifier {
    fn from(fd: OwnedFd) -> Notifier {
        Notifier(fd)
    }
}

impl AsRawFd for Notifier {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_to_end_waits_for_room() {
        let (notifier, listener) = fd_channel().expect("there are descriptors");
        let fill = || (0..10_000).for_each(|_| notifier.notify().expect("there is a listener"));
        fill();
        let error = notifier.order_end(Instant::now()).expect_err("the socket is full");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let order = scope.spawn(|| notifier.order_end(Instant::now() + SEND_TIMEOUT));
            let is_order = |message| matches!(message, ChannelMessage::End);
            while !listener.receive().is_some_and(is_order) {
                assert!(!order.is_finished() || has_message(&listener), "the order was lost");
            }
            order.join().expect("it does not panic").expect("there was room");
        });
    }

    fn has_message(listener: &Listener) -> bool {
        let ready = wait_readable(&[listener.as_fd()], Some(Duration::ZERO));
        ready.expect("one descriptor can be polled")[0]
    }

    #[test]
    fn wait_for_a_process_that_has_closed_its_end_takes_no_processor_time() {
        let (notifier, listener) = fd_channel().expect("there are descriptors");
        drop(listener);
        let mut child = std::process::Command::new("sleep").arg("0.5").spawn().expect("a process");
        let used = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
        let before = Duration::from(used().expect("Linux has it"));
        let deadline = Instant::now() + Duration::from_secs(60);
        let error = notifier.await_greeting(&mut child, deadline).expect_err("it never greets");
        assert!(error.to_string().contains("the new process ended first (exit status: 0)"));
        let used = Duration::from(used().expect("Linux has it")) - before;
        assert!(used < Duration::from_millis(100), "{used:?}");
    }
}
