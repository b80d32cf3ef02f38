//! `init_tests!`, used as in the test file of a user, under `cargo test` or `cargo nextest run`.

#[path = "it/support/closed_streams.rs"]
mod closed_streams;
#[path = "it/support/running.rs"]
mod running;

use std::time::Duration;

use proc_core::{Error, Pool, Process, StartMethod};

proc_core::init_tests!();

fn square(x: i64) -> i64 {
    x * x
}

#[test]
fn pool_in_a_test() -> Result<(), Error> {
    let pool = Pool::new()?;
    assert_eq!(pool.map(square, [1, 2, 3])?, [1, 4, 9]);
    Ok(())
}

#[test]
fn process_in_a_test() -> Result<(), Error> {
    let child = Process::new(square, 4).start()?;
    assert_eq!(child.join()?, 16);
    Ok(())
}

#[test]
fn executed_process_in_a_test() -> Result<(), Error> {
    for _ in 0..2 {
        let child = Process::new(square, 5).start_method(StartMethod::Spawn).start()?;
        assert_eq!(child.join()?, 25);
    }
    let pool = Pool::builder().processes(2).start_method(StartMethod::Spawn).build()?;
    assert_eq!(pool.map(square, [6, 7])?, [36, 49]);
    Ok(())
}

#[test]
fn panic_of_a_task_in_a_test() -> Result<(), Error> {
    let pool = Pool::builder().processes(1).build()?;
    let error = pool.apply(|x: u32| assert_eq!(x, 2, "not two"), 1).expect_err("it panics");
    assert!(error.panic_message().is_some_and(|message| message.contains("not two")));
    Ok(())
}

#[test]
fn several_threads_in_a_test() {
    let work = |thread: i64| {
        let pool = Pool::builder().processes(2).build()?;
        let child = Process::new(square, thread).start()?;
        let sum: i64 = pool.map(square, 0..100)?.into_iter().sum();
        Ok::<_, Error>((sum, child.join()?))
    };
    let threads: Vec<_> = (0..4).map(|thread| std::thread::spawn(move || work(thread))).collect();
    for (thread, number) in threads.into_iter().zip(0..) {
        let done = thread.join().expect("it does not panic").expect("nothing fails");
        assert_eq!(done, (328_350, number * number));
    }
}

#[test]
fn stuck_daemon_does_not_hold_up_the_tests() -> Result<(), Error> {
    let stuck = Process::new(|()| std::thread::sleep(Duration::from_secs(600)), ());
    let mut child = stuck.daemon(true).start()?;
    assert_eq!(child.join_timeout(Duration::from_millis(1))?, None, "it sleeps");
    drop(child);
    Ok(())
}

/// This runs as a test, and again in the program that the last test runs with closed streams.
#[test]
fn inner_pool_works() -> Result<(), Error> {
    for start_method in [StartMethod::Forkserver, StartMethod::Spawn] {
        let work = |values: Vec<u64>| {
            println!("{} values", values.len());
            eprintln!("{} values", values.len());
            values.into_iter().map(|value| value + 1).collect::<Vec<u64>>()
        };
        let pool = Pool::builder().processes(2).start_method(start_method).build()?;
        for _ in 0..5 {
            let results = pool.map(work, [vec![7; 30_000], vec![], vec![7; 10]])?;
            assert!(results == [vec![8; 30_000], vec![], vec![8; 10]]);
        }
        let child = Process::new(work, vec![1, 2]).start_method(start_method).start()?;
        assert_eq!(child.join()?, [2, 3]);
    }
    Ok(())
}

#[test]
fn inner_panic_is_told() -> Result<(), Error> {
    let pool = Pool::builder().processes(1).build()?;
    let error = pool.apply(|x: u32| assert_eq!(x, 2, "not two"), 1).expect_err("it panics");
    assert!(error.panic_message().is_some_and(|message| message.contains("not two")));
    Ok(())
}

/// `init_tests!` runs before Rust's runtime has opened files in the places of closed streams.
#[test]
fn closed_streams_are_no_hindrance_to_init_tests() {
    let own = std::env::current_exe().expect("a test has a file");
    for _ in 0..3 {
        for (closing, _) in closed_streams::choices() {
            closed_streams::expect_success(&own, &["inner_", "--nocapture"], &closing);
        }
    }
}
