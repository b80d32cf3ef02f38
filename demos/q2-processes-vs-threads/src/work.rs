//! Work to share: computing, then waiting.

use std::thread;
use std::time::Duration;

use proc_core::Error;

use crate::both_ways::{Part, Runs, all_ways, timed};

/// Keeps a core busy: the lengths of Collatz sequences.
fn collatz((first, step, end): Part) -> u64 {
    // `step` is how many processes or threads there are.
    let mut lengths = 0;
    for start in (first..end).step_by(step) {
        let mut n = start;
        while n > 1 {
            n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
            lengths += 1;
        }
    }
    lengths
}

/// Waits, as programs wait for a disk: no core is busy.
fn wait((first, step, end): Part) -> u64 {
    // All parts together are the whole work.
    let mut answers = 0;
    for number in (first..end).step_by(step) {
        thread::sleep(Duration::from_millis(2));
        answers += number;
    }
    answers
}

pub(crate) fn computing(
    budget: Duration,
    workers: usize,
) -> Result<Runs, Error> {
    // As much as one core does in the budget, found by doubling.
    let mut end = 1000;
    loop {
        let took = timed(|| Ok(collatz((0, 1, end))))?.time;
        if took >= budget / 10 {
            let longer =
                budget.as_secs_f64() / took.as_secs_f64();
            end = (end as f64 * longer) as u64;
            return all_ways(collatz, end, workers);
        }
        end *= 2;
    }
}

pub(crate) fn waiting(
    budget: Duration,
    workers: usize,
) -> Result<Runs, Error> {
    let waits = budget.as_millis() as u64 / 2;
    all_ways(wait, waits.max(workers as u64), workers)
}
