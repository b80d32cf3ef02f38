//! Waiting for several children at once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use proc_core::{Process, Sentinel, StartMethod, wait};

use crate::support::descriptors::count_descriptors;
use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, run, work_forever};

programs![wait_for_sentinels, wait_for_many_sentinels, wait_without_descriptors];

tests! {
    wait_returns_the_sentinels_of_ended_children: forkserver spawn;
    many_children_are_waited_for_at_once: forkserver spawn fork;
    wait_that_cannot_poll_takes_no_processor_time: forkserver spawn fork;
}

fn wait_for_sentinels(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let start = |mark: PathBuf| {
        let work = |mark: PathBuf| {
            marker_files::wait_for(&mark);
            7
        };
        let process = Process::new(work, mark).start_method(arguments.start_method);
        process.start().expect("it can be started")
    };
    assert!(wait(&[], None).is_empty());
    let (mut first, second) = (start(marks.path("first")), start(marks.path("second")));
    let other =
        Process::new(|()| "text".to_owned(), ()).start_method(arguments.start_method).start();
    let mut other = other.expect("it can be started");
    let descriptors = count_descriptors();
    let all = [first.sentinel(), other.sentinel(), second.sentinel()];
    assert_eq!(wait(&all, None), [1]);
    assert_eq!(wait(&all, Some(Duration::ZERO)), [1], "it stays so");
    let timeout = Duration::from_millis(30);
    let begin = Instant::now();
    assert!(wait(&[second.sentinel(), first.sentinel()], Some(timeout)).is_empty());
    assert!(begin.elapsed() >= timeout);
    println!("one");

    marker_files::create(&marks.path("first"));
    assert_eq!(wait(&[first.sentinel(), second.sentinel()], None), [0]);
    assert_eq!(first.join_timeout(Duration::ZERO).expect("it returns"), Some(7));
    assert_eq!(other.join_timeout(Duration::ZERO).expect("it has ended").as_deref(), Some("text"));
    assert_eq!(wait(&all, Some(Duration::ZERO)), [0, 1], "also when they are joined");
    println!("another");

    // Waits for a child while another thread joins it.
    let last = second.sentinel();
    let joiner = std::thread::spawn(move || second.join());
    assert!(wait(std::slice::from_ref(&last), Some(timeout)).is_empty());
    marker_files::create(&marks.path("second"));
    assert_eq!(wait(std::slice::from_ref(&last), None), [0]);
    assert_eq!(joiner.join().expect("it does not panic").expect("it returns"), 7);
    assert_eq!(wait(&all, None), [0, 1, 2]);
    drop((all, last));
    assert!(count_descriptors() <= descriptors, "sentinels have none left");
    println!("the last");
}

fn wait_returns_the_sentinels_of_ended_children(start_method: StartMethod) {
    assert_eq!(run(wait_for_sentinels, start_method, &[]).succeeded(), "one\nanother\nthe last\n");
}

/// Each child is joined as soon as it has ended, in whatever order.
fn wait_for_many_sentinels(arguments: &Arguments) {
    let mut children: Vec<_> = (0..20)
        .map(|number| {
            let work = |number: u32| {
                if number.is_multiple_of(3) {
                    work_forever();
                }
                number
            };
            let process = Process::new(work, number).start_method(arguments.start_method);
            process.start().expect("it can be started")
        })
        .collect();
    for child in children.iter().step_by(3) {
        child.kill().expect("it is alive");
    }
    let mut sum = 0;
    while !children.is_empty() {
        let sentinels: Vec<Sentinel> = children.iter().map(|child| child.sentinel()).collect();
        for place in wait(&sentinels, None).into_iter().rev() {
            let mut child = children.swap_remove(place);
            match child.join_timeout(Duration::ZERO) {
                Ok(Some(number)) => sum += number,
                Ok(None) => panic!("{} has not ended", child.name()),
                Err(error) => assert!(error.is_death(), "{error}"),
            }
        }
    }
    println!("{sum}");
}

fn many_children_are_waited_for_at_once(start_method: StartMethod) {
    // The sum of the numbers below 20 that three does not divide; the others are killed.
    assert_eq!(run(wait_for_many_sentinels, start_method, &[]).succeeded(), "127\n");
}

/// There are more sentinels than the process may have descriptors, so the kernel refuses to poll.
fn wait_without_descriptors(arguments: &Arguments) {
    let process = Process::new(|()| work_forever(), ()).start_method(arguments.start_method);
    let child = process.start().expect("it can be started");
    let sentinels = [child.sentinel(), child.sentinel(), child.sentinel()];
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NOFILE, 2, hard).expect("it can be lowered");
    let used = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("it runs"));
    let before = used();
    assert!(wait(&sentinels, Some(Duration::from_millis(500))).is_empty());
    let used = used() - before;
    assert!(used < Duration::from_millis(100), "{used:?}");
    child.kill().expect("it runs");
    assert_eq!(wait(&sentinels, None), [0, 1, 2]);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("it can be raised");
}

fn wait_that_cannot_poll_takes_no_processor_time(start_method: StartMethod) {
    run(wait_without_descriptors, start_method, &[]).succeeded();
}
