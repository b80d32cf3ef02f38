//! Stopping what runs: tasks that are cancelled, and tasks that have had their time.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::super::job::Inbox;
use super::{Crew, Doom, Out, Phase, State, unlock};
use crate::error::Error;
use crate::queue::{Owner, TicketId};
use crate::sys;

/// How often running tasks' timeouts are looked at.
const GLANCE: Duration = Duration::from_millis(10);

impl Crew {
    /// Takes back a call: what is not begun never runs, what runs is stopped. False if it was done.
    pub(crate) fn cancel(&self, inbox: &Arc<Inbox>) -> bool {
        let mut news = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut news);
        let queued = state.feeds.iter().any(|feed| Arc::ptr_eq(&feed.inbox, inbox));
        let running =
            state.out.values().any(|out| Arc::ptr_eq(&out.inbox, inbox) && !out.waits_for_apart);
        // One that was cancelled before may still be on its way out.
        let cancelled = (queued || running) && !inbox.is_closed();
        if cancelled {
            state.wakers.extend(inbox.discard(Error::cancelled()));
            self.withdraw(&mut state, inbox);
            let error = Error::cancelled();
            for (ticket, owner) in self.running(&state) {
                let Some(out) = state.out.get(&ticket) else { continue };
                if Arc::ptr_eq(&out.inbox, inbox) && !out.waits_for_apart {
                    let doom =
                        Doom { inbox: Arc::clone(inbox), task: out.first, error: error.clone() };
                    state.kill(owner, doom);
                }
            }
        }
        self.pump(&mut state);
        unlock(state, news);
        cancelled
    }

    /// Takes back a call of one ticket that no worker has claimed; whether it was so.
    pub(crate) fn cancel_unclaimed(&self, inbox: &Arc<Inbox>) -> bool {
        let mut state = self.lock();
        let theirs = state.out.iter().filter(|(_, out)| Arc::ptr_eq(&out.inbox, inbox));
        let theirs: Vec<(TicketId, u64)> = theirs.map(|(id, out)| (*id, out.position)).collect();
        let queued = state.feeds.iter().any(|feed| Arc::ptr_eq(&feed.inbox, inbox));
        let unclaimed = match theirs[..] {
            [] => queued,
            [(ticket, position)] if !queued => self.board.retract(ticket, position),
            _ => false,
        };
        if unclaimed {
            state.wakers.extend(inbox.discard(Error::cancelled()));
            state.feeds.retain(|feed| !Arc::ptr_eq(&feed.inbox, inbox));
            for (ticket, _) in theirs {
                self.retire(&mut state, ticket);
            }
            self.pump(&mut state);
        }
        unlock(state, Vec::new());
        unclaimed
    }

    /// The claimed tickets that are not settled, with their owners.
    fn running(&self, state: &State) -> Vec<(TicketId, Owner)> {
        let owner = |(ticket, out): (&TicketId, &Out)| {
            let owner = out.owner.or_else(|| self.board.claimer(*ticket, out.position));
            owner.map(|owner| (*ticket, owner))
        };
        state.out.iter().filter_map(owner).collect()
    }

    /// Starts the thread that watches over timeouts, unless it runs.
    pub(super) fn start_warden(self: &Arc<Self>, state: &mut State) -> Result<(), Error> {
        if std::mem::replace(&mut state.warden, true) {
            self.timed.notify_all();
            return Ok(());
        }
        let crew = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name(format!("{}-warden", self.plan.name))
            .stack_size(256 << 10)
            .spawn(move || crew.watch());
        match thread {
            Ok(thread) => {
                state.threads.push(thread);
                Ok(())
            }
            Err(error) => {
                state.warden = false;
                Err(Error::start("the thread that watches over timeouts", error))
            }
        }
    }

    /// Kills workers whose task has had its time, until the pool is over.
    fn watch(&self) {
        let mut state = self.lock();
        while !matches!(state.phase, Phase::Over(_)) && state.attendants > 0 {
            let timed = |out: &Out| out.inbox.terms.timeout.is_some();
            let some = state.out.values().any(timed)
                || state.feeds.iter().any(|feed| feed.inbox.terms.timeout.is_some());
            if some {
                self.kill_the_late(&mut state);
                let woken = self.timed.wait_timeout(state, GLANCE);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state = self.timed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn kill_the_late(&self, state: &mut State) {
        let now = sys::monotonic();
        for (ticket, owner) in self.running(state) {
            let Some(out) = state.out.get(&ticket) else { continue };
            let Some(timeout) = out.inbox.terms.timeout else { continue };
            let progress = self.board.progress(ticket);
            let ran = Duration::from_nanos(now.saturating_sub(progress.began_at));
            if progress.begun > progress.done && progress.began_at > 0 && ran >= timeout {
                let inbox = Arc::clone(&out.inbox);
                let task = out.first + progress.done as usize;
                let error = Error::timeout(timeout).at(state.place_of(owner));
                state.kill(owner, Doom { inbox, task, error });
            }
        }
    }
}
