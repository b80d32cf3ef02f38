//! `InProcess` does what a pool does, in the caller.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use proc_core::{Error, ErrorKind, Executor, InProcess, Pool, current};

proc_core::init_tests!();

/// Uses every call. Returns what can be seen, in words.
fn all_calls(on: &impl Executor) -> Vec<String> {
    let text = |result: Result<Vec<i32>, Error>| match result {
        Ok(numbers) => format!("{numbers:?}"),
        Err(error) => format!(
            "{:?} of task {:?}: {:?}",
            error.kind(),
            error.task(),
            error.panic_message().or_else(|| error.panic_location())
        ),
    };
    let divide = |x: i32| 100 / x;
    let mut seen = vec![
        text(on.map(divide, [1, 2, 5])),
        text(on.map(divide, [1, 0, 5])),
        text(on.imap(divide, [4, 5]).collect()),
        text(on.apply(divide, 10).map(|one| vec![one])),
        text(on.apply_async(divide, 20).and_then(|task| task.get()).map(|one| vec![one])),
        text(on.map_async(divide, [20, 25]).and_then(|task| task.get())),
        text(on.with(7).map(|seven, x: i32| seven * x, [1, 2, 3])),
        text(on.with(vec![1, 2, 3]).apply(|all: &Vec<i32>, at: usize| all[at], 3).map(|x| vec![x])),
        text(on.options().retries(1).map(
            |x: i32| {
                assert!(current().attempt() > 0, "the first try fails");
                x
            },
            [1, 2],
        )),
        text(on.map(|_: ()| current().task().map_or(-1, |task| task as i32), [(), (), ()])),
    ];
    let mut any_order: Vec<i32> =
        on.imap_unordered(divide, [1, 2]).map(|result| result.expect("no zero")).collect();
    any_order.sort_unstable();
    seen.push(text(Ok(any_order)));
    for fate in on.try_map(divide, [5, 0]) {
        seen.push(text(fate.map(|one| vec![one])));
    }
    let seeded = on.options().seed(3).map(|_: u8| current().seed(), [0; 4]).expect("no panic");
    seen.push(format!("{seeded:?}"));
    seen
}

#[test]
fn pool_and_caller_do_the_same() {
    let pool = Pool::builder().processes(2).build().expect("it is built");
    assert_eq!(all_calls(&InProcess::new()), all_calls(&pool));
}

#[test]
fn tasks_run_in_the_caller_one_after_another() {
    let here = InProcess::new();
    let pids = here.map(|_: u8| std::process::id(), [0; 3]).expect("nothing fails");
    assert_eq!(pids, [std::process::id(); 3]);
    assert_eq!(current().task(), None, "no task runs now");
    let mut taken = 0;
    let mut squares = here.imap(|x: u32| x * x, (0..).inspect(|_| taken += 1));
    assert_eq!(squares.next().and_then(Result::ok), Some(0));
    drop(squares);
    assert!(taken <= 2, "{taken} inputs were taken for one result");
}

#[test]
fn map_that_fails_fast_takes_no_more_inputs() {
    fn first_failure<E: Executor>(executor: &E) -> (Option<usize>, u32) {
        let failing = |x: u32| assert!(x < 3, "three is too much");
        let mut taken = 0;
        // To take all of these would last for some seconds.
        let inputs = (0..u32::MAX).inspect(|_| taken += 1);
        let error = executor.options().fail_fast().map(failing, inputs);
        (error.expect_err("three fails").task(), taken)
    }
    let (task, taken) = first_failure(&InProcess::new());
    assert!(task == Some(3) && taken < 100, "{task:?}, {taken} inputs were taken");
    let pool = Pool::builder().processes(1).build().expect("it can be built");
    let (task, taken) = first_failure(&pool);
    assert!(task == Some(3) && taken < 10_000_000, "{task:?}, {taken} inputs were taken");
}

#[test]
fn late_task_fails_when_it_returns() {
    let nap = |time: Duration| std::thread::sleep(time);
    let calls = InProcess::new();
    let calls = calls.options().timeout(Duration::from_millis(1));
    let error = calls.apply(nap, Duration::from_millis(20)).expect_err("it took longer");
    assert!(error.is_timeout(), "{error}");
    let patient = calls.grace(Duration::from_secs(50));
    let stops = |()| {
        while !current().stop_requested() {
            std::thread::yield_now();
        }
    };
    patient.apply(stops, ()).expect("it stopped when it was asked");
}

#[test]
fn values_that_cannot_cross_are_found() {
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u32),
        Text(String),
    }
    let here = InProcess::new();
    let error = here.apply(|_: Untagged| (), Untagged::Number(1)).expect_err("it has no tag");
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    let error = here.apply(|()| Untagged::Text("a".into()), ()).map(drop).expect_err("no tag");
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
}

#[test]
fn progress_is_shown_though_the_function_has_panicked_once() {
    let here = InProcess::new();
    let (mut panics, mut last) = (1, false);
    let calls = here.options().progress(|progress| {
        last = progress.is_over();
        if std::mem::take(&mut panics) > 0 {
            panic!("the first report");
        }
    });
    let call = || calls.map(|x: u32| x, 0..3);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    assert_eq!(call().expect("nothing fails"), [0, 1, 2]);
    drop(calls);
    assert!(last, "the second call has ended");
}

#[test]
fn progress_is_shown_though_another_thread_shows_its_own() {
    let here = InProcess::new();
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let mut first = Some((begun, may_go_on));
    let mut ends = 0;
    let calls = here.options().progress(|progress| {
        if let Some((begun, may_go_on)) = first.take() {
            begun.send(()).expect("the test waits");
            may_go_on.recv().expect("the test answers");
        }
        ends += usize::from(progress.is_over());
    });
    std::thread::scope(|scope| {
        scope.spawn(|| calls.map(|x: u32| x, 0..3));
        has_begun.recv().expect("the first call begins");
        let second = scope.spawn(|| calls.map(|x: u32| x, 0..3));
        // The second call waits for the first one, or ends now if it shows nothing.
        let wait_until = Instant::now() + Duration::from_millis(100);
        while !second.is_finished() && Instant::now() < wait_until {
            std::thread::yield_now();
        }
        go_on.send(()).expect("the first call waits");
    });
    drop(calls);
    assert_eq!(ends, 2);
}

/// Value that cannot be encoded.
#[derive(serde::Deserialize)]
struct Refuses;

impl serde::Serialize for Refuses {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not this one"))
    }
}

#[test]
fn last_progress_counts_an_input_that_cannot_be_encoded() {
    let (tell, told) = mpsc::channel();
    let here = InProcess::new();
    let calls = here.options().progress(move |progress| tell.send(progress).expect("it is read"));
    let results: Vec<_> = calls.imap(|_: Refuses| (), [Refuses]).collect();
    assert!(matches!(&results[..], [Err(error)] if error.kind() == ErrorKind::Encode));
    let last = told.try_iter().last().expect("it was told");
    assert!(last.is_over());
    assert_eq!((last.done, last.failed, last.all), (1, 1, 1));
}
