//! What data, settings and broadcasts cost, and how long a small call waits beside a large one.
//!
//!     cargo run --release -p proc-bench --bin call-settings
//!
//! Except for the small calls, each call is made once in a round, so that other load of the machine
//! hits all of them. A row shows the median over the rounds, and the middle half of them. In the
//! table of settings, a row also compares a call with the plain call of the same round.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proc_core::{Error, Pool, Progress, Shared, current};

const ROUNDS: usize = 41;
const LARGE_ROUNDS: usize = 11;
const TASKS: u64 = 1_000_000;
/// How many numbers of 8 bytes the large data have: 100 MB.
const LARGE: usize = 12_500_000;
const LARGE_TASKS: usize = 64;

fn increment(x: u64) -> u64 {
    x + 1
}

/// One call that is timed.
type Call<'a> = (&'static str, Box<dyn Fn() -> Result<(), Error> + 'a>);

fn main() -> Result<(), Error> {
    proc_core::init();
    let pool = Pool::builder().processes(2).build()?;
    tiny_tasks(&pool)?;
    large_data(&pool)?;
    broadcast(&pool)?;
    drop(pool);
    small_call(2)?;
    println!();
    small_call(1)
}

/// A million tiny tasks, with one setting each.
fn tiny_tasks(pool: &Pool) -> Result<(), Error> {
    static SHOWN: AtomicUsize = AtomicUsize::new(0);
    let show = |progress: Progress| SHOWN.store(progress.done, Ordering::Relaxed);
    let options = || pool.options();
    let calls: Vec<Call<'_>> = vec![
        ("map", Box::new(|| check(pool.map(increment, 0..TASKS)))),
        ("map once more", Box::new(|| check(pool.map(increment, 0..TASKS)))),
        ("with(1)", Box::new(|| check(pool.with(1_u64).map(|one, x: u64| x + one, 0..TASKS)))),
        ("progress", Box::new(move || check(options().progress(show).map(increment, 0..TASKS)))),
        ("priority(1)", Box::new(move || check(options().priority(1).map(increment, 0..TASKS)))),
        ("fail_fast()", Box::new(move || check(options().fail_fast().map(increment, 0..TASKS)))),
        ("seed(1)", Box::new(move || check(options().seed(1).map(increment, 0..TASKS)))),
        (
            "seed(1), and its use in each task",
            Box::new(move || check(options().seed(1).map(|_: u64| current().seed(), 0..TASKS))),
        ),
        ("retries(1)", Box::new(move || check(options().retries(1).map(increment, 0..TASKS)))),
        (
            "grace(1 s)",
            Box::new(move || {
                check(options().grace(Duration::from_secs(1)).map(increment, 0..TASKS))
            }),
        ),
        (
            "timeout(60 s)",
            Box::new(move || {
                check(options().timeout(Duration::from_secs(60)).map(increment, 0..TASKS))
            }),
        ),
    ];
    let times = in_turns(ROUNDS, &calls)?;
    println!("A million tiny tasks, pool of 2, {ROUNDS} rounds:\n");
    println!("{:<34}{:>20}{:>20}{:>23}", "", "ns a task", "ns more than map", "times map");
    for ((name, _), own) in calls.iter().zip(&times) {
        let each = |seconds: f64| seconds * 1e9 / TASKS as f64;
        let more = spread(own.iter().zip(&times[0]).map(|(own, plain)| each(own - plain)));
        let ratio = spread(own.iter().zip(&times[0]).map(|(own, plain)| own / plain));
        let own = spread(own.iter().map(|seconds| each(*seconds)));
        let (own, more, ratio) = (show3(own, 1), show3(more, 1), show3(ratio, 3));
        println!("{name:<34}{own:>20}{more:>20}{ratio:>23}");
    }
    println!();
    Ok(())
}

fn check(results: Result<Vec<u64>, Error>) -> Result<(), Error> {
    assert_eq!(results?.len(), TASKS as usize);
    Ok(())
}

/// 100 MB for 64 tasks: as data, and as shared memory.
fn large_data(pool: &Pool) -> Result<(), Error> {
    let numbers: Vec<f64> = (0..LARGE).map(|x| x as f64).collect();
    let tasks = || (0..LARGE_TASKS).map(|task| task * (LARGE / LARGE_TASKS));
    let check = |results: Vec<f64>| {
        assert!(results.into_iter().eq(tasks().map(|at| at as f64)));
    };
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=LARGE_ROUNDS {
        let owned = numbers.clone();
        let begin = Instant::now();
        let shared = Shared::from_slice(&numbers)?;
        check(pool.with(shared).map(|numbers, at: usize| numbers[at], tasks())?);
        let of_shared = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        check(pool.with(owned).map(|numbers: &Vec<f64>, at: usize| numbers[at], tasks())?);
        let of_vector = begin.elapsed().as_secs_f64();
        if round > 0 {
            times[0].push(of_shared);
            times[1].push(of_vector);
        }
    }
    println!("100 MB of f64 for {LARGE_TASKS} tasks, pool of 2, {LARGE_ROUNDS} rounds:\n");
    println!("{:<30}{:>24}{:>22}", "", "ms", "times Shared");
    for (name, own) in ["Shared::from_slice, then with", "with a Vec"].into_iter().zip(&times) {
        let ratio = spread(own.iter().zip(&times[0]).map(|(own, shared)| own / shared));
        let own = spread(own.iter().map(|seconds| seconds * 1e3));
        println!("{name:<30}{:>24}{:>22}", show3(own, 1), show3(ratio, 2));
    }
    println!();
    Ok(())
}

/// A small call alone, and beside a map of a million tasks.
fn small_call(workers: usize) -> Result<(), Error> {
    let pool = Pool::builder().processes(workers).build()?;
    fn spin(micros: u64) {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(micros) {
            std::hint::spin_loop();
        }
    }
    println!("A small call now and then, beside a map of a million tasks, pool of {workers}:\n");
    println!(
        "{:>16}{:>14}{:>22}{:>24}{:>11}",
        "tasks of the map", "small call", "alone, us", "beside the map, us", "asked, us"
    );
    for (micros, small) in [(1, 1), (100, 1), (100, 20), (10_000, 1), (10_000, 20)] {
        let call = || {
            // Without a pause, the small calls together would be served like one long call: they
            // would get half of the workers' time.
            std::thread::sleep(Duration::from_millis(20));
            let begin = Instant::now();
            pool.map(spin, vec![100; small]).map(|_| begin.elapsed().as_secs_f64() * 1e6)
        };
        let alone = (0..ROUNDS).map(|_| call()).collect::<Result<Vec<_>, _>>()?;
        let large = pool.map_async(spin, vec![micros; TASKS as usize])?;
        // The pool measures the tasks of the map first.
        std::thread::sleep(Duration::from_millis(300));
        let beside = (0..ROUNDS).map(|_| call()).collect::<Result<Vec<_>, _>>();
        large.cancel();
        let (alone, beside) = (spread(alone.into_iter()), spread(beside?.into_iter()));
        // One running task of the map, and three times what the small call takes alone.
        let asked = micros as f64 + 3.0 * alone[1];
        let (alone, beside) = (show3(alone, 0), show3(beside, 0));
        let small = format!("{small} of 100 us");
        println!("{micros:>13} us{small:>14}{alone:>22}{beside:>24}{asked:>11.0}");
    }
    Ok(())
}

/// A broadcast, beside an apply.
fn broadcast(pool: &Pool) -> Result<(), Error> {
    let calls: Vec<Call<'_>> = vec![
        ("apply", Box::new(|| pool.apply(increment, 1).map(drop))),
        ("broadcast", Box::new(|| pool.broadcast(increment, 1).map(drop))),
    ];
    let times = in_turns(50 * ROUNDS, &calls)?;
    println!("A broadcast, pool of 2, {} rounds:\n\n{:<30}{:>24}", 50 * ROUNDS, "", "us");
    for ((name, _), own) in calls.iter().zip(&times) {
        let own = show3(spread(own.iter().map(|seconds| seconds * 1e6)), 1);
        println!("{name:<30}{own:>24}");
    }
    println!();
    Ok(())
}

/// Times each call once in each round, after a round that does not count.
fn in_turns(rounds: usize, calls: &[Call<'_>]) -> Result<Vec<Vec<f64>>, Error> {
    let mut times = vec![Vec::new(); calls.len()];
    for round in 0..=rounds {
        for ((_, call), times) in calls.iter().zip(&mut times) {
            let begin = Instant::now();
            call()?;
            times.extend((round > 0).then(|| begin.elapsed().as_secs_f64()));
        }
    }
    Ok(times)
}

/// The lower quartile, the median and the upper quartile.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn show3([low, median, high]: [f64; 3], digits: usize) -> String {
    format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
}
