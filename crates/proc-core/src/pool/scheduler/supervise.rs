//! Starts workers, supervises them until they exit, and gives up slots in which none can be
//! started. Also resizes the pool.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ipc_channel::ipc;
use nix::sys::signal::Signal;

use super::state::{
    Deliveries, KillReason, Phase, Scheduler, Slot, SlotState, StartFunction, State, unlock,
    unlock_and_deliver,
};
use crate::error::{Error, Exit, Origin};
use crate::forkserver::{
    ForkServer, Link, Received, Report, StartMethod, next_serial, preload, start_method,
};
use crate::panics;
use crate::pool::board::{SlotId, TicketId};
use crate::pool::job::WaitingHandles;
use crate::pool::worker::{self, FromWorker, LeaveReason, Setup, ToWorker};
use crate::sys::{self, RightsReader};

/// The longest pause between two attempts to start the next worker of a slot. If the next pause
/// would be longer, the slot is given up.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How many workers in a row that exit before they have begun a task are replaced without a pause.
const MAX_QUICK_REPLACEMENTS: u32 = 4;

/// The pause after the first failed attempt to start a worker. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The most regions that are sent with the message that starts a worker. A message carries at most
/// 64 descriptors.
const MAX_REGIONS_AT_START: usize = 32;

impl Scheduler {
    /// Gives up a slot: it becomes suspended or broken. If now all slots are given up, open calls
    /// fail. If in addition no slot is suspended, or the pool is closing, the pool ends, so that
    /// later calls fail too.
    pub(super) fn give_up_slot(&self, slot_id: SlotId, slot_state: SlotState, error: Error) {
        let mut state = self.lock();
        if self.may_have_worker(&state, slot_id) {
            state.set_slot_state(slot_id, slot_state);
            self.slots_changed.notify_all(); // for `wait_for_successors`
            self.fail_waiting(&mut state, slot_id, &error);
            if self.all_slots_given_up(&state) {
                let slots = &state.slots[..self.processes()];
                let can_retry = matches!(state.phase, Phase::Open)
                    && slots.iter().any(|slot| slot.slot_state == SlotState::Suspended);
                match can_retry {
                    true => {
                        self.fail_open_calls(&mut state, &error);
                        state.give_up_regions();
                    }
                    false => self.end_pool(&mut state, Some(error)),
                }
            }
            // Another vacant slot may be filled instead.
            self.dispatch(&mut state);
        }
        unlock(state);
    }

    /// Fails all open calls with an error. The pool stays open.
    fn fail_open_calls(&self, state: &mut State, error: &Error) {
        for queue in state.queues.take_all() {
            state.wakers.extend(queue.inbox.close(error.clone()));
        }
        state.requeued.clear();
        let tickets: Vec<TicketId> = state.in_flight.keys().copied().collect();
        for ticket in tickets {
            if let Some(in_flight) = state.in_flight.get(&ticket) {
                self.board.retract(ticket, in_flight.position);
            }
            if let Some(in_flight) = self.free_ticket_and_block(state, ticket) {
                state.wakers.extend(in_flight.inbox.close(error.clone()));
            }
        }
    }

    /// Changes the size of the pool; see [`Pool::resize`](crate::Pool::resize).
    pub(crate) fn resize(self: &Arc<Self>, processes: usize) -> Result<(), Error> {
        let max = self.board.layout().workers;
        let wanted = u32::try_from(processes).ok().filter(|wanted| *wanted <= max);
        let wanted = wanted.ok_or_else(|| {
            Error::invalid(format!(
                "this pool can grow to {max} processes, not to {processes}: build one that is \
                 larger from the beginning"
            ))
        })?;
        self.check_not_forked_copy()?;
        let _resizing = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
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
        unlock(state);
        let started = self.start_workers(empty.iter().copied());
        if started.is_err() {
            let mut state = self.lock();
            // The empty slots within the former size were broken before. They are broken again, so
            // that no call waits for a worker there.
            for slot_id in empty.into_iter().filter(|slot_id| *slot_id < before) {
                if !state.slots[slot_id as usize].supervised {
                    state.set_slot_state(slot_id, SlotState::Broken);
                }
            }
            if state.phase.check_open().is_ok() {
                self.admit(&mut state, before);
            }
            unlock(state);
        } else {
            self.wait_for_successors(wanted);
        }
        started
    }

    /// Waits, for at most a second, until each slot has a worker that stays. A worker that leaves
    /// because the pool was smaller has a supervisor still, which starts the next worker.
    fn wait_for_successors(&self, wanted: u32) {
        let is_starting = |state: &mut State| {
            let mut slots = state.slots[..wanted as usize].iter();
            matches!(state.phase, Phase::Open)
                && slots.any(|slot| {
                    let is_dismissed = slot.leaving == Some(LeaveReason::Dismissed);
                    let has_none = slot.handle.is_none() || is_dismissed;
                    has_none && slot.supervised && slot.slot_state == SlotState::Filled
                })
        };
        drop(self.slots_changed.wait_timeout_while(self.lock(), MAX_PAUSE, is_starting));
    }

    /// Sets the size of the pool. Workers in slots beyond it finish their chunk and are not
    /// replaced.
    fn admit(&self, state: &mut State, wanted: u32) {
        if state.slots.len() < wanted as usize {
            state.slots.resize_with(wanted as usize, Slot::default);
        }
        self.processes.store(wanted, Ordering::Relaxed);
        self.board.admit(wanted);
        for slot_id in self.board.take_sleepers(wanted..state.slot_ids().end, usize::MAX) {
            state.wake(slot_id);
        }
        self.resume_slots(state);
        self.dispatch(state);
        self.slots_changed.notify_all();
    }

    /// Starts workers in slots, and their supervisors. If a worker cannot be started, those that
    /// were started before still get their supervisors.
    pub(super) fn start_workers(
        self: &Arc<Self>,
        slot_ids: impl IntoIterator<Item = SlotId>,
    ) -> Result<(), Error> {
        let mut started = Vec::new();
        let mut result = Ok(());
        let mut rights = RightsReader::default();
        // The arguments of these functions are encoded by the user's code, which may change the
        // thread's rights.
        let calls_user_code = self.start_functions().is_any();
        for slot_id in slot_ids {
            if calls_user_code {
                rights = RightsReader::default();
            }
            match self.start_worker(slot_id, &mut rights) {
                Ok(link) => started.push((slot_id, link)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for (slot_id, link) in started {
            result = result.and(self.supervise(slot_id, link));
        }
        result
    }

    /// Starts a worker in a slot. A panic while starting becomes an error.
    fn start_worker(
        &self,
        slot_id: SlotId,
        rights: &mut RightsReader,
    ) -> Result<Link<FromWorker>, Error> {
        let cannot = |error| Error::start("a worker", error);
        let result = panics::catch_silently(|| self.start_worker_uncaught(slot_id, rights));
        result.unwrap_or_else(|panic| {
            self.settle_failed_start(slot_id);
            Err(cannot(std::io::Error::other(panic.message)))
        })
    }

    /// Like [`start_worker`](Scheduler::start_worker), but a panic passes through.
    fn start_worker_uncaught(
        &self,
        slot_id: SlotId,
        rights: &mut RightsReader,
    ) -> Result<Link<FromWorker>, Error> {
        let serial = next_serial();
        let origin = Origin { worker: Some(slot_id as usize), ..Origin::default() };
        // To find the number, the system's files are read, so it is found once.
        static PROCESSORS: OnceLock<usize> = OnceLock::new();
        let has_processor = (slot_id as usize) < *PROCESSORS.get_or_init(sys::available_processors);
        let start = |fork_server: &Arc<ForkServer>| {
            let encode =
                |function: Option<StartFunction>| function.map(|encode| encode()).transpose();
            let (initializer, state) = {
                let start_functions = self.start_functions();
                (start_functions.initializer.clone(), start_functions.state.clone())
            };
            let (initializer, state_maker) = (encode(initializer)?, encode(state)?);
            let cannot = |error| Error::start("a worker", error);
            let (to_worker, messages) = ipc::channel().map_err(cannot)?;
            let setup = {
                let mut state = self.lock();
                // The other regions are sent as messages.
                let at_start = state.arena.regions().len().min(MAX_REGIONS_AT_START);
                let slot = &mut state.slots[slot_id as usize];
                (slot.to_worker, slot.sent_regions) = (Some(to_worker), at_start);
                state.sent_regions = state.sent_regions.min(at_start);
                let regions = &state.arena.regions()[..at_start];
                let shared: Result<_, _> = regions.iter().map(|region| region.share()).collect();
                Setup {
                    slot_id,
                    messages,
                    layout: self.board.layout(),
                    board: self.board.share().map_err(cannot)?,
                    regions: shared.map_err(cannot)?,
                    initializer,
                    state: state_maker,
                    worker_exit: self.config.worker_exit,
                    max_tasks: self.config.max_tasks,
                    max_memory: self.config.max_memory,
                    idle_timeout: self.config.idle_timeout,
                    has_processor,
                    name: self.config.name.clone(),
                }
            };
            let name = format!("{}-{slot_id}", self.config.name);
            let job = setup.into_job(worker::MAIN);
            let job = job.map_err(|why| cannot(std::io::Error::other(why)))?;
            // This thread may spin only if the workers that were started before leave it a
            // processor.
            Link::start(fork_server, serial, &name, &self.config.attributes, job, has_processor)
        };
        let start = |fork_server: &Arc<ForkServer>| {
            start(fork_server).inspect_err(|_| self.settle_failed_start(slot_id))
        };
        let link =
            self.with_fork_server(rights, start).map_err(|error| error.with_origin(origin))?;
        let mut state = self.lock();
        let slot = &mut state.slots[slot_id as usize];
        slot.ready = false;
        slot.handle = Some(link.handle.clone());
        slot.kill_if_decided();
        self.slots_changed.notify_all(); // for `wait_for_successors`
        Ok(link)
    }

    /// Runs `start` with the fork server that makes this pool's workers. If that fork server turns
    /// out to be dead, runs `start` again with another one. Only the fork server of a `Fork` pool
    /// cannot be replaced.
    fn with_fork_server<T>(
        &self,
        rights: &mut RightsReader,
        mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let cannot = |error| Error::start("a worker", error);
        let preload = self.start_functions().preload.clone();
        let Some(preload) = preload else { return self.with_parent(rights, start) };
        let mut preloaded = self.preloaded.lock().unwrap_or_else(PoisonError::into_inner);
        // If the program's rights have changed, this fork server makes no more workers: it may have
        // more rights than the program has now.
        if let Some(fork_server) = &*preloaded
            && !fork_server.has_our_rights(rights).map_err(cannot)?
        {
            *preloaded = None;
        }
        if let Some(fork_server) = &*preloaded {
            match start(fork_server) {
                Err(error) if error.is_fork_server_gone() => {
                    *preloaded = None;
                    *rights = RightsReader::default(); // `start` may have called the user's code
                }
                result => return result,
            }
        }
        let made = self.with_parent(rights, |parent| {
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
        rights: &mut RightsReader,
        mut start: impl FnMut(&Arc<ForkServer>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let cannot = |error| Error::start("a worker", error);
        let own = self.fork_server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match own {
            Some(fork_server) if !fork_server.has_our_rights(rights).map_err(cannot)? => {
                let why = "the rights of the program have changed since it made this pool, and the \
                           workers of a Fork pool have the rights of that time: build the pool \
                           after the change";
                Err(Error::start("a worker", std::io::Error::other(why)))
            }
            Some(fork_server) => start(&fork_server),
            None => start_method::with_fork_server(
                self.config.start_method,
                &self.config.attributes.stdio,
                rights,
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
        // If the thread cannot be started, its closure is dropped. Then the link is still needed.
        let first = Arc::new(Mutex::new(Some(link)));
        let first_for_thread = Arc::clone(&first);
        let take = |first: &Mutex<Option<Link<FromWorker>>>| {
            first.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let supervisor = move || {
            let Supervisor(scheduler) = &Supervisor(scheduler);
            let mut link = take(&first_for_thread);
            while let Some(worker) = link.take() {
                if let Err(panic) = panics::catch(|| scheduler.supervise_one(slot_id, &worker)) {
                    scheduler.on_supervisor_panic(slot_id, &worker, panic.message);
                }
                link = scheduler.refill(slot_id);
            }
        };
        let name = format!("{}-{slot_id}", self.config.name);
        let thread = sys::spawn_thread(&name, sys::SMALL_STACK, supervisor);
        let mut state = self.lock();
        match thread {
            Ok(thread) => {
                // A pool that is resized many times must not keep the handles of ended threads.
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
                    link.wait_for_end();
                    self.on_exit(slot_id, &link, Exit::default(), None);
                }
                Err(Error::start("a worker's supervisor", error))
            }
        }
    }

    /// Supervises one worker until it has exited, then settles its tickets.
    fn supervise_one(&self, slot_id: SlotId, link: &Link<FromWorker>) {
        let mut failure = None;
        let mut had_end = false;
        let exit = loop {
            match link.receive(None) {
                Received::Report(Report::Said(message)) => {
                    self.on_message(slot_id, message, &mut failure)
                }
                Received::Report(Report::Exited(exit)) => break exit,
                Received::Report(Report::NotReady(why)) => {
                    failure = Some(Error::start("a worker", std::io::Error::other(why)));
                }
                Received::Report(_) | Received::Nothing => {}
                // An empty message (only a corrupt worker sends one) looks like end-of-file: kill
                // the worker, and tolerate such a message once.
                Received::End if !had_end => {
                    had_end = true;
                    link.handle.signal(Signal::SIGKILL);
                }
                Received::End => break Exit::default(),
                Received::Rubbish => link.handle.signal(Signal::SIGKILL),
            }
        };
        // A corrupt worker may have reported its own exit. It must not run beside its successor.
        link.handle.signal(Signal::SIGKILL);
        self.on_exit(slot_id, link, exit, failure);
    }

    /// Settles the tickets of a worker that has exited. Gives up its slot if too many workers have
    /// exited there.
    fn on_exit(
        &self,
        slot_id: SlotId,
        link: &Link<FromWorker>,
        exit: Exit,
        failure: Option<Error>,
    ) {
        let pid = Some(link.handle.pid);
        let origin = Origin { worker: Some(slot_id as usize), pid, ..Origin::default() };
        if let Some((slot_state, error)) = self.settle_dead_worker(slot_id, exit, failure, origin) {
            self.give_up_slot(slot_id, slot_state, error);
        }
    }

    /// Waits until a slot is filled, and starts its next worker. Returns `None` if the slot will
    /// have no worker any more.
    fn refill(&self, slot_id: SlotId) -> Option<Link<FromWorker>> {
        while self.wait_until_filled(slot_id) {
            self.pause_after_taskless_exits(slot_id);
            match self.start_next_worker(slot_id) {
                Ok(link) => return Some(link),
                // The fork server of a Fork pool is a copy of the program as it was when the pool
                // was built. It cannot be made again.
                Err(error)
                    if error.is_fork_server_gone()
                        && self.config.start_method == StartMethod::Fork =>
                {
                    self.give_up_slot(slot_id, SlotState::Broken, error);
                }
                Err(error) => self.give_up_slot(slot_id, SlotState::Suspended, error),
            }
        }
        None
    }

    /// Pauses if many workers in a row have exited before they had begun a task. The pause ends
    /// early if the slot may have no worker any more.
    fn pause_after_taskless_exits(&self, slot_id: SlotId) {
        let state = self.lock();
        let taskless_exits = state.slots[slot_id as usize].taskless_exits;
        if taskless_exits > MAX_QUICK_REPLACEMENTS {
            let pause = FIRST_PAUSE * 2_u32.pow((taskless_exits - MAX_QUICK_REPLACEMENTS).min(6));
            drop(
                self.slots_changed
                    .wait_timeout_while(state, pause, |state| self.may_have_worker(state, slot_id)),
            );
        }
    }

    /// Starts the next worker of a slot. Tries several times, because processes and descriptors may
    /// become free.
    fn start_next_worker(&self, slot_id: SlotId) -> Result<Link<FromWorker>, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let followed =
                if self.built_by_main_thread { sys::follow_main_thread() } else { Ok(()) };
            let followed = followed.map_err(|error| Error::start("a worker", error));
            let mut rights = RightsReader::default();
            let error = match followed.and_then(|()| self.start_worker(slot_id, &mut rights)) {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            let state = self.lock();
            if pause > MAX_PAUSE || !self.may_have_worker(&state, slot_id) {
                return Err(error);
            }
            drop(self.supervisor_ended.wait_timeout(state, pause));
            pause *= 2;
        }
    }

    /// Acts on a message from a worker.
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
                // This worker may have been woken for work that it will not claim: wake another
                // one.
                if self.board.has_ready() {
                    self.wake(&mut state, 1);
                }
                unlock(state);
            }
            FromWorker::Look => {
                self.collect();
                self.request_message();
            }
            FromWorker::NeedsHandles(ticket) => {
                let mut state = self.lock();
                // The worker is about to be killed. If it got the channel ends, the pool could not
                // run this task again.
                if state.slots[slot_id as usize].kill_reason.is_some() {
                    return;
                }
                let handles =
                    state.in_flight.get_mut(&ticket).and_then(|in_flight| in_flight.handles.take());
                let sent = state
                    .send(slot_id, ToWorker::Handles(Ok(handles.and_then(WaitingHandles::take))));
                if let Err(why) = sent {
                    let _ = state.send(slot_id, ToWorker::Handles(Err(why)));
                }
            }
            FromWorker::NeedsData { wanted, held } => self.on_needs_data(slot_id, wanted, held),
            FromWorker::DataFailed { ticket, fault } => self.on_data_failed(slot_id, ticket, fault),
            FromWorker::OutOfBand { ticket, task, value } => {
                let mut deliveries = Deliveries::default();
                let mut state = self.lock();
                // Results are kept only for tasks that exist. Otherwise a corrupt worker could fill
                // the parent's memory.
                if let Some(in_flight) = state.in_flight.get_mut(&ticket)
                    && (task as usize) < in_flight.count
                {
                    in_flight.out_of_band.insert(task, value);
                    if in_flight.waits_for_out_of_band {
                        self.settle_finished(&mut state, ticket, &mut deliveries);
                    }
                }
                self.dispatch(&mut state);
                unlock_and_deliver(state, deliveries);
            }
        }
    }

    /// Handles a panic of a slot's supervisor: kills the worker, settles its tickets, and gives up
    /// the slot.
    fn on_supervisor_panic(&self, slot_id: SlotId, link: &Link<FromWorker>, why: String) {
        link.handle.signal(Signal::SIGKILL);
        let why = format!("its supervisor panicked: {why}");
        let error = Error::start("the next worker", std::io::Error::other(why));
        link.wait_for_end();
        self.on_exit(slot_id, link, Exit::default(), Some(error.clone()));
        self.give_up_slot(slot_id, SlotState::Broken, error);
    }
}

/// A guard of a supervisor thread. When the thread ends, even by a panic, the guard notifies the
/// threads that wait for its end.
struct Supervisor(Arc<Scheduler>);

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.0.lock().supervisors -= 1;
        self.0.supervisor_ended.notify_all();
        self.0.watcher_signal.notify_all();
    }
}
