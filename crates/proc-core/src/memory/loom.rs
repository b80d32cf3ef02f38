//! Replaces what lies below shared memory in a model check. Wraps loom's atomics, so that a worker
//! or another process can be killed before any operation. Plays the system: which processes are
//! alive, which threads sleep because of a word, and what time it is.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

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
        die();
    }
}

/// Kills the current thread.
pub(crate) fn die() -> ! {
    OWN_ID.with(|own| own.set(NOBODY));
    resume_unwind(Box::new(Killed));
}

macro_rules! atomics {
    ($($name:ident: $word:ty;)*) => { $(
        /// Wraps loom's atomic of the same name, with its [`Turns`]. Each use of it is a step.
        #[derive(Debug, Default)]
        pub(crate) struct $name(loom::sync::atomic::$name, Turns);

        impl $name {
            pub(crate) fn new(value: $word) -> Self {
                Self(loom::sync::atomic::$name::new(value), Turns::default())
            }

            /// Stores by a swap. In the modification order of an atomic, a read-modify-write
            /// operation of another thread directly follows the store whose value it reads, so no
            /// other store can come between the two. Loom does not know this of plain stores: with
            /// them it reports lost wake-ups that no processor has.
            pub(crate) fn store(&self, value: $word, order: Ordering) {
                self.swap(value, order);
            }

            /// Loads. Here a sequentially consistent load is done as a read-modify-write operation
            /// that changes nothing and releases nothing, so it reads the latest value. Loom lets a
            /// plain load read the value with which the atomic was made, although there is a
            /// sequentially consistent store before it. With plain loads, loom would report lost
            /// wake-ups that no processor has.
            pub(crate) fn load(&self, order: Ordering) -> $word {
                match order {
                    Ordering::SeqCst => self.fetch_add(0, Ordering::Acquire),
                    order => (**self).load(order),
                }
            }
        }

        impl Deref for $name {
            type Target = loom::sync::atomic::$name;

            fn deref(&self) -> &Self::Target {
                step();
                self.1.take();
                &self.0
            }
        }
    )* };
}

/// Makes loom run the operations on a word in each order, in a model with processes.
///
/// Of the operations on an atomic, loom remembers only the last one, and the last one that was not
/// a load. If a thread loads a word and then stores to it, loom forgets that another thread has
/// loaded the word before, and does not try the store before that load. So each operation on a word
/// comes after an operation on another atomic, which is never a mere load, and which synchronizes
/// nothing.
#[derive(Debug, Default)]
struct Turns(loom::sync::atomic::AtomicU32);

impl Turns {
    fn take(&self) {
        if OWN_ID.with(Cell::get) != 0 {
            self.0.fetch_add(0, Ordering::Relaxed);
        }
    }
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

/// Runs `model` in every order in which threads interrupt each other at most `interruptions` times.
/// `LOOM_MAX_PREEMPTIONS` replaces this number.
pub(crate) fn check(interruptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(interruptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// Number of the process that a killed thread plays from then on. So what its guards do when they
/// are dropped does not count as done by the killed process.
const NOBODY: u32 = u32::MAX >> 2;

/// Number of processes of a model, plus 1. Loom has at most five threads.
const PROCESSES: usize = 6;

loom::thread_local! {
    /// Number of the process that the current thread plays; 0 if it plays none.
    static OWN_ID: Cell<u32> = Cell::new(0);
}

loom::lazy_static! {
    /// The machine on which the processes of a model run.
    static ref MACHINE: Machine = Machine::default();
}

/// What the processes of a model get from the operating system.
#[derive(Default)]
struct Machine {
    /// For each byte of the family's file: 1 while a process has locked it.
    held: [loom::sync::atomic::AtomicU32; PROCESSES],
    /// The threads that sleep because of a word, in the order in which they fell asleep.
    sleepers: loom::sync::Mutex<Vec<Sleeper>>,
    /// The time, in nanoseconds since the model began. It changes only while `sleepers` is locked.
    time: std::sync::atomic::AtomicU64,
    /// Whether each thread that sleeps counts as one that has waited for long.
    long_waits: std::sync::atomic::AtomicBool,
}

/// Thread that sleeps until somebody takes it off the list of sleepers.
struct Sleeper {
    thread: loom::thread::Thread,
    /// Addresses of the words.
    words: [usize; 2],
    deadline: Instant,
}

/// Runs `process` as process `id`, and kills it before its operation number `life`. Returns false
/// if `process` was killed.
pub(crate) fn live_as(id: u32, life: usize, process: impl FnOnce()) -> bool {
    OWN_ID.with(|own| own.set(id));
    live(life, process)
}

/// Word with the number of the process that the current thread plays.
pub(super) struct OwnWord;

impl OwnWord {
    pub(super) fn load(&self, _: Ordering) -> u32 {
        OWN_ID.with(Cell::get)
    }

    pub(super) fn store(&self, id: u32, _: Ordering) {
        OWN_ID.with(|own| own.set(id));
    }
}

pub(super) fn own_word() -> OwnWord {
    OwnWord
}

/// Locks byte `number` of the family's file. Returns false if a process has locked it.
#[expect(clippy::unnecessary_wraps, reason = "the system's function can fail")]
pub(super) fn hold_byte(_: BorrowedFd<'_>, number: u32) -> std::io::Result<bool> {
    Ok(MACHINE.held[number as usize].swap(1, Ordering::AcqRel) == 0)
}

/// Whether a process has locked byte `number` of the family's file. The kernel looks at the locks
/// of a file while it has the lock of their list, so whoever finds a byte free sees all that its
/// last holder has written.
pub(super) fn is_byte_held(_: BorrowedFd<'_>, number: u32) -> bool {
    step();
    MACHINE.held.get(number as usize).is_some_and(|held| held.load(Ordering::Acquire) == 1)
}

/// Releases the byte that a process has locked, as the kernel does when the process has ended.
pub(crate) fn release_byte(number: u32) {
    MACHINE.held[number as usize].swap(0, Ordering::Release);
}

/// Returns the time, which stands still except in [`tick`].
pub(crate) fn now() -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now) + Duration::from_nanos(monotonic())
}

/// Returns the same time as [`now`], as a number of nanoseconds.
pub(crate) fn monotonic() -> u64 {
    MACHINE.time.load(Ordering::Relaxed)
}

/// In the rest of this run, each thread that sleeps counts as one that has waited for long.
pub(crate) fn make_all_waits_long() {
    MACHINE.long_waits.store(true, Ordering::Relaxed);
}

pub(crate) fn all_waits_are_long() -> bool {
    MACHINE.long_waits.load(Ordering::Relaxed)
}

/// Lets the time advance by a nanosecond, and ends the waits whose deadline has come.
pub(crate) fn tick() {
    let mut sleepers = MACHINE.sleepers.lock().expect("nobody panics while holding it");
    MACHINE.time.fetch_add(1, Ordering::Relaxed);
    let now = now();
    let woken = sleepers.extract_if(.., |sleeper| sleeper.deadline <= now);
    woken.for_each(|sleeper| sleeper.thread.unpark());
}

/// Sleeps while both words have the expected values, until somebody [wakes](wake) this thread or
/// `timeout` has passed. If no wake-up comes, that is a deadlock, which loom reports.
pub(super) fn wait_for_either(words: [(&AtomicU32, u32); 2], timeout: Duration) {
    step();
    let deadline = now() + timeout;
    let thread = loom::thread::current();
    let mut sleepers = MACHINE.sleepers.lock().expect("nobody panics while holding it");
    // As in the kernel, nobody can wake a thread between this look and its sleep.
    let is_changed = |(word, expected): &(&AtomicU32, u32)| {
        word.0.load(Ordering::Relaxed) != *expected // may be old, unless a waker was here before
    };
    if deadline <= now() || words.iter().any(is_changed) {
        return;
    }
    let words = words.map(|(word, _)| address(word));
    sleepers.push(Sleeper { thread: thread.clone(), words, deadline });
    drop(sleepers);
    loop {
        loom::thread::park();
        let sleepers = MACHINE.sleepers.lock().expect("nobody panics while holding it");
        if sleepers.iter().all(|sleeper| sleeper.thread.id() != thread.id()) {
            return;
        }
    }
}

/// Wakes up to `count` threads that sleep because of `word`: those that have slept longest.
pub(super) fn wake(word: &AtomicU32, count: u32) {
    step();
    let mut sleepers = MACHINE.sleepers.lock().expect("nobody panics while holding it");
    let woken = sleepers.extract_if(.., |sleeper| sleeper.words.contains(&address(word)));
    woken.take(count as usize).for_each(|sleeper| sleeper.thread.unpark());
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

/// A channel that behaves like one of ipc-channel: a message stays until it is received, and no
/// sender waits.
pub(crate) struct Channel<T> {
    messages: loom::sync::Mutex<VecDeque<T>>,
    sent: loom::sync::Condvar,
}

impl<T> Channel<T> {
    pub(crate) fn new() -> Arc<Channel<T>> {
        let (messages, sent) = Default::default();
        Arc::new(Channel { messages, sent })
    }

    pub(crate) fn send(&self, message: T) {
        self.messages.lock().expect("no thread panics").push_back(message);
        self.sent.notify_one();
    }

    pub(crate) fn receive(&self) -> T {
        let mut messages = self.messages.lock().expect("no thread panics");
        loop {
            match messages.pop_front() {
                Some(message) => return message,
                None => messages = self.sent.wait(messages).expect("no thread panics"),
            }
        }
    }
}
