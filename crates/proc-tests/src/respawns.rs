//! Workers that end before they have done anything are not replaced for ever.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proc_core::{Limits, Pool};

use crate::life::{children, children_of};
use crate::{Arguments, Scenario, describe};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("cannot-begin", cannot_begin)];

/// More workers than a pool of two may try before it gives up; a few thousand a second is spinning.
const MOST: usize = 300;

/// Workers have too little address space to begin.
fn cannot_begin(arguments: &Arguments) {
    for mebibytes in [1, 4, 16] {
        let stop = AtomicBool::new(false);
        let (seen, outcome) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = HashSet::new();
                while !stop.load(Ordering::Relaxed) {
                    seen.extend(children().into_iter().flat_map(children_of));
                }
                seen.len()
            });
            let outcome = use_pool(arguments, mebibytes << 20);
            stop.store(true, Ordering::Relaxed);
            (watch.join().expect("it does not panic"), outcome)
        });
        assert!(seen < MOST, "{seen} workers were tried");
        // What has room to begin may work.
        if mebibytes == 1 {
            let error = outcome.expect_err("nobody can work in so little");
            assert!(!error.is_panic(), "{}", describe(&error));
        }
    }
    println!("told");
}

fn use_pool(arguments: &Arguments, bytes: u64) -> Result<Vec<u32>, proc_core::Error> {
    let start = Instant::now();
    let builder = Pool::builder().processes(2).context(arguments.context);
    let pool = builder.limits(Limits::new().address_space(bytes)).build();
    let result = pool.and_then(|pool| {
        let tasks: Vec<_> =
            (0..4).map(|x| pool.apply_async(|x: u32| x, x)).collect::<Result<_, _>>()?;
        tasks.into_iter().map(proc_core::Task::get).collect()
    });
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    result
}
