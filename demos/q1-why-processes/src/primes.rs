//! Work for a processor: counts primes the slow way, alone and in a pool.

use std::ops::Range;
use std::time::{Duration, Instant};

use proc_core::{Error, Pool};

pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) primes: usize,
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

fn count(range: Range<u32>) -> usize {
    range.filter(|n| is_prime(*n)).count()
}

/// Cuts the numbers below `limit` into more parts than workers, as the later parts take longer.
fn parts(limit: u32) -> impl Iterator<Item = Range<u32>> {
    let step = limit.div_ceil(200).max(1);
    (0..limit).step_by(step as usize).map(move |start| start..limit.min(start.saturating_add(step)))
}

pub(crate) fn serially(limit: u32) -> Run {
    let start = Instant::now();
    let primes = parts(limit).map(count).sum();
    Run { time: start.elapsed(), primes }
}

/// The time to start the pool is not counted: it is there for many maps.
pub(crate) fn in_pool(limit: u32, workers: usize) -> Result<Run, Error> {
    let pool = Pool::builder().processes(workers).build()?;
    let start = Instant::now();
    let primes = pool.map(count, parts(limit))?.into_iter().sum();
    Ok(Run { time: start.elapsed(), primes })
}
