//! Encodes values for other processes: as bytes, with their channel ends beside them.
//!
//! The layers, from below: `codec` turns a value into bytes; `bulk` does so for a value whose bytes
//! in memory are also its encoding; `sink` collects the bytes; a [`Payload`] is the bytes together
//! with the channel ends and the shared memory that were part of the value. [`Described`] and
//! [`Deep`] are encoded apart, and lie as bytes in the value of which they are a part. The messages
//! of fork servers and workers are defined by the layers above. This layer starts no processes.
//!
//! While a thread encodes, ipc-channel puts each channel end that it meets into a list of that
//! thread. The next `send` of the thread takes the whole list along. A receiver that does not take
//! all ends out of the message leaks them. So each value is encoded on its own, its channel ends go
//! at once into a message of their own (see [`Handles`]), and after a failure the list is emptied.
//! A user's own `send` that fails also leaves channel ends in the list. So [`send`] empties the
//! list first, and so does [`encode_into`], unless the value certainly contains no channel ends.

mod bulk;
mod codec;
mod deep;
mod described;
mod message;
mod sink;

use std::cell::{OnceCell, RefCell};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use ipc_channel::ipc;
use ipc_channel::ipc::{IpcSender, IpcSharedMemory, OpaqueIpcReceiver};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::bulk::ValueBytes;
pub(crate) use self::bulk::{Unreadable, bytes_of, number, number_size};
pub use self::deep::Deep;
pub use self::described::Described;
pub use self::message::Message;
pub(crate) use self::sink::{LARGE, Lender, Sink};
use crate::memory::{Arriving, Descriptor, Part, Region};
use crate::panics;
use crate::sys;
use crate::sys::memory::{self, Frozen};

/// Largest number of channel ends and regions in one message: ipc-channel panics if there are more.
pub(crate) const MAX_HANDLES: usize = 64;

/// Largest body that is sent inside a message, in bytes; a larger one goes through shared memory.
/// ipc-channel cuts a message of more than 212,448 bytes into pieces. Its `send` may then block
/// forever, if the receiver dies before it has read all pieces.
const MAX_INLINE: usize = 64 << 10;

/// Payload: an encoded value that fits into one piece of a message, so that sending it neither
/// hangs with half a message nor breaks the channel. (It still blocks while the channel is full.)
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Payload {
    body: Body,
    handles: Option<Handles>,
    /// Mapping of a large body that has arrived, made when the body is first read.
    #[serde(skip)]
    arrived: OnceCell<Result<Frozen, String>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Body {
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Memory that nobody can write to any more.
    Large(Descriptor),
}

impl Payload {
    /// Makes a payload of the bytes and channel ends that [`encode_into`] has produced.
    ///
    /// # Errors
    ///
    /// There is no descriptor or memory for so many bytes.
    pub(crate) fn new(bytes: Vec<u8>, handles: Option<Handles>) -> Result<Payload, String> {
        if bytes.len() > MAX_INLINE {
            return Payload::large(&bytes, handles);
        }
        Ok(Payload { body: Body::Inline(bytes), handles, arrived: OnceCell::new() })
    }

    fn large(bytes: &[u8], handles: Option<Handles>) -> Result<Payload, String> {
        let body = Body::Large(freeze(bytes).map_err(|error| no_memory(&error))?);
        Ok(Payload { body, handles, arrived: OnceCell::new() })
    }

    /// Encodes `value`; the error is the reason in serde's words.
    pub(crate) fn encode<T: Message>(value: &T) -> Result<Payload, String> {
        if let Some(bytes) = bulk::bytes_of(value).filter(|bytes| bytes.len() > MAX_INLINE) {
            return Payload::large(bytes, None); // without a copy in between
        }
        let mut bytes = Sink::default();
        let handles = encode_into(value, &mut bytes)?;
        Payload::new(bytes.into_bytes(), handles)
    }

    /// Encodes a value that contains no channel ends, without the search for them.
    pub(crate) fn encode_plain<T: Message>(value: &T) -> Result<Payload, String> {
        let mut bytes = Sink::default();
        codec::encode_into(value, &mut bytes).map_err(|e| why_not_encoded(&e, &mut bytes))?;
        Payload::new(bytes.into_bytes(), None)
    }

    /// Returns the encoded value as it has arrived.
    ///
    /// # Errors
    ///
    /// There is no descriptor or address space for a large value, or its descriptor is not that of
    /// frozen memory.
    pub(crate) fn bytes(&self) -> Result<&[u8], String> {
        let descriptor = match &self.body {
            Body::Inline(bytes) => return Ok(bytes),
            Body::Large(descriptor) => descriptor,
        };
        let map = || descriptor.try_clone().and_then(Frozen::map).map_err(|e| no_memory(&e));
        self.arrived.get_or_init(map).as_deref().map_err(Clone::clone)
    }

    /// Whether channel ends or shared memory are part of the value.
    pub(crate) fn has_handles(&self) -> bool {
        self.handles.is_some()
    }

    /// Returns a copy that shares a large body. Channel ends are not copied.
    ///
    /// # Errors
    ///
    /// There is no descriptor for the copy.
    pub(crate) fn try_clone(&self) -> Result<Payload, String> {
        let body = match &self.body {
            Body::Inline(bytes) => Body::Inline(bytes.clone()),
            Body::Large(descriptor) => {
                let copy = descriptor.try_clone().and_then(|fd| Descriptor::new(fd.as_fd()));
                Body::Large(copy.map_err(|error| no_memory(&error))?)
            }
        };
        Ok(Payload { body, handles: None, arrived: OnceCell::new() })
    }

    /// Returns the length of the encoded value in bytes; 0 if the value has not arrived completely.
    pub(crate) fn len(&self) -> usize {
        self.bytes().map_or(0, <[u8]>::len)
    }

    /// Returns the bytes, and takes out the channel ends.
    ///
    /// # Errors
    ///
    /// As for [`bytes`](Payload::bytes).
    pub(crate) fn parts(&mut self) -> Result<(&[u8], Option<Handles>), String> {
        let handles = self.handles.take();
        Ok((self.bytes()?, handles))
    }

    /// Decodes the value.
    pub(crate) fn decode<T: Message>(mut self) -> Result<T, String> {
        let (bytes, handles) = self.parts()?;
        decode(bytes, handles)
    }
}

fn freeze(bytes: &[u8]) -> io::Result<Descriptor> {
    memory::check_memory(bytes.len())?;
    let frozen = Frozen::build(bytes.len(), |memory| memory.copy_from_slice(bytes))?;
    Descriptor::new(frozen.as_fd())
}

fn no_memory(error: &io::Error) -> String {
    format!("there is no shared memory for the value: {}", explain(error))
}

/// Turns an error of ipc-channel into an error of the system.
pub(crate) fn to_io_error(error: ipc_channel::IpcError) -> io::Error {
    match error {
        ipc_channel::IpcError::Io(error) => error,
        ipc_channel::IpcError::Disconnected => io::ErrorKind::ConnectionReset.into(),
        error => io::Error::other(error),
    }
}

/// Returns why a message cannot be sent; `None` if nobody is left to receive it.
pub(crate) fn send_error(error: ipc_channel::IpcError) -> Option<io::Error> {
    let error = to_io_error(error);
    let is_gone =
        matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
    (!is_gone).then_some(error)
}

/// Returns in words why a message cannot be sent; `None` if nobody is left to receive it.
pub(crate) fn why_not_sent(error: ipc_channel::IpcError) -> Option<String> {
    send_error(error).map(|error| cannot_send(&error))
}

/// Describes an error of the system, and what to do about it if that is known.
pub(crate) fn explain(error: &io::Error) -> String {
    format!("{error}{}", sys::hint(error))
}

/// Makes ipc-channel measure the buffer of a socket now. Otherwise it does so with the first
/// message of a program, and panics if there is no descriptor left at that time. A child need not
/// measure again.
///
/// # Errors
///
/// There are no descriptors, or this version of ipc-channel is unknown.
pub(crate) fn warm_up() -> io::Result<()> {
    crate::memory::check()?;
    closed_channel()?;
    let sent = panics::catch_silently(|| {
        let (sender, _receiver) = ipc::channel::<()>().ok()?;
        sender.send(()).ok()
    });
    sent.ok().flatten().ok_or_else(shortage)
}

/// Sender whose descriptor is no socket. Sending to it fails, and that is the only way to empty
/// ipc-channel's lists of channel ends. Since the descriptor exists already, this needs no new one.
static CLOSED_CHANNEL: OnceLock<IpcSender<()>> = OnceLock::new();

fn closed_channel() -> io::Result<&'static IpcSender<()>> {
    if CLOSED_CHANNEL.get().is_none() {
        // The kernel refuses a `send` to a pipe in less time than one to a socket without a peer.
        let (pipe, _) = io::pipe()?;
        let _ = CLOSED_CHANNEL.set(crate::memory::sender_of(pipe.into())?);
    }
    CLOSED_CHANNEL.get().ok_or_else(shortage)
}

/// Sends a message of this library. Channel ends that a failed `send` of the user has left in this
/// thread's list are dropped before: the receiver does not expect them.
pub(crate) fn send<T: Serialize>(
    sender: &IpcSender<T>,
    message: T,
) -> Result<(), ipc_channel::IpcError> {
    drop_collected_handles();
    sender.send(message)
}

/// Drops the channel ends that this thread has met while encoding. Otherwise its next message would
/// take them along.
///
/// This makes a system call, which takes about a tenth of a microsecond.
#[cold]
pub(crate) fn drop_collected_handles() {
    if let Ok(closed) = closed_channel() {
        // ipc-channel panics if there are more channel ends than one message can carry.
        let _ = panics::catch_silently(|| closed.send(()).is_ok());
    }
}

/// Handles: the channel ends and shared memory of one value, as a channel that contains one message
/// with them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Handles(Arriving<OpaqueIpcReceiver>);

/// Appends the encoding of `value` to `out`, and returns the channel ends that were part of the
/// value.
pub(crate) fn encode_into<T: Message>(
    value: &T,
    out: &mut Sink,
) -> Result<Option<Handles>, String> {
    encode_and_search(value, out, may_have_handles::<T>())
}

/// Like [`encode_into`], but the caller says whether the value may contain channel ends.
fn encode_and_search<T: Message>(
    value: &T,
    out: &mut Sink,
    may_have_handles: bool,
) -> Result<Option<Handles>, String> {
    if may_have_handles {
        drop_collected_handles();
    }
    let start = out.len();
    panics::catch(|| encode_or_panic_and_search(value, out, may_have_handles)).unwrap_or_else(
        |panic| {
            out.truncate(start);
            drop_collected_handles();
            Err(serialize_panicked(&panic.message))
        },
    )
}

/// Appends the encoding of a value that should contain no channel ends to `out`. Returns whether it
/// contains some; they are dropped.
///
/// `may_have_handles` is false if the value certainly contains none.
pub(crate) fn encode_without_handles<T: Message>(
    value: &T,
    out: &mut Vec<u8>,
    may_have_handles: bool,
) -> Result<bool, String> {
    let mut bytes = Sink::from(std::mem::take(out));
    let handles = encode_and_search(value, &mut bytes, may_have_handles);
    *out = bytes.into_bytes();
    Ok(handles?.is_some())
}

/// Appends the encoding of a value of this library that contains no channel ends to `out`.
pub(crate) fn encode_plain_into<T: Message>(value: &T, out: &mut Vec<u8>) -> Result<(), String> {
    let mut bytes = Sink::from(std::mem::take(out));
    let encoded = codec::encode_into(value, &mut bytes);
    let result = encoded.map_err(|error| why_not_encoded(&error, &mut bytes));
    *out = bytes.into_bytes();
    result
}

/// Tells why a value could not be encoded: its `Serialize` has panicked.
pub(crate) fn serialize_panicked(message: &str) -> String {
    format!("the type's Serialize panicked: {message}")
}

/// Tells why a value could not be decoded: its `Deserialize` has panicked.
pub(crate) fn deserialize_panicked(message: &str) -> String {
    // Nearly always, ipc-channel panics with this text when it looks up a channel end in its own
    // list. That list is empty if another version of ipc-channel has filled a list of its own.
    let hint = if message.starts_with("index out of bounds") {
        "; either the channel ends in the value are of another version of ipc-channel: make them \
         with proc_core::ipc; or a send of your own has failed before in the thread that sent the \
         value, and the channel ends of that send were still in ipc-channel"
    } else {
        ""
    };
    format!("the type's Deserialize panicked: {message}{hint}")
}

/// Whether values of this type may contain channel ends, which have a destructor.
#[inline]
pub(crate) fn may_have_handles<T: 'static>() -> bool {
    std::mem::needs_drop::<T>() && !bulk::is_known::<T>()
}

/// Like [`encode_into`], but a panic of the value's `Serialize` goes on to the caller. The caller
/// must then call [`drop_collected_handles`] and shorten `out`.
///
/// If the type [may have channel ends](may_have_handles), the caller must have called
/// [`drop_collected_handles`] since user code ran last in this thread.
#[inline]
pub(crate) fn encode_or_panic<T: Message>(
    value: &T,
    out: &mut Sink,
) -> Result<Option<Handles>, String> {
    encode_or_panic_and_search(value, out, may_have_handles::<T>())
}

#[inline]
fn encode_or_panic_and_search<T: Message>(
    value: &T,
    out: &mut Sink,
    may_have_handles: bool,
) -> Result<Option<Handles>, String> {
    if let Some(bytes) = bulk::bytes_of(value) {
        return match out.append(bytes) {
            Ok(()) => Ok(None),
            Err(error) => Err(why_not_encoded(&error.into(), out)),
        };
    }
    let start = out.len();
    out.take_possible_handle(); // forget what an earlier value has noted
    let encoded = codec::encode_into(value, out);
    // The first channel end is written as its index, which is 0. If no 0 was written, there is no
    // channel end, and no need for the costly search.
    if !may_have_handles || (encoded.is_ok() && !out.take_possible_handle()) {
        return match encoded {
            Ok(()) => Ok(None),
            Err(error) => Err(why_not_encoded(&error, out)),
        };
    }
    let handles = collect_handles();
    let result = encoded.map_err(|error| why_not_encoded(&error, out)).and(handles);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

#[cold]
fn why_not_encoded(error: &codec::CodecError, out: &mut Sink) -> String {
    out.take_shortage().unwrap_or_else(|| error.to_string())
}

/// Moves the channel ends that this thread has met while encoding into a message of their own.
fn collect_handles() -> Result<Option<Handles>, String> {
    // ipc-channel panics if there is no descriptor.
    let moved =
        panics::catch_silently(move_handles).unwrap_or_else(|_| Err(cannot_send(&shortage())));
    if !matches!(moved, Ok(Some(_))) {
        drop_collected_handles();
    }
    moved
}

fn cannot_send(error: &io::Error) -> String {
    format!("the channel ends in the value cannot be sent: {}", explain(error))
}

/// Returns the error of the system behind a panic of ipc-channel, which panics if there is no
/// descriptor or mapping left.
fn shortage() -> io::Error {
    let error = io::Error::last_os_error();
    if sys::is_shortage(&error) { error } else { nix::errno::Errno::EMFILE.into() }
}

fn move_handles() -> Result<Option<Handles>, String> {
    let (sender, receiver) = ipc::channel::<HandleCounts>().map_err(|error| cannot_send(&error))?;
    // ipc-channel does not tell the lengths of its lists. So encode one more of each kind, and read
    // its index.
    let channels = index_of(&sender)?;
    // A process that may not make files cannot count the regions. The value may have some, which
    // were made before or have arrived, so the message is sent in any case.
    let can_count = memory::largest_file() > 0;
    let regions = if can_count { index_of(&IpcSharedMemory::from_byte(0, 1))? } else { 0 };
    if channels == 0 && regions == 0 && can_count {
        return Ok(None);
    }
    if channels + regions + 2 > MAX_HANDLES {
        return Err(format!(
            "the value has {channels} channel ends and {regions} regions of shared memory, and one \
             value may have {} in all: send several values",
            MAX_HANDLES - 2
        ));
    }
    let (channels, regions) = (channels + 1, regions + usize::from(can_count));
    sender
        .send(HandleCounts { channels, regions })
        .map_err(|error| cannot_send(&to_io_error(error)))?;
    Ok(Some(Handles(Arriving::new(receiver.to_opaque()))))
}

fn index_of<T: Serialize>(probe: &T) -> Result<usize, String> {
    let mut bytes = Sink::default();
    codec::encode_into(probe, &mut bytes).map_err(|error| error.to_string())?;
    codec::decode(&bytes).map(|(index, _)| index).map_err(|error| error.to_string())
}

/// Body of the message with the channel ends and regions: how many there are of each kind. The last
/// one of each kind does not belong to the value. It shows whether all have arrived: if the
/// receiver has too few descriptors, the last ones are missing.
#[derive(Default, Serialize, Deserialize)]
struct HandleCounts {
    channels: usize,
    regions: usize,
}

impl HandleCounts {
    /// Whether all have arrived. Takes the last one of each kind.
    fn have_all_arrived(&self) -> bool {
        let last_channel = self.channels.checked_sub(1);
        let last_region = self.regions.checked_sub(1);
        last_channel.is_none_or(|last| decode_bytes::<OpaqueIpcReceiver>(&varint(last)).is_ok())
            && last_region.is_none_or(|last| decode_bytes::<IpcSharedMemory>(&varint(last)).is_ok())
    }
}

/// Decodes a value and gives it its channel ends. The error is the reason in serde's words.
pub(crate) fn decode<T: Message>(bytes: &[u8], handles: Option<Handles>) -> Result<T, String> {
    let Some(Handles(carrier)) = handles else { return decode_bytes(bytes) };
    let carrier = carrier.take().map_err(|error| not_arrived(&error))?;
    BYTES.set(bytes.to_vec());
    let received = panics::catch_silently(|| carrier.to::<WithHandles<T>>().recv());
    match received {
        Ok(Ok(WithHandles(value))) => value,
        Ok(Err(error)) => Err(not_arrived(&to_io_error(error))),
        Err(_) => {
            close_arrived(MAX_HANDLES);
            Err(not_arrived(&shortage()))
        }
    }
}

fn decode_bytes<T: Message>(bytes: &[u8]) -> Result<T, String> {
    panics::catch(|| decode_plain(bytes))
        .unwrap_or_else(|panic| Err(deserialize_panicked(&panic.message)))
}

/// Like [`decode`], but a panic of the type's `Deserialize` goes on to the caller.
#[inline]
pub(crate) fn decode_or_panic<T: Message>(
    bytes: &[u8],
    handles: Option<Handles>,
) -> Result<T, String> {
    if handles.is_some() { decode(bytes, handles) } else { decode_plain(bytes) }
}

#[inline]
fn decode_plain<T: Message>(bytes: &[u8]) -> Result<T, String> {
    if let Some(value) = bulk::from_bytes(ValueBytes::Own(bytes)) {
        return value.map_err(String::from);
    }
    match codec::decode(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(codec::left_over(rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

/// Decodes the value in the range `range` of shared memory. A vector of numbers, a string or a byte
/// buffer is copied once.
///
/// The process that wrote the value may write again meanwhile, so only a copy is ever read.
pub(crate) fn decode_shared<T: Message>(part: &Part, range: Range<usize>) -> Result<T, String> {
    let len = range.len();
    let (region, at) = part.place(range).ok_or("the data end too early")?;
    if let Some(value) = bulk_from_shared(region, at, len) {
        return value.map_err(String::from);
    }
    let mut copy = Vec::new();
    if !region.read(at, len, &mut copy) {
        return Err(Unreadable::NoMemory.into());
    }
    decode_plain(&copy)
}

/// Copies a number, a vector of numbers, a string or a byte buffer out of shared memory. Returns
/// `None` if `T` is another type.
#[inline]
pub(crate) fn bulk_from_shared<T: 'static>(
    region: &Region,
    at: usize,
    len: usize,
) -> Option<Result<T, Unreadable>> {
    bulk::from_bytes(ValueBytes::Shared { region, at, len })
}

thread_local! {
    /// Bytes to decode when the message with their channel ends is received.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Type that is received in place of [`HandleCounts`]: it decodes [`BYTES`] at the moment when
/// ipc-channel has the channel ends ready.
struct WithHandles<T>(Result<T, String>);

impl<'de, T: Message> Deserialize<'de> for WithHandles<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = HandleCounts::deserialize(deserializer)?;
        let bytes = BYTES.take();
        let value = match counts.have_all_arrived() {
            true => decode_bytes(&bytes),
            false => Err(not_arrived(&shortage())),
        };
        close_arrived(counts.channels.min(MAX_HANDLES));
        Ok(WithHandles(value))
    }
}

fn not_arrived(error: &io::Error) -> String {
    format!("the channel ends in the value did not arrive: {}", explain(error))
}

/// Closes the channel ends of the message that this thread is receiving, or has failed to receive.
/// ipc-channel leaks ends that nobody takes, and panics in a debug build when it drops them.
///
/// In place of an end that was taken, ipc-channel has one without a descriptor; closing that one
/// does no harm.
pub(crate) fn close_arrived(count: usize) {
    let close = |index| decode_bytes::<OpaqueIpcReceiver>(&varint(index)).map(drop);
    let _ = panics::catch_silently(|| (0..count).try_for_each(close));
}

impl<T> Serialize for WithHandles<T> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("this type is only received, never sent"))
    }
}

fn varint(index: usize) -> Sink {
    let mut bytes = Sink::default();
    codec::encode_into(&index, &mut bytes).expect("an integer can be encoded");
    bytes
}
