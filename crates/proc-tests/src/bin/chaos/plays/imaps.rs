//! Calls whose results come one by one.

use std::cell::RefCell;
use std::collections::HashSet;

use proc_core::Error;

use super::copies::join;
use super::verdicts::Tally;
use super::{Caller, Mood, Terms};
use crate::station::Station;
use crate::tasks::{Answer, obey};
use crate::watch::broken;

impl Caller<'_> {
    /// Results one by one, in order or not, to the end or not.
    pub(super) fn imap(&mut self, station: &Station) {
        let is_ordered = self.rng.bool();
        let _on_the_way = self.begin(if is_ordered { "imap" } else { "imap_unordered" });
        let count = if station.is_slow { self.rng.usize(..40) } else { self.rng.usize(..400) };
        let input = match self.rng.u32(..3) {
            0 => usize::MAX, // endless
            _ => count,
        };
        let first = self.rng.u64(..);
        let taken = RefCell::new(Vec::new());
        let mut inner = Caller::new(self.round, self.rng.fork());
        let take = || {
            let number = first.wrapping_add(taken.borrow().len() as u64);
            let spec = inner.spec(number, Mood::Mixed);
            taken.borrow_mut().push(spec);
            spec.order()
        };
        let inputs = std::iter::repeat_with(take).take(input);
        let options = self.options(station);
        let mut results: Box<dyn Iterator<Item = Result<Answer, Error>>> = if is_ordered {
            Box::new(options.imap(obey, inputs))
        } else {
            Box::new(options.imap_unordered(obey, inputs))
        };
        let window = (16 * station.workers).max(64).max(200);
        let mut tally = Tally::default();
        let mut seen = HashSet::new();
        let mut last = None;
        let mut is_cut_short = false;
        let mut wanted = count;
        let mut twin = None;
        let fork_at = self.wants_copies().then(|| self.rng.usize(..count.max(1)));
        while seen.len() < wanted {
            // Once it was cut short there may be nothing left that could be an error.
            if fork_at == Some(seen.len()) && twin.is_none() && !is_cut_short {
                twin = self.copy(|misuse| {
                    misuse.fails("next of an imap", || match results.next() {
                        Some(Err(error)) => Err(error),
                        other => Ok(other),
                    });
                    let empty = Box::new(std::iter::empty());
                    misuse.does_nothing("drop of an imap", || {
                        drop(std::mem::replace(&mut results, empty));
                    });
                });
            }
            let Some(result) = results.next() else {
                let is_complete = seen.len() == taken.borrow().len() && input != usize::MAX;
                if !is_complete && !is_cut_short {
                    broken(&format!("imap ends after {} of {count} results", seen.len()));
                }
                break;
            };
            let index = match &result {
                Ok(answer) => answer.number.wrapping_sub(first) as usize,
                Err(error) => match error.task() {
                    Some(task) => task,
                    None => {
                        is_cut_short = true;
                        self.excuse(station, Terms::Plain, 0, error, &mut tally);
                        continue;
                    }
                },
            };
            let spec = taken.borrow().get(index).copied();
            let Some(spec) = spec else { broken(&format!("nobody asked for task {index}")) };
            if !seen.insert(index) {
                broken(&format!("task {index} has two results: {result:?}"));
            }
            if is_ordered && last.is_some_and(|last| index <= last) {
                broken(&format!("imap gives task {index} after {last:?}"));
            }
            if is_ordered && index != last.map_or(0, |last| last + 1) {
                // What is missing is told by an error, which comes last.
                wanted = usize::MAX;
            }
            last = Some(index);
            self.judge(station, Terms::Plain, index, &spec, &result, &mut tally);
            let ahead = taken.borrow().len() - seen.len();
            if ahead > window {
                broken(&format!("imap takes {ahead} inputs ahead"));
            }
        }
        drop(results);
        join(twin);
        tally.book(self.round.ledger);
    }
}
