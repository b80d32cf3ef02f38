//! A job: the work of one call. The job cuts its tasks into chunks and hands the chunks out, a
//! window at a time, until each task has its fate (a result or an error).
//!
//! A job runs in a task of the driver's runtime. The caller only encodes inputs, sends [`Note`]s to
//! the job, and waits at the job's mailbox. The window has three effects: it bounds the work that
//! lies at the server, it lets other jobs hand out chunks in between, and it leaves the size of
//! later chunks open until the cost of a task is known.
//!
//! The server keeps a chunk until the driver acknowledges it, and the driver does so when it has
//! the reply. So the server redelivers chunks that are lost on the way. The job also asks the
//! server regularly which chunks it has, and hands out again those that the server itself has lost.

mod call;
mod note;
mod publication;
mod task_queue;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proc_core::{Error, remote};
use publication::Publication;
pub(crate) use task_queue::Batch;
use task_queue::TaskQueue;
use tokio::sync::mpsc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tracing::{debug, warn};

pub(crate) use self::call::Call;
pub(crate) use self::note::Note;
use self::note::REQUEST_TIMEOUT;
use crate::connection::is_connected;
use crate::lease;
use crate::link::Link;
use crate::mailbox::{Delivery, Mailbox};
use crate::message::{self, Body, Chunk, Outcome, Reply};

/// The most chunks that may be in flight in addition to two for each worker.
const MAX_MORE_CHUNKS: usize = 512;

/// The work of one job that waits at the server should keep each worker busy for this long.
const AHEAD_NANOS: f64 = 50e6;

/// While so many bytes of arguments are in flight, no more chunks are handed out.
const MAX_IN_FLIGHT_BYTES: usize = 64 << 20;

/// How often a chunk may be returned or lost, for any reason, before its tasks fail as lost.
const MAX_RETURNS: u32 = 20;

/// A task fails when this many machines were lost while they had it.
const MAX_LOSSES: u32 = 3;

/// After a machine was lost with a chunk, the chunk is cut into about this many equal parts, or
/// into more if a part would have more tasks than this number. So each part is a single task after
/// the second loss.
const PARTS: usize = 64;

/// How often the job looks whether a machine was lost, while it has suspects.
const SUSPECTS_INTERVAL: Duration = Duration::from_millis(100);

/// A chunk in flight: it is handed out, and its tasks have no fates yet.
struct InFlight {
    chunk: Chunk,
    arguments: Arc<Vec<u8>>,
    handed_out: Instant,
    /// When the server confirmed that it has the chunk.
    confirmed: Option<Instant>,
    /// Whether the server did not have the chunk when it was last asked.
    is_missing: bool,
}

/// A chunk that the server has redelivered. So the machine that had it may be lost.
struct Suspect {
    in_flight: InFlight,
    /// When the driver was told that the chunk was redelivered.
    redelivered: Instant,
}

struct Job {
    link: Arc<Link>,
    number: u64,
    begin: Instant,
    call: Call,
    mailbox: Arc<Mailbox>,
    notes: UnboundedReceiver<Note>,
    queue: TaskQueue,
    /// Chunks that must be handed out again, before new ones.
    requeued: VecDeque<(Chunk, Arc<Vec<u8>>)>,
    /// Redelivered chunks, until it is known whether a machine was lost.
    suspects: Vec<Suspect>,
    /// The chunks in flight, by the number of their first task.
    in_flight: HashMap<usize, InFlight>,
    /// The bytes of the arguments in flight.
    in_flight_bytes: usize,
    publishing: JoinSet<Result<Chunk, (Chunk, Error)>>,
    fetching: JoinSet<(Reply, Result<Vec<u8>, Error>)>,
    /// Whether no more tasks will come.
    has_all_tasks: bool,
    /// Whether something of the job may be left at the server when the job ends: pieces of large
    /// values, or chunks that were handed out twice.
    must_purge: bool,
}

/// Starts a job on the driver's runtime. Returns where its caller sends notes, and its mailbox.
///
/// # Errors
///
/// The cluster is closed.
pub(crate) fn start(
    runtime: &tokio::runtime::Handle,
    link: &Arc<Link>,
    call: Call,
) -> Result<(UnboundedSender<Note>, Arc<Mailbox>), Error> {
    let (sender, notes) = mpsc::unbounded_channel();
    let number = link.open_job(sender.clone())?;
    let mailbox = Arc::new(Mailbox::default());
    let job = Job {
        link: Arc::clone(link),
        number,
        begin: Instant::now(),
        mailbox: Arc::clone(&mailbox),
        notes,
        queue: TaskQueue::new(call.options.chunksize),
        call,
        requeued: VecDeque::new(),
        suspects: Vec::new(),
        in_flight: HashMap::new(),
        in_flight_bytes: 0,
        publishing: JoinSet::new(),
        fetching: JoinSet::new(),
        has_all_tasks: false,
        must_purge: false,
    };
    runtime.spawn(job.run());
    Ok((sender, mailbox))
}

impl Drop for Job {
    fn drop(&mut self) {
        // However the job ends, also by a panic, its caller must not wait forever.
        self.mailbox.close(crate::link::closed());
    }
}

impl Job {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(self.check_interval());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut suspects_tick = tokio::time::interval(SUSPECTS_INTERVAL);
        suspects_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(self.has_all_tasks && self.is_done()) {
            self.hand_out();
            tokio::select! {
                note = self.notes.recv() => match note {
                    Some(Note::Tasks(batch)) => self.queue.add(batch),
                    Some(Note::End) => self.has_all_tasks = true,
                    Some(Note::Reply(reply)) => self.on_reply(reply).await,
                    Some(Note::Close(error)) => {
                        self.give_up(error);
                        break;
                    }
                    None => break,
                },
                Some(published) = self.publishing.join_next() => match published {
                    Ok(Ok(chunk)) => self.on_published(chunk),
                    Ok(Err((chunk, error))) => self.on_not_published(chunk, error),
                    // The publication was aborted, which happens only when the job ends. A panic in
                    // it arrives as an error, see `catch_panic`.
                    Err(_) => {}
                },
                Some(fetched) = self.fetching.join_next() => {
                    if let Ok((reply, fates)) = fetched {
                        self.on_fetched(reply, fates).await;
                    }
                }
                _ = tick.tick() => self.housekeep().await,
                _ = suspects_tick.tick(), if !self.suspects.is_empty() => self.judge_suspects(),
            }
        }
        self.clean_up().await;
    }

    fn is_done(&self) -> bool {
        self.queue.is_empty()
            && self.requeued.is_empty()
            && self.suspects.is_empty()
            && self.in_flight.is_empty()
    }

    /// Hands out chunks until the window is full.
    fn hand_out(&mut self) {
        let workers = self.link.workers().max(1);
        while self.in_flight.len() < self.window(workers)
            && (self.in_flight_bytes < MAX_IN_FLIGHT_BYTES || self.in_flight.is_empty())
        {
            let next = self.next_requeued().or_else(|| self.queue.cut(workers));
            let Some((chunk, arguments)) = next else { return };
            self.must_purge |= chunk.attempt > 0 || arguments.len() > message::PIECE_BYTES;
            self.in_flight_bytes += arguments.len();
            self.publish(chunk, &arguments);
            let handed_out = Instant::now();
            let in_flight =
                InFlight { chunk, arguments, handed_out, confirmed: None, is_missing: false };
            self.in_flight.insert(chunk.first, in_flight);
        }
    }

    /// Returns the next chunk that must be handed out again.
    ///
    /// Of the chunks that must run alone, only one is in flight at a time. Otherwise an agent that
    /// requests several chunks could receive two of them, and if one took the machine down, both
    /// would be suspect.
    fn next_requeued(&mut self) -> Option<(Chunk, Arc<Vec<u8>>)> {
        if self.requeued.is_empty() {
            return None;
        }
        let one_runs_alone =
            self.in_flight.values().any(|in_flight| in_flight.chunk.must_be_alone());
        let may_run = |(chunk, _): &(Chunk, _)| !(one_runs_alone && chunk.must_be_alone());
        let next = self.requeued.iter().position(may_run)?;
        self.requeued.remove(next)
    }

    /// How many chunks may be in flight: two for each worker, and more if chunks take less than
    /// [`AHEAD_NANOS`].
    fn window(&self, workers: usize) -> usize {
        let more = self.queue.chunk_nanos().map_or(0, |nanos| (AHEAD_NANOS / nanos) as usize);
        2 * workers + workers.saturating_mul(more).min(MAX_MORE_CHUNKS)
    }

    fn publish(&mut self, chunk: Chunk, arguments: &Arc<Vec<u8>>) {
        let publication = Publication {
            link: Arc::clone(&self.link),
            job: self.number,
            call: self.call.clone(),
            chunk,
            arguments: Arc::clone(arguments),
        };
        self.publishing.spawn(publication.run());
    }

    /// Handles the confirmation of a chunk by the server.
    fn on_published(&mut self, chunk: Chunk) {
        let in_flight = self.in_flight.get_mut(&chunk.first);
        if let Some(in_flight) = in_flight.filter(|in_flight| in_flight.chunk == chunk) {
            in_flight.confirmed = Some(Instant::now());
        }
    }

    /// Takes a chunk out of the chunks in flight. Returns `None` if its tasks have their fates
    /// already, or are now in flight in other chunks.
    fn take_in_flight(&mut self, chunk: Chunk) -> Option<InFlight> {
        let has_same_tasks = |in_flight: &&InFlight| in_flight.chunk.count == chunk.count;
        self.in_flight.get(&chunk.first).filter(has_same_tasks)?;
        let in_flight = self.in_flight.remove(&chunk.first)?;
        self.in_flight_bytes -= in_flight.arguments.len();
        Some(in_flight)
    }

    /// Takes a chunk out of the job, wherever it is. Returns false if its tasks have their fates
    /// already, or are now in other chunks.
    fn take(&mut self, chunk: Chunk) -> bool {
        let has_same_tasks = |it: Chunk| (it.first, it.count) == (chunk.first, chunk.count);
        if self.take_in_flight(chunk).is_some() {
            return true;
        }
        if let Some(at) = self.suspects.iter().position(|it| has_same_tasks(it.in_flight.chunk)) {
            self.suspects.swap_remove(at);
            return true;
        }
        let requeued = self.requeued.iter().position(|(it, _)| has_same_tasks(*it));
        requeued.and_then(|at| self.requeued.remove(at)).is_some()
    }

    fn deliver(&self, chunk: Chunk, host: String, fates: Result<Vec<u8>, Error>) {
        self.mailbox.deliver(Delivery { first: chunk.first, count: chunk.count, host, fates });
    }

    /// Handles a chunk that the server has not confirmed: its tasks fail, unless they were handed
    /// out again since. If the server has not stored the data that all tasks need, the call fails.
    fn on_not_published(&mut self, chunk: Chunk, error: Error) {
        let in_flight = self.in_flight.get(&chunk.first);
        let is_in_flight = in_flight.is_some_and(|in_flight| in_flight.chunk == chunk);
        if is_in_flight && self.take_in_flight(chunk).is_some() {
            if self.call.data.as_ref().is_some_and(|data| !data.can_be_named()) {
                return self.give_up(error);
            }
            self.deliver(chunk, String::new(), Err(error));
        }
    }

    /// Handles the reply of an agent to a chunk.
    async fn on_reply(&mut self, mut reply: Reply) {
        let acknowledge = std::mem::take(&mut reply.acknowledge);
        let Reply { chunk, .. } = reply;
        match reply.outcome {
            Outcome::Done { fates: body @ Body::Stored { .. }, nanoseconds, retried } => {
                reply.acknowledge = acknowledge;
                let fates = Body::Inline(Vec::new());
                reply.outcome = Outcome::Done { fates, nanoseconds, retried };
                self.fetch(reply, body);
                return;
            }
            Outcome::Done { fates: Body::Inline(fates), nanoseconds, retried } => {
                self.settle(chunk, reply.host, fates, nanoseconds, retried);
            }
            Outcome::Failed(error) => {
                if self.take(chunk) {
                    self.deliver(chunk, reply.host, Err(remote::error_from_bytes(&error)));
                }
            }
            Outcome::CallFailed(error) => {
                if self.take_in_flight(chunk).is_some() {
                    // Nearly always, other machines could not use the data either.
                    let error = remote::error_from_bytes(&error);
                    self.give_up(remote::add_origin(error, None, Some(&reply.host)));
                }
            }
            Outcome::DataLost { losses } => {
                if let Some(data) = &self.call.data {
                    data.note_loss(losses);
                }
                self.requeue(chunk);
            }
            Outcome::Returned => self.requeue(chunk),
            Outcome::Busy => self.on_busy(chunk),
            Outcome::Suspect => {
                let in_flight = self.take_in_flight(chunk);
                let suspect = |in_flight| Suspect { in_flight, redelivered: Instant::now() };
                self.suspects.extend(in_flight.map(suspect));
            }
        }
        self.link.acknowledge(acknowledge).await;
    }

    /// Delivers the fates of a chunk to the caller.
    fn settle(
        &mut self,
        chunk: Chunk,
        host: String,
        fates: Vec<u8>,
        nanoseconds: u64,
        retried: u64,
    ) {
        if self.take(chunk) {
            // An agent cannot have tried the tasks more often than the call allows.
            let most = chunk.count.saturating_mul(self.call.options.retries as usize);
            self.mailbox.add_retried(most.min(usize::try_from(retried).unwrap_or(usize::MAX)));
            self.queue.learn(nanoseconds, chunk.count);
            self.deliver(chunk, host, Ok(fates));
        }
    }

    /// Fetches stored results in the background, and renews the lease of the chunk meanwhile.
    fn fetch(&mut self, reply: Reply, body: Body) {
        self.must_purge = true;
        let link = Arc::clone(&self.link);
        let job = self.number;
        self.fetching.spawn(async move {
            let subject = link.names.fates(link.driver, job, reply.chunk, reply.delivered);
            let fetched = link.store.get(body, &subject);
            if !lease::is_acknowledge_subject(&reply.acknowledge) {
                return (reply, fetched.await);
            }
            let renewed = lease::renew(&link.client, &reply.acknowledge, link.config.lease);
            let fates = tokio::select! {
                fates = fetched => fates,
                never = renewed => match never {},
            };
            (reply, fates)
        });
    }

    async fn on_fetched(&mut self, reply: Reply, fates: Result<Vec<u8>, Error>) {
        let Outcome::Done { nanoseconds, retried, .. } = reply.outcome else { return };
        match fates {
            Ok(fates) => self.settle(reply.chunk, reply.host, fates, nanoseconds, retried),
            Err(error) => {
                warn!(%error, "results were not fetched");
                self.requeue(reply.chunk);
            }
        }
        self.link.acknowledge(reply.acknowledge).await;
    }

    /// Hands out again a chunk for which a machine had no room. This is not counted, neither as
    /// a return nor as a retry.
    fn on_busy(&mut self, chunk: Chunk) {
        let Some(InFlight { chunk, arguments, .. }) = self.take_in_flight(chunk) else { return };
        debug!(job = self.number, ?chunk, "no room, handed out again");
        self.requeued.push_back((Chunk { attempt: chunk.attempt + 1, ..chunk }, arguments));
    }

    /// Hands out again a chunk in flight that was returned or lost, unless that has happened too
    /// often.
    fn requeue(&mut self, chunk: Chunk) {
        if let Some(InFlight { chunk, arguments, .. }) = self.take_in_flight(chunk) {
            self.hand_out_again(chunk, arguments);
        }
    }

    fn hand_out_again(&mut self, chunk: Chunk, arguments: Arc<Vec<u8>>) {
        debug!(job = self.number, ?chunk, "returned or lost, handed out again");
        let (attempt, returns) = (chunk.attempt + 1, chunk.returns + 1);
        if returns > MAX_RETURNS {
            let error = remote::lost_error(format!(
                "no machine finished the task: it was returned or lost more than {MAX_RETURNS} \
                 times; see the logs of the agents"
            ));
            return self.deliver(chunk, String::new(), Err(error));
        }
        self.mailbox.add_retried(chunk.count);
        self.requeued.push_back((Chunk { attempt, returns, ..chunk }, arguments));
    }

    /// Judges the suspects of which it is known by now whether a machine was lost.
    fn judge_suspects(&mut self) {
        if !is_connected(&self.link.client) {
            return; // no heartbeats arrive
        }
        for suspect in std::mem::take(&mut self.suspects) {
            let Suspect { in_flight: InFlight { chunk, handed_out, .. }, redelivered } = suspect;
            match self.link.has_lost_a_machine(handed_out, redelivered) {
                Some(true) => self.on_loss(chunk, &suspect.in_flight.arguments),
                // No machine was lost: for example, the server was away, and only renewals of the
                // lease were lost.
                Some(false) => self.hand_out_again(chunk, suspect.in_flight.arguments),
                None => self.suspects.push(suspect),
            }
        }
    }

    /// Handles the loss of a machine that had this chunk. One of the tasks may be the cause.
    ///
    /// The tasks are handed out again in smaller and smaller parts, and at last each alone on a
    /// machine, until the task that takes machines down is found.
    fn on_loss(&mut self, chunk: Chunk, arguments: &[u8]) {
        let losses = chunk.losses + 1;
        debug!(job = self.number, ?chunk, "a machine that had the chunk was lost");
        if chunk.count == 1 && losses >= MAX_LOSSES {
            let error = remote::lost_error(format!(
                "{losses} machines in turn were lost while they had the task: run it on machines with \
                 more memory, or fix what takes the machines down"
            ));
            return self.deliver(chunk, String::new(), Err(error));
        }
        self.mailbox.add_retried(chunk.count);
        let part = chunk.count.div_ceil(PARTS).min(PARTS);
        let mut rest = arguments;
        for first in (chunk.first..chunk.first + chunk.count).step_by(part) {
            let count = part.min(chunk.first + chunk.count - first);
            let bytes = task_queue::take_records(&mut rest, count).to_vec();
            let (attempt, returns) = (chunk.attempt + 1, chunk.returns + 1);
            let part = Chunk { first, count, attempt, returns, losses };
            self.requeued.push_back((part, Arc::new(bytes)));
        }
    }

    /// Looks for chunks that the server has lost. Ends the job if there was no agent for too long.
    async fn housekeep(&mut self) {
        if self.is_done() || !is_connected(&self.link.client) {
            return;
        }
        if let Some(absence) = self.link.absence(self.begin) {
            return self.give_up(absence);
        }
        self.requeue_lost_chunks().await;
    }

    /// How often the job looks for chunks that the server has lost.
    fn check_interval(&self) -> Duration {
        (self.link.config.lease / 2).min(Duration::from_secs(2))
    }

    /// Hands out again the chunks that the server confirmed some time ago and no longer has.
    ///
    /// The server keeps a chunk until the driver acknowledges it, also while the chunk runs. A
    /// chunk that is answered soon is never checked.
    async fn requeue_lost_chunks(&mut self) {
        let interval = self.check_interval();
        let is_old = |in_flight: &&InFlight| {
            in_flight.confirmed.is_some_and(|since| since.elapsed() >= interval)
        };
        let old = self.in_flight.values().filter(is_old).map(|in_flight| in_flight.chunk);
        let old: Vec<Chunk> = old.collect();
        if old.is_empty() {
            return;
        }
        // The list is younger than the confirmations of the old chunks. So an old chunk that is not
        // in the list is missing at the server.
        let list = self.link.work_at_server(interval / 2);
        let subjects = match tokio::time::timeout(REQUEST_TIMEOUT, list).await {
            Ok(Ok(subjects)) => subjects,
            Ok(Err(error)) => {
                warn!(%error, "lost work cannot be found");
                let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.link.make_streams()).await;
                return;
            }
            Err(_) => return,
        };
        for chunk in old {
            let Link { names, build, driver, .. } = &*self.link;
            let is_missing = !subjects.contains(&names.work(build, *driver, self.number, chunk));
            let Some(in_flight) = self.in_flight.get_mut(&chunk.first) else { continue };
            // The chunk must be missing twice, since another server of a cluster may not know it
            // yet.
            if std::mem::replace(&mut in_flight.is_missing, is_missing) && is_missing {
                warn!(job = self.number, ?chunk, "the server has lost work");
                self.requeue(chunk);
            }
        }
    }

    /// Ends all tasks that have no fates with one error.
    fn give_up(&mut self, error: Error) {
        self.must_purge |= !self.in_flight.is_empty();
        self.mailbox.close(error);
        self.in_flight.clear();
        self.requeued.clear();
        self.suspects.clear();
        self.queue = TaskQueue::new(None);
        self.has_all_tasks = true;
    }

    /// Removes everything of the job from the server.
    async fn clean_up(mut self) {
        self.mailbox.close(crate::link::closed());
        self.link.close_job(self.number);
        if self.must_purge {
            self.link.send_heartbeat_now();
        }
        // Chunks on their way to the server must arrive before they can be removed.
        let all_published = async { while self.publishing.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, all_published).await;
        self.publishing.shutdown().await;
        self.fetching.shutdown().await;
        if self.must_purge
            && let Err(error) = self.link.remove_job(self.number).await
        {
            warn!(%error, "work of the job may be left at the server");
        }
        // `Link::join` waits until this channel is closed.
        self.notes.close();
    }
}
