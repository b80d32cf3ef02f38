//! Starting workers, supervising them until they exit, and giving up slots where none can be
//! started.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipc_channel::ipc;
use nix::sys::signal::Signal;

use super::state::{Initializer, KillReason, Phase, Scheduler, Slot, SlotState, State, unlock};
use crate::error::{Error, Exit, Origin};
use crate::forkserver::{
    ForkServer, Link, Received, Report, StartMethod, next_serial, preload, start_method,
};
use crate::pool::board::{SlotId, TicketId};
use crate::pool::job::WaitingHandles;
use crate::pool::worker::{self, FromWorker, Setup, ToWorker};
use crate::{panics, sys};

/// The longest pause between two attempts to start a replacement worker. If the next pause would be
/// longer, the slot is given up.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How many workers in a row are replaced without a pause if they exit before they begin a task.
const QUICK_REPLACEMENTS: u32 = 4;

/// The first pause before another attempt to start a worker. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The most regions that are sent with the message that starts a worker. A message carries at most
/// 64 descriptors.
const MAX_REGIONS_AT_START: usize = 32;

impl Scheduler {
    /// Goes on without a worker in a slot. If now no slot has a worker or waits for one, open calls
    /// fail. If no slot will be tried again either, the pool ends, so that later calls fail too.
    pub(super) fn give_up_slot(&self, slot_id: SlotId, slot_state: SlotState, error: Error) {
        let mut state = self.lock();
        if self.keeps(&state, slot_id) {
            state.set_slot_state(slot_id, slot_state);
            if self.has_given_up(&state) {
                let slots = &state.slots[..self.processes()];
                let tries_again = matches!(state.phase, Phase::Open)
                    && slots.iter().any(|slot| slot.slot_state == SlotState::Retired);
                match tries_again {
                    true => self.fail_open_calls(&mut state, &error),
                    false => self.end(&mut state, Some(error)),
                }
            }
            // Another vacant slot may be filled instead.
            self.pump(&mut state);
        }
        unlock(state, Vec::new());
    }

    /// Fails all open calls, because no worker is left to run them. The pool stays open.
    fn fail_open_calls(&self, state: &mut State, error: &Error) {
        for queue in std::mem::take(&mut state.queues) {
            state.wakers.extend(queue.inbox.close(error.clone()));
        }
        state.requeued.clear();
        let tickets: Vec<TicketId> = state.in_flight.keys().copied().collect();
        for ticket in tickets {
            if let Some(in_flight) = state.in_flight.get(&ticket) {
                self.board.retract(ticket, in_flight.position);
            }
            if let Some(in_flight) = self.retire(state, ticket) {
                state.wakers.extend(in_flight.inbox.close(error.clone()));
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
        self.check_not_a_copy()?;
        let _alone = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        state.phase.check_open()?;
        let before = self.processes() as u32;
        self.admit(&mut state, wanted);
        let is_empty = |slot_id: &SlotId| !state.slots[*slot_id as usize].supervised;
        let empty: Vec<SlotId> = (0..wanted).filter(is_empty).collect();
        for slot_id in &empty {
            state.slots[*slot_id as usize].failed_starts = 0;
            state.set_slot_state(*slot_id, SlotState::Filled);
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

    /// Sets the number of slots that may have workers. Workers in other slots finish their chunk
    /// and are not replaced.
    fn admit(&self, state: &mut State, wanted: u32) {
        if state.slots.len() < wanted as usize {
            state.slots.resize_with(wanted as usize, Slot::default);
        }
        self.processes.store(wanted, Ordering::Relaxed);
        self.board.admit(wanted);
        for slot_id in self.board.take_sleepers(wanted..state.slot_ids().end, usize::MAX) {
            state.call(slot_id);
        }
        self.revive_all(state);
        self.pump(state);
        self.called.notify_all();
    }

    /// Starts workers in slots. If one cannot be started, those started before still get their
    /// supervisors.
    pub(super) fn staff(
        self: &Arc<Self>,
        slot_ids: impl IntoIterator<Item = SlotId>,
    ) -> Result<(), Error> {
        let mut hired = Vec::new();
        let mut result = Ok(());
        for slot_id in slot_ids {
            match self.hire(slot_id) {
                Ok(link) => hired.push((slot_id, link)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for (slot_id, link) in hired {
            result = result.and(self.supervise(slot_id, link));
        }
        result
    }

    /// Starts a worker in a slot. A panic while starting becomes an error.
    fn hire(&self, slot_id: SlotId) -> Result<Link<FromWorker>, Error> {
        let cannot = |error| Error::start("a worker", error);
        panics::catch_silently(|| self.start_worker(slot_id)).unwrap_or_else(|panic| {
            self.write_off(slot_id);
            Err(cannot(std::io::Error::other(panic.message)))
        })
    }

    fn start_worker(&self, slot_id: SlotId) -> Result<Link<FromWorker>, Error> {
        let serial = next_serial();
        let origin = Origin { worker: Some(slot_id as usize), ..Origin::default() };
        let start = |fork_server: &Arc<ForkServer>| {
            let encode =
                |function: Option<Initializer>| function.map(|encode| encode()).transpose();
            let (initializer, state) = {
                let recipes = self.recipes();
                (recipes.initializer.clone(), recipes.state.clone())
            };
            let (initializer, recipe) = (encode(initializer)?, encode(state)?);
            let cannot = |error| Error::start("a worker", error);
            let (sender, mail) = ipc::channel().map_err(cannot)?;
            let setup = {
                let mut state = self.lock();
                // The other regions are sent to the worker as messages.
                let known = state.arena.regions().len().min(MAX_REGIONS_AT_START);
                let slot = &mut state.slots[slot_id as usize];
                (slot.mail, slot.regions) = (Some(sender), known);
                state.announced = state.announced.min(known);
                let regions = &state.arena.regions()[..known];
                let shared: Result<_, _> = regions.iter().map(|region| region.share()).collect();
                Setup {
                    slot_id,
                    mail,
                    layout: self.board.layout(),
                    board: self.board.share().map_err(cannot)?,
                    regions: shared.map_err(cannot)?,
                    initializer,
                    state: recipe,
                    worker_exit: self.config.worker_exit,
                    max_tasks: self.config.max_tasks,
                    idle_timeout: self.config.idle_timeout,
                }
            };
            let name = format!("{}-{slot_id}", self.config.name);
            let job = setup.into_job(worker::MAIN);
            let job = job.map_err(|why| cannot(std::io::Error::other(why)))?;
            Link::start(fork_server, serial, &name, &self.config.attributes, job)
                .inspect_err(|_| self.write_off(slot_id))
        };
        let link = self.with_fork_server(start).map_err(|error| error.with_origin(origin))?;
        let mut state = self.lock();
        let slot = &mut state.slots[slot_id as usize];
        slot.ready = false;
        slot.handle = Some(link.handle.clone());
        slot.obey_kill();
        Ok(link)
    }

    /// Runs `start` with the fork server that makes this pool's workers. If that fork server is
    /// found dead, runs `start` again with another one.
    fn with_fork_server<T>(
        &self,
        mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let preload = self.recipes().preload.clone();
        let Some(preload) = preload else { return self.with_parent(start) };
        let mut preloaded = self.preloaded.lock().unwrap_or_else(PoisonError::into_inner);
        // A fork server whose rights differ from the program's makes no more workers: it may have
        // more rights than the program has now.
        if let Some(fork_server) = &*preloaded
            && !fork_server.has_our_rights()?
        {
            *preloaded = None;
        }
        if let Some(fork_server) = &*preloaded {
            match start(fork_server) {
                Err(error) if error.is_fork_server_gone() => *preloaded = None,
                result => return result,
            }
        }
        let made = self.with_parent(|parent| {
            let (function, arguments) = preload()?;
            let is_wanted = || !matches!(self.lock().phase, super::Phase::Over(_));
            preload::start(parent, function, arguments, is_wanted)
        });
        start(preloaded.insert(made?))
    }

    /// Like [`with_fork_server`](Scheduler::with_fork_server), but without preloading: uses the
    /// fork server of a `Fork` pool, or else the program's own fork server.
    fn with_parent<T>(
        &self,
        mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let own = self.fork_server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match own {
            Some(fork_server) if !fork_server.has_our_rights()? => {
                let why = "the program has other rights now than when it made this pool, of whose copy of \
                           the program all its workers are copies: build the pool after that";
                Err(Error::start("a worker", std::io::Error::other(why)))
            }
            Some(fork_server) => start(&fork_server),
            None => start_method::with_fork_server(
                self.config.start_method,
                &self.config.attributes.stdio,
                start,
            ),
        }
    }

    /// Starts the supervisor of a slot, and hands it the slot's first worker.
    fn supervise(self: &Arc<Self>, slot_id: SlotId, link: Link<FromWorker>) -> Result<(), Error> {
        let scheduler = Arc::clone(self);
        let mut state = self.lock();
        state.supervisors += 1;
        state.slots[slot_id as usize].supervised = true;
        drop(state);
        // If the thread cannot be started, its closure is dropped: a shared cell keeps the link.
        let first = Arc::new(Mutex::new(Some(link)));
        let firsts = Arc::clone(&first);
        let take = |first: &Mutex<Option<Link<FromWorker>>>| {
            first.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let supervisor = move || {
            let Supervisor(scheduler) = &Supervisor(scheduler);
            let mut link = take(&firsts);
            while let Some(worker) = link.take() {
                if let Err(panic) = panics::catch(|| scheduler.supervise_one(slot_id, &worker)) {
                    scheduler.fail_slot(slot_id, &worker, panic.message);
                }
                link = scheduler.refill(slot_id);
            }
        };
        let name = format!("{}-{slot_id}", self.config.name);
        let thread = sys::spawn_thread(&name, sys::SMALL_STACK, supervisor);
        let mut state = self.lock();
        match thread {
            Ok(thread) => {
                // A pool that shrinks and grows many times must not keep the handles of ended
                // threads.
                state.threads.retain(|thread| !thread.is_finished());
                state.threads.push(thread);
                Ok(())
            }
            Err(error) => {
                state.supervisors -= 1;
                state.slots[slot_id as usize].supervised = false;
                state.kill(slot_id, KillReason::Worker);
                drop(state);
                if let Some(link) = take(&first) {
                    self.bury_killed(slot_id, &link, None);
                }
                Err(Error::start("a worker's supervisor", error))
            }
        }
    }

    /// Supervises one worker until it has exited, then settles what it left.
    fn supervise_one(&self, slot_id: SlotId, link: &Link<FromWorker>) {
        let mut failure = None;
        let mut is_over = false;
        let exit = loop {
            match link.receive(None) {
                Received::Report(Report::Said(message)) => {
                    self.on_message(slot_id, message, &mut failure)
                }
                Received::Report(Report::Exited { status, last_words }) => {
                    break Exit::told(status, last_words);
                }
                Received::Report(Report::NotReady(why)) => {
                    failure = Some(Error::start("a worker", std::io::Error::other(why)));
                }
                Received::Report(_) | Received::Nothing => {}
                // An empty message (only a corrupt worker sends one) looks like end-of-file: kill
                // the worker, and tolerate such a message once.
                Received::End if !is_over => {
                    is_over = true;
                    link.handle.signal(Signal::SIGKILL);
                }
                Received::End => break Exit::default(),
                Received::Rubbish => link.handle.signal(Signal::SIGKILL),
            }
        };
        // A corrupt worker may have reported its own exit. It must not run beside its successor.
        link.handle.signal(Signal::SIGKILL);
        let pid = Some(link.handle.pid);
        let origin = Origin { worker: Some(slot_id as usize), pid, ..Origin::default() };
        if let Some((slot_state, error)) = self.bury(slot_id, exit, failure, origin) {
            self.give_up_slot(slot_id, slot_state, error);
        }
    }

    /// Starts the next worker in a slot when the slot is to have one. Returns `None` if the slot is
    /// to have no worker any more.
    fn refill(&self, slot_id: SlotId) -> Option<Link<FromWorker>> {
        while self.is_called(slot_id) {
            self.slow_down(slot_id);
            match self.rehire(slot_id) {
                Ok(link) => return Some(link),
                // All workers of a Fork pool are made from one copy of the program. That copy
                // cannot be made again.
                Err(error)
                    if error.is_fork_server_gone()
                        && self.config.start_method == StartMethod::Fork =>
                {
                    self.give_up_slot(slot_id, SlotState::Broken, error);
                }
                Err(error) => self.give_up_slot(slot_id, SlotState::Retired, error),
            }
        }
        None
    }

    /// Pauses if one worker after another exits before it begins a task. The pause is cut short if
    /// the pool ends.
    fn slow_down(&self, slot_id: SlotId) {
        let state = self.lock();
        let fruitless = state.slots[slot_id as usize].fruitless;
        if fruitless > QUICK_REPLACEMENTS {
            let pause = FIRST_PAUSE * 2_u32.pow((fruitless - QUICK_REPLACEMENTS).min(6));
            drop(self.called.wait_timeout_while(state, pause, |state| self.keeps(state, slot_id)));
        }
    }

    /// Starts a replacement worker. Tries several times, because processes and descriptors may
    /// become free.
    fn rehire(&self, slot_id: SlotId) -> Result<Link<FromWorker>, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let followed = if self.is_of_main_thread { sys::follow_main_thread() } else { Ok(()) };
            let followed = followed.map_err(|error| Error::start("a worker", error));
            let error = match followed.and_then(|()| self.hire(slot_id)) {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            let state = self.lock();
            if pause > MAX_PAUSE || !self.keeps(&state, slot_id) {
                return Err(error);
            }
            drop(self.ended.wait_timeout(state, pause));
            pause *= 2;
        }
    }

    fn on_message(&self, slot_id: SlotId, message: FromWorker, failure: &mut Option<Error>) {
        match message {
            FromWorker::Ready => {
                let mut state = self.lock();
                let slot = &mut state.slots[slot_id as usize];
                slot.ready = true;
                slot.failed_starts = 0;
            }
            FromWorker::InitializerFailed(fault) => {
                *failure = Some(Error::from_fault_payload(fault))
            }
            FromWorker::Leaves(why) => {
                let mut state = self.lock();
                state.slots[slot_id as usize].leaving = Some(why);
                // A message that was sent to this worker meanwhile wakes nobody: wake another
                // worker.
                if self.board.has_ready() {
                    self.wake(&mut state, 1);
                }
                unlock(state, Vec::new());
            }
            FromWorker::Look => {
                self.collect();
                self.listen();
            }
            FromWorker::NeedsHandles(ticket) => {
                let mut state = self.lock();
                let handles =
                    state.in_flight.get_mut(&ticket).and_then(|in_flight| in_flight.handles.take());
                let sent = state
                    .mail(slot_id, ToWorker::Handles(Ok(handles.and_then(WaitingHandles::take))));
                if let Err(why) = sent {
                    let _ = state.mail(slot_id, ToWorker::Handles(Err(why)));
                }
            }
            FromWorker::OutOfBand { ticket, task, value } => {
                let mut deliveries = Vec::new();
                let mut state = self.lock();
                // Accept results only of tasks that exist: otherwise a corrupt worker could fill
                // our memory.
                if let Some(in_flight) = state.in_flight.get_mut(&ticket)
                    && (task as usize) < in_flight.count
                {
                    in_flight.out_of_band.insert(task, value);
                    if in_flight.waits_for_out_of_band {
                        self.settle_finished(&mut state, ticket, &mut deliveries);
                    }
                }
                self.pump(&mut state);
                unlock(state, deliveries);
            }
        }
    }

    /// After a panic of the slot's supervisor: kills the worker, settles what it left, and gives up
    /// the slot.
    fn fail_slot(&self, slot_id: SlotId, link: &Link<FromWorker>, why: String) {
        link.handle.signal(Signal::SIGKILL);
        let error = Error::start("a worker again", std::io::Error::other(why));
        self.bury_killed(slot_id, link, Some(error.clone()));
        self.give_up_slot(slot_id, SlotState::Broken, error);
    }

    /// Waits until a killed worker has exited, then settles what it left.
    fn bury_killed(&self, slot_id: SlotId, link: &Link<FromWorker>, failure: Option<Error>) {
        link.wait_for_end();
        let pid = Some(link.handle.pid);
        let origin = Origin { worker: Some(slot_id as usize), pid, ..Origin::default() };
        if let Some((slot_state, error)) = self.bury(slot_id, Exit::default(), failure, origin) {
            self.give_up_slot(slot_id, slot_state, error);
        }
    }
}

/// A supervisor thread, while it runs. When the thread ends, even by a panic, `drop` notifies the
/// threads that wait for its end.
struct Supervisor(Arc<Scheduler>);

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.0.lock().supervisors -= 1;
        self.0.ended.notify_all();
        self.0.timed.notify_all();
    }
}
