//! What keeps a pool going: publishing work, collecting results, and replacing the dead.
//!
//! Each worker has an *attendant*, a thread that reads the worker's reports, nearly always asleep.
//! It collects results when told, and when its worker has ended it settles what the worker left and
//! starts the next one. Whoever waits for results collects too, so that a quick task wakes nobody.
//! All bookkeeping is in [`State`], under one lock; results are delivered after it is released.

mod limits;
mod publish;
mod settle;
mod staff;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_channel::ipc::IpcSender;
use nix::sys::signal::Signal;

use super::job::{Delivery, Feed, Inbox};
use crate::context::{self, Context};
use crate::error::{Error, Place};
use crate::function::Name;
use crate::limits::Limits;
use crate::process::Handle;
use crate::queue::{Arena, Block, Board, Chunk, Layout, Owner, TicketId};
use crate::streams::Streams;
use crate::template::Template;
use crate::wire::{Handles, Payload};
use crate::worker::Mail;

/// How long a worker that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_millis(500);

/// How long a waiting call sleeps at most before it looks for itself.
const BELT: Duration = Duration::from_secs(1);

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
    pub(crate) limits: Limits,
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

/// What is to be told after the lock is released.
type Deliveries = Vec<(Arc<Inbox>, Delivery)>;

impl Crew {
    /// Makes the pool and starts its workers; if one cannot be started, ends the others.
    pub(crate) fn build(plan: Plan) -> Result<Arc<Crew>, Error> {
        let template = match plan.context {
            Context::Fork => {
                let keep = |template: &Arc<Template>| Ok(Arc::clone(template));
                Some(context::with_template(Context::Fork, &Streams::default(), keep)?)
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

    /// Sees to it that somebody is told of the next finished ticket, unless somebody looks anyway.
    fn listen(&self) {
        while self.lookers.load(Ordering::SeqCst) == 0 && !self.board.listen() {
            self.collect();
        }
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
            if belt <= Instant::now() {
                self.check_board();
            }
        }
    }

    /// Ends the pool if a worker, dead or alive, has overwritten the board.
    fn check_board(&self) {
        let mut state = self.lock();
        if !self.is_sane(&state) {
            self.end(&mut state, Some(Error::overwritten()));
            for handle in state.seats.iter().filter_map(|seat| seat.handle.as_ref()) {
                handle.signal(Signal::SIGKILL);
            }
        }
        unlock(state, Vec::new());
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
