//! `Shared`: data that workers share, mapped once by each, and let go.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use proc_core::{Pool, Process, Shared, StartMethod};

use crate::support::{Arguments, assert_snapshot, describe, run, wait_until};

programs![
    share_arrays,
    share_in_states,
    share_many,
    share_with_a_dying_worker,
    share_large_array,
    is_shared_memory_writable
];

tests! {
    shared_data_have_one_place_in_each_worker: forkserver spawn fork;
    shared_data_are_state: forkserver spawn fork;
    shared_data_are_let_go: forkserver spawn fork;
    shared_data_outlive_a_worker: forkserver spawn fork;
    shared_data_may_be_large: forkserver spawn fork;
    shared_data_are_read_only: forkserver spawn fork;
}

fn share<T: bytemuck::Pod>(data: &[T]) -> Shared<T> {
    Shared::from_slice(data).expect("there is memory")
}

/// The pid of the worker, the address of the array, and the sum of its elements.
fn look(data: Shared<u64>) -> (u32, usize, u64) {
    (std::process::id(), data.as_ptr().addr(), data.iter().sum())
}

/// Arrays of many types arrive, and a worker maps an array once, however often it is sent.
fn share_arrays(arguments: &Arguments) {
    // `Fork` needs a program without threads.
    let sum = Process::new(|data: Shared<u64>| data.iter().sum::<u64>(), share(&[20, 22]));
    println!(
        "process {}",
        sum.start_method(arguments.start_method).start().and_then(|c| c.join()).expect("it runs")
    );
    let pool = arguments.pool(2);
    let numbers: Vec<u64> = (0..100_000).collect();
    let data = share(&numbers);
    let seen = pool.map(look, vec![data.clone(); 100]).expect("nothing fails");
    assert!(seen.iter().all(|(_, _, sum)| *sum == numbers.iter().sum::<u64>()));
    let places: BTreeSet<_> = seen.iter().map(|(pid, place, _)| (pid, place)).collect();
    let pids: BTreeSet<_> = seen.iter().map(|(pid, ..)| pid).collect();
    println!("one place for each worker: {}", places.len() == pids.len());
    let empty = pool.apply(|data: Shared<f64>| data.len(), share(&[]));
    println!("empty {}", empty.expect("it is shared"));
    let triples = share(&[[1_u8, 2, 3], [4, 5, 6]]);
    let back = pool.apply(|data: Shared<[u8; 3]>| data, triples).expect("it comes back");
    println!("back {:?}", &back[..]);
    let made = pool.apply(|n: u32| share(&vec![n; 1000]), 7).expect("it is made there");
    println!("made there {} {}", made.len(), made.iter().all(|n| *n == 7));
    let two =
        pool.apply(|(a, b): (Shared<u8>, Shared<u8>)| (a[0], b[0]), (share(&[1]), share(&[2])));
    println!("two {:?}", two.expect("both arrive"));
}

fn shared_data_have_one_place_in_each_worker(start_method: StartMethod) {
    let expected = "process 42\none place for each worker: true\nempty 0\n\
        back [[1, 2, 3], [4, 5, 6]]\nmade there 1000 true\ntwo (1, 2)\n";
    assert_eq!(run(share_arrays, start_method, &[]).succeeded(), expected);
}

/// Arrays as arguments of a pool's state and initializer, also in workers that start later.
fn share_in_states(arguments: &Arguments) {
    static DATA: OnceLock<Shared<u16>> = OnceLock::new();
    let data = share(&[3_u16; 5000]);
    let pool = Pool::builder()
        .processes(2)
        .start_method(arguments.start_method)
        .initializer(|data| drop(DATA.set(data)), data.clone())
        .state(|data: Shared<u16>| data, data)
        .max_tasks_per_child(3)
        .build()
        .expect("it can be built");
    let at = |data: &mut Shared<u16>, i: usize| data[i] + DATA.get().map_or(0, |data| data[i]);
    let sums = pool.with_state().map(at, 0..30).expect("nothing fails");
    println!("{:?}", BTreeSet::from_iter(sums));
}

fn shared_data_are_state(start_method: StartMethod) {
    assert_eq!(run(share_in_states, start_method, &[]).succeeded(), "{6}\n");
}

/// How many regions of shared memory and how many descriptors processes have.
fn held(pids: &[u32]) -> usize {
    let of = |pid: &u32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        maps.lines().filter(|line| line.contains("memfd:")).count() + files.count()
    };
    pids.iter().map(of).sum()
}

/// Many arrays come and go. Neither the program nor the worker keeps any of them.
fn share_many(arguments: &Arguments) {
    let pool = arguments.pool(1);
    // A worker drops its arrays when it has nothing more to do.
    let rest = || pool.apply(|x: u64| x, 4).expect("it runs");
    rest();
    let held = || held(&[&pool.worker_pids()[..], &[std::process::id()]].concat());
    let before = held();
    for n in 0..100 {
        let data = share(&vec![n; 1000]);
        let sums = pool.map(look, vec![data; 2]).expect("nothing fails");
        assert!(sums.iter().all(|(_, _, sum)| *sum == 1000 * n));
    }
    // More arrays at once than a worker keeps.
    let many: Vec<_> = (0..40).map(|n| share(&[n; 10])).collect();
    let sums = pool.map(look, many).expect("nothing fails");
    assert!(sums.iter().map(|(_, _, sum)| *sum).eq((0..40).map(|n| 10 * n)));
    rest();
    // An array that was kept would count at least twice. The pool's own memory may have grown.
    wait_until(|| held() < before + 16);
    println!("nothing is left");
}

fn shared_data_are_let_go(start_method: StartMethod) {
    assert_eq!(run(share_many, start_method, &[]).succeeded(), "nothing is left\n");
}

/// A worker dies with an array. Only its task fails, and the next worker has the array.
fn share_with_a_dying_worker(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let data = share(&[1_u64, 2, 3]);
    let die =
        |(data, at): (Shared<u64>, usize)| if at == 3 { std::process::abort() } else { data[at] };
    let fates = pool.try_map(die, [0, 3, 1, 2].map(|at| (data.clone(), at)));
    for fate in fates {
        println!("{}", fate.map_or_else(|error| describe(&error), |value| value.to_string()));
    }
}

fn shared_data_outlive_a_worker(start_method: StartMethod) {
    assert_snapshot(
        "shared_death",
        1,
        run(share_with_a_dying_worker, start_method, &[]).succeeded(),
    );
}

fn share_large_array(arguments: &Arguments) {
    const LEN: usize = 210_000_000;
    let pool = arguments.pool(2);
    let data = share(&vec![1_u8; LEN]);
    let ends = |data: Shared<u8>| (data.len(), data[0] + data[LEN / 2] + data[LEN - 1]);
    let seen = pool.map(ends, vec![data; 20]).expect("nothing fails");
    println!("{:?}", BTreeSet::from_iter(seen));
}

fn shared_data_may_be_large(start_method: StartMethod) {
    let expected = "{(210000000, 3)}\n";
    assert_eq!(run(share_large_array, start_method, &[]).succeeded(), expected);
}

/// Arrays are mapped read-only in the program and in workers, so that unsafe code cannot overwrite
/// them by mistake.
fn is_shared_memory_writable(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let writable = |data: Shared<u64>| {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
        let start = format!("{:x}-", data.as_ptr().addr());
        maps.lines().find(|line| line.starts_with(&start)).map(|line| line.contains("rw"))
    };
    let data = share(&[1, 2, 3]);
    println!("{:?} {:?}", writable(data.clone()), pool.apply(writable, data).expect("it runs"));
}

fn shared_data_are_read_only(start_method: StartMethod) {
    assert_eq!(
        run(is_shared_memory_writable, start_method, &[]).succeeded(),
        "Some(false) Some(false)\n"
    );
}
