//! A pool does not forever replace workers that end before they have done anything.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::{Error, Limits, Pool, StartMethod};

use crate::support::procfs::{children, children_of};
use crate::support::{Arguments, run};

programs![too_limited, killed_at_once];

tests! {
    workers_that_cannot_begin_are_given_up: forkserver spawn;
    workers_that_are_killed_at_once_are_given_up: forkserver spawn;
}

/// A pool of two must give up before it has started this number of workers. A pool that does not
/// give up would start thousands a second.
const MAX_STARTS: usize = 300;

/// Workers have few descriptors, or little address space. With most of these limits they cannot
/// start.
fn too_limited(arguments: &Arguments) {
    for count in [0, 1, 3, 4, 5, 6, 8, 10, 12, 16] {
        watched(arguments, Limits::new().open_files(count), |_| {});
    }
    for pages in [0, 1, 16, 1024] {
        watched(arguments, Limits::new().address_space(4096 * pages), |_| {});
    }
    println!("bounded");
}

fn workers_that_cannot_begin_are_given_up(start_method: StartMethod) {
    let finished = run(too_limited, start_method, &[]);
    // A worker without descriptors may print so on stderr.
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(finished.stdout, "bounded\n");
}

/// Each worker is killed as soon as it is seen.
fn killed_at_once(arguments: &Arguments) {
    for _ in 0..3 {
        watched(arguments, Limits::new(), |worker| {
            let _ = kill(Pid::from_raw(worker as i32), Signal::SIGKILL);
        });
    }
    println!("bounded");
}

/// Builds and uses a pool. The results or errors must come soon, and after few workers.
fn watched(arguments: &Arguments, limits: Limits, look_at: impl Fn(u32) + Sync) {
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = HashSet::new();
            while !stop.load(Ordering::Relaxed) {
                let workers = children().into_iter().flat_map(children_of);
                seen.extend(workers.inspect(|worker| look_at(*worker)));
            }
            seen.len()
        });
        let start = Instant::now();
        let outcome = use_pool(arguments, limits);
        let took = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert!(took < Duration::from_secs(20), "{took:?} until {outcome:?}");
        watch.join().expect("it does not panic")
    });
    assert!(seen < MAX_STARTS, "{seen} workers were tried");
}

/// Each task has a result or an error.
fn use_pool(arguments: &Arguments, limits: Limits) -> Result<usize, Error> {
    let builder = Pool::builder().processes(2).start_method(arguments.start_method).limits(limits);
    let results = builder.build()?.try_map(|x: u32| x, 0..4);
    assert_eq!(results.len(), 4);
    for (result, x) in results.iter().zip(0..) {
        assert!(result.as_ref().is_err() || result.as_ref().is_ok_and(|y| *y == x));
    }
    Ok(results.iter().filter(|result| result.is_ok()).count())
}

fn workers_that_are_killed_at_once_are_given_up(start_method: StartMethod) {
    assert_eq!(run(killed_at_once, start_method, &[]).succeeded(), "bounded\n");
}
