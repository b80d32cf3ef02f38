//! Calls that return all results at once, or one task for all.

use std::time::Duration;

use proc_core::Error;

use super::verdicts::{Tally, kind};
use super::{Caller, Mood, Terms};
use crate::ledger::FATES;
use crate::station::Station;
use crate::tasks::{Act, Answer, Order, Spec, mix, obey};
use crate::watch::broken;

impl Caller<'_> {
    /// Many tasks that do next to nothing.
    pub(super) fn tiny(&mut self, station: &Station) {
        let _on_the_way = self.begin("try_map of tiny tasks");
        let count = if station.is_slow { self.rng.u64(..50) } else { self.rng.u64(..100_000) };
        let first = self.rng.u64(..);
        let number = |index: u64| first.wrapping_add(index);
        let results = self.options(station).try_map(mix, (0..count).map(number));
        if results.len() as u64 != count {
            broken(&format!("{} results for {count} tasks", results.len()));
        }
        let mut tally = Tally::default();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(value) if value == mix(number(index as u64)) => tally.add("result"),
                Ok(value) => broken(&format!("tiny task {index} of {count} gives {value}")),
                Err(error) => {
                    self.excuse(station, Terms::Plain, index, &error, &mut tally);
                }
            }
        }
        tally.book(self.round.ledger);
    }

    pub(super) fn try_map(&mut self, station: &Station, mood: Mood, terms: Terms) {
        let _on_the_way = self.begin(&format!("try_map, {mood:?}, {terms:?}"));
        let most = if mood == Mood::Mixed && !station.is_slow { 300 } else { 12 };
        let count = self.rng.usize(..most);
        let specs = self.specs(count, mood);
        self.try_map_of(station, &specs, terms);
    }

    /// `try_map` of given tasks; [`begin`](Caller::begin) is the caller's.
    pub(super) fn try_map_of(&mut self, station: &Station, specs: &[Spec], terms: Terms) {
        let mut options = self.options(station);
        if terms == Terms::Timed {
            options = options.timeout(Duration::from_millis(self.rng.u64(5..100)));
        }
        let results = options.try_map(obey, specs.iter().map(Spec::order));
        if results.len() != specs.len() {
            broken(&format!("{} results for {} tasks", results.len(), specs.len()));
        }
        let mut tally = Tally::default();
        for (index, (spec, result)) in specs.iter().zip(results).enumerate() {
            self.judge(station, terms, index, spec, &result, &mut tally);
        }
        tally.book(self.round.ledger);
    }

    pub(super) fn map(&mut self, station: &Station) {
        let _on_the_way = self.begin("map");
        let mood = if self.rng.bool() { Mood::Mixed } else { Mood::Calm };
        let count = self.rng.usize(..30);
        let specs = self.specs(count, mood);
        let result = self.options(station).map(obey, specs.iter().map(Spec::order));
        self.judge_map(station, &specs, result);
    }

    pub(super) fn map_async(&mut self, station: &Station) {
        let _on_the_way = self.begin("map_async");
        let mood = if self.rng.bool() { Mood::Mixed } else { Mood::Calm };
        let count = self.rng.usize(..30);
        let specs = self.specs(count, mood);
        let orders: Vec<Order> = specs.iter().map(Spec::order).collect();
        match self.options(station).map_async(obey, orders) {
            Ok(task) => match self.rng.u32(..4) {
                0 => {
                    let was_open = task.cancel();
                    match (was_open, task.get()) {
                        (true, Err(error)) if error.is_cancelled() => {
                            let mut tally = Tally::default();
                            specs.iter().for_each(|_| tally.add("cancelled"));
                            tally.book(self.round.ledger);
                        }
                        (true, Ok(_)) => broken("a call was cancelled, and has a result"),
                        (_, result) => self.judge_map(station, &specs, result),
                    }
                }
                1 => drop(task),
                2 => self.judge_map(station, &specs, pollster::block_on(task)),
                _ => self.judge_map(station, &specs, task.get()),
            },
            // An argument that cannot be encoded is told at once, before anything runs.
            Err(error) => {
                let task = error.task().and_then(|task| specs.get(task));
                match task.filter(|spec| spec.act == Act::UnwritableArgument && spec.makes(&error))
                {
                    Some(_) => self.round.ledger.add(FATES, kind(&error), specs.len() as u64),
                    None => self.judge_map(station, &specs, Err(error)),
                }
            }
        }
    }

    /// All results, or the error of the first task that failed.
    pub(super) fn judge_map(
        &self,
        station: &Station,
        specs: &[Spec],
        result: Result<Vec<Answer>, Error>,
    ) {
        let mut tally = Tally::default();
        match result {
            Ok(answers) => {
                if answers.len() != specs.len() {
                    broken(&format!("{} results for {} tasks", answers.len(), specs.len()));
                }
                for (index, (spec, answer)) in specs.iter().zip(answers).enumerate() {
                    self.judge(station, Terms::Plain, index, spec, &Ok(answer), &mut tally);
                }
            }
            Err(error) => {
                let first_bad = specs.iter().position(Spec::is_bad);
                // An error without a number is the pool's.
                let index = error.task().unwrap_or(0);
                if first_bad.is_some_and(|first| first < index) {
                    broken(&format!("task {first_bad:?} must fail, and is not told: {error}"));
                }
                match specs.get(index) {
                    Some(spec) => {
                        self.judge(station, Terms::Plain, index, spec, &Err(error), &mut tally);
                    }
                    None => self.excuse(station, Terms::Plain, index, &error, &mut tally),
                }
            }
        }
        tally.book(self.round.ledger);
    }
}
