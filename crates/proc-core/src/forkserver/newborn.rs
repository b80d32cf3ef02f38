//! A new process before its own work: it takes the name and the environment it was given, and finds
//! what it is to do.

use std::os::fd::OwnedFd;

use ipc_channel::ipc::IpcSender;

use super::environment::EnvironmentChanges;
use super::streams::{self, BELL};
use super::{Job, Newborn, Report, Start, lifeline};
use crate::call::Code;
use crate::sys;
use crate::wire::Message;

/// What a new process calls; it ends the process.
pub(crate) type Main = fn(Birth) -> !;

impl Code for Main {}

/// What a new process begins with.
pub(crate) struct Birth {
    pub(crate) job: Job,
    /// The two ends of the descriptor channel of a process that is to be a fork server.
    pub(crate) fd_channel: Vec<(u8, OwnedFd)>,
    pub(crate) report: IpcSender<Report<()>>,
}

impl Birth {
    /// Where reports go that say more than a fork server can.
    pub(crate) fn report<T: Message>(&self) -> IpcSender<Report<T>> {
        self.report.clone().to_opaque().to()
    }
}

/// Does what every new process does before its own work, and then that.
pub(super) fn run(Newborn { alone, start, streams }: Newborn) -> ! {
    let Start { name, report, lifetime, lifeline, environment, limits, job, .. } = start;
    sys::name_process(&name);
    let (streams, fd_channel) = streams.into_iter().partition(|(number, _)| *number < BELL);
    lifeline::hold(lifetime, lifeline);
    let taken = streams::put(streams).and_then(|()| environment.decode());
    let taken = taken.and_then(|environment: EnvironmentChanges| environment.take(alone));
    let taken = taken.and_then(|()| limits.set());
    let main =
        taken.and_then(|()| job.main.resolve::<Main>().map_err(|fault| format!("{fault:?}")));
    match main {
        Ok(main) => main(Birth { job, fd_channel, report }),
        Err(why) => {
            let _ = report.send(Report::NotReady(why));
            sys::exit_now(1)
        }
    }
}
