//! Sends open descriptors as part of a message.
//!
//! ipc-channel sends its own channel ends and no other descriptors (it treats every descriptor that
//! is not a socket as its own shared memory). So a descriptor travels in a channel that is made for
//! it alone: the descriptor is put into one end, and the other end is sent. ipc-channel shows the
//! numbers of its descriptors only in its `Debug` texts; [`check`] verifies once that these numbers
//! are right.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use ipc_channel::ipc;
use ipc_channel::ipc::{IpcBytesReceiver, IpcReceiver, IpcSender};
use nix::errno::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

use crate::{panics, sys};

/// Copy of a descriptor on its way to another process. It can be sent once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Descriptor(Arriving<IpcBytesReceiver>);

/// Channel end in a message. The end may be missing when the message arrives: a process that has no
/// descriptor left for the end still receives the rest of the message. (ipc-channel panics in that
/// case. This type catches the panic.)
#[derive(Debug)]
pub(crate) struct Arriving<T>(Option<T>);

impl<T> Arriving<T> {
    pub(crate) fn new(end: T) -> Arriving<T> {
        Arriving(Some(end))
    }

    /// Returns the end that has arrived.
    ///
    /// # Errors
    ///
    /// The end has not arrived.
    pub(crate) fn get(&self) -> io::Result<&T> {
        self.0.as_ref().ok_or_else(|| Errno::EMFILE.into())
    }

    /// Returns the end that has arrived, by value.
    pub(crate) fn take(self) -> io::Result<T> {
        self.0.ok_or_else(|| Errno::EMFILE.into())
    }
}

impl<T: Serialize> Serialize for Arriving<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(end) => end.serialize(serializer),
            None => Err(ser::Error::custom("a channel end that has not arrived cannot be sent")),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Arriving<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Arriving<T>, D::Error> {
        match panics::catch_silently(|| T::deserialize(deserializer)) {
            Ok(end) => Ok(Arriving(Some(end?))),
            Err(_) => Ok(Arriving(None)),
        }
    }
}

impl Descriptor {
    /// Prepares a copy of `fd` for sending. Once it is prepared, `fd` may be closed.
    ///
    /// # Errors
    ///
    /// There are no descriptors left, or the `Debug` texts of this version of ipc-channel do not
    /// show descriptor numbers.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Descriptor> {
        check()?;
        let (sender, receiver) = ipc::bytes_channel()?;
        sys::put_into_socket(number_of(&sender)?, fd)?;
        Ok(Descriptor(Arriving::new(receiver)))
    }

    /// Returns the descriptor that has arrived.
    ///
    /// # Errors
    ///
    /// No descriptor has arrived, or there are no descriptors left.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        sys::take_from_socket(number_of(self.0.get()?)?)
    }

    /// Returns a copy of the descriptor that has arrived.
    ///
    /// # Errors
    ///
    /// As for [`into_fd`](Descriptor::into_fd).
    pub(crate) fn try_clone(&self) -> io::Result<OwnedFd> {
        sys::copy_from_socket(number_of(self.0.get()?)?)
    }
}

/// Makes the receiving end of a channel from its descriptor.
pub(crate) fn receiver_of<T: ChannelValue>(fd: OwnedFd) -> io::Result<IpcReceiver<T>> {
    check()?;
    let (_, receiver) = ipc::channel::<T>()?;
    sys::replace_descriptor(number_of(&receiver)?, fd.as_fd())?;
    Ok(receiver)
}

/// Makes the sending end of a channel from its descriptor.
pub(crate) fn sender_of<T: ChannelValue>(fd: OwnedFd) -> io::Result<IpcSender<T>> {
    check()?;
    let (sender, _) = ipc::channel::<T>()?;
    sys::replace_descriptor(number_of(&sender)?, fd.as_fd())?;
    Ok(sender)
}

/// Returns a copy of the descriptor of a channel end. The end may be dropped after that.
pub(crate) fn fd_of(end: &impl Debug) -> io::Result<OwnedFd> {
    check()?;
    sys::duplicate_descriptor(number_of(end)?)
}

/// Waits until a message can be received or no sender is left. Returns false if `timeout` has
/// passed, or earlier after a signal.
pub(crate) fn wait_for_message<T: Debug>(
    receiver: &IpcReceiver<T>,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let [has_message, _] = sys::poll_descriptor(number_of(receiver)?, None, timeout)?;
    Ok(has_message)
}

/// Waits until a message can be received or no sender is left, or until `other` is readable or
/// closed. Returns which of the two has happened.
pub(crate) fn wait_for_message_or<T: Debug>(
    receiver: &IpcReceiver<T>,
    other: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> io::Result<[bool; 2]> {
    sys::poll_descriptor(number_of(receiver)?, Some(other), timeout)
}

/// Type of value that a channel carries.
pub(crate) trait ChannelValue: for<'de> Deserialize<'de> + Serialize + Debug {}

impl<T: for<'de> Deserialize<'de> + Serialize + Debug> ChannelValue for T {}

/// Returns the number of the one descriptor that a channel end has.
fn number_of(end: &impl Debug) -> io::Result<i32> {
    let text = format!("{end:?}");
    let after = |start, stop| {
        let (number, _) = text.split_once(start)?.1.split_once(stop)?;
        number.parse::<i32>().ok()
    };
    match after("fd: Cell { value: ", ' ').or_else(|| after("SharedFileDescriptor(", ')')) {
        Some(number) if number >= 0 => Ok(number),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the channel end has no descriptor: it was taken already, or has not arrived",
        )),
        None => Err(unknown_version()),
    }
}

/// Checks, once in a program, that the descriptor numbers in the `Debug` texts of channel ends are
/// right.
pub(crate) fn check() -> io::Result<()> {
    static ARE_RIGHT: OnceLock<bool> = OnceLock::new();
    if let Some(are_right) = ARE_RIGHT.get() {
        return if *are_right { Ok(()) } else { Err(unknown_version()) };
    }
    let (sender, receiver) = ipc::channel::<()>()?;
    // A byte that is written to one end must arrive at the other.
    let are_right = sys::are_joined(number_of(&sender)?, number_of(&receiver)?)?;
    ARE_RIGHT.get_or_init(|| are_right);
    check()
}

#[cold]
fn unknown_version() -> io::Error {
    io::Error::other(
        "proc-core cannot find the descriptors of this version of ipc-channel: use version 0.23.1 \
         (cargo update -p ipc-channel --precise 0.23.1)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_arrive_and_are_closed_when_dropped() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
        let (sender, receiver) = ipc::channel().expect("a channel can be made");
        let two = |fd: BorrowedFd<'_>| [fd, fd].map(|fd| Descriptor::new(fd).expect("it is open"));
        sender.send(Vec::from(two(writer.as_fd()))).expect("somebody listens");
        drop(writer);
        let mut arrived: Vec<Descriptor> = receiver.recv().expect("it was sent");
        let copy = arrived[0].try_clone().expect("there is a descriptor left");
        drop(arrived[0].try_clone().expect("there is a descriptor left"));
        let fd = arrived.pop().expect("two came").into_fd().expect("it is open");
        for fd in [copy, fd] {
            std::fs::File::from(fd).write_all(b"hello ").expect("it is a pipe");
        }
        drop(arrived);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("nobody holds the other end");
        assert_eq!(text, "hello hello ");
    }

    #[test]
    fn channel_ends_become_descriptors_and_back() {
        let (sender, receiver) = ipc::channel::<u32>().expect("a channel can be made");
        let sending = fd_of(&sender).expect("there is a descriptor left");
        let receiving = fd_of(&receiver).expect("there is a descriptor left");
        drop((sender, receiver));
        let sender = sender_of::<u32>(sending).expect("there is a descriptor left");
        let receiver = receiver_of::<u32>(receiving).expect("there is a descriptor left");
        sender.send(42).expect("somebody listens");
        assert_eq!(receiver.recv().expect("it was sent"), 42);
    }
}
