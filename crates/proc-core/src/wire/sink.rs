//! Where values are encoded to: a vector, and beside it a place where large pieces go at once.
//!
//! A large piece of bytes in a value (a vector of numbers, a string, what `serde_bytes` wraps) is
//! copied once, straight to where the other process reads it. The vector gets all that is small,
//! and [`Sink::settle`] writes that around the large pieces when the value is whole. Where there is
//! no place for large pieces they are like any others.

use std::fmt::{self, Debug};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use nix::errno::Errno;

use crate::memory::Lease;
use crate::sys::{self, memory};

/// From here on a piece is large: a copy of it costs more than finding a place for it.
pub(crate) const LARGE: usize = 64 << 10;

/// Room that is had beside what was asked for.
const SLACK_BYTES: usize = 64;

/// Values with large pieces are not longer: their length takes four bytes, whatever comes later.
const MAX_LARGE_BYTES: usize = 2 << 30;

/// Who has memory that other processes see.
pub(crate) trait Lender: Send + Sync {
    /// A block of at least `len` bytes, and room for a result of `results` bytes, or as many again;
    /// `None` if there is no memory for it.
    fn lend(&self, len: usize, results: Option<usize>) -> Option<Lease>;

    /// How many bytes of a block must stay free beside a value.
    fn spare(&self) -> usize;
}

/// What values are encoded to, one after another.
#[derive(Default)]
pub(crate) struct Sink {
    bytes: Vec<u8>,
    /// Where large pieces go.
    room: Option<Lease>,
    /// Who gives room when there is none, or too little.
    lender: Option<Arc<dyn Lender>>,
    /// Bytes of the result that the lender is to have room for too, if that is known.
    results: Option<usize>,
    /// Where in the room the present value starts.
    start: usize,
    /// Where in `bytes` it starts.
    base: usize,
    /// Its large pieces: before which of `bytes` they come, and their length.
    large: Vec<(usize, usize)>,
    /// The length of these in all.
    beside: usize,
    /// Whether something was written that may be the index of a channel end.
    indexed: bool,
    /// What there was too little of, where there was.
    shortage: Option<String>,
}

impl Sink {
    /// One that takes large pieces to blocks of `lender`'s.
    pub(crate) fn lent(
        bytes: Vec<u8>,
        lender: Option<Arc<dyn Lender>>,
        results: Option<usize>,
    ) -> Sink {
        Sink { base: bytes.len(), bytes, lender, results, ..Sink::default() }
    }

    /// Gives it room for large pieces.
    pub(crate) fn set_room(&mut self, room: Option<Lease>) {
        self.room = room;
    }

    /// Begins a value, which is to start at `start` of the room.
    #[inline]
    pub(crate) fn begin(&mut self, start: usize) {
        self.start = start;
        self.base = self.bytes.len();
    }

    /// Forgets all values, which have no large pieces, and begins one.
    #[inline]
    pub(crate) fn reset(&mut self, start: usize) {
        debug_assert!(self.large.is_empty() && self.beside == 0 && self.base == 0);
        self.bytes.clear();
        self.start = start;
    }

    /// The bytes of the present value and of those before it that are in the vector, and large
    /// pieces.
    #[inline]
    pub(crate) fn total(&self) -> usize {
        self.bytes.len() + self.beside
    }

    /// Appends a piece that may be large.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    #[inline]
    pub(crate) fn append(&mut self, piece: &[u8]) -> postcard::Result<()> {
        if piece.len() >= LARGE && self.place(piece) {
            return Ok(());
        }
        if self.bytes.capacity() - self.bytes.len() < piece.len() {
            self.try_grow(piece.len())?;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Makes room for so many more bytes of the vector.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    #[cold]
    pub(crate) fn try_grow(&mut self, more: usize) -> postcard::Result<()> {
        // Where no pages are left for what can be reserved, the kernel kills.
        let is_there = if more < LARGE { Ok(()) } else { memory::check_memory(more) };
        // The head of the next record is written without asking.
        let more = more.saturating_add(SLACK_BYTES);
        let mut reserved = || {
            let doubled = self.bytes.try_reserve(more);
            doubled.or_else(|_| self.bytes.try_reserve_exact(more)).is_ok()
        };
        let shortage = match is_there {
            Ok(()) if reserved() => return Ok(()),
            Ok(()) => Errno::ENOMEM.into(),
            Err(error) => error,
        };
        self.shortage = Some(format!("{shortage}{}", sys::hint(&shortage)));
        Err(postcard::Error::SerializeBufferFull)
    }

    /// What there was too little of since the last call.
    #[cold]
    pub(crate) fn take_shortage(&mut self) -> Option<String> {
        self.shortage.take()
    }

    /// Copies a large piece to its place; false if there is none.
    #[cold]
    fn place(&mut self, piece: &[u8]) -> bool {
        let at = self.start + self.total() - self.base;
        let end = at + piece.len();
        if end > MAX_LARGE_BYTES || !(self.fits(end) || self.grow(end, at)) {
            return false;
        }
        let placed = self.room.as_ref().is_some_and(|room| room.write(at, piece));
        if placed {
            self.large.push((self.bytes.len(), piece.len()));
            self.beside += piece.len();
        }
        placed
    }

    fn fits(&self, len: usize) -> bool {
        self.room.as_ref().is_some_and(|room| len <= room.len())
    }

    /// Gets room for `len` bytes, and moves there what was placed, which ends before `used`.
    fn grow(&mut self, len: usize, used: usize) -> bool {
        let Some(lender) = &self.lender else { return false };
        // Doubling, so that many large pieces are moved about once each.
        let wanted = self.room.as_ref().map_or(len, |room| len.max(2 * room.len()));
        let Some(room) = lender.lend(wanted, self.results) else { return false };
        if let Some(old) = &self.room {
            let mut moved = Vec::new();
            let used = used.min(old.len());
            if !old.read(0, used, &mut moved) || !room.write(0, &moved) {
                return false;
            }
        }
        self.room = Some(room);
        true
    }

    /// Notes that something was written that may be the first index of a channel end.
    #[inline]
    pub(crate) fn note_index(&mut self) {
        self.indexed = true;
    }

    /// Whether that was noted since the last call.
    #[inline]
    pub(crate) fn take_index(&mut self) -> bool {
        std::mem::take(&mut self.indexed)
    }

    /// Whether the present value has large pieces that are in their place.
    #[inline]
    pub(crate) fn has_placed(&self) -> bool {
        !self.large.is_empty()
    }

    /// Puts the rest of the present value into the room, around its large pieces, and forgets it.
    /// The length that it has there; `None` if it does not fit, which changes nothing.
    pub(crate) fn finish(&mut self) -> Option<usize> {
        let len = self.total() - self.base;
        let spare = self.lender.as_ref().map_or(0, |lender| lender.spare());
        let end = self.start + len;
        if !self.fits(end + spare) && !self.grow(end + spare, end) {
            return None;
        }
        let room = self.room.as_ref()?;
        let (mut from, mut at) = (self.base, self.start);
        for &(to, large) in &self.large {
            if !room.write(at, &self.bytes[from..to]) {
                return None;
            }
            at += to - from + large;
            from = to;
        }
        if !room.write(at, &self.bytes[from..]) {
            return None;
        }
        self.truncate(self.base);
        Some(len)
    }

    /// The room, which is somebody else's now.
    pub(crate) fn take_block(&mut self) -> Option<Lease> {
        self.room.take()
    }

    /// Brings large pieces back among the others, for a value that goes another way.
    ///
    /// # Errors
    ///
    /// There is no memory for them.
    #[cold]
    pub(crate) fn inline_large(&mut self) -> Result<(), String> {
        let Some(room) = &self.room else { return Ok(()) };
        let mut whole = Vec::new();
        let total = self.bytes.len() + self.beside;
        if self.beside == 0 {
            return Ok(());
        }
        whole.try_reserve_exact(total).map_err(|_| "there is not enough memory for it")?;
        whole.extend_from_slice(&self.bytes[..self.base]);
        let (mut from, mut at) = (self.base, self.start);
        for &(to, large) in &self.large {
            whole.extend_from_slice(&self.bytes[from..to]);
            at += to - from;
            let read = room.read(at, large, &mut whole);
            debug_assert!(read, "it was written there, and there is room for it");
            at += large;
            from = to;
        }
        whole.extend_from_slice(&self.bytes[from..]);
        self.bytes = whole;
        self.large.clear();
        self.beside = 0;
        Ok(())
    }

    /// Shortens the vector, and forgets large pieces that came later.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        while let Some((_, large)) = self.large.pop_if(|(at, _)| *at >= len) {
            self.beside -= large;
        }
    }

    /// Forgets everything.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.large.clear();
        self.beside = 0;
    }

    /// The vector, without anything that is not in it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Deref for Sink {
    type Target = Vec<u8>;

    #[inline]
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Sink {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl From<Vec<u8>> for Sink {
    fn from(bytes: Vec<u8>) -> Sink {
        Sink::lent(bytes, None, None)
    }
}

impl Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}
