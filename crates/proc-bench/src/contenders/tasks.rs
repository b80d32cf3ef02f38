//! The functions of tasks, the same for all contenders in Rust.

use std::time::{Duration, Instant};

use crate::workload::Microseconds;

pub(super) fn increment(x: u64) -> u64 {
    x + 1
}

/// Keeps a processor busy for this time.
pub(super) fn spin(time: Microseconds) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(time) {
        std::hint::spin_loop();
    }
}

/// Computes for about 100 us, equally long on each call.
pub(super) fn compute(seed: u64) -> u64 {
    (0..60_000).fold(seed | 1, |x, _| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        x ^ (x << 17)
    })
}

/// Reads a byte of each page. The bytes of the array are ones.
pub(super) fn read_pages(array: &[u8]) -> u64 {
    array.iter().step_by(4096).map(|&byte| u64::from(byte)).sum()
}
