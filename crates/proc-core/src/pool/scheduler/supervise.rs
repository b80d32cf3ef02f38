//! Starting workers, attending them to their end, and what to do where one cannot be started.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipc_channel::ipc;
use nix::sys::signal::Signal;

use super::state::{Crew, Doom, Initializer, Phase, Seat, Standing, State, unlock};
use crate::error::{Error, Exit, Place};
use crate::forkserver::streams::Streams;
use crate::forkserver::{
    Attributes, ForkServer, Link, Received, Report, StartMethod, Tie, next_serial, preload,
    start_method,
};
use crate::pool::board::{Owner, TicketId};
use crate::pool::job::WaitingHandles;
use crate::pool::worker::{self, Mail, News, Setup};
use crate::{panics, sys};

/// After waiting so long for a replacement to become possible, its seat is given up.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many workers in a row that end before they have begun a task are replaced at once.
const QUICK_REPLACEMENTS: u32 = 4;

/// How long is waited before the next attempt at first; each time twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// As many regions go with the message that starts a worker, which carries 64 descriptors at most.
const MAX_REGIONS_AT_START: usize = 32;

impl Crew {
    /// Goes on without a worker on a seat. Where no seat has one or waits for one, calls fail:
    /// those that are open, and where no seat is to be tried again, all that come.
    pub(super) fn give_up_seat(&self, owner: Owner, standing: Standing, error: Error) {
        let mut state = self.lock();
        if self.keeps(&state, owner) {
            state.stand(owner, standing);
            if self.has_given_up(&state) {
                let seats = &state.seats[..self.processes()];
                let tries_again = matches!(state.phase, Phase::Open)
                    && seats.iter().any(|seat| seat.standing == Standing::Retired);
                match tries_again {
                    true => self.fail_open_calls(&mut state, &error),
                    false => self.end(&mut state, Some(error)),
                }
            }
            // Another seat may be called in its place.
            self.pump(&mut state);
        }
        unlock(state, Vec::new());
    }

    /// Fails what was asked for, where nobody is left to do it; the pool stays open.
    fn fail_open_calls(&self, state: &mut State, error: &Error) {
        for feed in std::mem::take(&mut state.feeds) {
            state.wakers.extend(feed.inbox.close(error.clone()));
        }
        state.again.clear();
        let tickets: Vec<TicketId> = state.out.keys().copied().collect();
        for ticket in tickets {
            if let Some(out) = state.out.get(&ticket) {
                self.board.retract(ticket, out.position);
            }
            if let Some(out) = self.retire(state, ticket) {
                state.wakers.extend(out.inbox.close(error.clone()));
            }
        }
    }

    /// Changes the number of workers; see [`Pool::resize`](crate::Pool::resize).
    pub(crate) fn resize(self: &Arc<Self>, processes: usize) -> Result<(), Error> {
        let most = self.board.layout().workers;
        let wanted = u32::try_from(processes).ok().filter(|wanted| *wanted <= most);
        let wanted = wanted.ok_or_else(|| {
            Error::invalid(format!(
                "this pool can grow to {most} processes, not to {processes}: build one that is \
                 larger from the beginning"
            ))
        })?;
        self.check_maker()?;
        let _alone = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        state.phase.check_open()?;
        let before = self.processes() as u32;
        self.admit(&mut state, wanted);
        let is_empty = |owner: &Owner| !state.seats[*owner as usize].attended;
        let empty: Vec<Owner> = (0..wanted).filter(is_empty).collect();
        for owner in &empty {
            state.seats[*owner as usize].failed_starts = 0;
            state.stand(*owner, Standing::Filled);
        }
        unlock(state, Vec::new());
        let staffed = self.staff(empty);
        if staffed.is_err() {
            let mut state = self.lock();
            if state.phase.check_open().is_ok() {
                self.admit(&mut state, before);
            }
            unlock(state, Vec::new());
        }
        staffed
    }

    /// Says how many seats there are. Workers on the others finish their chunk, and are not
    /// replaced.
    fn admit(&self, state: &mut State, wanted: u32) {
        if state.seats.len() < wanted as usize {
            state.seats.resize_with(wanted as usize, Seat::default);
        }
        self.processes.store(wanted, Ordering::Relaxed);
        self.board.admit(wanted);
        for owner in self.board.pick_sleepers(wanted..state.owners().end, usize::MAX) {
            state.call(owner);
        }
        self.revive_all(state);
        self.pump(state);
        self.called.notify_all();
    }

    /// Starts workers on seats, with attendants for all that could be started.
    pub(super) fn staff(
        self: &Arc<Self>,
        owners: impl IntoIterator<Item = Owner>,
    ) -> Result<(), Error> {
        let mut hired = Vec::new();
        let mut result = Ok(());
        for owner in owners {
            match self.hire(owner) {
                Ok(link) => hired.push((owner, link)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for (owner, link) in hired {
            result = result.and(self.attend(owner, link));
        }
        result
    }

    /// Starts a worker on seat `owner`.
    fn hire(&self, owner: Owner) -> Result<Link<News>, Error> {
        let cannot = |error| Error::start("a worker", error);
        panics::catch_quietly(|| self.start_worker(owner)).unwrap_or_else(|panic| {
            self.write_off(owner);
            Err(cannot(std::io::Error::other(panic.message)))
        })
    }

    fn start_worker(&self, owner: Owner) -> Result<Link<News>, Error> {
        let serial = next_serial();
        let place = Place { worker: Some(owner as usize), ..Place::default() };
        let start = |template: &Arc<ForkServer>| {
            let encode =
                |function: Option<Initializer>| function.map(|encode| encode()).transpose();
            let (initializer, state) = {
                let recipes = self.recipes();
                (recipes.initializer.clone(), recipes.state.clone())
            };
            let (initializer, maker) = (encode(initializer)?, encode(state)?);
            let cannot = |error| Error::start("a worker", error);
            let (sender, mail) = ipc::channel().map_err(cannot)?;
            let setup = {
                let mut state = self.lock();
                // The others are announced by mail.
                let known = state.arena.regions().len().min(MAX_REGIONS_AT_START);
                let seat = &mut state.seats[owner as usize];
                (seat.mail, seat.regions) = (Some(sender), known);
                state.announced = state.announced.min(known);
                let regions = &state.arena.regions()[..known];
                let shared: Result<_, _> = regions.iter().map(|region| region.share()).collect();
                Setup {
                    owner,
                    mail,
                    layout: self.board.layout(),
                    board: self.board.share().map_err(cannot)?,
                    regions: shared.map_err(cannot)?,
                    initializer,
                    state: maker,
                    worker_exit: self.plan.worker_exit,
                    max_tasks: self.plan.max_tasks,
                    idle_timeout: self.plan.idle_timeout,
                }
            };
            let name = format!("{}-{owner}", self.plan.name);
            let attributes = Attributes {
                tie: Tie::Worker,
                limits: self.plan.limits.clone(),
                ..Attributes::default()
            };
            let job = setup.into_job(worker::MAIN);
            let job = job.map_err(|why| cannot(std::io::Error::other(why)))?;
            Link::start(template, serial, &name, &attributes, job)
                .inspect_err(|_| self.write_off(owner))
        };
        let link = self.with_template(start).map_err(|error| error.at(place))?;
        let mut state = self.lock();
        let seat = &mut state.seats[owner as usize];
        seat.ready = false;
        seat.handle = Some(link.handle.clone());
        seat.obey_doom();
        Ok(link)
    }

    /// Runs `start` with the template that makes this pool's workers, and again if it was found
    /// dead.
    fn with_template<T>(
        &self,
        mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let preload = self.recipes().preload.clone();
        let Some(preload) = preload else { return self.with_maker(start) };
        let mut preloaded = self.preloaded.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has more rights than the program has now makes no more workers.
        if let Some(template) = &*preloaded
            && !template.has_our_rights()?
        {
            *preloaded = None;
        }
        if let Some(template) = &*preloaded {
            match start(template) {
                Err(error) if error.is_template_gone() => *preloaded = None,
                result => return result,
            }
        }
        let made = self.with_maker(|maker| {
            let (function, arguments) = preload()?;
            let is_wanted = || !matches!(self.lock().phase, super::Phase::Over(_));
            preload::start(maker, function, arguments, is_wanted)
        });
        start(preloaded.insert(made?))
    }

    /// The same with the template that was there before the pool, or was made for a `Fork` pool.
    fn with_maker<T>(
        &self,
        mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let own = self.template.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match own {
            Some(template) if !template.has_our_rights()? => {
                let why = "the program has other rights now than when it made this pool, of whose copy of \
                           the program all its workers are copies: build the pool after that";
                Err(Error::start("a worker", std::io::Error::other(why)))
            }
            Some(template) => start(&template),
            None => start_method::with_template(self.plan.context, &Streams::default(), start),
        }
    }

    /// Starts the attendant of seat `owner` and its first worker.
    fn attend(self: &Arc<Self>, owner: Owner, link: Link<News>) -> Result<(), Error> {
        let crew = Arc::clone(self);
        let mut state = self.lock();
        state.attendants += 1;
        state.seats[owner as usize].attended = true;
        drop(state);
        // A thread that is not to be had gives nothing back.
        let first = Arc::new(Mutex::new(Some(link)));
        let firsts = Arc::clone(&first);
        let take = |first: &Mutex<Option<Link<News>>>| {
            first.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let attendant = move || {
            let Attendant(crew) = &Attendant(crew);
            let mut link = take(&firsts);
            while let Some(worker) = link.take() {
                if let Err(panic) = panics::catch(|| crew.attend_one(owner, &worker)) {
                    crew.fail_seat(owner, &worker, panic.message);
                }
                link = crew.refill(owner);
            }
        };
        let name = format!("{}-{owner}", self.plan.name);
        let thread = sys::spawn_thread(&name, sys::SMALL_STACK, attendant);
        let mut state = self.lock();
        match thread {
            Ok(thread) => {
                // Pools that shrink and grow for ever leave threads behind that have ended.
                state.threads.retain(|thread| !thread.is_finished());
                state.threads.push(thread);
                Ok(())
            }
            Err(error) => {
                state.attendants -= 1;
                state.seats[owner as usize].attended = false;
                state.kill(owner, Doom::Worker);
                drop(state);
                if let Some(link) = take(&first) {
                    self.bury_killed(owner, &link, None);
                }
                Err(Error::start("a worker's attendant", error))
            }
        }
    }

    /// Attends one worker until its end.
    fn attend_one(&self, owner: Owner, link: &Link<News>) {
        let mut failure = None;
        let mut is_over = false;
        let exit = loop {
            match link.receive(None) {
                Received::Report(Report::Said(news)) => self.hear(owner, news, &mut failure),
                Received::Report(Report::Exited { status, last_words }) => {
                    break Exit::told(status, last_words);
                }
                Received::Report(Report::NotReady(why)) => {
                    failure = Some(Error::start("a worker", std::io::Error::other(why)));
                }
                Received::Report(_) | Received::Nothing => {}
                // A message without bytes, which no worker of ours sends, reads like the end, once.
                Received::End if !is_over => {
                    is_over = true;
                    link.handle.signal(Signal::SIGKILL);
                }
                Received::End => break Exit::default(),
                Received::Rubbish => link.handle.signal(Signal::SIGKILL),
            }
        };
        // A worker that only said that it had ended must not go on beside the next one.
        link.handle.signal(Signal::SIGKILL);
        let pid = Some(link.handle.pid);
        let place = Place { worker: Some(owner as usize), pid, ..Place::default() };
        self.bury(owner, exit, failure, place);
    }

    /// The next worker on a seat, when there is to be one; `None` when there is to be none any
    /// more.
    fn refill(&self, owner: Owner) -> Option<Link<News>> {
        while self.is_called(owner) {
            self.slow_down(owner);
            match self.rehire(owner) {
                Ok(link) => return Some(link),
                // The copy of the program from which all workers of a Fork pool come is not made
                // again.
                Err(error)
                    if error.is_template_gone() && self.plan.context == StartMethod::Fork =>
                {
                    self.give_up_seat(owner, Standing::Broken, error);
                }
                Err(error) => self.give_up_seat(owner, Standing::Retired, error),
            }
        }
        None
    }

    /// Waits a while where one worker after the other ends before it has begun a task, unless the
    /// pool ends.
    fn slow_down(&self, owner: Owner) {
        let state = self.lock();
        let fruitless = state.seats[owner as usize].fruitless;
        if fruitless > QUICK_REPLACEMENTS {
            let pause = FIRST_PAUSE * 2_u32.pow((fruitless - QUICK_REPLACEMENTS).min(6));
            drop(self.called.wait_timeout_while(state, pause, |state| self.keeps(state, owner)));
        }
    }

    /// Starts a replacement, patiently: processes and descriptors may come free.
    fn rehire(&self, owner: Owner) -> Result<Link<News>, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let followed = if self.is_of_main_thread { sys::follow_main_thread() } else { Ok(()) };
            let followed = followed.map_err(|error| Error::start("a worker", error));
            let error = match followed.and_then(|()| self.hire(owner)) {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            let state = self.lock();
            if pause > LONGEST_PAUSE || !self.keeps(&state, owner) {
                return Err(error);
            }
            drop(self.ended.wait_timeout(state, pause));
            pause *= 2;
        }
    }

    fn hear(&self, owner: Owner, news: News, failure: &mut Option<Error>) {
        match news {
            News::Ready => {
                let mut state = self.lock();
                let seat = &mut state.seats[owner as usize];
                seat.ready = true;
                seat.failed_starts = 0;
            }
            News::InitializerFailed(fault) => *failure = Some(Error::from_fault_payload(fault)),
            News::Leaves(why) => {
                let mut state = self.lock();
                state.seats[owner as usize].leaving = Some(why);
                // A message sent to it since wakes nobody.
                if self.board.has_ready() {
                    self.wake(&mut state, 1);
                }
                unlock(state, Vec::new());
            }
            News::Look => {
                self.collect();
                self.listen();
            }
            News::Asks(ticket) => {
                let mut state = self.lock();
                let handles = state.out.get_mut(&ticket).and_then(|out| out.handles.take());
                let sent =
                    state.mail(owner, Mail::Handles(Ok(handles.and_then(WaitingHandles::take))));
                if let Err(why) = sent {
                    let _ = state.mail(owner, Mail::Handles(Err(why)));
                }
            }
            News::Apart { ticket, task, value } => {
                let mut news = Vec::new();
                let mut state = self.lock();
                // Of a task that there is: else a worker gone wrong could fill our memory.
                if let Some(out) = state.out.get_mut(&ticket)
                    && (task as usize) < out.count
                {
                    out.apart.insert(task, value);
                    if out.waits_for_apart {
                        self.settle_finished(&mut state, ticket, &mut news);
                    }
                }
                self.pump(&mut state);
                unlock(state, news);
            }
        }
    }

    /// After a panic of its attendant: ends the worker, settles what it had, and does without it.
    fn fail_seat(&self, owner: Owner, link: &Link<News>, why: String) {
        link.handle.signal(Signal::SIGKILL);
        let error = Error::start("a worker again", std::io::Error::other(why));
        self.bury_killed(owner, link, Some(error.clone()));
        self.give_up_seat(owner, Standing::Broken, error);
    }

    /// Waits for the end of a worker that was killed, and settles what it had.
    fn bury_killed(&self, owner: Owner, link: &Link<News>, failure: Option<Error>) {
        link.wait_for_end();
        let pid = Some(link.handle.pid);
        let place = Place { worker: Some(owner as usize), pid, ..Place::default() };
        self.bury(owner, Exit::default(), failure, place);
    }
}

/// A running attendant thread. However it ends, whoever waits for that is told.
struct Attendant(Arc<Crew>);

impl Drop for Attendant {
    fn drop(&mut self) {
        self.0.lock().attendants -= 1;
        self.0.ended.notify_all();
        self.0.timed.notify_all();
    }
}
