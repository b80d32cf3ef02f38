//! A panic as data: message, place and backtrace, for the process that waits for the result.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// What a panic left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PanicReport {
    pub(crate) message: String,
    /// `file:line:column`
    pub(crate) location: Option<String>,
    /// Present where `RUST_BACKTRACE` asks for it.
    pub(crate) backtrace: Option<String>,
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
}

/// What becomes of a panic's message in this process, beside the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Echo {
    /// As in any program.
    Print,
    /// Printed unless it is reported. As Python's `Pool` does: whoever called gets it.
    Reported,
    /// Never printed: a template has nothing to say.
    Never,
}

static ECHO: AtomicU8 = AtomicU8::new(Echo::Print as u8);

/// Makes panics inside [`catch`] leave a report. Called in each template, for its children.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(wrap_hook);
}

fn wrap_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let caught = CATCHING.get();
        if QUIET.get() {
            return;
        }
        if caught {
            CAUGHT.set(Some(describe(info)));
        }
        let echo = ECHO.load(Ordering::Relaxed);
        if echo == Echo::Print as u8 || (echo == Echo::Reported as u8 && !caught) {
            previous(info);
        }
    }));
}

/// Chooses for this process.
pub(crate) fn set_echo(echo: Echo) {
    ECHO.store(echo as u8, Ordering::Relaxed);
}

fn describe(info: &PanicHookInfo<'_>) -> PanicReport {
    let backtrace = Backtrace::capture();
    PanicReport {
        message: message_of(info.payload()),
        location: info.location().map(ToString::to_string),
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
    }
}

/// Runs `f`; a panic in it becomes a report.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, PanicReport> {
    let nested = CATCHING.replace(true);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let message = message_of(&*payload);
        // The last report may be of a panic that `f` or a destructor caught by itself.
        let report = CAUGHT.take().filter(|report| report.message == message);
        let report = report.unwrap_or(PanicReport { message, location: None, backtrace: None });
        discard(payload);
        report
    });
    CATCHING.set(nested);
    outcome
}

/// Runs `f`; a panic in it is printed as in any thread and goes no further.
pub(crate) fn contain<T>(f: impl FnOnce() -> T) -> Option<T> {
    let nested = CATCHING.replace(false);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(discard).ok();
    CATCHING.set(nested);
    outcome
}

/// Runs `f`, which is expected to panic, without a word about it.
pub(crate) fn hush(f: impl FnOnce()) {
    install_hook();
    QUIET.set(true);
    if let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(f)) {
        discard(payload);
    }
    QUIET.set(false);
}

/// Drops a panic's payload, whose destructor may panic in turn, and that one's payload again.
fn discard(mut payload: Box<dyn Any + Send>) {
    const DEPTH: usize = 8;
    for _ in 0..DEPTH {
        match std::panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return,
            Err(next) => payload = next,
        }
    }
    std::mem::forget(payload);
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(a payload that is no string)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_all_kinds_arrive() {
        let message = |f: fn()| catch(f).expect_err("it panics").message;
        assert_eq!(message(|| panic!("plain")), "plain");
        assert_eq!(message(|| panic!("with {}", 7)), "with 7");
        assert_eq!(message(|| std::panic::panic_any(7)), "(a payload that is no string)");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_contained() {
        struct Bomb(u32);
        impl Drop for Bomb {
            fn drop(&mut self) {
                if self.0 > 0 {
                    std::panic::panic_any(Bomb(self.0 - 1));
                }
            }
        }
        for depth in [1, 3, 100] {
            let report = catch(|| std::panic::panic_any(Bomb(depth))).expect_err("it panics");
            assert_eq!(report.message, "(a payload that is no string)");
        }
    }
}
