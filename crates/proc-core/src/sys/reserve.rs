//! Keeps a reserve of memory for receiving messages under a memory limit.
//!
//! ipc-channel allocates a buffer for each message that it receives, and Rust aborts the process if
//! the allocation fails. So the receiver first asks how much memory is left. If there is little, it
//! gives up the reserve to make room for the buffer, one message at a time.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::identity::PerProcess;

/// At least the size of ipc-channel's buffer for one message, in bytes, if `net.core.wmem_default`
/// is the usual 212,992. With a higher setting, the buffer may be larger.
const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// Size of the reserve, in bytes. When a heap cannot grow, glibc maps one mebibyte
/// (`MMAP_AS_MORECORE_SIZE` in its malloc.c). The other mebibyte is a margin.
const RESERVE_BYTES: usize = 2 << 20;

/// Bytes that are left for small allocations of other threads.
const MIN_REST_BYTES: usize = 512 << 10;

static RESERVE: PerProcess<Mutex<Option<Reserved>>> = PerProcess::new();

/// Address space that is mapped and not used. It is not taken from the heap: memory that a thread
/// gives back to its heap may not be available to another thread.
#[derive(Debug)]
struct Reserved {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process; any thread may unmap it.
unsafe impl Send for Reserved {}

impl Reserved {
    /// Maps as much as possible, at least enough for one message. The new reserve may be smaller
    /// than the last one, because a heap may keep some of the memory that it got.
    fn new() -> Option<Reserved> {
        let halves = std::iter::successors(Some(RESERVE_BYTES), |len| Some(len / 2));
        halves.take_while(|len| *len >= MAX_MESSAGE_BYTES).find_map(|len| {
            let len = NonZeroUsize::new(len)
                .filter(|len| has_address_space(len.get() + MIN_REST_BYTES))?;
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: the kernel chooses a free address.
            let start = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) };
            Some(Reserved { start: start.ok()?, len })
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: `new` has mapped this range, and nothing else uses it.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

/// Maps the reserve. If there is one already, replaces it only by a larger one.
pub(crate) fn keep_reserve() {
    let mut reserve = RESERVE.get().lock().unwrap_or_else(PoisonError::into_inner);
    let kept = reserve.as_ref().map_or(0, |reserve| reserve.len.get());
    if kept < RESERVE_BYTES
        && let Some(larger) = Reserved::new().filter(|new| new.len.get() > kept)
    {
        *reserve = Some(larger);
    }
}

/// Gives up the reserve and runs `f`, which receives one message. If there is not enough memory
/// even then, waits for up to ten seconds before running `f`; the message stays in its channel
/// meanwhile.
pub(crate) fn with_reserve<T>(f: impl FnOnce() -> T) -> T {
    const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);
    let mut reserve = RESERVE.get().lock().unwrap_or_else(PoisonError::into_inner);
    *reserve = None;
    let start = Instant::now();
    while !heap_has(MAX_MESSAGE_BYTES) && start.elapsed() < MEMORY_TIMEOUT {
        std::thread::sleep(Duration::from_millis(1));
    }
    let result = f();
    *reserve = Reserved::new();
    result
}

/// Whether this thread can allocate `wanted` bytes. The heap often keeps the memory that it gets
/// for this test, but glibc may also map it, and give it back to the system.
fn heap_has(wanted: usize) -> bool {
    let mut buffer = Vec::<u8>::new();
    let has = buffer.try_reserve_exact(wanted).is_ok();
    drop(std::hint::black_box(buffer)); // otherwise the compiler may remove the unused buffer
    has
}

/// Whether there is plenty of memory: so much that other threads cannot use it up before this
/// thread has received a message.
pub(crate) fn has_memory_for_messages() -> bool {
    has_address_space(64 << 20)
}

/// Whether the limits of this process allow `wanted` more bytes. Does not allocate to find out,
/// since other threads could not get that memory meanwhile.
pub(crate) fn has_address_space(wanted: usize) -> bool {
    let limits = [(Resource::RLIMIT_AS, 0), (Resource::RLIMIT_DATA, 5)];
    limits.into_iter().all(|(limit, field)| {
        let Ok((soft, _)) = getrlimit(limit) else { return true };
        soft == RLIM_INFINITY
            || mapped(field).is_none_or(|mapped| soft.saturating_sub(mapped) >= wanted as u64)
    })
}

/// Returns how many bytes this process has mapped, from a field of /proc/self/statm: 0 counts all
/// memory, 5 counts data and stacks.
fn mapped(field: usize) -> Option<u64> {
    use std::io::Read;
    let mut text = [0; 128]; // there may be no memory for a string
    let len = std::fs::File::open("/proc/self/statm").ok()?.read(&mut text).ok()?;
    let pages = std::str::from_utf8(&text[..len]).ok()?.split_ascii_whitespace().nth(field)?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages.parse::<u64>().ok()? * page as u64)
}
