//! What becomes of a program when a part of it fails.
//!
//! The program runs in a process of its own, so that this process can report how the program ended.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;
use proc_core::{Message, Process};

/// What became of a program.
pub(crate) enum Fate {
    /// It went on, and says this.
    WentOn(String),
    /// It is dead.
    Died(ExitStatus),
}

/// Runs a program to its end. Kills it when it has taken longer than `patience`.
pub(crate) fn run<A: Message>(
    program: impl Fn(A) -> String + Copy + 'static,
    argument: A,
    patience: Duration,
) -> Result<Fate> {
    let mut child = Process::new(program, argument)
        .name("program")
        .start()?;
    let outcome = match child.join_timeout(patience) {
        Ok(Some(said)) => Ok(said),
        Ok(None) => {
            child.kill()?; // it is stuck
            child.join()
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(said) => Ok(Fate::WentOn(said)),
        Err(error) => error
            .exit_status()
            .map(Fate::Died)
            .ok_or_else(|| error.into()),
    }
}

/// The time limit of a program that is expected to end by itself.
pub(crate) const LONG: Duration = Duration::from_secs(30);
