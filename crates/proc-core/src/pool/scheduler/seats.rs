//! The seats of a pool: whether each has a worker, who is called when work comes, how many there
//! are.
//!
//! A seat's attendant waits here while the seat is empty, so that calling a worker is a word to it.

use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::state::{Crew, Doom, Out, Phase, Seat, Standing, State};
use crate::error::Place;
use crate::pool::board::{Owner, TicketId};
use crate::pool::worker::Mail;
use crate::wire;

impl State {
    pub(super) fn stand(&mut self, owner: Owner, standing: Standing) {
        let seat = &mut self.seats[owner as usize];
        self.waiting += usize::from(standing.waits());
        self.waiting -= usize::from(seat.standing.waits());
        seat.standing = standing;
    }

    /// The numbers of all seats that there ever were.
    pub(super) fn owners(&self) -> Range<Owner> {
        0..self.seats.len() as Owner
    }

    /// Ends a worker, once. A worker that is only being started may have claimed a task already: it
    /// is ended as soon as its pid is known.
    pub(super) fn kill(&mut self, owner: Owner, doom: Doom) {
        if let Some(seat) = self.seats.get_mut(owner as usize)
            && seat.doom.is_none()
            && seat.mail.is_some()
        {
            seat.doom = Some(doom);
            seat.obey_doom();
        }
    }

    pub(super) fn place_of(&self, owner: Owner) -> Place {
        let handle = self.seats.get(owner as usize).and_then(|seat| seat.handle.as_ref());
        Place { worker: Some(owner as usize), pid: handle.map(|h| h.pid), ..Place::default() }
    }

    /// Tells workers of the regions that they do not know, in order.
    ///
    /// # Errors
    ///
    /// There are no descriptors, or a message cannot be sent; what was not told is told the next
    /// time.
    pub(super) fn announce(&mut self) -> io::Result<()> {
        let regions = self.arena.regions();
        if self.announced == regions.len() {
            return Ok(());
        }
        for seat in &mut self.seats {
            let Some(mail) = &seat.mail else { continue };
            for region in &regions[seat.regions.min(regions.len())..] {
                // A worker that is gone needs no region: its successor is told all at its start.
                let sent = mail.send(Mail::Region(region.share()?));
                if let Some(error) = sent.err().and_then(wire::send_error) {
                    return Err(error);
                }
                seat.regions += 1;
            }
        }
        self.announced = regions.len();
        Ok(())
    }

    /// Sends to a worker; one that is gone needs no mail.
    ///
    /// # Errors
    ///
    /// What is to be sent with the message cannot be.
    pub(super) fn mail(&mut self, owner: Owner, mail: Mail) -> Result<(), String> {
        let sender = self.seats.get(owner as usize).and_then(|seat| seat.mail.as_ref());
        let sent = sender.map_or(Ok(()), |sender| sender.send(mail));
        sent.or_else(|error| wire::why_not_sent(error).map_or(Ok(()), Err))
    }

    /// Wakes a worker.
    pub(super) fn call(&mut self, owner: Owner) {
        let _ = self.mail(owner, Mail::Wake); // which takes nothing along
    }
}

impl Crew {
    pub(crate) fn processes(&self) -> usize {
        self.processes.load(Ordering::Relaxed) as usize
    }

    /// The pids of the workers that have not ended.
    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        if !self.is_ours() {
            return Vec::new();
        }
        let state = self.lock();
        state.seats.iter().filter_map(|seat| Some(seat.handle.as_ref()?.pid)).collect()
    }

    /// Whether a seat may have a worker again.
    pub(super) fn keeps(&self, state: &State, owner: Owner) -> bool {
        let goes_on = match state.phase {
            Phase::Open => true,
            Phase::Closing => !state.is_idle(),
            Phase::Over(_) => false,
        };
        goes_on && (owner as usize) < self.processes()
    }

    /// Calls workers to vacant seats while more steps are out than there are workers.
    pub(super) fn call_workers(&self, state: &mut State) {
        if state.waiting == 0 {
            return;
        }
        let seats = &state.seats[..self.processes()];
        let filled = seats.iter().filter(|seat| seat.standing == Standing::Filled).count();
        let steps = |(ticket, out): (&TicketId, &Out)| {
            let untaken = self.board.untaken(*ticket, out.chunk.count);
            // What is taken keeps one worker busy.
            untaken.div_ceil(out.chunk.step) + u32::from(untaken < out.chunk.count)
        };
        let open = state.out.iter().map(steps).sum::<u32>() as usize;
        let missing = open.saturating_sub(filled);
        let is_vacant = |owner: &Owner| {
            seats.get(*owner as usize).is_some_and(|seat| seat.standing == Standing::Vacant)
        };
        let called: Vec<Owner> = state.owners().filter(is_vacant).take(missing).collect();
        for owner in &called {
            state.stand(*owner, Standing::Filled);
        }
        if !called.is_empty() {
            self.called.notify_all();
        }
    }

    /// Lets retired seats try again, if somebody is there to go on where they cannot, or if none is
    /// trying.
    ///
    /// Else seats could take turns to fail for ever, with nobody at work.
    pub(super) fn revive(&self, state: &mut State) {
        let has_worker = state.seats.iter().any(|seat| seat.handle.is_some());
        if state.waiting > 0 && (has_worker || self.has_given_up(state)) {
            self.revive_all(state);
        }
    }

    /// Whether no seat has a worker, or waits for one.
    pub(super) fn has_given_up(&self, state: &State) -> bool {
        let failed = |seat: &Seat| matches!(seat.standing, Standing::Retired | Standing::Broken);
        state.seats[..self.processes()].iter().all(failed)
    }

    pub(super) fn revive_all(&self, state: &mut State) {
        for owner in state.owners() {
            if state.seats[owner as usize].standing == Standing::Retired {
                state.stand(owner, Standing::Vacant);
            }
        }
    }

    /// Waits until a seat is to have a worker. False if its attendant is to end.
    pub(super) fn is_called(&self, owner: Owner) -> bool {
        let waits = |state: &mut State| {
            self.keeps(state, owner) && state.seats[owner as usize].standing.waits()
        };
        let wait = self.called.wait_while(self.lock(), waits);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        let standing = state.seats[owner as usize].standing;
        let called = self.keeps(&state, owner) && standing == Standing::Filled;
        if !called {
            state.seats[owner as usize].attended = false;
            if standing.waits() {
                state.stand(owner, Standing::Filled);
            }
        }
        called
    }
}
