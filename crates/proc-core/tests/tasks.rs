//! Tasks that are fetched later, limited in time, tried again or cancelled, in real worker
//! processes.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use proc_core::{Error, ErrorKind, Executor, InProcess, Pool};

proc_core::init_tests!();

/// Ends the test process, and with it every worker, if `test` takes too long.
fn within_a_minute<T>(test: impl FnOnce() -> T) -> T {
    let (done, finished) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if finished.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the test hangs");
            std::process::abort();
        }
    });
    let result = test();
    drop(done);
    watchdog.join().expect("the watchdog ends quietly");
    result
}

fn pool(processes: usize) -> Pool {
    Pool::builder().processes(processes).build().expect("a pool")
}

fn forever(_: u32) -> u32 {
    loop {
        std::thread::park();
    }
}

fn same(x: u32) -> u32 {
    x
}

fn append(path: &str, text: &str) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("file");
    file.write_all(text.as_bytes()).expect("written");
}

#[test]
fn a_task_that_takes_too_long_ends_alone() {
    within_a_minute(|| {
        let pool = pool(2);
        let spin_or_sleep = |kind: u32| match kind {
            1 => forever(kind),
            2 => loop {
                std::hint::spin_loop();
            },
            other => other,
        };
        let begin = Instant::now();
        let limit = Duration::from_millis(100);
        let results = pool.options().timeout(limit).try_map(spin_or_sleep, [0, 1, 2, 3, 4, 5]);
        assert!(begin.elapsed() >= limit);
        for (task, result) in results.iter().enumerate() {
            match result {
                Ok(value) => assert!(*value as usize == task && ![1, 2].contains(&task)),
                Err(error) => {
                    assert!(error.is_timeout() && [1, 2].contains(&task), "{error}");
                    assert_eq!(error.task(), Some(task));
                    assert!(error.pid().is_some() && error.worker().is_some(), "{error}");
                }
            }
        }
        assert_eq!(pool.map(same, [7, 8]).expect("the pool goes on"), [7, 8]);
    });
}

#[test]
fn a_quick_task_is_not_hurt_by_its_timeout() {
    within_a_minute(|| {
        let pool = pool(2);
        let options = pool.options().timeout(Duration::from_secs(30));
        assert_eq!(options.map(same, 0..5000).expect("in time"), (0..5000).collect::<Vec<_>>());
    });
}

#[test]
fn a_failed_task_is_tried_again_as_often_as_asked() {
    within_a_minute(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = pool(2);
        // Task n succeeds at its n-th try; panics and deaths in turn.
        let stubborn = |(path, n): (String, u32)| {
            let path = format!("{path}/{n}");
            append(&path, "x");
            let tries = std::fs::read(&path).expect("there").len() as u32;
            match (tries >= n, tries % 2) {
                (true, _) => tries,
                (false, 0) => std::process::abort(),
                (false, _) => panic!("{}", "not yet ".repeat(1000 * (n as usize % 2))),
            }
        };
        let path = directory.path().to_str().expect("UTF-8").to_owned();
        let inputs = [1, 2, 3, 4, 5].map(|n| (path.clone(), n));
        let results = pool.options().retries(3).try_map(stubborn, inputs);
        let values: Vec<_> = results.iter().map(|result| result.as_ref().ok().copied()).collect();
        assert_eq!(values[..4], [Some(1), Some(2), Some(3), Some(4)], "{results:?}");
        let error = results[4].as_ref().expect_err("four tries are not enough");
        assert!(error.is_death(), "the fourth try aborts: {error}");
        assert_eq!(error.task(), Some(4));
        let tries = std::fs::read(directory.path().join("5")).expect("there").len();
        assert_eq!(tries, 4, "one try and three retries");
    });
}

#[test]
fn a_panicked_task_is_tried_again_though_its_worker_dies_of_the_next() {
    within_a_minute(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = pool(1);
        // The first try of task 0 panics, that of task 1 aborts, in one chunk.
        let second_try = |(path, task): (String, u32)| {
            let path = format!("{path}/{task}");
            append(&path, "x");
            match (std::fs::read(&path).expect("there").len(), task) {
                (1, 0) => panic!("not yet"),
                (1, _) => std::process::abort(),
                (tries, _) => tries,
            }
        };
        let path = directory.path().to_str().expect("UTF-8").to_owned();
        let inputs = [0, 1].map(|task| (path.clone(), task));
        let tries = pool.options().retries(1).chunksize(2).map(second_try, inputs);
        assert_eq!(tries.expect("two tries are enough"), [2, 2]);
    });
}

#[test]
fn without_retries_a_task_is_tried_once() {
    within_a_minute(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tries").to_str().expect("UTF-8").to_owned();
        let count = |path: String| -> u32 {
            append(&path, "x");
            panic!("no");
        };
        let error = pool(1).apply(count, path.clone()).expect_err("it panics");
        assert!(error.is_panic());
        assert_eq!(std::fs::read(path).expect("there"), b"x");
    });
}

#[test]
fn a_queued_task_that_is_cancelled_never_runs() {
    within_a_minute(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ran").to_str().expect("UTF-8").to_owned();
        let pool = pool(1);
        let (_, blocker) = begun(&pool, &directory);
        let queued = pool.apply_async(|path: String| append(&path, "x"), path.clone());
        let queued = queued.expect("accepted");
        let later = pool.apply_async(same, 7).expect("accepted");
        assert!(queued.cancel());
        assert!(queued.get().expect_err("it is cancelled").is_cancelled());
        assert!(blocker.cancel(), "it runs");
        assert_eq!(later.get().expect("the worker is replaced"), 7);
        assert!(!std::path::Path::new(&path).exists(), "the cancelled task has run");
    });
}

/// A task that is known to run: its pid, and itself.
fn begun(pool: &Pool, directory: &tempfile::TempDir) -> (u32, proc_core::Task<u32>) {
    let fifo = directory.path().join("begun");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let tell = |path: String| {
        std::fs::write(path, std::process::id().to_string()).expect("somebody reads");
        forever(0)
    };
    let path = fifo.to_str().expect("UTF-8").to_owned();
    let task = pool.apply_async(tell, path).expect("accepted");
    let pid = std::fs::read_to_string(fifo).expect("it begins").parse().expect("a pid");
    (pid, task)
}

#[test]
fn a_running_task_that_is_cancelled_is_stopped() {
    within_a_minute(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = pool(1);
        let (pid, task) = begun(&pool, &directory);
        assert!(task.cancel());
        assert!(task.get().expect_err("it is cancelled").is_cancelled());
        let other = pool.apply(|()| std::process::id(), ()).expect("the worker is replaced");
        assert_ne!(other, pid);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is gone");
    });
}

#[test]
fn a_task_that_is_done_cannot_be_cancelled() {
    within_a_minute(|| {
        let pool = pool(1);
        let mut task = pool.apply_async(same, 7).expect("accepted");
        while !task.is_ready() {
            if let Some(result) = task.get_timeout(Duration::from_secs(9)).expect("it returns") {
                return assert_eq!(result, 7);
            }
        }
        assert!(!task.cancel());
        assert_eq!(task.get().expect("it is done"), 7);
    });
}

#[test]
fn a_task_that_is_not_done_can_be_asked_again() {
    within_a_minute(|| {
        let pool = pool(1);
        let mut task = pool.apply_async(forever, 0).expect("accepted");
        assert!(!task.is_ready());
        assert_eq!(task.get_timeout(Duration::from_millis(5)).expect("it never ends"), None);
        assert!(task.cancel());
    });
}

#[test]
fn map_async_gives_all_or_the_first_error() {
    within_a_minute(|| {
        let pool = pool(2);
        let all = pool.map_async(same, 0..1000).expect("accepted");
        let none = pool.map_async(same, []).expect("accepted");
        let odd = |x: u32| if x % 2 == 1 { panic!("odd {x}") } else { x };
        let some = pool.map_async(odd, 0..10).expect("accepted");
        assert_eq!(some.get().expect_err("some panic").task(), Some(1));
        assert_eq!(none.get().expect("nothing to do"), []);
        assert_eq!(all.get().expect("all return"), (0..1000).collect::<Vec<_>>());
        let stuck = pool.map_async(forever, 0..100).expect("accepted");
        assert!(stuck.cancel());
        assert!(stuck.get().expect_err("it is cancelled").is_cancelled());
        assert_eq!(pool.map(same, 0..9).expect("the pool goes on"), (0..9).collect::<Vec<_>>());
    });
}

#[test]
fn a_callback_that_panics_spoils_nothing() {
    within_a_minute(|| {
        let pool = pool(2);
        let (told, results) = mpsc::channel();
        for x in 0..20 {
            let told = told.clone();
            pool.apply_async(same, x).expect("accepted").on_done(move |result| {
                told.send(result.expect("it returns")).expect("somebody listens");
                assert!(x % 3 != 0, "a callback's own trouble");
            });
        }
        drop(told);
        let mut results: Vec<u32> = results.into_iter().collect();
        results.sort_unstable();
        assert_eq!(results, (0..20).collect::<Vec<_>>());
    });
}

#[test]
fn a_callback_hears_of_the_end_of_the_pool() {
    within_a_minute(|| {
        let pool = pool(1);
        let (told, result) = mpsc::channel();
        pool.apply_async(forever, 0).expect("accepted").on_done(move |result| {
            told.send(result).expect("somebody listens");
        });
        drop(pool);
        let error: Error = result.recv().expect("it is called").expect_err("it never ends");
        assert!(error.is_closed(), "{error}");
    });
}

/// Counts wake-ups. With [`block_on`], it is the smallest async runtime there is.
#[derive(Default)]
struct Bell(AtomicU32, std::sync::Mutex<()>, std::sync::Condvar);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _held = self.1.lock().expect("nobody panics");
        self.0.fetch_add(1, Ordering::SeqCst);
        self.2.notify_all();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut future = pin!(future);
    let mut heard = 0;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let held = bell.1.lock().expect("nobody panics");
        let wait = bell.2.wait_while(held, |()| bell.0.load(Ordering::SeqCst) == heard);
        drop(wait.expect("nobody panics"));
        heard = bell.0.load(Ordering::SeqCst);
    }
}

#[test]
fn tasks_are_futures_for_any_async_runtime() {
    within_a_minute(|| {
        let pool = pool(2);
        let sum = block_on(async {
            let tasks: Vec<_> =
                (0..100).map(|x| pool.apply_async(same, x).expect("accepted")).collect();
            // Dropped futures disturb nobody.
            drop(pool.apply_async(same, 1).expect("accepted"));
            let mut sum = 0;
            for task in tasks {
                sum += task.await.expect("it returns");
            }
            sum + pool.map_async(same, [1, 2]).expect("accepted").await.expect("all").len() as u32
        });
        assert_eq!(sum, 4950 + 2);
    });
}

/// Number that can be encoded only if it is small.
struct Small(u32);

impl serde::Serialize for Small {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            small @ 0..10 => serializer.serialize_u32(small),
            large => Err(serde::ser::Error::custom(format!("{large} is not small"))),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Small {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Small, D::Error> {
        u32::deserialize(deserializer).map(Small)
    }
}

#[test]
fn each_input_has_a_fate_though_the_pool_ends_among_them() {
    within_a_minute(|| {
        let pool = pool(1);
        pool.terminate();
        // An input that cannot be encoded splits the others, and the pool refuses the first part.
        let results = pool.try_map(|small: Small| small.0, [1, 99, 2, 3, 99, 4].map(Small));
        let encoded = results
            .iter()
            .map(|r| r.as_ref().is_err_and(|error| error.kind() == ErrorKind::Encode));
        assert_eq!(encoded.collect::<Vec<_>>(), [false, true, false, false, false, false]);
        let closed = results.iter().filter(|r| r.as_ref().is_err_and(Error::is_closed));
        assert_eq!(closed.count(), 5, "{results:?}");
    });
}

#[test]
fn iterators_say_how_much_is_to_come_and_end_for_good() {
    within_a_minute(|| {
        let pool = pool(2);
        let mut ordered = pool.imap(same, 0..10);
        let mut unordered = pool.imap_unordered(same, (0..10).filter(|x| *x < 7));
        assert_eq!((ordered.size_hint(), unordered.size_hint().1), ((0, Some(10)), Some(10)));
        for left in (0..10).rev() {
            assert!(ordered.next().is_some_and(|result| result.is_ok()));
            let (least, most) = ordered.size_hint();
            assert!(least <= left && most.is_some_and(|most| left <= most && most <= left.max(1)));
        }
        assert_eq!(unordered.by_ref().count(), 7);
        assert!(ordered.next().is_none() && ordered.next().is_none());
        assert!(unordered.next().is_none());
        assert_eq!((ordered.size_hint(), unordered.size_hint()), ((0, Some(0)), (0, Some(0))));
        assert_eq!(pool.imap(same, std::iter::repeat(1)).size_hint(), (0, None));
    });
}

/// Takes all items of an iterator. Checks what it says before each of them, and after the last.
fn items(mut iterator: impl Iterator<Item = Result<u32, Error>>) -> Vec<Result<u32, Error>> {
    let (mut items, mut hints) = (Vec::new(), vec![iterator.size_hint()]);
    while let Some(item) = iterator.next() {
        items.push(item);
        hints.push(iterator.size_hint());
    }
    for (left, (least, most)) in (0..=items.len()).rev().zip(hints) {
        assert!(least <= left, "at least {least} items were promised, and {left} came");
        assert!(most.is_none_or(|most| left <= most), "{most:?} items at most, and {left} came");
    }
    assert_eq!(iterator.size_hint(), (0, Some(0)));
    items
}

#[test]
fn iterators_promise_no_results_behind_the_failure_that_ends_the_call() {
    fn failing(x: u32) -> u32 {
        assert!(x != 2, "two");
        x
    }
    fn check(on: &impl Executor, first: u32) {
        let options = on.options().fail_fast().chunksize(4);
        let (ordered, unordered) = (
            items(options.imap(failing, first..4)),
            items(options.imap_unordered(failing, first..4)),
        );
        for items in [ordered, unordered] {
            let (last, before) = items.split_last().expect("there is an error");
            assert!(last.as_ref().is_err_and(Error::is_panic), "{items:?}");
            assert!(before.iter().map(|item| item.as_ref().ok().copied()).eq((first..2).map(Some)));
        }
    }
    within_a_minute(|| {
        for first in 0..3 {
            check(&pool(1), first);
            check(&InProcess::new(), first);
        }
    });
}

#[test]
fn iterators_of_a_pool_that_is_closed_meanwhile_say_how_much_is_to_come() {
    within_a_minute(|| {
        for is_ordered in [true, false] {
            let pool = pool(1);
            let inputs = (0..8).inspect(|x| {
                if *x == 7 {
                    pool.close();
                }
            });
            let options = pool.options().chunksize(4);
            let items = match is_ordered {
                true => items(options.imap(same, inputs)),
                false => items(options.imap_unordered(same, inputs)),
            };
            assert_eq!(items.len(), 5, "{items:?}");
            assert!(items[4].as_ref().is_err_and(Error::is_closed), "{items:?}");
        }
    });
}

#[test]
fn iterators_whose_inputs_are_taken_end_without_an_error_in_a_closed_pool() {
    within_a_minute(|| {
        for end in [Pool::close, Pool::terminate] {
            let pool = pool(1);
            let options = pool.options().chunksize(2);
            let (mut ordered, mut unordered) =
                (options.imap(same, 0..2), options.imap_unordered(same, 0..2));
            assert_eq!(ordered.next().map(Result::ok), Some(Some(0)));
            assert_eq!(unordered.next().map(Result::ok), Some(Some(0)));
            end(&pool);
            for items in [items(ordered), items(unordered)] {
                let values: Vec<_> = items.iter().map(|item| item.as_ref().ok().copied()).collect();
                assert_eq!(values, [Some(1)], "{items:?}");
            }
        }
    });
}
