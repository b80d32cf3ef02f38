//! Turns panics into data (message, location, backtrace) for the process that waits for the result.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// Describes one panic, in a form that can be sent to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PanicReport {
    pub(crate) message: String,
    /// Source position of the panic, as `file:line:column`.
    pub(crate) location: Option<String>,
    /// Backtrace of the panic; present if `RUST_BACKTRACE` asks for one.
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
    /// Whether this thread runs inside [`catch`].
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread runs inside [`catch_silently`].
    static IS_SILENT: Cell<bool> = const { Cell::new(false) };
    /// Report of the last panic inside [`catch`].
    static LAST_REPORT: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
}

/// Which panics this process prints, besides reporting them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PanicOutput {
    /// Every panic, as in any program.
    Always,
    /// Only panics outside of [`catch`]. If a panic ends the call of `catch`, the caller gets its
    /// message from the report. Python's `Pool` does the same.
    Unreported,
    /// No panic. Fork servers use this: they have nothing to tell the user.
    Never,
}

static OUTPUT: AtomicU8 = AtomicU8::new(PanicOutput::Unreported as u8);

/// Function that is called with each panic of this process, because any of them may end the
/// process. It is not called for panics inside [`catch_silently`].
static OBSERVER: OnceLock<fn(&PanicReport)> = OnceLock::new();

/// Sets the function that is called with each panic of this process from now on, except those
/// inside [`catch_silently`]. Only the first call has an effect.
pub(crate) fn set_observer(observer: fn(&PanicReport)) {
    let _ = OBSERVER.set(observer);
}

/// Address of our panic hook; null before the hook is set.
static OUR_HOOK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Installs our panic hook, so that a panic inside [`catch`] leaves a report. Installs the hook
/// again if the user has set another one since the last call.
///
/// Call this after user code that may have set a hook. While the hook is exchanged, another thread
/// that panics may find Rust's default hook.
pub(crate) fn install_hook() {
    if std::thread::panicking() {
        return; // `take_hook` must not be called in a thread that panics
    }
    let present = std::panic::take_hook();
    let address = (&raw const *present).cast_mut().cast();
    if OUR_HOOK.load(Ordering::Acquire) == address {
        return std::panic::set_hook(present);
    }
    let hook: Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> =
        Box::new(move |info| on_panic(info, &*present));
    OUR_HOOK.store((&raw const *hook).cast_mut().cast(), Ordering::Release);
    std::panic::set_hook(hook);
}

/// Body of our panic hook. `previous` is the hook that was in force before, which prints the panic.
fn on_panic(info: &PanicHookInfo<'_>, previous: &(dyn Fn(&PanicHookInfo<'_>) + Send + Sync)) {
    if IS_SILENT.get() {
        return;
    }
    let is_caught = IS_CATCHING.get();
    let report = describe(info);
    if let Some(observer) = OBSERVER.get() {
        observer(&report);
    }
    if is_caught {
        LAST_REPORT.set(Some(report));
    }
    let output = OUTPUT.load(Ordering::Relaxed);
    let is_printed = output == PanicOutput::Always as u8
        || (output == PanicOutput::Unreported as u8 && !is_caught);
    if is_printed {
        previous(info);
    }
}

/// Sets what this process prints of its panics.
pub(crate) fn set_panic_output(output: PanicOutput) {
    OUTPUT.store(output as u8, Ordering::Relaxed);
}

fn describe(info: &PanicHookInfo<'_>) -> PanicReport {
    let backtrace = Backtrace::capture();
    PanicReport {
        message: message_of(info.payload()),
        location: info.location().map(ToString::to_string),
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
    }
}

/// Runs `f`. Returns a panic in `f` as a report.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, PanicReport> {
    let before = IS_CATCHING.replace(true);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(report_of);
    IS_CATCHING.set(before);
    outcome
}

#[cold]
fn report_of(payload: Box<dyn Any + Send>) -> PanicReport {
    let message = message_of(&*payload);
    // The last report may belong to an earlier panic, which `f` or a destructor has caught itself.
    let report = LAST_REPORT.take().filter(|report| report.message == message);
    let hook_has_run = report.is_some();
    let report = report.unwrap_or(PanicReport { message, location: None, backtrace: None });
    discard(payload);
    if !hook_has_run && !IS_SILENT.get() {
        install_hook(); // a task has replaced our hook, without which reports have no location
    }
    report
}

/// Runs `f`. A panic in `f` is printed, as in any thread, and goes no further: the result is
/// `None`.
pub(crate) fn catch_and_print<T>(f: impl FnOnce() -> T) -> Option<T> {
    let before = IS_CATCHING.replace(false);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(discard).ok();
    IS_CATCHING.set(before);
    outcome
}

/// Runs `f`, which may panic inside a library that we use. Returns the panic as a report and prints
/// nothing.
pub(crate) fn catch_silently<T>(f: impl FnOnce() -> T) -> Result<T, PanicReport> {
    // Do not install the hook each time: another thread that panics meanwhile would find Rust's
    // default hook.
    if OUR_HOOK.load(Ordering::Acquire).is_null() {
        install_hook();
    }
    let before = IS_SILENT.replace(true);
    let outcome = catch(f);
    IS_SILENT.set(before);
    outcome
}

/// Drops the payload of a panic. The payload's destructor may panic with another payload, which is
/// dropped in the same way. After `DEPTH` payloads the last one is leaked.
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
    fn report_has_the_message_of_each_kind_of_panic() {
        let message = |f: fn()| catch(f).expect_err("it panics").message;
        assert_eq!(message(|| panic!("plain")), "plain");
        assert_eq!(message(|| panic!("with {}", 7)), "with 7");
        assert_eq!(message(|| std::panic::panic_any(7)), "(a payload that is no string)");
    }

    #[test]
    fn catch_contains_a_payload_that_panics_when_dropped() {
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
