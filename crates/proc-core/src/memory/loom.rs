//! Wraps loom's atomics for a model check in which a worker can be killed before any operation.

use std::any::Any;
use std::cell::Cell;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

pub(crate) use loom::sync::atomic::fence;

loom::thread_local! {
    /// Number of operations that the current thread may still do before it is killed.
    static LEFT: Cell<usize> = Cell::new(usize::MAX);
}

/// Payload with which a killed thread unwinds.
struct Killed;

/// Runs `worker`, and kills it before its operation number `life` (counted from 0). Returns false
/// if `worker` was killed.
pub(crate) fn live(life: usize, worker: impl FnOnce()) -> bool {
    LEFT.with(|left| left.set(life));
    let end = catch_unwind(AssertUnwindSafe(worker));
    LEFT.with(|left| left.set(usize::MAX));
    match end {
        Ok(()) => true,
        Err(payload) if payload.is::<Killed>() => false,
        Err(payload) => resume_unwind(payload),
    }
}

/// Counts an operation that other threads can see. Call this before the operation. The thread may
/// be killed here.
pub(crate) fn step() {
    let killed = LEFT.with(|left| {
        let now = left.get();
        left.set(now.saturating_sub(1));
        now == 0
    });
    if killed {
        resume_unwind(Box::new(Killed));
    }
}

macro_rules! atomics {
    ($($name:ident: $word:ty;)*) => { $(
        /// Wraps loom's atomic of the same name. Each use of it is a step.
        #[derive(Debug, Default)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $word) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            /// Stores by a swap. Loom knows that nothing comes between a swap and the store that
            /// the swap has read. But loom does not know that a plain store after the swap is also
            /// after the store that the swap has read. With plain stores it reports lost wake-ups
            /// that no processor has.
            pub(crate) fn store(&self, value: $word, order: Ordering) {
                self.swap(value, order);
            }
        }

        impl Deref for $name {
            type Target = loom::sync::atomic::$name;

            fn deref(&self) -> &Self::Target {
                step();
                &self.0
            }
        }
    )* };
}

atomics! {
    AtomicU32: u32;
    AtomicU64: u64;
}

/// Objects in a region, as a linked list: the offset and the objects that lie there, and the rest
/// of the list. Loom's atomics are larger than words, so they cannot lie in the region's bytes.
#[derive(Debug, Default)]
pub(crate) struct Objects(OnceLock<(usize, Box<dyn Any + Send + Sync>, Box<Objects>)>);

impl Objects {
    /// Returns the objects at `offset`. The first call for an offset makes them.
    pub(crate) fn at<T: Default + Send + Sync + 'static>(
        &self,
        offset: usize,
        count: usize,
    ) -> &[T] {
        let make = || {
            let objects: Vec<T> = std::iter::repeat_with(T::default).take(count).collect();
            (offset, Box::new(objects) as Box<dyn Any + Send + Sync>, Box::default())
        };
        let (first_offset, objects, rest) = self.0.get_or_init(make);
        if *first_offset == offset {
            objects.downcast_ref::<Vec<T>>().expect("one type lies at an offset")
        } else {
            rest.at(offset, count)
        }
    }
}

loom::lazy_static! {
    /// Lock and condition by which threads of a model sleep. One lock is enough for all words.
    static ref SLEEP: (loom::sync::Mutex<()>, loom::sync::Condvar) = Default::default();
}

/// Sleeps while both words have the expected values, until somebody [wakes](wake).
///
/// There is no deadline in a model: a wake-up that is lost is a deadlock, which loom reports.
pub(super) fn wait_for_either(words: [(&AtomicU32, u32); 2], _: std::time::Instant) {
    step();
    let (lock, condition) = &*SLEEP;
    let held = lock.lock().expect("nobody panics while holding it");
    if words.iter().all(|(word, expected)| word.0.load(Ordering::SeqCst) == *expected) {
        drop(condition.wait(held).expect("nobody panics while holding it"));
    }
}

/// Wakes those that sleep. In a model all of them wake, whatever their word and `count`.
pub(super) fn wake(_: &AtomicU32, _: u32) {
    step();
    let (lock, condition) = &*SLEEP;
    drop(lock.lock().expect("nobody panics while holding it"));
    condition.notify_all();
}
