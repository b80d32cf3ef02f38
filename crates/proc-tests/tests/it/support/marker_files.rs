//! Files by which processes signal each other. They use nothing of proc-core.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::support::wait_until;

/// A directory of marker files. Dropping this removes it.
pub(crate) struct MarkerFiles(PathBuf);

impl MarkerFiles {
    pub(crate) fn new() -> MarkerFiles {
        let path = std::env::temp_dir().join("marks");
        std::fs::create_dir(&path).expect("the test gives each program a directory of its own");
        MarkerFiles(path)
    }

    /// The path of a marker file. Tasks get it as argument.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for MarkerFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes a marker file. Returns false if it exists already.
pub(crate) fn create(marker: &Path) -> bool {
    File::create_new(marker).is_ok()
}

/// Waits for a marker file, until the deadline of the test.
pub(crate) fn wait_for(marker: &Path) {
    wait_until(|| marker.exists());
}
