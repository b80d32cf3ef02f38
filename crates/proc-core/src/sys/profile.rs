//! Counts of the code that runs: coverage (`-C instrument-coverage`), and profiles for the
//! optimizer (`-C profile-generate`).
//!
//! A compiler with these options links a runtime of LLVM into the program. The runtime writes the
//! counts to a file in an exit handler. But the processes of this crate are copies of a fork
//! server, and they run no exit handlers. So this module does for them what is missing:
//!
//! - A copy begins with the counts of its original, which the original writes itself.
//!   [`begin_copy`] sets them to zero.
//! - The runtime puts the pid into the file's name when the program begins. A copy would write to
//!   the file of its original. [`begin_copy`] puts the copy's own pid there.
//! - A process that ends by itself, and is not killed, writes its counts first ([`write_counts`]).
//!
//! In a program without such a runtime, all this does nothing.
//!
//! In the runtime's *continuous mode* (`%c` in the variable `LLVM_PROFILE_FILE`), the counts are in
//! memory that is mapped from the file. The copies share that memory, so there is nothing to do for
//! them.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::identity::pid;
use super::profile_runtime::Runtime;
use super::threads::SingleThread;

/// In a forked copy of the process `original`: begins to count anew, for a file of its own.
pub(super) fn begin_copy(alone: SingleThread, original: u32) {
    let Some(runtime) = active_runtime() else { return };
    runtime.reset_counts(alone);
    let directory = std::env::current_dir().unwrap_or_default();
    let name = runtime.name().and_then(|name| name_for(pid(), original, &name, &directory));
    if let Some(name) = name {
        runtime.set_name(alone, &name);
    }
}

/// Writes the counts of this process, as the runtime does at the end of a program.
pub(super) fn write_counts() {
    let Some(runtime) = active_runtime() else { return };
    // If the name has neither a pid (`%p`) nor a number of the program (`%m`), the runtime appends
    // to the file, and locks nothing. All processes use this file then, so they take turns.
    let _turn = runtime.name().and_then(|name| lock(&name));
    runtime.write_file();
}

/// Whether this program counts what it executes, and writes the counts at the end of each process.
pub(crate) fn writes_counts() -> bool {
    active_runtime().is_some()
}

/// How long to wait for processes that end, and usually do so within `usual`. If they write counts,
/// they need longer. To kill one meanwhile would leave half a file, and tools refuse to read that.
pub(crate) fn time_to_end(usual: Duration) -> Duration {
    if writes_counts() { usual * 20 } else { usual }
}

/// Returns the runtime, if it is linked and does not already keep its file up to date.
fn active_runtime() -> Option<Runtime> {
    Runtime::linked().filter(|runtime| !runtime.is_continuous())
}

/// Locks the file to which processes append.
fn lock(name: &Path) -> Option<File> {
    let file = OpenOptions::new().append(true).create(true).open(name).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Returns the name of the file for the process `copy`, if the file of the process `original`, of
/// which it is a copy, has a name with a pid. If the name has none, both use the same file.
///
/// The name is absolute, so a process that changes its directory later still writes beside the
/// others.
fn name_for(copy: u32, original: u32, name: &Path, directory: &Path) -> Option<CString> {
    let file_name = name.file_name()?.as_bytes();
    let pid = original.to_string();
    let is_digit = |at: usize| file_name.get(at).is_some_and(u8::is_ascii_digit);
    // Take the last place that has the pid. The runtime's number of the program (`%m`), which may
    // contain the same digits, is usually before it.
    let at = (0..file_name.len()).rev().find(|at| {
        file_name[*at..].starts_with(pid.as_bytes())
            && !is_digit(at + pid.len())
            && !at.checked_sub(1).is_some_and(is_digit)
    })?;
    let (before, after) = (&file_name[..at], &file_name[at + pid.len()..]);
    let file_name = [before, copy.to_string().as_bytes(), after].concat();
    let path = directory.join(name.with_file_name(OsStr::from_bytes(&file_name)));
    // The runtime takes the name for a pattern.
    let path = path.into_os_string();
    CString::new(path.as_bytes()).ok().filter(|path| !path.to_bytes().contains(&b'%'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::name_for;

    #[test]
    fn the_pid_in_the_name_is_replaced() {
        let made = |name: &str| {
            let made = name_for(56, 12, Path::new(name), Path::new("/d"))?;
            Some(made.into_string().expect("it is text"))
        };
        assert_eq!(made("/a/12.profraw").as_deref(), Some("/a/56.profraw"));
        assert_eq!(made("x-12-1212_0.profraw").as_deref(), Some("/d/x-56-1212_0.profraw"));
        assert_eq!(made("x_12_0_12").as_deref(), Some("/d/x_12_0_56"));
        assert_eq!(made("b12c").as_deref(), Some("/d/b56c"));
        for without in ["/12/default.profraw", "x_120_0", "x_212", "", "/", ".."] {
            assert_eq!(made(without), None, "{without}");
        }
        assert_eq!(name_for(56, 12, Path::new("12"), Path::new("/100%p")), None);
        assert_eq!(name_for(56, 12, Path::new("12"), Path::new("")), Some(c"56".into()));
    }
}
