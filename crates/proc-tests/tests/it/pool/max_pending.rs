//! A bound on the tasks that wait or run.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use proc_core::{ErrorKind, Pool, PoolBuilder, StartMethod};
use serde::{Deserialize, Serialize, Serializer};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, run, signal_self, work_forever};

programs![fill_up, give_room_back];

tests! {
    full_pool_gives_tasks_back: forkserver spawn fork;
    task_that_cannot_be_encoded_takes_no_room: forkserver spawn fork;
}

fn build(builder: PoolBuilder) -> Pool {
    builder.build().expect("it can be built")
}

fn same(x: u32) -> u32 {
    x
}

/// An argument that cannot be encoded.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it stays here"))
    }
}

/// Tasks whose argument cannot be encoded, in a pool with room for two.
fn give_room_back(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2).max_pending(2));
    let take = |_: Stubborn| ();
    for _ in 0..3 {
        let errors = [
            pool.apply(take, Stubborn).expect_err("it cannot be encoded"),
            pool.apply_async(take, Stubborn).expect_err("it cannot be encoded"),
            pool.try_apply_async(take, Stubborn).expect_err("it cannot be encoded"),
            pool.map_async(take, [Stubborn; 2]).expect_err("they cannot be encoded"),
            pool.map(take, [Stubborn; 2]).expect_err("they cannot be encoded"),
            pool.broadcast(take, Stubborn).expect_err("it cannot be encoded"),
        ];
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Encode), "{errors:?}");
    }
    let room = || pool.try_apply_async(|()| work_forever(), ()).expect("the pool is open");
    let tasks = [room(), room()];
    assert!(tasks.iter().all(Result::is_ok), "there is room for two");
    assert!(room().is_err(), "there is room for two only");
}

fn task_that_cannot_be_encoded_takes_no_room(start_method: StartMethod) {
    run(give_room_back, start_method, &[]).succeeded();
}

/// At most three tasks wait or run.
fn fill_up(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(1).max_pending(3));
    let marks = MarkerFiles::new();
    let wait = |mark: PathBuf| {
        marker_files::wait_for(&mark);
        7
    };
    let go = marks.path("go");
    let take = || pool.try_apply_async(wait, go.clone()).expect("the pool is open");
    let tasks: Vec<_> = (0..3).map(|_| take().expect("there is room")).collect();
    assert_eq!(take().expect_err("the pool is full"), go);
    let error = pool.map_async(same, 0..4).expect_err("there is never so much room");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("max_pending allows 3"), "{error}");
    std::thread::scope(|scope| {
        // These wait for room.
        let apply = scope.spawn(|| pool.apply(same, 5));
        let map = scope.spawn(|| pool.map(same, 0..1000));
        let lazy = scope.spawn(|| pool.imap(same, 0..1000).collect::<Result<Vec<_>, _>>());
        assert!(marker_files::create(&go));
        for task in tasks {
            assert_eq!(task.get().expect("it returns"), 7);
        }
        assert_eq!(apply.join().expect("no panic").expect("it returns"), 5);
        assert!(map.join().expect("no panic").expect("all return").into_iter().eq(0..1000));
        assert!(lazy.join().expect("no panic").expect("all return").into_iter().eq(0..1000));
    });
    // Cancelled tasks and those of dead workers make room too.
    let stop = pool.apply_async(|()| work_forever(), ()).expect("there is room");
    let dies = pool.apply_async(|()| signal_self(Signal::SIGKILL), ()).expect("there is room");
    assert!(stop.cancel());
    assert!(dies.get().expect_err("it died").is_death());
    let calls: Vec<_> = (0..3).map(|x| pool.apply_async(same, x).expect("there is room")).collect();
    assert!(calls.into_iter().all(|task| task.get().is_ok()));
    // Whoever waits for room when the pool ends is told.
    let full: Vec<_> =
        (0..3).map(|_| pool.apply_async(|()| work_forever(), ()).expect("there is room")).collect();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| pool.apply(same, 1));
        pool.terminate();
        assert!(waits.join().expect("no panic").expect_err("the pool has ended").is_closed());
    });
    assert!(full.into_iter().all(|task| task.get().is_err_and(|error| error.is_closed())));
}

fn full_pool_gives_tasks_back(start_method: StartMethod) {
    run(fill_up, start_method, &[]).succeeded();
}
