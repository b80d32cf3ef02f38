//! The ledger: counts of what has happened.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts by section and name.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<(String, String), u64>>);

pub(crate) const FATES: &str = "tasks";
pub(crate) const FAULTS: &str = "faults";
pub(crate) const CALLS: &str = "calls";

/// What a line that [`Ledger::print`] prints begins with.
const MARK: &str = "count";

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, section: &str, name: &str, count: u64) {
        *self.lock().entry((section.to_owned(), name.to_owned())).or_default() += count;
    }

    /// The sum of the counts of a section.
    pub(crate) fn total(&self, section: &str) -> u64 {
        self.lock().iter().filter(|((of, _), _)| of == section).map(|(_, count)| count).sum()
    }

    /// Prints the counts, as lines for [`add_line`](Ledger::add_line) of another process.
    pub(crate) fn print(&self) {
        for ((section, name), count) in self.lock().iter() {
            println!("{MARK}\t{section}\t{name}\t{count}");
        }
    }

    /// Adds the count of a line that another process has printed. Returns false if the line is no
    /// count.
    pub(crate) fn add_line(&self, line: &str) -> bool {
        let mut fields = line.split('\t');
        let mut field = || fields.next().unwrap_or_default();
        let (mark, section, name, count) = (field(), field(), field(), field());
        let count = count.parse().ok().filter(|_| mark == MARK);
        count.map(|count| self.add(section, name, count)).is_some()
    }
}

impl Display for Ledger {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts = self.lock();
        let mut last = "";
        for ((section, name), count) in counts.iter() {
            if section != last {
                writeln!(f, "{section}")?;
                last = section;
            }
            writeln!(f, "  {name:<44}{count:>12}")?;
        }
        Ok(())
    }
}
