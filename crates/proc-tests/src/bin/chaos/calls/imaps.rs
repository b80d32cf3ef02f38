//! Calls of `imap` and `imap_unordered`.

use std::cell::RefCell;
use std::collections::HashSet;

use proc_core::Error;

use super::copies::join;
use super::verdicts::Tally;
use super::{Caller, TaskMix, Timing};
use crate::tasks::{Answer, obey};
use crate::test_pool::TestPool;
use crate::watch::fail;

impl Caller<'_> {
    /// Takes results from an iterator, perhaps not all.
    pub(super) fn imap(&mut self, test_pool: &TestPool) {
        let is_ordered = self.rng.bool();
        let _open_call = self.begin(if is_ordered { "imap" } else { "imap_unordered" });
        let count = if test_pool.is_slow { self.rng.usize(..40) } else { self.rng.usize(..400) };
        let input = match self.rng.u32(..3) {
            0 => usize::MAX, // endless
            _ => count,
        };
        let first = self.rng.u64(..);
        let taken = RefCell::new(Vec::new());
        let mut inner = Caller::new(self.round, self.rng.fork());
        let take = || {
            let number = first.wrapping_add(taken.borrow().len() as u64);
            let spec = inner.spec(number, TaskMix::Mixed);
            taken.borrow_mut().push(spec);
            spec.order()
        };
        let inputs = std::iter::repeat_with(take).take(input);
        let options = self.options(test_pool);
        let mut results: Box<dyn Iterator<Item = Result<Answer, Error>>> = if is_ordered {
            Box::new(options.imap(obey, inputs))
        } else {
            Box::new(options.imap_unordered(obey, inputs))
        };
        let window = (16 * test_pool.workers).max(64).max(200);
        let mut tally = Tally::default();
        let mut seen = HashSet::new();
        let mut last = None;
        let mut is_cut_short = false;
        let mut wanted = count;
        let mut copy = None;
        let fork_at = self.wants_copies().then(|| self.rng.usize(..count.max(1)));
        while seen.len() < wanted {
            // If the iterator has lost results already, it may return no error in the copy.
            if fork_at == Some(seen.len()) && copy.is_none() && !is_cut_short {
                copy = self.copy(|misuse| {
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
                    fail(&format!("imap ends after {} of {count} results", seen.len()));
                }
                break;
            };
            let index = match &result {
                Ok(answer) => answer.number.wrapping_sub(first) as usize,
                Err(error) => match error.task() {
                    Some(task) => task,
                    None => {
                        is_cut_short = true;
                        self.excuse(test_pool, Timing::Plain, 0, error, &mut tally);
                        continue;
                    }
                },
            };
            let spec = taken.borrow().get(index).copied();
            let Some(spec) = spec else { fail(&format!("there is no task {index}")) };
            if !seen.insert(index) {
                fail(&format!("task {index} has two results: {result:?}"));
            }
            if is_ordered && last.is_some_and(|last| index <= last) {
                fail(&format!("imap gives task {index} after {last:?}"));
            }
            if is_ordered && index != last.map_or(0, |last| last + 1) {
                // Results are missing. The error about that comes last, so take all.
                wanted = usize::MAX;
            }
            last = Some(index);
            self.judge(test_pool, Timing::Plain, index, &spec, &result, &mut tally);
            let ahead = taken.borrow().len() - seen.len();
            if ahead > window {
                fail(&format!("imap takes {ahead} inputs ahead"));
            }
        }
        drop(results);
        join(copy);
        tally.book(self.round.ledger);
    }
}
