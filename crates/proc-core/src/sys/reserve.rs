//! Memory that is kept for receiving messages under a limit of memory.
//!
//! ipc-channel takes a buffer for each message that it receives, and Rust aborts the process where
//! it is not to be had. So what is left is asked for first, and where that is little, a reserve is
//! given up for the buffer, one message at a time.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::identity::PerProcess;

/// What ipc-channel's buffer for a message takes at most, in bytes.
const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// Bytes that are kept: glibc maps a mebibyte (`MMAP_AS_MORECORE_SIZE` of its malloc.c) where a
/// heap cannot grow, and wants a margin.
const RESERVE_BYTES: usize = 2 << 20;

/// Bytes that are left to other threads for what is small.
const MIN_REST_BYTES: usize = 512 << 10;

static RESERVE: PerProcess<Mutex<Option<Reserved>>> = PerProcess::new();

/// Address space that is mapped and not used. It is not taken from the heap, since what is given
/// back to a heap need not be there for another thread.
#[derive(Debug)]
struct Reserved {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process; any thread may unmap it.
unsafe impl Send for Reserved {}

impl Reserved {
    /// As much as can be had, for one message at least; a heap may have kept some of what it was
    /// given.
    fn new() -> Option<Reserved> {
        let halves = std::iter::successors(Some(RESERVE_BYTES), |len| Some(len / 2));
        halves.take_while(|len| *len >= MAX_MESSAGE_BYTES).find_map(|len| {
            let len = NonZeroUsize::new(len)
                .filter(|len| has_address_space(len.get() + MIN_REST_BYTES))?;
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: the kernel chooses an address where nothing is.
            let start = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) };
            Some(Reserved { start: start.ok()?, len })
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: `new` mapped it, and nobody else knows the address.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

/// Sets the reserve aside, as far as it is not there.
pub(crate) fn keep_reserve() {
    let mut reserve = RESERVE.get().lock().unwrap_or_else(PoisonError::into_inner);
    let kept = reserve.as_ref().map_or(0, |reserve| reserve.len.get());
    if kept < RESERVE_BYTES
        && let Some(larger) = Reserved::new().filter(|new| new.len.get() > kept)
    {
        *reserve = Some(larger);
    }
}

/// Runs `f`, which receives one message, with the reserve given up for it. Waits for a while where
/// the memory is not there even so: the message stays in its channel.
pub(crate) fn with_reserve<T>(f: impl FnOnce() -> T) -> T {
    const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);
    let mut reserve = RESERVE.get().lock().unwrap_or_else(PoisonError::into_inner);
    *reserve = None;
    let begun = Instant::now();
    while !heap_has(MAX_MESSAGE_BYTES) && begun.elapsed() < MEMORY_TIMEOUT {
        std::thread::sleep(Duration::from_millis(1));
    }
    let result = f();
    *reserve = Reserved::new();
    result
}

/// Whether the heap of this thread has so many bytes. It keeps what it has got for that.
fn heap_has(wanted: usize) -> bool {
    let mut buffer = Vec::<u8>::new();
    let has = buffer.try_reserve_exact(wanted).is_ok();
    drop(std::hint::black_box(buffer)); // else a compiler may see that nobody uses it
    has
}

/// Whether there is so much memory that other threads do not use it up before a message is
/// received.
pub(crate) fn has_memory_for_messages() -> bool {
    has_address_space(64 << 20)
}

/// Whether the limits of this process let it have so many bytes more. Nothing is tried: what other
/// threads want meanwhile would not be there.
pub(crate) fn has_address_space(wanted: usize) -> bool {
    let limits = [(Resource::RLIMIT_AS, 0), (Resource::RLIMIT_DATA, 5)];
    limits.into_iter().all(|(limit, field)| {
        let Ok((soft, _)) = getrlimit(limit) else { return true };
        soft == RLIM_INFINITY
            || mapped(field).is_none_or(|mapped| soft.saturating_sub(mapped) >= wanted as u64)
    })
}

/// Bytes that this process has mapped, by the field of /proc/self/statm: 0 for all, 5 for data and
/// stacks.
fn mapped(field: usize) -> Option<u64> {
    use std::io::Read;
    let mut text = [0; 128]; // there may be no memory for a string
    let len = std::fs::File::open("/proc/self/statm").ok()?.read(&mut text).ok()?;
    let pages = std::str::from_utf8(&text[..len]).ok()?.split_ascii_whitespace().nth(field)?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages.parse::<u64>().ok()? * page as u64)
}
