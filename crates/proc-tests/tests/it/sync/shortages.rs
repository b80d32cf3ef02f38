//! Objects are made, sent and received although memory or descriptors are short, or there is an
//! error that says what to do. Afterwards all works again.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use proc_core::sync::{Array, Lock, Semaphore, Value};
use proc_core::{Child, Error, ErrorKind, Limits, Process, StartMethod};

use crate::support::descriptors::leave_descriptors;
use crate::support::{Arguments, assert_fine_or_contains, describe, print_result, run};
use crate::sync::everything::Everything;

programs![
    make_and_send_with_few_descriptors,
    receive_with_few_descriptors,
    make_with_little_memory,
    receive_with_little_memory,
];

tests! {
    too_few_descriptors_are_told: forkserver spawn fork;
    too_few_descriptors_of_a_worker_are_told: forkserver spawn fork;
    too_little_memory_is_told: forkserver spawn fork;
    too_little_memory_of_a_worker_is_told: forkserver spawn;
}

const MIB: usize = 1 << 20;

fn use_once(all: Everything) {
    all.use_once();
}

fn add_one(value: Value<u64>) -> u64 {
    value.fetch_add(1)
}

fn make(_: u32) -> Everything {
    let all = Everything::new();
    all.use_once();
    all
}

fn make_large(len: usize) -> Result<Array<u8>, Error> {
    Array::zeroed(len)
}

/// Uses objects in each way, while 0 to 9 descriptors are left.
fn make_and_send_with_few_descriptors(arguments: &Arguments) {
    let start_method = arguments.start_method;
    // With `Fork`, a process can be made only while there is one thread, so before the pool.
    let process = |all: &Everything| {
        Process::new(use_once, all.clone()).start_method(start_method).start().and_then(Child::join)
    };
    let all = Everything::new();
    process(&all).expect("nothing fails");
    let mut sent = 1;
    for count in 0..10 {
        let files = leave_descriptors(count);
        let result = process(&all);
        drop(files);
        sent += u64::from(result.is_ok());
        print_result("process", result);
    }
    let pool = arguments.pool(1);
    pool.apply(use_once, all.clone()).expect("nothing fails");
    sent += 1;
    for count in 0..10 {
        let files = leave_descriptors(count);
        print_result("large", Array::<u8>::zeroed(MIB));
        // More than there is room for in the segments that there are.
        let many = (0..30).map(|_| Semaphore::new(2000)).collect::<Result<Vec<_>, _>>();
        print_result("many", many);
        print_result("argument", pool.apply(add_one, all.small.clone()));
        let result = pool.apply(use_once, all.clone());
        sent += u64::from(result.is_ok());
        print_result("many arguments", result);
        print_result("result", pool.apply(|x: u64| Value::new(x).ok(), 1));
        print_result("many results", pool.apply(make, 0));
        drop(files);
        all.small.set(sent);
        // A call that was refused has changed nothing, and the next one works.
        all.expect_used(sent);
        pool.apply(use_once, all.clone()).expect("there are descriptors again");
        sent += 1;
        pool.apply(make, 0).expect("there are descriptors again").expect_used(1);
        drop(Array::<u8>::zeroed(MIB).expect("there are descriptors again"));
    }
    all.expect_used(sent);
}

fn too_few_descriptors_are_told(start_method: StartMethod) {
    let finished = run(make_and_send_with_few_descriptors, start_method, &[]);
    assert_fine_or_contains(&finished, &["too many open files", "ulimit -n"]);
    for what in ["large: ", "argument: ", "result: "] {
        let lines = || finished.stdout.lines().filter(|line| line.starts_with(what));
        assert!(lines().any(|line| line.ends_with(": fine")), "{what}:\n{}", finished.stdout);
        assert!(lines().any(|line| !line.ends_with(": fine")), "{what}:\n{}", finished.stdout);
    }
}

/// A worker gets more locks than it may have descriptors.
fn receive_with_few_descriptors(arguments: &Arguments) {
    let limits = Limits::new().open_files(40);
    let pool = arguments.pool_builder(1).limits(limits).build().expect("it can be built");
    let take = |locks: Vec<Lock>| locks.iter().filter(|lock| lock.lock().is_ok()).count();
    let lock = Lock::new().expect("memory");
    for count in [1, 60, 2] {
        match pool.apply(take, vec![lock.clone(); count]) {
            Ok(taken) => assert_eq!(taken, count),
            Err(error) => {
                assert_eq!((count, error.kind()), (60, ErrorKind::Decode));
                print_result("argument", Err::<(), _>(error));
            }
        }
    }
    drop(lock.lock().expect("nobody has it"));
}

fn too_few_descriptors_of_a_worker_are_told(start_method: StartMethod) {
    let finished = run(receive_with_few_descriptors, start_method, &[]);
    assert_fine_or_contains(&finished, &["open files", "ulimit -n"]);
    assert_eq!(finished.stdout.lines().count(), 1, "{}", finished.stdout);
}

/// Asserts that a result is an error of this kind, which names memory and what to do.
#[track_caller]
fn expect_told<T>(kind: ErrorKind, result: Result<T, Error>) {
    let error = result.map(drop).expect_err("there is no memory");
    let told = describe(&error);
    assert_eq!(error.kind(), kind, "{told}");
    assert!(told.contains("memory") && told.contains("ulimit -v"), "{told}");
}

fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let size = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    size.expect("the kernel tells it in kB") << 10
}

/// The program may map 8 MiB more than it has.
fn make_with_little_memory(arguments: &Arguments) {
    const MARGIN: u64 = 8 << 20;
    let pool = arguments.pool(1);
    let all = Everything::new();
    pool.apply(use_once, all.clone()).expect("nothing fails");
    let (_, most) = getrlimit(Resource::RLIMIT_AS).expect("it can be asked");
    assert_eq!(most, RLIM_INFINITY, "the tests run without a limit");
    let mut many = Vec::with_capacity(10_000);
    setrlimit(Resource::RLIMIT_AS, address_space() + MARGIN, most).expect("it is allowed");
    expect_told(ErrorKind::Start, Array::<u8>::zeroed(64 * MIB));
    expect_told(ErrorKind::Decode, pool.apply(|len| make_large(len).ok(), 64 * MIB));
    // Objects of 8 KiB, until there is no room for another segment.
    let refused = (0..10_000).find_map(|_| match Semaphore::new(2000) {
        Ok(semaphore) => {
            many.push(semaphore);
            None
        }
        Err(error) => Some(error),
    });
    expect_told(ErrorKind::Start, Err::<(), _>(refused.expect("80 MB are too much")));
    assert!(many.len() > 50, "{} have room", many.len());
    all.use_once();
    // What is gone makes room.
    drop(many);
    Semaphore::new(2000).expect("there is room again");
    setrlimit(Resource::RLIMIT_AS, most, most).expect("it is allowed");
    let large = pool.apply(|len| make_large(len).ok(), 64 * MIB).expect("there is memory again");
    assert_eq!(large.expect("the worker has no limit").len(), 64 * MIB);
    pool.apply(use_once, all.clone()).expect("nothing fails");
    all.expect_used(3);
}

fn too_little_memory_is_told(start_method: StartMethod) {
    run(make_with_little_memory, start_method, &[]).succeeded();
}

/// A worker may map 200 MiB, and a process too. (With `Fork`, both have the program's mapping.)
fn receive_with_little_memory(arguments: &Arguments) {
    let limits = || Limits::new().address_space(200 << 20).no_core_dumps();
    let large = Array::<u8>::zeroed(256 * MIB).expect("no memory is used before it is written to");
    let small = Array::<u8>::zeroed(MIB).expect("memory");
    let length = |array: Array<u8>| array.len();
    let start = |array: &Array<u8>| {
        let process = Process::new(length, array.clone()).limits(limits());
        process.start_method(arguments.start_method).start().and_then(Child::join)
    };
    expect_told(ErrorKind::Decode, start(&large));
    assert_eq!(start(&small).expect("it has room for that"), MIB);
    let pool = arguments.pool_builder(1).limits(limits()).build().expect("it can be built");
    for _ in 0..2 {
        expect_told(ErrorKind::Decode, pool.apply(length, large.clone()));
        assert_eq!(pool.apply(length, small.clone()).expect("it has room for that"), MIB);
    }
    let make = |len: usize| make_large(len).map(|array| array.len());
    expect_told(ErrorKind::Start, pool.apply(make, 256 * MIB).expect("the task returns an error"));
    assert_eq!(pool.apply(make, MIB).expect("it returns").expect("it has room for that"), MIB);
    assert_eq!(large.get(256 * MIB - 1), 0);
}

fn too_little_memory_of_a_worker_is_told(start_method: StartMethod) {
    run(receive_with_little_memory, start_method, &[]).succeeded();
}
