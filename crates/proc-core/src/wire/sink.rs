//! Collects encoded values: small pieces in a vector, large pieces directly in a block of shared
//! memory.
//!
//! A large piece of bytes in a value (a vector of numbers, a string, bytes that `serde_bytes`
//! wraps) is copied once, to the place where the other process reads it. Everything small goes into
//! the vector. When the value is complete, [`Sink::finish`] writes the small pieces around the
//! large ones. Without a block, large pieces go into the vector like all others.

use std::fmt::{self, Debug};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use nix::errno::Errno;

use crate::memory::Lease;
use crate::sys::{self, memory};

/// Smallest size of a large piece, in bytes. Copying such a piece costs more than finding a place
/// for it.
pub(crate) const LARGE: usize = 64 << 10;

/// Bytes that the vector gets in addition to those that were asked for.
const SLACK_BYTES: usize = 64;

/// Upper bound on the offset in a block at which a large piece may end, in bytes. With up
/// to 2 GiB of other bytes, the length of the value still fits into four bytes.
const MAX_LARGE_BYTES: usize = 2 << 30;

/// Lends blocks of memory that other processes see.
pub(crate) trait Lender: Send + Sync {
    /// Lends a block of at least `len` bytes, plus room for the result. The result is expected to
    /// have `result_size` bytes, or `len` if that is unknown; the room may be smaller. Returns
    /// `None` if there is no memory for the block.
    fn lend(&self, len: usize, result_size: Option<usize>) -> Option<Lease>;

    /// Returns how many bytes of a block must stay free in addition to the value.
    fn spare(&self) -> usize;

    /// Returns the size of the largest value that can be received, in bytes.
    fn max_value(&self) -> usize;
}

/// Target to which values are encoded, one after another.
#[derive(Default)]
pub(crate) struct Sink {
    bytes: Vec<u8>,
    /// Lease of the block for large pieces.
    block: Option<Lease>,
    /// Source of the block, and of a larger one if the block is too small.
    lender: Option<Arc<dyn Lender>>,
    /// Expected size of the result, for which the block is to have room too, in bytes; `None` if it
    /// is unknown.
    result_size: Option<usize>,
    /// Offset in the block at which the current value starts.
    block_start: usize,
    /// Offset in `bytes` at which the current value starts.
    bytes_start: usize,
    /// Large pieces of the current value: the offset in `bytes` before which each comes, and its
    /// length.
    large: Vec<(usize, usize)>,
    /// Total length of the large pieces, in bytes.
    large_len: usize,
    /// Whether something was written that may be the index of a channel end.
    may_have_handle: bool,
    /// Message about the last lack of memory, if there was one.
    shortage: Option<String>,
}

impl Sink {
    /// Makes a sink that puts large pieces into blocks of `lender`.
    pub(crate) fn with_lender(
        bytes: Vec<u8>,
        lender: Option<Arc<dyn Lender>>,
        result_size: Option<usize>,
    ) -> Sink {
        Sink { bytes_start: bytes.len(), bytes, lender, result_size, ..Sink::default() }
    }

    /// Sets the block for large pieces.
    pub(crate) fn set_block(&mut self, block: Option<Lease>) {
        self.block = block;
    }

    /// Begins a value, which is to start at offset `start` of the block.
    #[inline]
    pub(crate) fn begin(&mut self, start: usize) {
        self.block_start = start;
        self.bytes_start = self.bytes.len();
    }

    /// Forgets all values, which must have no large pieces. Begins a value at offset `start` of the
    /// block.
    #[inline]
    pub(crate) fn reset(&mut self, start: usize) {
        debug_assert!(self.large.is_empty() && self.large_len == 0 && self.bytes_start == 0);
        self.bytes.clear();
        self.block_start = start;
    }

    /// Returns the number of bytes in the vector plus the number of bytes in large pieces. The
    /// vector also contains earlier values.
    #[inline]
    pub(crate) fn total(&self) -> usize {
        self.bytes.len() + self.large_len
    }

    /// Appends a piece that may be large.
    ///
    /// # Errors
    ///
    /// There is no memory for the piece.
    #[inline]
    pub(crate) fn append(&mut self, piece: &[u8]) -> postcard::Result<()> {
        if piece.len() >= LARGE && self.put_in_block(piece) {
            return Ok(());
        }
        if self.bytes.capacity() - self.bytes.len() < piece.len() {
            self.try_grow(piece.len())?;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Makes room for `more` bytes in the vector.
    ///
    /// # Errors
    ///
    /// There is no memory for them.
    #[cold]
    pub(crate) fn try_grow(&mut self, more: usize) -> postcard::Result<()> {
        // Check this first: reserving can succeed although no pages are left, and the kernel then
        // kills the process.
        let checked = if more < LARGE { Ok(()) } else { memory::check_memory(more) };
        // Leave room for the few bytes that `pool/records.rs` writes before the next value, without
        // a call of `try_grow`.
        let more = more.saturating_add(SLACK_BYTES);
        let mut reserved = || {
            let doubled = self.bytes.try_reserve(more);
            doubled.or_else(|_| self.bytes.try_reserve_exact(more)).is_ok()
        };
        let shortage = match checked {
            Ok(()) if reserved() => return Ok(()),
            Ok(()) => Errno::ENOMEM.into(),
            Err(error) => error,
        };
        self.shortage = Some(format!("{shortage}{}", sys::hint(&shortage)));
        Err(postcard::Error::SerializeBufferFull)
    }

    /// Returns the message about a lack of memory since the last call, if there was one.
    #[cold]
    pub(crate) fn take_shortage(&mut self) -> Option<String> {
        self.shortage.take()
    }

    /// Copies a large piece into the block. Returns false if there is no room for it.
    #[cold]
    fn put_in_block(&mut self, piece: &[u8]) -> bool {
        let at = self.block_start + self.total() - self.bytes_start;
        let end = at + piece.len();
        if end > MAX_LARGE_BYTES || !(self.fits(end) || self.grow_block(end, at)) {
            return false;
        }
        let is_written = self.block.as_ref().is_some_and(|block| block.write(at, piece));
        if is_written {
            self.large.push((self.bytes.len(), piece.len()));
            self.large_len += piece.len();
        }
        is_written
    }

    /// Whether the block has at least `len` bytes.
    fn fits(&self, len: usize) -> bool {
        self.block.as_ref().is_some_and(|block| len <= block.len())
    }

    /// Gets a block of at least `len` bytes, and moves the large pieces from the old block into it.
    /// In the old block, the large pieces end at offset `used` or before.
    fn grow_block(&mut self, len: usize, used: usize) -> bool {
        let Some(lender) = &self.lender else { return false };
        // Double the size, so that each of many large pieces is moved about once.
        let wanted = self.block.as_ref().map_or(len, |block| len.max(2 * block.len()));
        let Some(block) = lender.lend(wanted, self.result_size) else { return false };
        if let Some(old) = &self.block {
            let mut moved = Vec::new();
            let used = used.min(old.len());
            if !old.read(0, used, &mut moved) || !block.write(0, &moved) {
                return false;
            }
        }
        self.block = Some(block);
        true
    }

    /// Notes that something was written that may be the index of a channel end.
    #[inline]
    pub(crate) fn note_possible_handle(&mut self) {
        self.may_have_handle = true;
    }

    /// Whether a possible index was noted since the last call.
    #[inline]
    pub(crate) fn take_possible_handle(&mut self) -> bool {
        std::mem::take(&mut self.may_have_handle)
    }

    /// Whether large pieces of the current value lie in the block.
    #[inline]
    pub(crate) fn has_large_pieces(&self) -> bool {
        !self.large.is_empty()
    }

    /// Writes the rest of the current value into the block, around its large pieces, and removes
    /// the value from the vector. Returns the length of the value in the block. Returns `None` and
    /// leaves the value as it was if the value does not fit.
    pub(crate) fn finish(&mut self) -> Option<usize> {
        let len = self.total() - self.bytes_start;
        let spare = self.lender.as_ref().map_or(0, |lender| lender.spare());
        let end = self.block_start + len;
        if !self.fits(end + spare) && !self.grow_block(end + spare, end) {
            return None;
        }
        let block = self.block.as_ref()?;
        let (mut from, mut at) = (self.bytes_start, self.block_start);
        for &(to, large) in &self.large {
            if !block.write(at, &self.bytes[from..to]) {
                return None;
            }
            at += to - from + large;
            from = to;
        }
        if !block.write(at, &self.bytes[from..]) {
            return None;
        }
        self.truncate(self.bytes_start);
        Some(len)
    }

    /// Takes the lease of the block out of the sink.
    pub(crate) fn take_block(&mut self) -> Option<Lease> {
        self.block.take()
    }

    /// Moves large pieces from the block to their places in the vector, for a value that does not
    /// go through the block.
    ///
    /// # Errors
    ///
    /// There is no memory for them.
    #[cold]
    pub(crate) fn inline_large(&mut self) -> Result<(), String> {
        let Some(block) = &self.block else { return Ok(()) };
        let mut whole = Vec::new();
        let total = self.bytes.len() + self.large_len;
        if self.large_len == 0 {
            return Ok(());
        }
        whole.try_reserve_exact(total).map_err(|_| "there is not enough memory for the value")?;
        whole.extend_from_slice(&self.bytes[..self.bytes_start]);
        let (mut from, mut at) = (self.bytes_start, self.block_start);
        for &(to, large) in &self.large {
            whole.extend_from_slice(&self.bytes[from..to]);
            at += to - from;
            let read = block.read(at, large, &mut whole);
            debug_assert!(read, "the piece was written there, and there is room for it");
            at += large;
            from = to;
        }
        whole.extend_from_slice(&self.bytes[from..]);
        self.bytes = whole;
        self.large.clear();
        self.large_len = 0;
        Ok(())
    }

    /// Shortens the vector to `len` bytes, and forgets large pieces that come later.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        while let Some((_, large)) = self.large.pop_if(|(at, _)| *at >= len) {
            self.large_len -= large;
        }
    }

    /// Forgets all bytes and all large pieces.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.large.clear();
        self.large_len = 0;
    }

    /// Returns the vector. Large pieces in the block are not part of it.
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
        Sink::with_lender(bytes, None, None)
    }
}

impl Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}
