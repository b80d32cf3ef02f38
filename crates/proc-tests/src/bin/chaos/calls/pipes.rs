//! Calls of a process at the other end of a pipe.

use proc_core::sync::{Connection, pipe};
use proc_core::{ErrorKind, Process, StartMethod};

use super::Caller;
use super::verdicts::Tally;
use crate::tasks::mix;
use crate::watch::fail;

/// Replies to each number, until the program has dropped its end. Returns how many that were.
fn reply(there: Connection<u64, u64>) -> u64 {
    let mut count = 0;
    while let Ok(number) = there.recv() {
        if there.send(mix(number)).is_err() {
            break;
        }
        count += 1;
    }
    count
}

impl Caller<'_> {
    /// Sends numbers to a process, which may be killed meanwhile, and receives replies.
    pub(super) fn pipe(&mut self) {
        let _open_call = self.begin("process at a pipe");
        // This process has threads, so `Fork` is not possible.
        let start_method = match self.round.start_method {
            StartMethod::Fork => StartMethod::Forkserver,
            other => other,
        };
        let (here, there) = match pipe::<u64, u64>() {
            Ok(ends) => ends,
            Err(error) => fail(&format!("no pipe can be made: {error}")),
        };
        let faults = &self.round.faults;
        let mut tally = Tally::default();
        let killed = faults.fork_servers_killed();
        let child = match Process::new(reply, there).start_method(start_method).start() {
            Ok(child) => child,
            Err(error)
                if error.kind() == ErrorKind::Start && killed < faults.fork_servers_killed() =>
            {
                tally.add("start, while the fork server was killed");
                return tally.book(self.round.ledger);
            }
            Err(error) => fail(&format!("a process with a pipe: {error}")),
        };
        let (first, count) = (self.rng.u64(..1 << 40), self.rng.u64(..200));
        // No more than a pipe holds: the process sends its replies before it receives the next.
        let ahead = self.rng.u64(1..50);
        let kill_at = if self.rng.u32(..4) == 0 { self.rng.u64(..200) } else { u64::MAX };
        let (mut sent, mut received) = (0, 0);
        let end = loop {
            if received == count {
                break None;
            }
            if received == kill_at {
                faults.note_kill(child.pid());
                if let Err(error) = child.kill() {
                    fail(&format!("a process at a pipe cannot be killed: {error}"));
                }
            }
            if sent < count.min(received + ahead) {
                match here.send(first + sent) {
                    Ok(()) => sent += 1,
                    Err(error) => break Some(error),
                }
                continue;
            }
            match here.recv() {
                Ok(reply) if reply == mix(first + received) => received += 1,
                Ok(reply) => fail(&format!("reply {received} through a pipe is {reply}")),
                Err(error) => break Some(error),
            }
        };
        drop(here);
        let pid = child.pid();
        if let Some(error) = &end
            && !(error.is_closed() && error.pid().is_none_or(|dead| dead == pid))
        {
            fail(&format!("the end of a pipe whose other end has process {pid}: {error}"));
        }
        match child.join() {
            Ok(replies) if end.is_none() && replies == count => tally.add("result"),
            Ok(replies) => fail(&format!("{replies} of {count} replies, then {end:?}")),
            Err(error) if error.is_death() => match faults.explain(&error) {
                Ok(()) => tally.add("death, by a fault from outside"),
                Err(why) => fail(&format!("a process at a pipe: {error}, but {why}")),
            },
            Err(error) => fail(&format!("a process at a pipe: {error}")),
        }
        tally.book(self.round.ledger);
    }
}
