//! Prepares a new process for its own work: the process takes the name and the environment that it
//! was given, and finds its main function.

use std::os::fd::OwnedFd;

use ipc_channel::ipc::IpcSender;

use super::environment::EnvironmentChanges;
use super::streams::{self, LISTENER};
use super::{Job, Lifetime, Newborn, Report, Start, lifeline};
use crate::call::Code;
use crate::sys;
use crate::wire::Message;

/// Main function of a new process. It ends the process.
pub(crate) type Main = fn(MainInputs) -> !;

impl Code for Main {}

/// Inputs of the main function of a new process.
pub(crate) struct MainInputs {
    pub(crate) job: Job,
    /// Both ends of the descriptor channel, for a process that becomes a fork server.
    pub(crate) fd_channel: Vec<(u8, OwnedFd)>,
    pub(crate) report: IpcSender<Report<()>>,
}

impl MainInputs {
    /// Returns the sender for the process's own reports, whose type the fork server does not know.
    pub(crate) fn report<T: Message>(&self) -> IpcSender<Report<T>> {
        self.report.clone().to_opaque().to()
    }
}

/// Prepares the new process, and calls its main function.
pub(super) fn run(Newborn { alone, mask, start, streams }: Newborn) -> ! {
    let Start { name, report, lifetime, lifeline, environment, limits, job, .. } = *start;
    match lifetime {
        // Its owner decides when it ends, so a signal to all processes must not end it.
        Lifetime::Worker => sys::survive_group_signals(),
        // It may be a copy of a worker, or have a fork server that was one.
        Lifetime::Joined | Lifetime::Daemon => sys::die_of_group_signals(),
    }
    mask.restore();
    sys::name_process(&name);
    let (streams, fd_channel) = streams.into_iter().partition(|(number, _)| *number < LISTENER);
    lifeline::hold(lifetime, lifeline);
    let changes = streams::install(streams).and_then(|()| environment.decode());
    let changed = changes.and_then(|changes: EnvironmentChanges| changes.make(alone));
    let ready = changed.and_then(|()| limits.set());
    match ready.and_then(|()| job.main.resolve::<Main>()) {
        Ok(main) => main(MainInputs { job, fd_channel, report }),
        Err(why) => {
            let _ = report.send(Report::NotReady(why));
            sys::exit_now(1)
        }
    }
}
