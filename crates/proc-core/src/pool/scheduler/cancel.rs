//! Stopping what runs: tasks that are cancelled, and tasks that have had their time.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::state::{BELT, Crew, Doom, Out, Phase, State, read_arguments, unlock};
use crate::error::{Error, Place};
use crate::pool::board::{Owner, TicketId};
use crate::pool::job::{Delivery, Feed, Inbox};
use crate::sys;

/// How often running tasks' timeouts are looked at.
const GLANCE: Duration = Duration::from_millis(10);

impl Crew {
    /// Takes back a call: what is not begun never runs, what runs is stopped. False if it was done.
    pub(crate) fn cancel(&self, inbox: &Arc<Inbox>) -> bool {
        if !self.is_ours() {
            return false;
        }
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
                    let (inbox, task, error) = (Arc::clone(inbox), out.first, error.clone());
                    state.kill(owner, Doom::Task { inbox, task, error });
                }
            }
        }
        self.pump(&mut state);
        unlock(state, news);
        cancelled
    }

    /// Takes back a call of one ticket that no worker has claimed; whether it was so.
    pub(crate) fn cancel_unclaimed(&self, inbox: &Arc<Inbox>) -> bool {
        if !self.is_ours() {
            return false;
        }
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
        let name = format!("{}-warden", self.plan.name);
        let thread = sys::spawn_thread(&name, sys::SMALL_STACK, move || crew.watch());
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

    /// Sees to it that somebody looks after work for which no thread waits.
    pub(crate) fn watch_over_futures(self: &Arc<Self>) {
        if self.is_ours() {
            let mut state = self.lock();
            // Where no thread can be had, the work is looked after by whoever calls next.
            let _ = self.start_warden(&mut state);
        }
    }

    /// Kills workers whose task has had its time, and wakes others for work that a stopped one does
    /// not do, until the pool is over.
    fn watch(&self) {
        let mut state = self.lock();
        while !matches!(state.phase, Phase::Over(_)) && state.attendants > 0 {
            let timed = |out: &Out| out.inbox.terms.timeout.is_some();
            let some = state.out.values().any(timed)
                || state.feeds.iter().any(|feed| feed.inbox.terms.timeout.is_some());
            if some {
                self.kill_the_late(&mut state);
            }
            let glance = if some { GLANCE } else { BELT };
            if state.is_idle() {
                state = self.timed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                let woken = self.timed.wait_timeout(state, glance);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                self.wake_for_neglected(&mut state);
            }
        }
    }

    fn kill_the_late(&self, state: &mut State) {
        let now = sys::monotonic();
        for (ticket, owner) in self.running(state) {
            let Some(out) = state.out.get_mut(&ticket) else { continue };
            let Some(timeout) = out.inbox.terms.timeout else { continue };
            let progress = self.board.progress(ticket);
            let ran = Duration::from_nanos(now.saturating_sub(progress.began_at));
            let runs = progress.begun > progress.done && progress.began_at > 0;
            let is_late = match runs {
                true => ran >= timeout,
                // A worker goes on from task to task without delay, unless it is stopped.
                false => (progress.done as usize) < out.count && out.waits(progress.done, timeout),
            };
            if is_late {
                let inbox = Arc::clone(&out.inbox);
                let task = out.first + progress.done as usize;
                let error = Error::timeout(timeout).at(state.place_of(owner));
                state.kill(owner, Doom::Task { inbox, task, error });
            }
        }
        self.fail_the_neglected(state);
    }

    /// Fails tasks that are due, as workers are free, and that nobody takes within their time; ends
    /// these workers.
    fn fail_the_neglected(&self, state: &mut State) {
        let at_work: Vec<Owner> = self.running(state).into_iter().map(|(_, owner)| owner).collect();
        let is_free = |owner: &Owner| {
            let seat = &state.seats[*owner as usize];
            seat.ready && seat.handle.is_some() && !at_work.contains(owner)
        };
        let free: Vec<Owner> = state.owners().filter(is_free).collect();
        let mut neglected = Vec::new();
        for (ticket, out) in &mut state.out {
            let is_taken = out.owner.is_some()
                || self.board.claimer(*ticket, out.position).is_some()
                || state.again.contains(ticket);
            let Some(timeout) = out.inbox.terms.timeout.filter(|_| !is_taken) else { continue };
            if free.is_empty() {
                out.stuck = None;
            } else if out.waits(0, timeout) {
                neglected.push((*ticket, timeout));
            }
        }
        for (ticket, timeout) in neglected {
            if self.fail_unclaimed(state, ticket, timeout) {
                // One of them may have taken something by now: that is run again.
                free.iter().for_each(|owner| state.kill(*owner, Doom::Worker));
            }
        }
    }

    /// Fails the first task of a ticket that nobody has claimed, and lets the others wait for their
    /// turn; false if somebody has claimed it by now.
    fn fail_unclaimed(&self, state: &mut State, ticket: TicketId, timeout: Duration) -> bool {
        let Some(out) = state.out.get(&ticket) else { return false };
        if !self.board.retract(ticket, out.position) {
            return false;
        }
        let arguments = read_arguments(&state.arena, out);
        let Some(out) = self.retire(state, ticket) else { return false };
        let place = Place { task: Some(out.first), ..Place::default() };
        let error = Error::timeout(timeout).at(place);
        let failed = Delivery::Failed { task: out.first, error };
        state.wakers.extend(out.inbox.accept(failed));
        let others = out.first + 1..out.first + out.count;
        if !others.is_empty() {
            match Feed::rest(out.chunk.name, &out.inbox, others, arguments, 1) {
                Some(mut rest) => {
                    (rest.attempts, rest.chunksize) = (out.attempts, out.chunksize);
                    state.feeds.push_front(rest);
                }
                None => state.wakers.extend(out.inbox.close(Error::overwritten())),
            }
        }
        self.pump(state);
        true
    }
}

impl Out {
    /// Whether nothing has come of it for as long as `timeout` since it was first found with so
    /// many tasks done, and nobody at the next.
    fn waits(&mut self, done: u32, timeout: Duration) -> bool {
        match self.stuck {
            Some((then, since)) if then == done => since.elapsed() >= timeout,
            _ => {
                self.stuck = Some((done, Instant::now()));
                false
            }
        }
    }
}
