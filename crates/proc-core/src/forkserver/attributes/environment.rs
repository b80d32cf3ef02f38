//! Gives a new process its environment, working directory and processors: those of its owner, with
//! the overrides that the user has set.
//!
//! A new process begins with those of its fork server, which is older than the process. So the new
//! process is told which changes to make.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::sys::{self, Affinity, Rights, SingleThread};

/// Environment, working directory, processors and rights at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    // Not a map with random keys: Rust would choose the keys before the fork, and each child would
    // use them again for its own maps.
    environment: FxHashMap<OsString, OsString>,
    directory: Option<OsString>,
    processors: Option<Affinity>,
    pub(crate) rights: Rights,
}

/// Overrides: the variables and the directory that the user has set for a new process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    environment: Vec<(OsString, Option<OsString>)>,
    without_inherited: bool,
    directory: Option<PathBuf>,
}

/// Changes that a new process makes to the environment of its fork server, with which it begins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EnvironmentChanges {
    /// Whether the process removes all variables that are not in `environment`.
    without_others: bool,
    environment: Vec<(OsString, Option<OsString>)>,
    directory: Option<OsString>,
    processors: Option<Vec<usize>>,
}

/// Returns the current directory as an `OsString`: serde only encodes a path that is text.
fn current_directory() -> Option<OsString> {
    std::env::current_dir().ok().map(PathBuf::into_os_string)
}

impl Overrides {
    pub(crate) fn set(&mut self, name: &OsStr, value: Option<&OsStr>) {
        self.environment.push((name.to_owned(), value.map(OsStr::to_owned)));
    }

    pub(crate) fn clear(&mut self) {
        self.environment.clear();
        self.without_inherited = true;
    }

    pub(crate) fn enter(&mut self, directory: PathBuf) {
        self.directory = Some(directory);
    }

    /// Checks that all variables are valid.
    fn check(&self) -> Result<(), String> {
        let holds = |text: &OsStr, byte| text.as_bytes().contains(&byte);
        let bad = |(name, value): &&(OsString, Option<OsString>)| {
            name.is_empty()
                || holds(name, b'=')
                || holds(name, 0)
                || value.as_ref().is_some_and(|value| holds(value, 0))
        };
        match self.environment.iter().find(bad) {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "the environment variable {name:?} is invalid: its name must not be empty or contain \
                 '=', and neither name nor value may contain a zero byte"
            )),
        }
    }
}

impl Snapshot {
    /// Returns what this process and thread have now.
    ///
    /// # Errors
    ///
    /// There is no descriptor left to read the rights.
    pub(crate) fn now() -> io::Result<Snapshot> {
        Ok(Snapshot {
            environment: std::env::vars_os().collect(),
            directory: current_directory(),
            processors: sys::affinity(),
            rights: Rights::now()?,
        })
    }

    /// Returns the changes that give a process with this snapshot the current environment of the
    /// caller, with `overrides`.
    ///
    /// # Errors
    ///
    /// A variable of the overrides is invalid.
    pub(crate) fn changes(&self, overrides: &Overrides) -> Result<EnvironmentChanges, String> {
        overrides.check()?;
        let mut environment =
            if overrides.without_inherited { Vec::new() } else { self.changed_variables() };
        environment.extend_from_slice(&overrides.environment);
        let now = current_directory();
        let directory = match &overrides.directory {
            // A relative directory begins at the caller's directory. The fork server may have
            // another.
            Some(asked) => Some(PathBuf::from(now.unwrap_or_default()).join(asked).into()),
            None => now.filter(|now| self.directory.as_ref() != Some(now)),
        };
        let processors = sys::affinity().filter(|now| Some(*now) != self.processors);
        let processors = processors.map(|now| now.numbers());
        let without_others = overrides.without_inherited;
        Ok(EnvironmentChanges { without_others, environment, directory, processors })
    }

    fn changed_variables(&self) -> Vec<(OsString, Option<OsString>)> {
        let mut changed = Vec::new();
        let mut kept = 0;
        for (name, value) in std::env::vars_os() {
            match self.environment.get(&name) {
                Some(old) if *old == value => kept += 1,
                Some(_) => {
                    kept += 1;
                    changed.push((name, Some(value)));
                }
                None => changed.push((name, Some(value))),
            }
        }
        if kept < self.environment.len() {
            let gone = self.environment.keys().filter(|name| std::env::var_os(name).is_none());
            changed.extend(gone.map(|name| (name.clone(), None)));
        }
        changed
    }
}

impl EnvironmentChanges {
    /// In a new process: makes the changes.
    pub(crate) fn make(&self, alone: SingleThread) -> Result<(), String> {
        if self.without_others {
            for (name, _) in std::env::vars_os() {
                sys::set_env(alone, &name, None);
            }
        }
        for (name, value) in &self.environment {
            sys::set_env(alone, name, value.as_deref());
        }
        if let Some(processors) = &self.processors {
            sys::set_affinity(processors).map_err(|error| {
                format!("cannot use the caller's processors {processors:?}: {error}")
            })?;
        }
        let Some(directory) = &self.directory else { return Ok(()) };
        std::env::set_current_dir(directory).map_err(|error| {
            format!("cannot enter the working directory {}: {error}", directory.display())
        })
    }
}
