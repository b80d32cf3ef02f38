//! A workload's contenders side by side.

use anyhow::Result;

use crate::contenders::{Contender, Python, Samples};

/// A workload and who does it; the first contender is the measure of the others.
pub(crate) struct Table {
    title: &'static str,
    contenders: Vec<Contender>,
    absent: bool,
}

impl Table {
    pub(crate) fn new(title: &'static str) -> Table {
        Table { title, contenders: Vec::new(), absent: false }
    }

    pub(crate) fn add(&mut self, contender: Contender) {
        self.contenders.push(contender);
    }

    /// Adds CPython's three start methods, with so many repetitions each.
    pub(crate) fn add_python(
        &mut self,
        python: &Option<Python>,
        workload: &'static str,
        repetitions: [usize; 3],
        scale: usize,
    ) {
        let Some(python) = python else {
            self.absent = true;
            return;
        };
        for (method, n) in ["fork", "forkserver", "spawn"].into_iter().zip(repetitions) {
            self.add(python.contender(workload, method, n.div_ceil(scale)));
        }
    }

    /// Lets the contenders take turns and prints what came of it.
    pub(crate) fn run(&self, rounds: usize) -> Result<()> {
        let mut samples: Vec<Samples> = vec![Vec::new(); self.contenders.len()];
        for _ in 0..rounds {
            for (contender, samples) in self.contenders.iter().zip(&mut samples) {
                samples.extend(contender.block()?);
            }
        }
        println!("{}", self.title);
        println!("  {:<24} {:>12} {:>25} {:>9}", "", "median", "10 % .. 90 %", "ratio");
        let first = quantile(&mut samples[0], 0.5);
        for (contender, samples) in self.contenders.iter().zip(&mut samples) {
            let [low, median, high] = [0.1, 0.5, 0.9].map(|q| quantile(samples, q));
            let spread = format!("{} .. {}", time(low), time(high));
            let (name, ratio) = (&contender.name, median / first);
            println!("  {name:<24} {:>12} {spread:>25} {ratio:>8.2}x", time(median));
        }
        if self.absent {
            println!("  CPython                        absent");
        }
        println!();
        Ok(())
    }
}

/// The `q` quantile, by the nearest rank.
fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (q * (samples.len() - 1) as f64).round() as usize;
    samples[rank]
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// Prints the median and the extremes of sizes in KiB.
pub(crate) fn print_sizes(sizes: &[f64]) {
    let mut sizes = sizes.to_vec();
    let [low, median, high] = [0.0, 0.5, 1.0].map(|q| quantile(&mut sizes, q));
    println!("  median {median:.0} KiB, from {low:.0} to {high:.0} KiB, of {}", sizes.len());
}
