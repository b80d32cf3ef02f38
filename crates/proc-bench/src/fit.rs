//! How costs grow: fits `cost = base + a * workers + b * tasks` by least squares.
//!
//! The errors are relative: each equation is divided by the measured cost. Otherwise the largest
//! pool alone would determine the fit. No part can be negative.

use crate::record::Measured;

/// The parts of a cost in seconds: once, for each worker, for each task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fit {
    pub(crate) base: f64,
    pub(crate) worker: f64,
    pub(crate) task: f64,
    /// The largest relative error.
    pub(crate) error: f64,
}

/// How many workers, how many tasks, and the measured cost.
pub(crate) type Point = (f64, f64, f64);

impl Fit {
    pub(crate) fn cost(&self, workers: f64, tasks: f64) -> f64 {
        self.base + self.worker * workers + self.task * tasks
    }

    /// Fits the parts to points. Returns `None` if there are too few points.
    pub(crate) fn of(points: &[Point]) -> Option<Fit> {
        let mut parts = vec![0, 1, 2];
        let found = loop {
            let found = solve(points, &parts)?;
            match (0..parts.len()).min_by(|&a, &b| found[a].total_cmp(&found[b])) {
                Some(least) if found[least] < 0.0 => drop(parts.remove(least)),
                _ => break found,
            }
        };
        let part = |which| parts.iter().position(|&p| p == which).map_or(0.0, |at| found[at]);
        let fit = Fit { base: part(0), worker: part(1), task: part(2), error: 0.0 };
        let error = |&(workers, tasks, cost): &Point| (fit.cost(workers, tasks) / cost - 1.0).abs();
        Some(Fit { error: points.iter().map(error).fold(0.0, f64::max), ..fit })
    }
}

/// The measured costs of a contender's large pools.
pub(crate) fn points(results: &[Measured], contender: &str) -> Vec<Point> {
    let large = results.iter().filter(|measured| measured.workload == "large");
    let point = |measured: &Measured| {
        let cost = measured.summary(contender)?.median;
        Some((measured.case.workers as f64, measured.case.tasks as f64, cost))
    };
    large.filter_map(point).collect()
}

/// Solves the normal equations for some of the parts, by Gaussian elimination.
fn solve(points: &[Point], parts: &[usize]) -> Option<Vec<f64>> {
    let size = parts.len();
    if points.len() <= size || size == 0 {
        return None;
    }
    let mut rows = vec![vec![0.0; size + 1]; size];
    for &(workers, tasks, cost) in points {
        let terms: Vec<f64> = parts.iter().map(|&p| [1.0, workers, tasks][p] / cost).collect();
        for (row, &term) in rows.iter_mut().zip(&terms) {
            for (cell, &other) in row.iter_mut().zip(&terms) {
                *cell += term * other;
            }
            row[size] += term;
        }
    }
    for column in 0..size {
        // If the equations have just one solution, the matrix is positive definite, so any pivot
        // will do.
        let pivot = rows[column].clone();
        if pivot[column].abs() < 1e-12 * rows[0][0].abs() {
            return None;
        }
        for (_, row) in rows.iter_mut().enumerate().filter(|(at, _)| *at != column) {
            let factor = row[column] / pivot[column];
            for (cell, &above) in row.iter_mut().zip(&pivot) {
                *cell -= factor * above;
            }
        }
    }
    Some(rows.iter().enumerate().map(|(at, row)| row[size] / row[at]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(cost: impl Fn(f64, f64) -> f64) -> Vec<Point> {
        let cases = [1.0, 8.0, 64.0].map(|w| [1e3, 1e5].map(|t| (w, t, cost(w, t))));
        cases.into_iter().flatten().collect()
    }

    #[test]
    fn fit_finds_linear_costs() {
        let fit = Fit::of(&grid(|w, t| 0.01 + 2e-4 * w + 1e-7 * t)).expect("a fit");
        assert!((fit.base / 0.01 - 1.0).abs() < 1e-6, "{fit:?}");
        assert!((fit.worker / 2e-4 - 1.0).abs() < 1e-6, "{fit:?}");
        assert!((fit.task / 1e-7 - 1.0).abs() < 1e-6 && fit.error < 1e-6, "{fit:?}");
    }

    #[test]
    fn fit_has_no_negative_part() {
        let fit = Fit::of(&grid(|w, t| 2e-4 * w + 1e-7 * t - 5e-5)).expect("a fit");
        assert!(fit.base == 0.0 && fit.worker > 0.0 && fit.task > 0.0, "{fit:?}");
    }

    #[test]
    fn too_few_points_have_no_fit() {
        assert_eq!(Fit::of(&[(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (3.0, 1.0, 1.0)]), None);
        assert_eq!(Fit::of(&[(1.0, 1.0, 1.0); 8]), None);
    }
}
