//! Who is in which call since when; a call that takes too long ends the program loudly.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{procfs, strain};

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

/// A call on its way; it has returned when this is dropped.
pub(crate) struct OnTheWay<'a> {
    watch: &'a Watch,
    number: u64,
}

impl Drop for OnTheWay<'_> {
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
    pub(crate) fn begin(&self, number: u64, what: String) -> OnTheWay<'_> {
        self.begin_within(number, what, self.limit)
    }

    /// Notes that a call begins that may take less time than others.
    pub(crate) fn begin_within(&self, number: u64, what: String, limit: Duration) -> OnTheWay<'_> {
        let limit = limit.min(self.limit);
        self.lock().push(Call { number, what, since: Instant::now(), limit });
        OnTheWay { watch: self, number }
    }

    /// Looks at the calls until [`finish`](Watch::finish).
    pub(crate) fn run(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let late = self
                .lock()
                .iter()
                .find(|call| call.since.elapsed() > call.limit)
                .map(|call| call.limit);
            if let Some(limit) = late {
                broken(&format!("a call takes more than {limit:?}\n{}", self.describe()));
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// To be followed by unparking the thread that runs.
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

/// Says what is wrong and who is alive, and ends the program at once.
pub(crate) fn broken(what: &str) -> ! {
    // One of several threads is enough to tell.
    static TOLD: Mutex<()> = Mutex::new(());
    let _told = TOLD.lock();
    strain::lift();
    eprintln!("chaos: BROKEN: {what}\nalive:\n{}", procfs::describe_group(std::process::id()));
    std::process::abort()
}
