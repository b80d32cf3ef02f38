//! The life of a pool's worker, from inside: initialize, then claim, run, hand over, or sleep.
//! At its end in order, what its state needs for that.

use std::time::{Duration, Instant};

use ipc_channel::ipc::{IpcReceiver, IpcSender, IpcSharedMemory};
use ipc_channel::{IpcError, TryRecvError};
use serde::{Deserialize, Serialize};

use crate::function::{Call, Fault, Input, Name, State};
use crate::panics::{self, Echo};
use crate::queue::{Board, Layout, Owner, Region, TicketId};
use crate::record;
use crate::sys;
use crate::wire::{Handles, Payload, Report};

/// What a worker is born with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) owner: Owner,
    pub(crate) mail: IpcReceiver<Mail>,
    pub(crate) layout: Layout,
    pub(crate) board: IpcSharedMemory,
    pub(crate) regions: Vec<IpcSharedMemory>,
    pub(crate) initializer: Option<(Name, Payload)>,
    /// What makes the state; it is `()` without.
    pub(crate) state: Option<(Name, Payload)>,
    /// What is given the state at the end.
    pub(crate) worker_exit: Option<Name>,
    pub(crate) max_tasks: Option<u64>,
    /// How long it waits for work before it leaves.
    pub(crate) idle_timeout: Option<Duration>,
}

/// What the parent sends to one worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Mail {
    /// Look at the board.
    Wake,
    /// The next region of the arena.
    Region(IpcSharedMemory),
    /// The channel ends that were asked for.
    Handles(Option<Handles>),
}

/// What a worker sends to its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// The initializer has returned, and the state is made.
    Ready,
    /// The initializer, or what makes the state, failed: a [`Fault`].
    InitializerFailed(Payload),
    /// It claims no more, and ends once it has put its state away.
    Leaves(Leaving),
    /// A ticket is finished, and the parent wanted to know.
    Finished,
    /// The arguments of this chunk hold channel ends: send them.
    Asks(TicketId),
    /// The result of a task that goes apart from the chunk's other results.
    Apart { ticket: TicketId, task: u32, value: Payload },
}

/// Why a worker ends in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Leaving {
    /// It has done as many tasks as it was to do.
    Done,
    /// It had nothing to do for as long as it was to wait.
    Idle,
    /// There are to be fewer workers, or none.
    Dismissed,
}

/// How long a finished chunk waits for threads that its tasks left holding an output stream.
const FLUSH_PATIENCE: Duration = Duration::from_millis(50);

/// How long a worker looks for work before it sleeps, where another processor can bring some.
const LOOKS: u32 = 200;

/// Serves a pool until it closes or the worker has done its share.
pub(crate) fn main(setup: Setup, report: &IpcSender<Report>) -> ! {
    panics::set_echo(Echo::Reported);
    sys::shrug_off_interrupt();
    let Some(board) = Board::map(setup.layout, setup.board) else { sys::exit_now(1) };
    let mut worker = Worker {
        owner: setup.owner,
        board,
        mail: setup.mail,
        report,
        regions: setup.regions.into_iter().map(Region::from).collect(),
        handles: None,
        resolved: None,
        left: setup.max_tasks.unwrap_or(u64::MAX),
        idle_timeout: setup.idle_timeout,
        out: Vec::new(),
        maker: setup.state,
        state: None,
    };
    let mut initializer = setup.initializer;
    let initialized = call_once(initializer.as_mut(), &mut None);
    if let Err(fault) = initialized.and_then(|()| make_state(&mut worker.state, &mut worker.maker))
    {
        worker.give_up(&fault);
    }
    worker.tell(News::Ready);
    let why = worker.serve();
    worker.tell(News::Leaves(why));
    end_state(worker.state, setup.worker_exit);
    sys::exit_now(0)
}

/// Calls what a worker calls but once, if it is to.
fn call_once(what: Option<&mut (Name, Payload)>, state: &mut State) -> Result<(), Fault> {
    let Some((name, arguments)) = what else { return Ok(()) };
    let (bytes, handles) = arguments.parts();
    name.resolve()?(Input { bytes, handles, state }, &mut Vec::new())?;
    Ok(())
}

/// Gives a worker its state, at first or again.
fn make_state(state: &mut State, maker: &mut Option<(Name, Payload)>) -> Result<(), Fault> {
    *state = Some(Box::new(()));
    call_once(maker.as_mut(), state)
}

/// Gives the state to the function that is to have it last. Nobody waits for what comes of it.
fn end_state(mut state: State, worker_exit: Option<Name>) {
    if let Some(call) = worker_exit.and_then(|name| name.resolve().ok()) {
        let _ = call(Input { bytes: &[], handles: None, state: &mut state }, &mut Vec::new());
    }
    let _ = panics::contain(|| drop(state));
}

struct Worker<'a> {
    owner: Owner,
    board: Board,
    mail: IpcReceiver<Mail>,
    report: &'a IpcSender<Report>,
    regions: Vec<Region>,
    /// Channel ends that have come in answer to our asking.
    handles: Option<Option<Handles>>,
    /// The last function resolved.
    resolved: Option<(Name, Call)>,
    /// Tasks until this worker is to be replaced.
    left: u64,
    idle_timeout: Option<Duration>,
    /// Room for a result before it goes to shared memory.
    out: Vec<u8>,
    maker: Option<(Name, Payload)>,
    state: State,
}

impl Worker<'_> {
    fn serve(&mut self) -> Leaving {
        while self.left > 0 {
            if self.board.is_dismissed(self.owner) {
                return Leaving::Dismissed;
            }
            match self.claim() {
                Some(ticket) => self.run(ticket),
                None if self.board.fall_asleep(self.owner) && !self.sleep() => {
                    return Leaving::Idle;
                }
                None => {}
            }
        }
        Leaving::Done
    }

    /// Sleeps until a message comes. False if none did for so long that the worker is to leave.
    fn sleep(&mut self) -> bool {
        let received = match self.idle_timeout {
            None => self.mail.recv().map_err(TryRecvError::IpcError),
            // Rounded up, since what waits counts in whole milliseconds.
            Some(patience) => self.mail.try_recv_timeout(patience + Duration::from_micros(999)),
        };
        match received {
            Ok(mail) => self.take(mail),
            Err(TryRecvError::IpcError(error)) => self.miss(&error),
            // Nobody has picked this worker, nor will: it can go without being missed. Work that was
            // published since finds others, or calls for one when this one is known to be gone.
            Err(TryRecvError::Empty) if self.board.wake_up(self.owner) => return false,
            // Picked at the last moment: the message is on its way.
            Err(TryRecvError::Empty) => self.read_mail(),
        }
        self.board.wake_up(self.owner);
        true
    }

    /// Claims a chunk, looking for one some while.
    fn claim(&self) -> Option<TicketId> {
        for look in 0..LOOKS {
            let ticket = self.board.claim(self.owner);
            if ticket.is_some() || self.board.is_dismissed(self.owner) {
                return ticket;
            }
            if look % 16 == 15 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        None
    }

    /// Waits for a message and acts on it.
    fn read_mail(&mut self) {
        match self.mail.recv() {
            Ok(mail) => self.take(mail),
            Err(error) => self.miss(&error),
        }
    }

    fn take(&mut self, mail: Mail) {
        match mail {
            Mail::Wake => {}
            Mail::Region(region) => self.regions.push(Region::from(region)),
            Mail::Handles(handles) => self.handles = Some(handles),
        }
    }

    /// Where no message comes because nobody is left to send one, it is over.
    fn miss(&self, error: &IpcError) {
        match error {
            IpcError::Io(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => sys::exit_now(1),
        }
    }

    fn tell(&self, news: News) {
        if self.report.send(Report::Worker(news)).is_err() {
            // The parent is gone, and the template is about to notice.
            sys::exit_now(1);
        }
    }

    /// Ends a worker that cannot be initialized.
    fn give_up(&self, why: &Fault) -> ! {
        let why = Payload::encode(why).expect("a fault is text");
        self.tell(News::InitializerFailed(why));
        sys::exit_now(1)
    }

    /// Runs a chunk's tasks one after the other and hands it over.
    ///
    /// A worker whose share ends in the middle leaves the rest unfinished; as it dies of it, the
    /// parent publishes the rest again.
    fn run(&mut self, ticket: TicketId) {
        let start = Instant::now();
        let chunk = self.board.chunk(ticket);
        while self.regions.len() <= chunk.region as usize {
            self.read_mail();
        }
        let call = self.resolve(chunk.name);
        let handles = if chunk.asks { self.ask(ticket) } else { None };
        let region = &self.regions[chunk.region as usize];
        let results = chunk.offset + chunk.arguments;
        let arguments = region.claimed_bytes(chunk.offset as usize, chunk.arguments as usize);
        let Some(mut arguments) = arguments else { sys::exit_now(1) };
        let mut out = std::mem::take(&mut self.out);
        let mut written = 0;
        let mut handles = handles;
        for task in 0..chunk.count {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            let Some(bytes) = record::take(&mut arguments) else { sys::exit_now(1) };
            let input = Input { bytes, handles: handles.take(), state: &mut self.state };
            self.board.begin_task(ticket, task, chunk.timed.then(sys::monotonic));
            out.clear();
            let returned = record::append_result(&mut out, |out| match &call {
                Ok(call) => call(input, out),
                Err(fault) => Err(fault.clone()),
            });
            sys::flush_line();
            // Every later result needs at least its tag and length in the room that is left.
            let spare = LEAST * u64::from(chunk.count - task - 1);
            let fits = written + out.len() as u64 + spare <= chunk.room;
            let returned = returned.unwrap_or(None);
            if returned.is_some() || !fits {
                self.send_apart(ticket, task, &out, returned);
                out.clear();
                record::append_apart(&mut out);
            }
            if !region.write((results + written) as usize, &out) {
                sys::exit_now(1);
            }
            written += out.len() as u64;
            self.board.end_task(ticket, task, written);
            if self.state.is_none()
                && let Err(fault) = make_state(&mut self.state, &mut self.maker)
            {
                // Between two tasks, so only the worker is lost; the next one may have more luck.
                self.give_up(&fault);
            }
        }
        sys::flush(FLUSH_PATIENCE);
        out.clear();
        out.shrink_to(1 << 20);
        self.out = out;
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if self.board.finish(ticket, nanoseconds) {
            self.tell(News::Finished);
        }
    }

    /// Sends a result that is too large for the room, or holds channel ends.
    ///
    /// `encoded` is a whole record, so a fault that is too long for the room arrives as well.
    fn send_apart(&self, ticket: TicketId, task: u32, encoded: &[u8], handles: Option<Handles>) {
        let value = Payload::new(encoded.to_vec(), handles).unwrap_or_else(|why| {
            let mut record = Vec::new();
            let _ = record::append_result::<()>(&mut record, |_| Err(Fault::Result(why)));
            Payload::new(record, None).expect("a short text needs no shared memory")
        });
        self.tell(News::Apart { ticket, task, value });
    }

    /// Gets the channel ends that are part of this chunk's arguments.
    fn ask(&mut self, ticket: TicketId) -> Option<Handles> {
        self.tell(News::Asks(ticket));
        loop {
            if let Some(handles) = self.handles.take() {
                return handles;
            }
            self.read_mail();
        }
    }

    fn resolve(&mut self, name: Name) -> Result<Call, Fault> {
        match self.resolved {
            Some((known, call)) if known == name => Ok(call),
            _ => {
                let call = name.resolve()?;
                self.resolved = Some((name, call));
                Ok(call)
            }
        }
    }
}

const LEAST: u64 = record::LEAST_RESULT as u64;
