//! A panic as data: message, place and backtrace, for the process that waits for the result.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

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

impl PanicReport {
    /// Whether the runtime panicked because an earlier panic could not unwind.
    pub(crate) fn is_about_unwinding(&self) -> bool {
        let texts =
            ["panic in a function that cannot unwind", "panic in a destructor during cleanup"];
        texts.contains(&self.message.as_str())
    }
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
}

/// What becomes of a panic's message in this process, beside the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PanicOutput {
    /// As in any program.
    Print,
    /// Printed unless it is reported. As Python's `Pool` does: whoever called gets it.
    Reported,
    /// Never printed: a fork server has nothing to say.
    Never,
}

static ECHO: AtomicU8 = AtomicU8::new(PanicOutput::Reported as u8);

/// Is shown each panic of this process, as it may be the end of it.
static WITNESS: OnceLock<fn(&PanicReport)> = OnceLock::new();

/// Has `witness` shown each panic from now on.
pub(crate) fn set_witness(witness: fn(&PanicReport)) {
    let _ = WITNESS.set(witness);
}

/// Where our hook lies, once it is set.
static OURS: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Makes panics inside [`catch`] leave a report, also where the user has set a hook since the last
/// call.
///
/// Called where code of the user's has run that may have set one; threads that panic at the same
/// time may find the default hook.
pub(crate) fn install_hook() {
    if std::thread::panicking() {
        return; // the hook cannot be looked at now
    }
    let present = std::panic::take_hook();
    let address = (&raw const *present).cast_mut().cast();
    if OURS.load(Ordering::Acquire) == address {
        return std::panic::set_hook(present);
    }
    let hook: Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> =
        Box::new(move |info| note(info, &*present));
    OURS.store((&raw const *hook).cast_mut().cast(), Ordering::Release);
    std::panic::set_hook(hook);
}

fn note(info: &PanicHookInfo<'_>, previous: &(dyn Fn(&PanicHookInfo<'_>) + Send + Sync)) {
    if QUIET.get() {
        return;
    }
    let caught = CATCHING.get();
    let report = describe(info);
    if let Some(witness) = WITNESS.get() {
        witness(&report);
    }
    if caught {
        CAUGHT.set(Some(report));
    }
    let echo = ECHO.load(Ordering::Relaxed);
    let is_printed =
        echo == PanicOutput::Print as u8 || (echo == PanicOutput::Reported as u8 && !caught);
    if is_printed {
        previous(info);
    }
}

/// Chooses for this process.
pub(crate) fn set_panic_output(echo: PanicOutput) {
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
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(report_of);
    CATCHING.set(nested);
    outcome
}

#[cold]
fn report_of(payload: Box<dyn Any + Send>) -> PanicReport {
    let message = message_of(&*payload);
    // The last report may be of a panic that `f` or a destructor caught by itself.
    let report = CAUGHT.take().filter(|report| report.message == message);
    let is_noted = report.is_some();
    let report = report.unwrap_or(PanicReport { message, location: None, backtrace: None });
    discard(payload);
    if !is_noted && !QUIET.get() {
        install_hook(); // a task has set one of its own: the next report has its place again
    }
    report
}

/// Runs `f`; a panic in it is printed as in any thread and goes no further.
pub(crate) fn catch_and_print<T>(f: impl FnOnce() -> T) -> Option<T> {
    let nested = CATCHING.replace(false);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(discard).ok();
    CATCHING.set(nested);
    outcome
}

/// Runs `f`, which may panic inside a library of ours; a panic becomes a report, and nothing is
/// printed.
pub(crate) fn catch_silently<T>(f: impl FnOnce() -> T) -> Result<T, PanicReport> {
    // Not each time: a panic of another thread meanwhile would find the default hook.
    if OURS.load(Ordering::Acquire).is_null() {
        install_hook();
    }
    let before = QUIET.replace(true);
    let outcome = catch(f);
    QUIET.set(before);
    outcome
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
