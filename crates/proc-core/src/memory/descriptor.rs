//! Open descriptors as part of a message.
//!
//! ipc-channel sends its own channel ends and nothing else (what is no socket it takes for its own
//! shared memory). So a descriptor travels in a channel that is made for it alone: it is put in at
//! the one end, and the other end is sent. ipc-channel tells the numbers of its descriptors in its
//! `Debug` texts alone; [`check`] sees once that they are right.

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

/// A copy of a descriptor, on its way. It can be sent once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Descriptor(Arriving<IpcBytesReceiver>);

/// A channel end of a message, which may not have arrived with it: a process without a descriptor
/// left for it receives the rest. ipc-channel panics then.
#[derive(Debug)]
pub(crate) struct Arriving<T>(Option<T>);

impl<T> Arriving<T> {
    pub(crate) fn new(end: T) -> Arriving<T> {
        Arriving(Some(end))
    }

    /// What has arrived.
    ///
    /// # Errors
    ///
    /// Nothing has.
    pub(crate) fn get(&self) -> io::Result<&T> {
        self.0.as_ref().ok_or_else(|| Errno::EMFILE.into())
    }

    /// The same, given away.
    pub(crate) fn take(self) -> io::Result<T> {
        self.0.ok_or_else(|| Errno::EMFILE.into())
    }
}

impl<T: Serialize> Serialize for Arriving<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(end) => end.serialize(serializer),
            None => Err(ser::Error::custom("it has not arrived here")),
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
    /// Prepares a copy of `fd` for sending, which cannot fail for its sake any more.
    ///
    /// # Errors
    ///
    /// There are no descriptors left; ipc-channel is of a version that hides its own.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Descriptor> {
        check()?;
        let (sender, receiver) = ipc::bytes_channel()?;
        sys::put_into(number_of(&sender)?, fd)?;
        Ok(Descriptor(Arriving::new(receiver)))
    }

    /// The descriptor that has arrived.
    ///
    /// # Errors
    ///
    /// None has, or there are no descriptors left.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        sys::take_out(number_of(self.0.get()?)?, sys::Taking::Whole)
    }

    /// A copy of the descriptor that has arrived.
    ///
    /// # Errors
    ///
    /// As for [`into_fd`](Descriptor::into_fd).
    pub(crate) fn try_clone(&self) -> io::Result<OwnedFd> {
        sys::take_out(number_of(self.0.get()?)?, sys::Taking::Copy)
    }
}

/// Makes a channel's receiving end of a descriptor that is one.
pub(crate) fn receiver_of<T: Kind>(fd: OwnedFd) -> io::Result<IpcReceiver<T>> {
    check()?;
    let (_, receiver) = ipc::channel::<T>()?;
    sys::put_at(number_of(&receiver)?, fd.as_fd())?;
    Ok(receiver)
}

/// Makes a channel's sending end of a descriptor that is one.
pub(crate) fn sender_of<T: Kind>(fd: OwnedFd) -> io::Result<IpcSender<T>> {
    check()?;
    let (sender, _) = ipc::channel::<T>()?;
    sys::put_at(number_of(&sender)?, fd.as_fd())?;
    Ok(sender)
}

/// A copy of the descriptor of a channel's end, which may then be dropped.
pub(crate) fn fd_of(end: &impl Debug) -> io::Result<OwnedFd> {
    check()?;
    sys::copy_at(number_of(end)?)
}

/// Waits until there is a message to be received, or nobody is left to send one; false if `timeout`
/// has passed.
pub(crate) fn wait_for_message<T: Debug>(
    receiver: &IpcReceiver<T>,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    sys::wait_at(number_of(receiver)?, timeout)
}

/// What a channel carries.
pub(crate) trait Kind: for<'de> Deserialize<'de> + Serialize + Debug {}

impl<T: for<'de> Deserialize<'de> + Serialize + Debug> Kind for T {}

/// The number of the one descriptor that a channel's end has.
fn number_of(end: &impl Debug) -> io::Result<i32> {
    let text = format!("{end:?}");
    let after = |start, stop| {
        let (number, _) = text.split_once(start)?.1.split_once(stop)?;
        number.parse::<i32>().ok()
    };
    match after("fd: Cell { value: ", ' ').or_else(|| after("SharedFileDescriptor(", ')')) {
        Some(number) if number >= 0 => Ok(number),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor has arrived")),
        None => Err(hidden()),
    }
}

/// Sees to it, once in a program, that the numbers of a channel's ends are those that are told.
pub(crate) fn check() -> io::Result<()> {
    static ARE_TOLD: OnceLock<bool> = OnceLock::new();
    if let Some(are_told) = ARE_TOLD.get() {
        return if *are_told { Ok(()) } else { Err(hidden()) };
    }
    let (sender, receiver) = ipc::channel::<()>()?;
    // What is written to the one end comes out at the other.
    let are_told = sys::are_joined(number_of(&sender)?, number_of(&receiver)?)?;
    ARE_TOLD.get_or_init(|| are_told);
    check()
}

#[cold]
fn hidden() -> io::Error {
    io::Error::other(
        "this version of ipc-channel does not tell its descriptors: use the one that proc-core is \
         tested with, 0.23.1 (cargo update -p ipc-channel --precise 0.23.1)",
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
    fn ends_become_descriptors_and_back() {
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
