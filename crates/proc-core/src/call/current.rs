//! `current`: what a function may ask about the process and the task that it runs in.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::sys::{self, PerProcess};

/// What a worker tells about itself. A process that a worker forks does not tell it: that process
/// is outside of the pool, or a worker of another pool.
static WORKER: PerProcess<OnceLock<WorkerFacts>> = PerProcess::new();

thread_local! {
    /// The task that this thread runs for [`InProcess`](crate::InProcess), and the pid of its
    /// process. A copy of the process does not run the task.
    static IN_PROCESS: RefCell<Option<(u32, TaskFacts)>> = const { RefCell::new(None) };
}

/// What a worker tells about itself, and about the task that it is running.
pub(crate) struct WorkerFacts {
    pub(crate) number: usize,
    pub(crate) pool: String,
    pub(crate) running: Box<dyn Fn() -> Option<TaskFacts> + Send + Sync>,
    /// The index alone of the task that is running. This is much cheaper.
    pub(crate) running_index: Box<dyn Fn() -> Option<usize> + Send + Sync>,
}

/// What is known of a running task.
#[derive(Clone)]
pub(crate) struct TaskFacts {
    pub(crate) index: usize,
    pub(crate) attempt: u32,
    pub(crate) seed: u64,
    pub(crate) deadline: Option<Instant>,
    /// Whether the task is asked to stop; in a worker, also whether it is over.
    pub(crate) stop_requested: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Sets what this worker tells about itself.
pub(crate) fn set_worker(facts: WorkerFacts) {
    let _ = WORKER.get().set(facts); // a worker does this once
}

/// Returns the index of the task that this process runs, if it is a worker that runs one.
#[inline]
pub(crate) fn running_index() -> Option<usize> {
    WORKER.get().get().and_then(|worker| (worker.running_index)())
}

/// Calls `function`. Meanwhile [`current`] in this thread returns the task `facts`.
pub(crate) fn in_process<T>(facts: TaskFacts, function: impl FnOnce() -> T) -> T {
    /// Restores the outer task when the function returns or panics.
    struct Restore(Option<(u32, TaskFacts)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            IN_PROCESS.set(self.0.take());
        }
    }
    let _restore = Restore(IN_PROCESS.replace(Some((sys::pid(), facts))));
    function()
}

/// Returns a number that depends on `seed` and `index` alone, and that looks random: the output of
/// SplitMix64 (Steele, Lea and Flood, 2014) for a state that is made of both.
pub(crate) fn mix(seed: u64, index: u64) -> u64 {
    let step = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    step(step(seed) ^ index)
}

/// Returns a number that nobody can predict, different in each process and for each `number`.
pub(crate) fn unpredictable(number: u64) -> u64 {
    static KEY: PerProcess<OnceLock<u64>> = PerProcess::new();
    // If the system has no random numbers, the pid takes their place. It can be predicted.
    let key = || getrandom::u64().unwrap_or_else(|_| u64::from(sys::pid()));
    mix(*KEY.get().get_or_init(key), number)
}

/// What [`current`] returns: the process and the task in which it was called.
///
/// See the example of [`current`].
#[derive(Clone)]
pub struct Current {
    task: Option<TaskFacts>,
}

/// Returns what a function may ask about where it runs: its worker's number, the task's index, and
/// more.
///
/// It works in every thread of a worker. Outside of a pool, there is no worker, and only
/// [`InProcess`](crate::InProcess) runs tasks.
///
/// # Examples
///
/// ```
/// use proc_core::{Pool, current};
///
/// /// Each worker has a port of its own.
/// fn port(_: u32) -> u16 {
///     let worker = current().worker().expect("it runs in a pool");
///     8000 + worker as u16
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(2).build()?;
///     for port in pool.map(port, 0..10)? {
///         assert!([8000, 8001].contains(&port));
///     }
///     assert_eq!(current().worker(), None); // here is no worker
///     Ok(())
/// }
/// ```
#[doc(alias = "current_process")]
pub fn current() -> Current {
    let in_process = IN_PROCESS.with_borrow(Clone::clone);
    let in_process = in_process.filter(|(pid, _)| *pid == sys::pid()).map(|(_, task)| task);
    let running = || WORKER.get().get().and_then(|worker| (worker.running)());
    Current { task: in_process.or_else(running) }
}

impl Current {
    /// The number of the worker, counted from 0. It is less than the size of the pool, except in a
    /// worker that ends because [`Pool::resize`](crate::Pool::resize) has made the pool smaller.
    /// `None` outside of a pool.
    ///
    /// A worker that replaces another one has the same number. Two workers of a pool that run at
    /// the same time have different numbers, so a number can stand for a GPU, a port or a
    /// directory.
    ///
    /// See the example of [`current`].
    pub fn worker(&self) -> Option<usize> {
        WORKER.get().get().map(|worker| worker.number)
    }

    /// The name of the pool, which [`PoolBuilder::name`](crate::PoolBuilder::name) sets. `None`
    /// outside of a pool.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).name("render").build()?;
    ///     let name = |_: ()| proc_core::current().pool().map(str::to_owned);
    ///     assert_eq!(pool.apply(name, ())?.as_deref(), Some("render"));
    ///     Ok(())
    /// }
    /// ```
    pub fn pool(&self) -> Option<&str> {
        WORKER.get().get().map(|worker| worker.pool.as_str())
    }

    /// The index of the task's input in its call. `None` outside of a task: in an initializer, or
    /// where a state is made. (If a state is made again after a panic, it is the index of the task
    /// that panicked.)
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let tasks = pool.map(|_: char| proc_core::current().task(), "abc".chars())?;
    ///     assert_eq!(tasks, [Some(0), Some(1), Some(2)]);
    ///     Ok(())
    /// }
    /// ```
    pub fn task(&self) -> Option<usize> {
        self.task.as_ref().map(|task| task.index)
    }

    /// How many times the task was tried before, see [`Options::retries`](crate::Options::retries).
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let fails_once = |x: u32| {
    ///         assert!(proc_core::current().attempt() > 0, "the first try fails");
    ///         x + 1
    ///     };
    ///     assert_eq!(pool.options().retries(1).apply(fails_once, 41)?, 42);
    ///     Ok(())
    /// }
    /// ```
    pub fn attempt(&self) -> u32 {
        self.task.as_ref().map_or(0, |task| task.attempt)
    }

    /// When the task's time is over, see [`Options::timeout`](crate::Options::timeout). `None` if
    /// it has no time limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let left = |_: ()| {
    ///         let deadline = proc_core::current().deadline();
    ///         deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    ///     };
    ///     let left = pool.options().timeout(Duration::from_secs(60)).apply(left, ())?;
    ///     assert!(left.is_some_and(|left| left <= Duration::from_secs(60)));
    ///     Ok(())
    /// }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.task.as_ref().and_then(|task| task.deadline)
    }

    /// Whether the task should return soon: its time is over, its call was cancelled, or its pool
    /// ends. Tasks are asked only if their call has a [grace period](crate::Options::grace); others
    /// are killed at once.
    ///
    /// Each call of this looks anew. It costs some nanoseconds. In a worker, it is also true after
    /// the task has ended, for a thread that still has this [`Current`]. (A new call of [`current`]
    /// then tells about the next task, or about none.)
    ///
    /// See the example of [`Options::grace`](crate::Options::grace).
    pub fn stop_requested(&self) -> bool {
        self.task.as_ref().is_some_and(|task| (task.stop_requested)())
    }

    /// A number to seed a random generator with.
    ///
    /// In a task of a call with a [seed](crate::Options::seed), it depends on that seed and on the
    /// index of the task's input alone. In other tasks, nobody can predict it, and it is different
    /// in each task. Outside of a task, it is different in each process.
    ///
    /// See the example of [`Options::seed`](crate::Options::seed).
    pub fn seed(&self) -> u64 {
        self.task.as_ref().map_or_else(|| unpredictable(0), |task| task.seed)
    }
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current")
            .field("worker", &self.worker())
            .field("pool", &self.pool())
            .field("task", &self.task())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_neighbours_have_nothing_in_common() {
        // The first output of SplitMix64 with the seed 0, from the authors' program.
        assert_eq!(mix(0, 0), {
            let first = 0xe220_a839_7b1d_cdaf_u64;
            mix_once(first)
        });
        let seeds: std::collections::HashSet<u64> =
            (0..100).flat_map(|seed| (0..100).map(move |index| mix(seed, index))).collect();
        assert_eq!(seeds.len(), 10_000);
    }

    /// One step of SplitMix64, written once more.
    fn mix_once(state: u64) -> u64 {
        let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn outside_of_a_pool_there_is_no_worker_and_no_task() {
        let here = current();
        assert_eq!((here.worker(), here.pool(), here.task()), (None, None, None));
        assert_eq!((here.attempt(), here.deadline()), (0, None));
        assert!(!here.stop_requested());
        assert_eq!(here.seed(), current().seed(), "one for the process");
        assert_ne!(unpredictable(1), unpredictable(2));
    }
}
