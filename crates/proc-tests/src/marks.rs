//! Marks that processes leave for each other: files, so that they use nothing of proc-core's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A directory of marks, which goes with this object.
pub(crate) struct Marks(PathBuf);

impl Marks {
    pub(crate) fn new() -> Marks {
        let path = std::env::temp_dir().join("marks");
        std::fs::create_dir(&path).expect("the test gives each program a directory of its own");
        Marks(path)
    }

    /// What tasks are given to find a mark.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Leaves a mark. False if it was there already.
pub(crate) fn leave(mark: &Path) -> bool {
    File::create_new(mark).is_ok()
}

/// Waits for a mark; the test's deadline is the limit.
pub(crate) fn wait_for(mark: &Path) {
    wait_until(|| mark.exists());
}

/// Waits for what nothing tells of but looking; the test's deadline is the limit.
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether there is a process of that number, running or not yet collected.
pub(crate) fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
