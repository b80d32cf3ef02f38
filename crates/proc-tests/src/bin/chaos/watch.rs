//! Watches over calls: if one takes too long, the program ends with a description.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{limits, procfs};

/// Calls that have not returned.
pub(crate) struct Watch {
    limit: Duration,
    calls: Mutex<Vec<Call>>,
    over: AtomicBool,
}

struct Call {
    number: u64,
    what: String,
    since: Instant,
    limit: Duration,
}

/// A call that has not returned. Dropping this notes that it has.
pub(crate) struct OpenCall<'a> {
    watch: &'a Watch,
    number: u64,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.watch.lock().retain(|call| call.number != self.number);
    }
}

impl Watch {
    pub(crate) fn new(limit: Duration) -> Watch {
        Watch { limit, calls: Mutex::default(), over: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a call begins.
    pub(crate) fn begin(&self, number: u64, what: String) -> OpenCall<'_> {
        self.begin_within(number, what, self.limit)
    }

    /// Notes that a call begins. It may take as long as `limit`, but no longer than other calls.
    pub(crate) fn begin_within(&self, number: u64, what: String, limit: Duration) -> OpenCall<'_> {
        let limit = limit.min(self.limit);
        self.lock().push(Call { number, what, since: Instant::now(), limit });
        OpenCall { watch: self, number }
    }

    /// Checks the calls until [`finish`](Watch::finish).
    pub(crate) fn run(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let late = self
                .lock()
                .iter()
                .find(|call| call.since.elapsed() > call.limit)
                .map(|call| call.limit);
            if let Some(limit) = late {
                fail(&format!("a call takes more than {limit:?}\n{}", self.describe()));
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Ends [`run`](Watch::run). The caller must then unpark its thread.
    pub(crate) fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for Call { what, since, .. } in self.lock().iter() {
            let _ = writeln!(text, "  for {:?} in {what}", since.elapsed());
        }
        text
    }
}

/// Prints what is wrong and which processes are alive, and ends the program at once.
pub(crate) fn fail(what: &str) -> ! {
    // Only the first of several threads prints.
    static PRINTING: Mutex<()> = Mutex::new(());
    let _printing = PRINTING.lock();
    limits::lift();
    eprintln!("chaos: BROKEN: {what}\nalive:\n{}", procfs::describe_group(std::process::id()));
    std::process::abort()
}
