//! The doorbell beside a channel: a pair of sockets that says "there is a message" and carries open
//! descriptors, since ipc-channel does neither.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    send, sendmsg, socketpair,
};

/// Keeps messages apart and in order.
const KIND: SockType =
    if cfg!(target_vendor = "apple") { SockType::Datagram } else { SockType::SeqPacket };

/// What says whom a descriptor is meant for.
pub(crate) type Tag = [u8; 13];

/// How long a descriptor waits for room; a template takes it at once unless it is stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a doorbell.
pub(crate) fn doorbell() -> io::Result<(Ring, Bell)> {
    let (bell, ring) = socketpair(AddressFamily::Unix, KIND, None, SockFlag::empty())?;
    for fd in [&bell, &ring] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok((Ring(ring), Bell(bell)))
}

/// The end of a doorbell that rings.
#[derive(Debug)]
pub(crate) struct Ring(OwnedFd);

impl Ring {
    /// Rings; an error means that nobody is left to hear it.
    pub(crate) fn ring(&self) -> io::Result<()> {
        loop {
            return match send(self.0.as_raw_fd(), &[0], quietly()) {
                // Full: whoever listens has enough to wake up for.
                Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Passes a copy of `fd`, which lies there until it is [heard](Bell::hear) of.
    pub(crate) fn pass(&self, tag: &Tag, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fds = [fd.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let body = [IoSlice::new(tag)];
            match sendmsg::<()>(self.0.as_raw_fd(), &body, &rights, quietly(), None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) if Instant::now() < deadline => {
                    let mut room = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut room, PollTimeout::from(100_u8));
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "its template is stuck"));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A closed socket is an error, not a signal.
fn quietly() -> MsgFlags {
    MsgFlags::MSG_NOSIGNAL
}

/// What a doorbell brings.
pub(crate) enum Heard {
    /// Somebody rang.
    Ring,
    /// A descriptor; an error where this process has no room for one more.
    Descriptor(Tag, io::Result<OwnedFd>),
}

/// The end of a doorbell that is heard.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    /// The next message; `None` if there is none.
    pub(crate) fn hear(&self) -> Option<Heard> {
        // One descriptor a message: where there is no room for it, nothing has arrived by halves.
        let mut space = nix::cmsg_space!(std::os::fd::RawFd);
        let mut tag = Tag::default();
        let mut body = [IoSliceMut::new(&mut tag)];
        let received = loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut body, Some(&mut space), RECEIVE) {
                Err(Errno::EINTR) => {}
                received => break received.ok()?,
            }
        };
        let bytes = received.bytes;
        let rights = received.cmsgs().ok().and_then(|mut messages| messages.next());
        let fd = match rights {
            Some(ControlMessageOwned::ScmRights(fds)) => fds.first().map(|fd| {
                // SAFETY: the kernel has just made this descriptor for us alone.
                unsafe { OwnedFd::from_raw_fd(*fd) }
            }),
            _ => None,
        };
        match bytes {
            0 => None, // nobody is left to ring
            1 => Some(Heard::Ring),
            _ => {
                let fd = fd.ok_or_else(|| Errno::EMFILE.into());
                Some(Heard::Descriptor(tag, fd.and_then(close_on_exec)))
            }
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const RECEIVE: MsgFlags = MsgFlags::MSG_CMSG_CLOEXEC;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RECEIVE: MsgFlags = MsgFlags::empty();

/// Where receiving alone does not do it; with one thread nobody can execute anything meanwhile.
fn close_on_exec(fd: OwnedFd) -> io::Result<OwnedFd> {
    if RECEIVE.is_empty() {
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(fd)
}

impl From<OwnedFd> for Bell {
    fn from(fd: OwnedFd) -> Bell {
        Bell(fd)
    }
}

impl From<Bell> for OwnedFd {
    fn from(bell: Bell) -> OwnedFd {
        bell.0
    }
}

impl From<OwnedFd> for Ring {
    fn from(fd: OwnedFd) -> Ring {
        Ring(fd)
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
