//! `progress_bar`: a function that shows the progress of a call in one line of the terminal.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::Progress;

/// The shortest time between two drawings. A fast call reports thousands of times a second.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Template of the line if the number of tasks is known. The bar has a fixed width, so that the
/// text can be cut off where the terminal is too narrow.
const WITH_BAR: &str = "[{bar:24}] {wide_msg}";

/// Template if the number of tasks is not known.
const WITH_SPINNER: &str = "{spinner} {wide_msg}";

/// Template if the call has ended and the number of tasks was never known.
const TEXT: &str = "{wide_msg}";

/// Returns a function for [`Options::progress`](crate::Options::progress) that shows a bar: one
/// line on stderr, with the number of tasks that are done, their rate, and the time that remains.
///
/// ```text
/// [========>               ] 345/1000, 2 failed, 1 retried, 120/s, 00:00:05 left
/// ```
///
/// Failures and retries are shown if there are any. If the number of inputs is not known, because
/// the `size_hint` of their iterator is not exact, there is no bar and no remaining time. When the
/// call has ended, the line stays. It then says how long the call took.
///
/// If stderr is not a terminal, or `TERM` is unset or `dumb`, nothing is printed.
///
/// The function is in the cargo feature `progress`. Where the bar is not the right one, pass a
/// function of your own: it gets a [`Progress`].
///
/// # Examples
///
/// ```
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = proc_core::Pool::builder().processes(2).build()?;
///     let calls = pool.options().progress(proc_core::progress_bar());
///     let squares = calls.map(|x: u64| x * x, 0..1000)?;
///     assert_eq!(squares[999], 998_001);
///     Ok(())
/// }
/// ```
#[doc(alias = "tqdm")]
#[doc(alias = "bar")]
pub fn progress_bar() -> impl FnMut(Progress) + Send + 'static {
    let mut line = None;
    move |progress| {
        // A call whose caller panicked has not reported its end. The first report of the next call
        // has a smaller `elapsed`, and so begins a new line.
        line = line.take().filter(|line: &Line| line.last_report <= progress.elapsed);
        let shown: &mut Line = line.get_or_insert_with(Line::begin);
        shown.show(&progress);
        if progress.is_over() {
            // The next call with the same options gets a line of its own.
            line = None;
        }
    }
}

/// The line of one call.
struct Line {
    /// Draws nothing if stderr is no terminal.
    bar: ProgressBar,
    template: &'static str,
    /// When the last report and the next drawing are, as times since the call began.
    last_report: Duration,
    next_drawing: Duration,
}

impl Line {
    fn begin() -> Line {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Line { bar, template: "", last_report: Duration::ZERO, next_drawing: Duration::ZERO }
    }

    fn show(&mut self, progress: &Progress) {
        self.last_report = progress.elapsed;
        let is_due = progress.is_over || progress.elapsed >= self.next_drawing;
        if !is_due || self.bar.is_hidden() {
            return;
        }
        self.next_drawing = progress.elapsed + DRAW_INTERVAL;
        let template = template(progress);
        if std::mem::replace(&mut self.template, template) != template {
            self.bar.set_style(style(template));
        }
        // `with_message` draws nothing, unlike `set_message`.
        drop(self.bar.clone().with_message(text(progress)));
        self.bar.update(|state| {
            state.set_pos(progress.done as u64);
            state.set_len(progress.all as u64);
        });
    }
}

impl Drop for Line {
    /// Leaves the line as it is, and moves the cursor to the next one.
    fn drop(&mut self) {
        if !self.bar.is_hidden() {
            self.bar.abandon();
            // Without stderr there is nobody to see it.
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn template(progress: &Progress) -> &'static str {
    match (progress.is_all, progress.is_over) {
        (true, _) => WITH_BAR,
        (false, false) => WITH_SPINNER,
        (false, true) => TEXT,
    }
}

/// The bar and the spinner are ASCII, which all terminals can show.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates are right");
    style.progress_chars("=> ").tick_chars(r"-\|/ ")
}

/// Describes the progress. What matters most comes first, because a narrow terminal cuts off the
/// end.
fn text(progress: &Progress) -> String {
    let Progress { done, all, failed, retried, elapsed, .. } = *progress;
    let mut parts = vec![match progress.is_all {
        true => format!("{done}/{all}"),
        false => format!("{done} done"),
    }];
    if failed > 0 {
        parts.push(format!("{failed} failed"));
    }
    if retried > 0 {
        parts.push(format!("{retried} retried"));
    }
    if done > 0 {
        parts.push(rate(progress.rate()));
    }
    parts.push(match progress.remaining() {
        _ if progress.is_over => format!("took {}", FormattedDuration(elapsed)),
        Some(left) => format!("{} left", FormattedDuration(left)),
        None => FormattedDuration(elapsed).to_string(),
    });
    parts.join(", ")
}

/// Describes a number of tasks in a second. If they are few, gives their number in a minute or in
/// an hour.
fn rate(per_second: f64) -> String {
    let per = [(1.0, "s"), (60.0, "min"), (3600.0, "h")];
    let fits = per.into_iter().find(|(seconds, _)| per_second * seconds >= 1.0);
    let (seconds, unit) = fits.unwrap_or(per[2]);
    let number = per_second * seconds;
    if number < 10.0 { format!("{number:.1}/{unit}") } else { format!("{number:.0}/{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that has run for ten seconds.
    fn progress(done: usize, all: usize, is_all: bool) -> Progress {
        let (failed, retried, elapsed) = (0, 0, Duration::from_secs(10));
        Progress { done, all, failed, retried, elapsed, is_all, is_over: false }
    }

    #[test]
    fn text_says_what_is_known() {
        let half = progress(500, 1000, true);
        assert_eq!(text(&half), "500/1000, 50/s, 00:00:10 left");
        let failures = Progress { failed: 2, retried: 1, ..half };
        assert_eq!(text(&failures), "500/1000, 2 failed, 1 retried, 50/s, 00:00:10 left");
        let ended = Progress { is_over: true, ..half };
        assert_eq!(text(&ended), "500/1000, 50/s, took 00:00:10");
        assert_eq!(text(&progress(0, 1000, true)), "0/1000, 00:00:10");
        assert_eq!(text(&progress(500, 520, false)), "500 done, 50/s, 00:00:10");
        let ended = Progress { is_over: true, ..progress(0, 0, true) };
        assert_eq!(text(&ended), "0/0, took 00:00:10");
    }

    #[test]
    fn rate_takes_a_unit_that_fits() {
        let rates = [12345.6, 10.0, 9.87, 1.0, 0.5, 0.02, 0.001, 0.0].map(rate);
        let expected = ["12346/s", "10/s", "9.9/s", "1.0/s", "30/min", "1.2/min", "3.6/h", "0.0/h"];
        assert_eq!(rates, expected);
    }

    #[test]
    fn templates_are_right() {
        for template in [WITH_BAR, WITH_SPINNER, TEXT] {
            let _ = style(template);
        }
    }
}
