//! Work to share: computing, then waiting.

use std::thread;
use std::time::Duration;

use crate::both_ways::{Part, Runs, all_ways, timed};

/// Keeps a core busy: the lengths of all Collatz sequences of the part.
fn collatz((first, step, end): Part) -> u64 {
    let length = |start: u64| {
        let (mut n, mut length) = (start, 0);
        while n > 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            length += 1;
        }
        length
    };
    (first..end).step_by(step as usize).map(length).sum()
}

/// Waits, as programs wait for a disk or a network: no core is busy.
fn wait((first, step, end): Part) -> u64 {
    let answer = |number: u64| {
        thread::sleep(Duration::from_millis(2));
        number
    };
    (first..end).step_by(step as usize).map(answer).sum()
}

pub(crate) fn computing(budget: Duration, workers: u32) -> Result<Runs, proc_core::Error> {
    // As much as one core does in the budget, found by doubling.
    let mut end = 1000;
    loop {
        let took = timed(|| Ok(collatz((0, 1, end))))?.time;
        if took >= budget / 10 {
            end = (end as f64 * budget.as_secs_f64() / took.as_secs_f64()) as u64;
            return all_ways(collatz, end, workers);
        }
        end *= 2;
    }
}

pub(crate) fn waiting(budget: Duration, workers: u32) -> Result<Runs, proc_core::Error> {
    let waits = budget.as_millis() as u64 / 2;
    all_ways(wait, waits.max(u64::from(workers)), workers)
}
