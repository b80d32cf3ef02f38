//! Places the words of shared objects in memory, and sends the objects to other processes.
//!
//! The process that makes an object takes a *slot* for it: a piece of a segment. A segment is
//! memory of 64 KiB with one descriptor; an object of more than 8 KiB has a segment of its own. An
//! object is sent as its place together with a copy of that descriptor. So the kernel counts who
//! has a segment: the processes that map it, and the messages that carry it. The memory goes with
//! the last of them, however that one ends, and there is no name or file to remove.
//!
//! A slot is used again only if nobody else can have the object: it was never sent, and the process
//! was not forked since the object was made. The other slots go with their segment.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytemuck::Pod;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::memory::{AllAtomic, Descriptor, Family, Placed, Region};
use crate::sys::{self, PerProcess, memory};
use crate::wire;

/// Size of a segment of small objects, in bytes.
const SEGMENT_BYTES: usize = 64 << 10;

/// Largest object that shares a segment with others, in bytes.
const MAX_SMALL_BYTES: usize = 8 << 10;

/// Slots begin at multiples of this many bytes, so that two objects never share a line of a
/// processor's cache.
const LINE: usize = 64;

/// Whether this is a model check. There, each slot is a segment of its own, and is not cleared:
/// loom's atomics belong to one run of a model, and are 0 at first.
const IS_MODEL: bool = cfg!(all(test, loom));

/// Kind of an object, by which a process that receives one knows that it is what it expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Lock,
    RLock,
    Mutex,
    Value,
    Array,
    Semaphore,
    Event,
    Condition,
    Barrier,
}

/// Piece of memory that several processes map.
#[derive(Debug)]
struct Segment {
    /// Number that no other segment of the family has.
    id: u64,
    region: Arc<Region>,
    fd: OwnedFd,
}

/// Piece of a segment, with the words of one object.
#[derive(Debug)]
pub(super) struct Slot {
    segment: Arc<Segment>,
    offset: usize,
    len: usize,
    kind: Kind,
    family: &'static Family,
    /// Pid of the process that made the object, and its count of forks then; `None` if the object
    /// came from another process.
    made: Option<(u32, u64)>,
    was_sent: AtomicBool,
}

/// Segments of this process.
#[derive(Debug, Default)]
struct Segments {
    /// Segment in which new small objects are made, and the part of it that was used.
    current: Option<(Arc<Segment>, usize)>,
    /// Offsets of free slots in the current segment, by length.
    free: FxHashMap<usize, Vec<usize>>,
    /// Segments that this process has mapped, by number.
    mapped: FxHashMap<u64, Weak<Segment>>,
}

/// Segments of this process. A copy of the process begins with none, so two processes never make
/// objects in the same place.
static SEGMENTS: PerProcess<Mutex<Segments>> = PerProcess::new();

fn segments() -> MutexGuard<'static, Segments> {
    SEGMENTS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segment {
    fn new(len: usize) -> io::Result<Arc<Segment>> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        memory::check_memory(len)?;
        let fd = memory::create(len)?;
        memory::seal(&fd, memory::Access::Write)?;
        let process = u64::from(Family::get()?.own_id()?.get());
        // A process makes fewer than 2^32 segments, and no other process has its number.
        let id = process << 32 | SERIAL.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX);
        let segment = Segment::map(id, fd)?;
        Ok(segments().keep(segment))
    }

    fn map(id: u64, fd: OwnedFd) -> io::Result<Arc<Segment>> {
        let region = Arc::new(Region::map_borrowed(fd.as_fd())?);
        Ok(Arc::new(Segment { id, region, fd }))
    }
}

impl Segments {
    /// Notes that this process has mapped `segment`. Returns the mapping to use, which is an older
    /// one if there is one.
    fn keep(&mut self, segment: Arc<Segment>) -> Arc<Segment> {
        if let Some(older) = self.mapped.get(&segment.id).and_then(Weak::upgrade) {
            return older;
        }
        // Before the map grows, forget the segments that are gone.
        if self.mapped.len() == self.mapped.capacity() {
            self.mapped.retain(|_, segment| segment.strong_count() > 0);
        }
        self.mapped.insert(segment.id, Arc::downgrade(&segment));
        segment
    }

    /// Takes `len` bytes of the current segment; `None` if it has no room.
    fn take(&mut self, len: usize) -> Option<(Arc<Segment>, usize)> {
        let (segment, used) = self.current.as_mut()?;
        if let Some(offset) = self.free.get_mut(&len).and_then(Vec::pop) {
            return Some((Arc::clone(segment), offset));
        }
        let offset = *used;
        (offset + len <= SEGMENT_BYTES).then(|| {
            *used += len;
            (Arc::clone(segment), offset)
        })
    }
}

impl Slot {
    /// Makes a slot of at least `len` zero bytes.
    ///
    /// # Errors
    ///
    /// There is no memory, descriptor or address space for it.
    pub(super) fn new(kind: Kind, len: usize) -> Result<Arc<Slot>, Error> {
        Slot::make(kind, len).map_err(|error| Error::make("shared state", error))
    }

    fn make(kind: Kind, len: usize) -> io::Result<Arc<Slot>> {
        let made = Some((sys::pid(), sys::count_of_forks()));
        let len = len.max(1).checked_next_multiple_of(LINE).ok_or(io::ErrorKind::OutOfMemory)?;
        let family = Family::get()?;
        family.own_id()?;
        let (segment, offset) = if len > MAX_SMALL_BYTES || IS_MODEL {
            (Segment::new(len)?, 0)
        } else {
            let taken = segments().take(len);
            match taken {
                Some(taken) => taken,
                None => {
                    let segment = Segment::new(SEGMENT_BYTES)?;
                    let mut segments = segments();
                    segments.current = Some((segment, 0));
                    segments.free.clear();
                    segments.take(len).expect("a new segment has room")
                }
            }
        };
        let slot =
            Slot { segment, offset, len, kind, family, made, was_sent: AtomicBool::new(false) };
        // Only small slots are used again. The memory of a new segment is zero, and a page of it
        // takes memory when it is first read or written.
        if !IS_MODEL && len <= MAX_SMALL_BYTES {
            for word in slot.words(0, len / size_of::<u64>()) {
                word.store(0, Ordering::Relaxed);
            }
        }
        Ok(Arc::new(slot))
    }

    /// Returns `count` atomics at `offset` of the slot. They must lie in the slot.
    #[inline]
    pub(super) fn atomics<T: AllAtomic>(&self, offset: usize, count: usize) -> &[T] {
        debug_assert!(offset + count * size_of::<T>() <= self.len);
        let atomics = self.segment.region.atomics(self.offset + offset, count);
        atomics.expect("the length of a slot is checked when it is made or arrives")
    }

    /// Returns the value at `offset` to the holder of the lock that protects it.
    pub(super) fn locked<T: Pod>(&self, offset: usize) -> &T {
        let value = self.segment.region.locked(self.offset + offset);
        value.expect("the length of a slot is checked when it is made or arrives")
    }

    /// Like [`locked`](Slot::locked), to change the value.
    pub(super) fn locked_mut<T: Pod>(&self, offset: usize) -> &mut T {
        let value = self.segment.region.locked_mut(self.offset + offset);
        value.expect("the length of a slot is checked when it is made or arrives")
    }

    fn words(&self, offset: usize, count: usize) -> &[crate::memory::atomics::AtomicU64] {
        self.atomics(offset, count)
    }

    /// Returns the family of the processes that share the object.
    pub(super) fn family(&self) -> &'static Family {
        self.family
    }

    /// Returns the size in bytes, which is a multiple of 64.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the words at the begin of the slot.
    pub(super) fn header<T: AllAtomic>(&self) -> Placed<T> {
        let placed = Placed::new(Arc::clone(&self.segment.region), self.offset);
        placed.expect("the length of a slot is checked when it is made or arrives")
    }

    /// Prepares the slot for sending.
    pub(super) fn send(&self) -> Result<Sent, String> {
        self.was_sent.store(true, Ordering::Relaxed);
        let cannot = |error: io::Error| {
            format!("the shared state cannot be sent: {}", wire::explain(&error))
        };
        Ok(Sent {
            run: self.family.run(),
            segment: self.segment.id,
            offset: self.offset,
            len: self.len,
            kind: self.kind,
            fd: Descriptor::new(self.segment.fd.as_fd()).map_err(cannot)?,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let is_ours_alone =
            self.made == Some((sys::pid(), sys::count_of_forks())) && !*self.was_sent.get_mut();
        if is_ours_alone && self.len <= MAX_SMALL_BYTES {
            let mut segments = segments();
            let Segments { current, free, .. } = &mut *segments;
            if current.as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, &self.segment)) {
                free.entry(self.len).or_default().push(self.offset);
            }
        }
    }
}

/// Form in which an object is sent.
#[derive(Serialize, Deserialize)]
pub(super) struct Sent {
    run: u64,
    segment: u64,
    offset: usize,
    len: usize,
    kind: Kind,
    fd: Descriptor,
}

impl Sent {
    /// Maps the slot that has arrived, which must be of this kind and have at least `min_len`
    /// bytes.
    pub(super) fn arrive(self, kind: Kind, min_len: usize) -> Result<Arc<Slot>, String> {
        let cannot = |error: io::Error| {
            format!("the shared state cannot be mapped: {}", wire::explain(&error))
        };
        let family = Family::get().map_err(cannot)?;
        if family.run() != self.run {
            return Err("the shared state belongs to another run of a program: it can only be \
                        sent to processes that this run has started"
                .into());
        }
        family.own_id().map_err(cannot)?; // so that its use cannot fail later
        let mapped = segments().mapped.get(&self.segment).and_then(Weak::upgrade);
        let segment = match mapped {
            Some(segment) => segment,
            None => {
                let fd = self.fd.into_fd().map_err(cannot)?;
                let segment = Segment::map(self.segment, fd).map_err(cannot)?;
                segments().keep(segment)
            }
        };
        let end = self.offset.checked_add(self.len);
        let is_inside = end.is_some_and(|end| end <= segment.region.len());
        let is_aligned = self.offset.is_multiple_of(LINE) && self.len.is_multiple_of(LINE);
        if self.kind != kind || self.len < min_len || !is_inside || !is_aligned {
            return Err(format!("the shared state is not the {kind:?} that is expected here"));
        }
        let Sent { offset, len, .. } = self;
        let was_sent = AtomicBool::new(true);
        Ok(Arc::new(Slot { segment, offset, len, kind, family, made: None, was_sent }))
    }
}

/// Implements `Serialize` and `Deserialize` for a handle with a field `slot`, by its [`Sent`].
macro_rules! send_as_slot {
    ($handle:ident$(<$type:ident: $bound:path>)?, $kind:expr, $min_len:expr) => {
        impl$(<$type>)? serde::Serialize for $handle$(<$type>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.slot.send().map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
        }

        impl<'de, $($type: $bound)?> serde::Deserialize<'de> for $handle$(<$type>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let sent = $crate::sync::object::Sent::deserialize(deserializer)?;
                let slot = sent.arrive($kind, $min_len).map_err(serde::de::Error::custom)?;
                Ok(Self::of(slot))
            }
        }
    };
}
pub(super) use send_as_slot;
