//! `memory_limit`: a bound on the memory that values take.

use std::sync::atomic::{AtomicBool, Ordering};

use proc_core::{Pool, PoolBuilder, StartMethod};

use crate::calls::large_values::bytes;
use crate::support::{Arguments, run};

programs![values_beyond_the_limit, slow_consumer, concurrent_calls, retries];

tests! {
    calls_keep_within_bounds: forkserver spawn fork;
    slow_consumers_hold_up_nobody: forkserver spawn fork;
    concurrent_calls_beyond_the_limit_return: forkserver spawn fork;
    retries_beyond_the_limit_return: forkserver spawn fork;
}

fn build(builder: PoolBuilder) -> Pool {
    builder.build().expect("it can be built")
}

/// The bytes of shared memory that this process has mapped for pools.
fn mapped() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
    let size = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let number = |hex| usize::from_str_radix(hex, 16).ok();
        Some(number(end)? - number(start)?)
    };
    maps.lines().filter(|line| line.contains("memfd:")).filter_map(size).sum()
}

/// Arguments and results that need far more memory than the limit, also single values that are
/// larger than the limit.
fn values_beyond_the_limit(arguments: &Arguments) {
    for bound in [1, 100_000, 4 << 20] {
        let pool = build(arguments.pool_builder(2).memory_limit(bound));
        let sent = pool.map(|x: Vec<u8>| x.len(), (0..20).map(|_| bytes(1 << 20)));
        assert_eq!(sent.expect("nothing fails"), vec![1 << 20; 20]);
        let made = pool.map(|len: usize| vec![1_u8; len], vec![1 << 20; 20]);
        assert!(made.expect("nothing fails").iter().all(|x| x.len() == 1 << 20));
        let tiny: Vec<u64> = pool.map(|x: u64| x + 1, 0..2_000).expect("nothing fails");
        assert!(tiny.iter().copied().eq(1..=2_000));
        let chunks = pool.options().chunksize(100).map(|x: u64| x, 0..2_000);
        assert!(chunks.expect("nothing fails").into_iter().eq(0..2_000));
        let task = pool.map_async(|x: Vec<u8>| x, vec![bytes(500_000); 20]);
        assert_eq!(task.and_then(|task| task.get()).expect("nothing fails").len(), 20);
        // A region is at most as large as all earlier regions together and one more value.
        assert!(
            mapped() < 4 * bound + (8 << 20),
            "{} are mapped with a bound of {bound}",
            mapped()
        );
    }
    println!("within bounds");
}

fn calls_keep_within_bounds(start_method: StartMethod) {
    assert_eq!(run(values_beyond_the_limit, start_method, &[]).succeeded(), "within bounds\n");
}

/// An iterator whose consumer makes other calls meanwhile.
fn slow_consumer(arguments: &Arguments) {
    for bound in [100, 300_000] {
        let pool = build(arguments.pool_builder(2).memory_limit(bound));
        let mut seen = 0;
        for result in pool.imap(|x: Vec<u8>| x, (0..200).map(|_| bytes(100_000))) {
            assert_eq!(result.expect("nothing fails").len(), 100_000);
            seen += 1;
            if seen % 20 == 0 {
                let other = pool.map(|x: Vec<u8>| x, vec![bytes(90_000); 5]);
                assert_eq!(other.expect("nothing fails").len(), 5);
            }
        }
        assert_eq!(seen, 200);
        // An iterator is kept while another call runs, and dropped before its end.
        let mut held = pool.imap_unordered(|x: Vec<u8>| x, std::iter::repeat(bytes(100_000)));
        assert!(held.next().is_some());
        assert_eq!(pool.apply(|x: Vec<u8>| x.len(), bytes(200_000)).expect("it runs"), 200_000);
        drop(held);
        assert_eq!(pool.apply(|x: u8| x, 3).expect("it runs"), 3);
    }
    println!("nobody waits forever");
}

fn slow_consumers_hold_up_nobody(start_method: StartMethod) {
    assert_eq!(run(slow_consumer, start_method, &[]).succeeded(), "nobody waits forever\n");
}

fn concurrent_calls(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2).memory_limit(250_000));
    std::thread::scope(|scope| {
        for len in [1000, 100_000, 400_000] {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..5 {
                    let back = pool.map(|x: Vec<u8>| x, vec![bytes(len); 30]);
                    assert!(back.is_ok_and(|back| back.iter().all(|x| x.len() == len)));
                }
            });
        }
    });
}

fn concurrent_calls_beyond_the_limit_return(start_method: StartMethod) {
    run(concurrent_calls, start_method, &[]).succeeded();
}

fn retries(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2).memory_limit(150_000));
    let moody = |x: Vec<u8>| {
        static TIMES: AtomicBool = AtomicBool::new(false);
        assert!(x[0] != 0 || TIMES.swap(true, Ordering::Relaxed), "once in each worker");
        assert!(x[0] != 2, "always");
        x
    };
    let inputs = (0..30).map(|i| vec![if i == 29 { 2 } else { u8::from(i % 5 != 0) }; 100_000]);
    let fates = pool.options().retries(3).try_map(moody, inputs);
    println!("well {}", fates.iter().filter(|fate| fate.is_ok()).count());
}

fn retries_beyond_the_limit_return(start_method: StartMethod) {
    assert_eq!(run(retries, start_method, &[]).succeeded(), "well 29\n");
}
