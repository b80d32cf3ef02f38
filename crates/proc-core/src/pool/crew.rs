//! What keeps a pool going: publishing work, collecting results, and replacing the dead.
//!
//! Each worker has an *attendant*, a thread that reads the worker's reports, nearly always asleep.
//! It collects results when told, and when its worker has ended it settles what the worker left and
//! starts the next one. Whoever waits for results collects too, so that a quick task wakes nobody.
//! All bookkeeping is in [`State`], under one lock; results are delivered after it is released.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_channel::ipc::{self, IpcSender};
use nix::sys::signal::Signal;

use super::job::{Cut, Delivery, Feed, Inbox};
use crate::context::{self, Context};
use crate::error::{Error, Place};
use crate::function::{Fault, Name};
use crate::panics;
use crate::process::{self, Handle, Link, Received};
use crate::queue::{Arena, Block, Board, Chunk, Layout, Owner, TicketId};
use crate::record;
use crate::sys;
use crate::template::Template;
use crate::wire::{Handles, Job, Payload, Report};
use crate::worker::{Mail, News, Setup};

/// How often a seat's initializer may fail before it is believed.
const INITIALIZER_ATTEMPTS: u32 = 3;

/// How often a seat's worker may die before it is ready without an initializer to blame.
const START_ATTEMPTS: u32 = 20;

/// How long a worker that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_millis(500);

/// After waiting so long for a replacement to become possible, its seat is given up.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a waiting call sleeps at most before it looks for itself.
const BELT: Duration = Duration::from_secs(1);

/// How often running tasks' timeouts are looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// How often whoever waits looks for results before it sleeps.
const LOOKS: u32 = 400;

/// Encodes the initializer and its argument anew for each worker.
pub(crate) type Initializer = Box<dyn Fn() -> Result<(Name, Payload), Error> + Send + Sync>;

/// What a pool is made with.
pub(crate) struct Plan {
    pub(crate) processes: u32,
    pub(crate) context: Context,
    pub(crate) name: String,
    pub(crate) initializer: Option<Initializer>,
    pub(crate) max_tasks: Option<u64>,
}

/// A pool, shared by its handle, its attendants and whoever waits for results.
pub(crate) struct Crew {
    plan: Plan,
    /// The process that built it.
    maker: u32,
    board: Board,
    state: Mutex<State>,
    /// Signalled when an attendant has ended.
    ended: Condvar,
    /// Signalled when there are timeouts to watch over, or none any more.
    timed: Condvar,
    /// How many threads look for results all the time.
    lookers: AtomicUsize,
    /// The template of a `Fork` pool, which is its own.
    template: Option<Arc<Template>>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    arena: Arena,
    /// Feeds in turn: the front one is cut next, then goes to the back.
    feeds: VecDeque<Feed>,
    /// Chunks whose worker died before it began them, to be published again first.
    again: VecDeque<TicketId>,
    /// Tickets not in use.
    free: Vec<TicketId>,
    out: HashMap<TicketId, Out>,
    seats: Vec<Seat>,
    /// Attendants that have not ended.
    attendants: usize,
    threads: Vec<JoinHandle<()>>,
    /// Whether a thread watches over timeouts.
    warden: bool,
    /// Futures to be woken when the lock is released.
    wakers: Vec<Waker>,
}

#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    Open,
    /// No new calls; ends when all work is done.
    Closing,
    /// Everything is called off.
    Over(Option<Error>),
}

/// A ticket that is in use.
struct Out {
    inbox: Arc<Inbox>,
    first: usize,
    count: usize,
    /// How often these tasks were tried before.
    attempts: u32,
    block: Block,
    chunk: Chunk,
    /// Its place in the ring, once published.
    position: u64,
    /// Its claimer, once the ring no longer shows it.
    owner: Option<Owner>,
    handles: Option<Handles>,
    /// Results that came by message.
    apart: HashMap<u32, Payload>,
    /// Finished, but not all messages have come.
    waits_for_apart: bool,
}

/// A worker's place in the pool.
#[derive(Default)]
struct Seat {
    mail: Option<IpcSender<Mail>>,
    handle: Option<Handle>,
    failed_starts: u32,
    ready: bool,
    /// Why the worker was killed, if it was by us.
    doom: Option<Doom>,
}

/// A task that was stopped by killing its worker.
#[derive(Debug)]
struct Doom {
    inbox: Arc<Inbox>,
    task: usize,
    error: Error,
}

/// How a worker ended.
struct End<'a> {
    death: &'a Error,
    place: &'a Place,
    doom: Option<&'a Doom>,
}

/// What is to be told after the lock is released.
type Deliveries = Vec<(Arc<Inbox>, Delivery)>;

impl Crew {
    /// Makes the pool and starts its workers; if one cannot be started, ends the others.
    pub(crate) fn build(plan: Plan) -> Result<Arc<Crew>, Error> {
        let template = match plan.context {
            Context::Fork => {
                Some(context::with_template(Context::Fork, |template| Ok(Arc::clone(template)))?)
            }
            _ => None,
        };
        let layout = Layout::for_workers(plan.processes);
        let board = Board::new(layout).map_err(|e| Error::start("the pool's work queue", e))?;
        let mut state = State { free: (0..layout.tickets).rev().collect(), ..State::default() };
        state.seats.resize_with(plan.processes as usize, Seat::default);
        let crew = Arc::new(Crew {
            plan,
            maker: std::process::id(),
            board,
            state: Mutex::new(state),
            ended: Condvar::new(),
            timed: Condvar::new(),
            lookers: AtomicUsize::new(0),
            template,
        });
        let mut hired = Vec::new();
        let mut result = Ok(());
        for owner in 0..crew.plan.processes {
            match crew.hire(owner) {
                Ok(link) => hired.push((owner, link)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for (owner, link) in hired {
            result = result.and(crew.attend(owner, link));
        }
        if result.is_err() {
            crew.terminate();
        }
        result.map(|()| crew)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False in a copy of the process that built the pool, where nobody attends it.
    fn is_ours(&self) -> bool {
        self.maker == std::process::id()
    }

    pub(crate) fn processes(&self) -> usize {
        self.plan.processes as usize
    }

    /// Starts a worker on seat `owner`.
    fn hire(&self, owner: Owner) -> Result<Link, Error> {
        let serial = process::next_serial();
        let place = Place { worker: Some(owner as usize), ..Place::default() };
        let start = |template: &Arc<Template>| {
            let initializer = self.plan.initializer.as_ref().map(|encode| encode()).transpose()?;
            let cannot = |error| Error::start("a worker", error);
            let (sender, mail) = ipc::channel().map_err(cannot)?;
            let setup = {
                let mut state = self.lock();
                // From here on new regions are announced by mail.
                state.seats[owner as usize].mail = Some(sender);
                let regions = state.arena.regions();
                // Each is copied once more when it is sent, and ipc-channel panics if it cannot be.
                sys::spare_descriptors(2 * regions.len() + 4).map_err(cannot)?;
                let shared: Result<_, _> = regions.iter().map(|region| region.share()).collect();
                Setup {
                    owner,
                    mail,
                    layout: self.board.layout(),
                    board: self.board.share().map_err(cannot)?,
                    regions: shared.map_err(cannot)?,
                    initializer,
                    max_tasks: self.plan.max_tasks,
                }
            };
            let name = format!("{}-{owner}", self.plan.name);
            Link::start(template, serial, &name, Job::Work(Box::new(setup)))
        };
        let link = match &self.template {
            Some(template) => start(template),
            None => context::with_template(self.plan.context, start),
        };
        let mut state = self.lock();
        let seat = &mut state.seats[owner as usize];
        match link {
            Ok(link) => {
                seat.ready = false;
                seat.handle = Some(link.handle.clone());
                Ok(link)
            }
            Err(error) => {
                seat.mail = None;
                Err(if error.is_init_missing() { error } else { error.at(place) })
            }
        }
    }

    /// Starts the attendant of seat `owner` and its first worker.
    fn attend(self: &Arc<Self>, owner: Owner, link: Link) -> Result<(), Error> {
        let crew = Arc::clone(self);
        self.lock().attendants += 1;
        let attendant = move || {
            let attendant = Attendant(crew);
            let mut link = Some(link);
            while let Some(worker) = link.take() {
                match panics::catch(|| attendant.0.attend_one(owner, &worker)) {
                    Ok(next) => link = next,
                    Err(panic) => attendant.0.fail_seat(owner, &worker, panic.message),
                }
            }
        };
        let name = format!("{}-{owner}", self.plan.name);
        match std::thread::Builder::new().name(name).stack_size(256 << 10).spawn(attendant) {
            Ok(thread) => {
                self.lock().threads.push(thread);
                Ok(())
            }
            Err(error) => {
                self.lock().attendants -= 1;
                Err(Error::start("a worker's attendant", error))
            }
        }
    }

    /// Attends one worker until its end; the next one, if there is to be one on this seat.
    fn attend_one(&self, owner: Owner, link: &Link) -> Option<Link> {
        let mut failure = None;
        let status = loop {
            match link.receive(None) {
                Received::Report(Report::Worker(news)) => self.hear(owner, news, &mut failure),
                Received::Report(Report::Exited { status }) => {
                    break Some(ExitStatus::from_raw(status));
                }
                Received::Report(Report::BadSurroundings(why)) => {
                    failure = Some(Error::start("a worker", std::io::Error::other(why)));
                }
                Received::Report(_) | Received::Nothing => {}
                Received::End => break None,
                Received::Rubbish => link.handle.signal(Signal::SIGKILL),
            }
        };
        let pid = Some(link.handle.pid);
        let place = Place { worker: Some(owner as usize), pid, ..Place::default() };
        if !self.bury(owner, status, failure, place) {
            return None;
        }
        self.rehire(owner).map_err(|error| self.give_up_seat(owner, error)).ok()
    }

    /// Starts a replacement, patiently: processes and descriptors may come free.
    fn rehire(&self, owner: Owner) -> Result<Link, Error> {
        let mut pause = Duration::from_millis(10);
        loop {
            let error = match self.hire(owner) {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            let state = self.lock();
            if pause > LONGEST_PAUSE || matches!(state.phase, Phase::Over(_)) {
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
            News::Finished => {
                self.collect();
                self.listen();
            }
            News::Asks(ticket) => {
                let mut state = self.lock();
                let handles = state.out.get_mut(&ticket).and_then(|out| out.handles.take());
                state.mail(owner, Mail::Handles(handles));
            }
            News::Apart { ticket, task, value } => {
                let mut news = Vec::new();
                let mut state = self.lock();
                if let Some(out) = state.out.get_mut(&ticket) {
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

    /// Sees to it that somebody is told of the next finished ticket, unless somebody looks anyway.
    fn listen(&self) {
        while self.lookers.load(Ordering::SeqCst) == 0 && !self.board.listen() {
            self.collect();
        }
    }

    /// Whether the board still shows what was published. A worker that dies may have overwritten it.
    fn is_sane(&self, state: &State) -> bool {
        state.out.iter().all(|(ticket, out)| {
            out.owner.is_some()
                || state.again.contains(ticket)
                || self.board.shows(*ticket, out.position)
        })
    }

    /// Takes over a call's tasks.
    pub(crate) fn submit(self: &Arc<Self>, feed: Feed) -> Result<(), Error> {
        if !self.is_ours() {
            return Err(Error::invalid(format!(
                "the pool belongs to process {}, and this one is a copy of it: build another",
                self.maker
            )));
        }
        let mut state = self.lock();
        match &state.phase {
            Phase::Open => {}
            Phase::Closing => return Err(Error::closed()),
            Phase::Over(cause) => return Err(cause.clone().unwrap_or_else(Error::closed)),
        }
        if feed.left > 0 {
            let timed = feed.inbox.terms.timeout.is_some();
            state.feeds.push_back(feed);
            self.pump(&mut state);
            if timed {
                self.start_warden(&mut state)?;
            }
        }
        unlock(state, Vec::new());
        Ok(())
    }

    /// Forgets what was not handed out yet of a call that nobody waits for.
    pub(crate) fn drop_feeds(&self, inbox: &Arc<Inbox>) {
        let mut state = self.lock();
        // Nobody waits for it, so nobody is to be woken.
        let _ = inbox.discard(Error::cancelled());
        self.withdraw(&mut state, inbox);
        self.pump(&mut state);
        unlock(state, Vec::new());
    }

    /// Takes back what no worker has claimed of a call.
    fn withdraw(&self, state: &mut State, inbox: &Arc<Inbox>) {
        state.feeds.retain(|feed| !Arc::ptr_eq(&feed.inbox, inbox));
        let theirs = |out: &Out| Arc::ptr_eq(&out.inbox, inbox);
        let open: Vec<TicketId> =
            state.out.iter().filter(|(_, out)| theirs(out)).map(|(ticket, _)| *ticket).collect();
        for ticket in open {
            let position = state.out.get(&ticket).map_or(0, |out| out.position);
            let waiting = state.again.contains(&ticket);
            if waiting || self.board.retract(ticket, position) {
                state.again.retain(|other| *other != ticket);
                self.retire(state, ticket);
            }
        }
    }

    /// Publishes what can be published, and wakes as many sleepers.
    fn pump(&self, state: &mut State) {
        let mut published = 0;
        while self.publish_one(state) {
            published += 1;
        }
        if published > 0 {
            self.wake(state, published);
        }
        if matches!(state.phase, Phase::Closing) && state.is_idle() {
            self.board.close();
            self.wake(state, usize::MAX);
        }
    }

    fn wake(&self, state: &mut State, most: usize) {
        for owner in self.board.pick_sleepers(most) {
            state.mail(owner, Mail::Wake);
        }
    }

    fn publish_one(&self, state: &mut State) -> bool {
        if matches!(state.phase, Phase::Over(_)) {
            return false;
        }
        if let Some(ticket) = state.again.pop_front() {
            return self.publish(state, ticket);
        }
        let workers = self.processes();
        let Some(feed) = state.feeds.front() else { return false };
        // Chunks that adapt are published just ahead of the workers, so that they can.
        let ahead = if feed.is_fixed() { usize::MAX } else { 2 * workers + 2 };
        if state.out.len() >= ahead {
            return false;
        }
        let Some(ticket) = state.free.pop() else { return false };
        let Some(mut feed) = state.feeds.pop_front() else { return false };
        let prepared = self.prepare(state, &mut feed, workers);
        if feed.left > 0 {
            state.feeds.push_back(feed);
        }
        match prepared {
            Ok(out) => {
                state.out.insert(ticket, out);
                self.publish(state, ticket)
            }
            Err((inbox, error)) => {
                state.free.push(ticket);
                state.feeds.retain(|feed| !Arc::ptr_eq(&feed.inbox, &inbox));
                state.wakers.extend(inbox.close(error));
                true
            }
        }
    }

    /// Cuts a chunk and writes it into a block.
    fn prepare(
        &self,
        state: &mut State,
        feed: &mut Feed,
        workers: usize,
    ) -> Result<Out, (Arc<Inbox>, Error)> {
        let (inbox, name, attempts) = (Arc::clone(&feed.inbox), feed.name, feed.attempts);
        let fail = |error| (Arc::clone(&inbox), error);
        let Some(Cut { first, count, bytes, handles }) = feed.cut(workers) else {
            return Err(fail(Error::invalid("a call's arguments are not whole")));
        };
        // Results are as large as arguments, for all we know; what does not fit comes by message.
        let room = bytes.len() + count * (record::LEAST_RESULT + 16);
        let allocated = state.arena.allocate(bytes.len() + room);
        let cannot = |error| fail(Error::start("a chunk's memory", error));
        let (block, new) = allocated.map_err(cannot)?;
        if new > 0 {
            for owner in 0..self.plan.processes {
                let region = state.arena.region(block).share().map_err(cannot)?;
                state.mail(owner, Mail::Region(region));
            }
        }
        let written = state.arena.region(block).write(block.offset as usize, bytes);
        debug_assert!(written, "the block was allocated for it");
        let arguments = bytes.len() as u64;
        let chunk = Chunk {
            name,
            region: block.region,
            offset: block.offset,
            arguments,
            room: block.len - arguments,
            count: count as u32,
            asks: handles.is_some(),
            timed: inbox.terms.timeout.is_some(),
        };
        Ok(Out {
            inbox,
            first,
            count,
            attempts,
            block,
            chunk,
            position: 0,
            owner: None,
            handles,
            apart: HashMap::new(),
            waits_for_apart: false,
        })
    }

    fn publish(&self, state: &mut State, ticket: TicketId) -> bool {
        let State { out, again, .. } = state;
        let Some(entry) = out.get_mut(&ticket) else { return false };
        let chunk = entry.chunk;
        entry.owner = None;
        entry.position = self.board.position();
        let keep = |ticket, owner| {
            if let Some(other) = out.get_mut(&ticket) {
                other.owner = Some(owner);
            }
        };
        let published = self.board.publish(ticket, &chunk, keep);
        if !published {
            again.push_front(ticket);
        }
        published
    }

    /// Takes what workers have finished and delivers it.
    pub(crate) fn collect(&self) {
        let mut news = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut news);
        self.pump(&mut state);
        unlock(state, news);
    }

    fn collect_finished(&self, state: &mut State, news: &mut Deliveries) {
        for ticket in self.board.take_finished() {
            self.settle_finished(state, ticket, news);
        }
    }

    /// Settles a ticket whose worker says it is finished.
    fn settle_finished(&self, state: &mut State, ticket: TicketId, news: &mut Deliveries) {
        let Some(out) = state.out.get_mut(&ticket) else { return };
        let progress = self.board.progress(ticket);
        if progress.done as usize != out.count {
            return; // not what a worker of ours writes; its death will settle it
        }
        let mut bytes = Vec::new();
        read_results(&state.arena, out, progress.results, &mut bytes);
        let apart = count_apart(&bytes, out.count);
        if apart.iter().any(|task| !out.apart.contains_key(task)) {
            out.waits_for_apart = true;
            return;
        }
        out.inbox.learn(progress.nanoseconds, out.count);
        let owner = out.owner.or_else(|| self.board.claimer(ticket, out.position));
        let place = owner.map_or_else(Place::default, |owner| state.place_of(owner));
        let others = self.retry_panicked(state, ticket, &bytes, &place);
        let Some(out) = self.retire(state, ticket) else { return };
        if let Some(others) = others {
            news.extend(others);
            return;
        }
        let (first, count) = (out.first, out.count);
        let delivery = Delivery::Results { first, count, bytes, apart: out.apart, place };
        news.push((out.inbox, delivery));
    }

    /// Takes the panicked tasks of a finished chunk out of its results, to be tried again.
    ///
    /// Returns the results of the others, one delivery each.
    fn retry_panicked(
        &self,
        state: &mut State,
        ticket: TicketId,
        bytes: &[u8],
        place: &Place,
    ) -> Option<Deliveries> {
        let out = state.out.get_mut(&ticket)?;
        if out.attempts >= out.inbox.terms.retries || out.chunk.asks {
            return None;
        }
        let (first, attempts, name) = (out.first, out.attempts + 1, out.chunk.name);
        let inbox = Arc::clone(&out.inbox);
        let mut apart = std::mem::take(&mut out.apart);
        let arguments = read_arguments(&state.arena, out);
        let (mut arguments, mut rest) = (&arguments[..], bytes);
        let mut others = Vec::new();
        for index in 0..out.count as u32 {
            let task = first + index as usize;
            let argument = record::take(&mut arguments)?;
            let before = rest;
            let outcome = record::take_result(&mut rest)?;
            if is_panic(&outcome, apart.get(&index)) {
                state.feeds.push_front(Feed::again(name, &inbox, task, argument, attempts));
                continue;
            }
            let bytes = before[..before.len() - rest.len()].to_vec();
            let apart = apart.remove(&index).map(|value| (0, value)).into_iter().collect();
            let place = place.clone();
            let delivery = Delivery::Results { first: task, count: 1, bytes, apart, place };
            others.push((Arc::clone(&inbox), delivery));
        }
        Some(others)
    }

    /// Gives back a ticket and its block.
    fn retire(&self, state: &mut State, ticket: TicketId) -> Option<Out> {
        let out = state.out.remove(&ticket)?;
        self.board.forget_claim(ticket, out.position);
        state.arena.release(out.block);
        state.free.push(ticket);
        Some(out)
    }

    /// Settles what a dead worker left. False if there is to be no other on its seat.
    fn bury(
        &self,
        owner: Owner,
        status: Option<ExitStatus>,
        failure: Option<Error>,
        place: Place,
    ) -> bool {
        let mut news = Vec::new();
        let mut state = self.lock();
        let seat = &mut state.seats[owner as usize];
        let was_ready = std::mem::take(&mut seat.ready);
        let doom = seat.doom.take();
        seat.mail = None;
        seat.handle = None;
        self.board.bury(owner);
        self.collect_finished(&mut state, &mut news);
        let death = failure.unwrap_or_else(|| Error::died(status)).at(place.clone());
        let mut left: HashSet<TicketId> = self.board.claimed_by(owner).into_iter().collect();
        left.retain(|t| state.out.get(t).is_some_and(|out| out.owner.is_none()));
        left.extend(state.out.iter().filter(|(_, out)| out.owner == Some(owner)).map(|(t, _)| *t));
        for ticket in left {
            let end = End { death: &death, place: &place, doom: doom.as_ref() };
            self.settle_claimed(&mut state, ticket, &end, &mut news);
        }
        let over = matches!(state.phase, Phase::Over(_))
            || (matches!(state.phase, Phase::Closing) && state.is_idle());
        let mut again = !over;
        let seat = &mut state.seats[owner as usize];
        if !over && !was_ready && doom.is_none() {
            seat.failed_starts += 1;
            let attempts =
                if self.plan.initializer.is_some() { INITIALIZER_ATTEMPTS } else { START_ATTEMPTS };
            again = seat.failed_starts < attempts;
        }
        if status.is_none_or(|status| status.signal().is_some()) && !self.is_sane(&state) {
            let error = Error::overwritten().at(place.clone());
            self.end(&mut state, Some(error));
        }
        self.pump(&mut state);
        // A message sent to the dead worker woke nobody.
        if self.board.has_ready() {
            self.wake(&mut state, 1);
        }
        unlock(state, news);
        // The dead worker may have promised a message that it did not live to send.
        self.listen();
        if !over && !again {
            let blamed =
                if self.plan.initializer.is_some() { Error::initializer(death) } else { death };
            self.give_up_seat(owner, blamed);
        }
        again
    }

    /// Settles a ticket that a dead worker had claimed: what it finished counts, the task it was at
    /// fails, and what it had not begun is published again.
    fn settle_claimed(
        &self,
        state: &mut State,
        ticket: TicketId,
        end: &End<'_>,
        news: &mut Deliveries,
    ) {
        let Some(out) = state.out.get_mut(&ticket) else { return };
        if out.inbox.is_closed() {
            self.retire(state, ticket);
            return;
        }
        let inbox = Arc::clone(&out.inbox);
        let progress = self.board.progress(ticket);
        let done = (progress.done as usize).min(out.count);
        let mut begun = (progress.begun as usize).clamp(done, done + 1).min(out.count);
        if done > 0 {
            let mut bytes = Vec::new();
            read_results(&state.arena, out, progress.results, &mut bytes);
            let apart = std::mem::take(&mut out.apart);
            let (first, place) = (out.first, end.place.clone());
            let delivery = Delivery::Results { first, count: done, bytes, apart, place };
            news.push((Arc::clone(&inbox), delivery));
        }
        // Arguments lie in memory that the dead worker could write: read once, checked.
        let arguments = read_arguments(&state.arena, out);
        let mut rest = &arguments[..];
        let mut whole = (0..done).all(|_| record::take(&mut rest).is_some());
        let can_repeat = !(out.chunk.asks && out.handles.is_none());
        let failed = |task, error: &Error| {
            let place = Place { task: Some(task), ..Place::default() };
            (Arc::clone(&inbox), Delivery::Failed { task, error: error.clone().at(place) })
        };
        let mut retry = None;
        if begun > done {
            let task = out.first + done;
            let error = match end.doom {
                Some(doom) if Arc::ptr_eq(&doom.inbox, &inbox) && doom.task == task => {
                    Some(&doom.error)
                }
                // We killed the worker for another task, which it had just finished.
                Some(_) if can_repeat => None,
                _ => Some(end.death),
            };
            if let Some(error) = error {
                let argument = record::take(&mut rest);
                whole &= argument.is_some();
                match argument {
                    Some(argument) if can_repeat && out.attempts < inbox.terms.retries => {
                        let attempts = out.attempts + 1;
                        retry = Some(Feed::again(out.chunk.name, &inbox, task, argument, attempts));
                    }
                    _ => news.push(failed(task, error)),
                }
            } else {
                begun = done;
            }
        }
        if begun < out.count && whole && can_repeat {
            let skipped = (arguments.len() - rest.len()) as u64;
            out.first += begun;
            out.count -= begun;
            out.chunk.offset += skipped;
            out.chunk.arguments -= skipped;
            out.chunk.count -= begun as u32;
            self.board.forget_claim(ticket, out.position);
            out.owner = None;
            out.waits_for_apart = false;
            state.again.push_back(ticket);
        } else {
            news.extend((out.first + begun..out.first + out.count).map(|t| failed(t, end.death)));
            self.retire(state, ticket);
        }
        state.feeds.extend(retry);
    }

    /// Takes back a call: what is not begun never runs, what runs is stopped. False if it was done.
    pub(crate) fn cancel(&self, inbox: &Arc<Inbox>) -> bool {
        let mut news = Vec::new();
        let mut state = self.lock();
        self.collect_finished(&mut state, &mut news);
        let queued = state.feeds.iter().any(|feed| Arc::ptr_eq(&feed.inbox, inbox));
        let running =
            state.out.values().any(|out| Arc::ptr_eq(&out.inbox, inbox) && !out.waits_for_apart);
        let cancelled = queued || running;
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

    /// The claimed tickets that are not settled, with their owners.
    fn running(&self, state: &State) -> Vec<(TicketId, Owner)> {
        let owner = |(ticket, out): (&TicketId, &Out)| {
            let owner = out.owner.or_else(|| self.board.claimer(*ticket, out.position));
            owner.map(|owner| (*ticket, owner))
        };
        state.out.iter().filter_map(owner).collect()
    }

    /// Starts the thread that watches over timeouts, unless it runs.
    fn start_warden(self: &Arc<Self>, state: &mut State) -> Result<(), Error> {
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

    /// After a panic of its attendant: ends the worker, settles what it had, and does without it.
    fn fail_seat(&self, owner: Owner, link: &Link, why: String) {
        link.handle.signal(Signal::SIGKILL);
        while !matches!(link.receive(None), Received::End | Received::Report(Report::Exited { .. }))
        {
        }
        let error = Error::start("a worker again", std::io::Error::other(why));
        let pid = Some(link.handle.pid);
        let place = Place { worker: Some(owner as usize), pid, ..Place::default() };
        self.bury(owner, None, Some(error.clone()), place);
        self.give_up_seat(owner, error);
    }

    /// Goes on without a seat, or ends the pool if it was the last one.
    fn give_up_seat(&self, owner: Owner, error: Error) {
        let mut state = self.lock();
        state.seats[owner as usize] = Seat { failed_starts: u32::MAX, ..Seat::default() };
        let left = state.seats.iter().any(|seat| seat.failed_starts < u32::MAX);
        if !left {
            self.end(&mut state, Some(error));
        }
        unlock(state, Vec::new());
    }

    /// Calls everything off: open tasks fail, workers are to go.
    fn end(&self, state: &mut State, cause: Option<Error>) {
        if matches!(state.phase, Phase::Over(_)) {
            return;
        }
        state.phase = Phase::Over(cause.clone());
        let error = || cause.clone().unwrap_or_else(Error::closed);
        let State { feeds, out, wakers, .. } = state;
        for feed in feeds.drain(..) {
            wakers.extend(feed.inbox.close(error()));
        }
        for (ticket, out) in out {
            self.board.retract(*ticket, out.position);
            wakers.extend(out.inbox.close(error()));
        }
        self.board.close();
        self.wake(state, usize::MAX);
        self.timed.notify_all();
    }

    /// Accepts no more calls; workers end when all work is done.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Closing;
            self.pump(&mut state);
        }
        unlock(state, Vec::new());
    }

    /// Waits until every worker has ended. False if the pool was not closed, which would be for ever.
    pub(crate) fn join(&self) -> Result<bool, Error> {
        let state = self.lock();
        if matches!(state.phase, Phase::Open) {
            return Ok(false);
        }
        let wait = self.ended.wait_while(state, |state| state.attendants > 0);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        let threads = std::mem::take(&mut state.threads);
        let failed = match &state.phase {
            Phase::Over(Some(cause)) => Err(cause.clone()),
            _ => Ok(true),
        };
        drop(state);
        end_threads(threads);
        failed
    }

    /// Ends the workers, the idle by a word, the busy by SIGTERM and after a grace by SIGKILL.
    pub(crate) fn terminate(&self) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        // What is finished by now counts.
        let mut news = Vec::new();
        self.collect_finished(&mut state, &mut news);
        for (inbox, delivery) in news {
            state.wakers.extend(inbox.accept(delivery));
        }
        self.end(&mut state, None);
        unlock(state, Vec::new());
        let mut state = self.lock();
        let busy: HashSet<Owner> = self
            .board
            .claims()
            .filter_map(|(ticket, owner)| state.out.contains_key(&ticket).then_some(owner))
            .chain(state.out.values().filter_map(|out| out.owner))
            .collect();
        let seats = state.seats.iter().enumerate();
        for handle in seats
            .filter(|(owner, seat)| busy.contains(&(*owner as Owner)) || !seat.ready)
            .filter_map(|(_, seat)| seat.handle.as_ref())
        {
            handle.signal(Signal::SIGTERM);
        }
        let over = Instant::now() + GRACE;
        let hopeless = over + 4 * GRACE;
        while state.attendants > 0 {
            let left = over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for handle in state.seats.iter().filter_map(|seat| seat.handle.as_ref()) {
                    handle.signal(Signal::SIGKILL);
                    // A template that is stopped passes nothing on; its end is its children's.
                    if hopeless < Instant::now() {
                        handle.kill_template();
                    }
                }
            }
            let left = if left.is_zero() { GRACE } else { left };
            let woken = self.ended.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        end_threads(threads);
    }

    /// Waits for the next delivery to `inbox`; `None` if the deadline comes first.
    pub(crate) fn wait(
        &self,
        inbox: &Inbox,
        deadline: Option<Instant>,
    ) -> Option<Result<Delivery, Error>> {
        loop {
            if let Some(delivery) = self.look(inbox) {
                return Some(delivery);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return None;
            }
            // Sleep is ended by a delivery; looking each second as well costs nothing, and no defect
            // of a worker can make it last for ever.
            let belt = Instant::now() + BELT;
            inbox.sleep(Some(deadline.map_or(belt, |deadline| deadline.min(belt))));
        }
    }

    /// Looks for results some while, collecting them itself, before it leaves that to messages.
    fn look(&self, inbox: &Inbox) -> Option<Result<Delivery, Error>> {
        if let Some(delivery) = inbox.poll() {
            return Some(delivery);
        }
        self.lookers.fetch_add(1, Ordering::SeqCst);
        self.board.stop_listening();
        let mut found = None;
        for look in 0..LOOKS {
            if self.board.has_finished() {
                self.collect();
            }
            found = inbox.poll();
            if found.is_some() {
                break;
            }
            if look % 16 == 15 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if self.lookers.fetch_sub(1, Ordering::SeqCst) == 1 {
            while !self.board.listen() {
                self.collect();
            }
        }
        found.or_else(|| inbox.poll())
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

impl State {
    fn is_idle(&self) -> bool {
        self.feeds.is_empty() && self.out.is_empty()
    }

    /// Ends a worker for the sake of one task, once.
    fn kill(&mut self, owner: Owner, doom: Doom) {
        if let Some(seat) = self.seats.get_mut(owner as usize)
            && seat.doom.is_none()
            && let Some(handle) = &seat.handle
        {
            handle.signal(Signal::SIGKILL);
            seat.doom = Some(doom);
        }
    }

    fn place_of(&self, owner: Owner) -> Place {
        let handle = self.seats.get(owner as usize).and_then(|seat| seat.handle.as_ref());
        Place { worker: Some(owner as usize), pid: handle.map(|h| h.pid), ..Place::default() }
    }

    /// Sends to a worker; one that is gone needs no mail.
    fn mail(&mut self, owner: Owner, mail: Mail) {
        if let Some(sender) = self.seats.get(owner as usize).and_then(|seat| seat.mail.as_ref()) {
            let _ = sender.send(mail);
        }
    }
}

/// Copies a chunk's results out of shared memory, never more than its room.
fn read_results(arena: &Arena, out: &Out, len: u64, bytes: &mut Vec<u8>) {
    let len = len.min(out.chunk.room) as usize;
    let start = (out.chunk.offset + out.chunk.arguments) as usize;
    arena.region(out.block).read(start, len, bytes);
}

/// Whether a task panicked; a long message goes apart like any long result.
fn is_panic(outcome: &record::Outcome<'_>, apart: Option<&Payload>) -> bool {
    match outcome {
        record::Outcome::Fault(Fault::Panicked(_)) => true,
        record::Outcome::Apart => apart
            .and_then(|payload| record::take_result(&mut payload.bytes()))
            .is_some_and(|outcome| is_panic(&outcome, None)),
        _ => false,
    }
}

/// Copies a chunk's arguments out of shared memory.
fn read_arguments(arena: &Arena, out: &Out) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = out.chunk.arguments as usize;
    arena.region(out.block).read(out.chunk.offset as usize, len, &mut bytes);
    bytes
}

/// The tasks whose results go by message.
fn count_apart(mut bytes: &[u8], count: usize) -> Vec<u32> {
    let mut apart = Vec::new();
    for task in 0..count as u32 {
        match record::take_result(&mut bytes) {
            Some(record::Outcome::Apart) => apart.push(task),
            Some(_) => {}
            None => break,
        }
    }
    apart
}

/// Waits until threads that have nothing left to do are gone, for whoever counts threads next.
fn end_threads(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // An attendant that panicked has said so on stderr; the others are to be waited for.
        let _ = thread.join();
    }
}

/// Releases the lock, then tells whoever waits: what they do about it is their own.
fn unlock(mut state: MutexGuard<'_, State>, news: Deliveries) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    for (inbox, delivery) in news {
        inbox.deliver(delivery);
    }
    wakers.into_iter().for_each(Waker::wake);
}
