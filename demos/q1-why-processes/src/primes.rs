//! Work for a processor: counts primes the slow way, alone and in a pool.

use std::ops::Range;
use std::time::{Duration, Instant};

use proc_core::{Error, Pool};

pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) primes: usize,
}

fn is_prime(n: u32) -> bool {
    let mut divisors = (2..).take_while(|d| d * d <= n);
    n >= 2 && divisors.all(|d| !n.is_multiple_of(d))
}

fn count(numbers: Range<u32>) -> usize {
    numbers.filter(|n| is_prime(*n)).count()
}

/// More parts than workers, since later parts take longer.
fn parts(limit: u32) -> impl Iterator<Item = Range<u32>> {
    let step = (limit / 200).max(1);
    let part = move |n: u32| n..limit.min(n + step);
    (0..limit).step_by(step as usize).map(part)
}

pub(crate) fn serially(limit: u32) -> Run {
    let start = Instant::now();
    let primes = parts(limit).map(count).sum();
    Run { time: start.elapsed(), primes }
}

/// The start of the pool is not counted.
pub(crate) fn in_pool(
    limit: u32,
    workers: usize,
) -> Result<Run, Error> {
    let pool =
        Pool::builder().processes(workers).build()?;
    let start = Instant::now();
    let primes = pool.map(count, parts(limit))?;
    let primes = primes.into_iter().sum();
    Ok(Run { time: start.elapsed(), primes })
}
