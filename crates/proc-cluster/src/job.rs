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

mod feed;
mod note;
mod publication;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use feed::Batch;
use feed::Feed;
use proc_core::remote::{CallOptions, Function};
use proc_core::{Error, remote};
use publication::Publication;
use tokio::sync::mpsc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tracing::{debug, warn};

pub(crate) use self::note::Note;
use self::note::REQUEST_TIMEOUT;
use crate::connection::is_connected;
use crate::lease;
use crate::link::Link;
use crate::mailbox::{Delivery, Mailbox};
use crate::message::{self, Body, Chunk, Outcome, Reply};

/// How many more chunks than two for each worker may be out, if chunks take almost no time.
const MAX_CHUNKS: usize = 512;

/// The work of one job that waits at the server should keep each worker busy for this long.
const AHEAD: f64 = 50e6; // nanoseconds

/// How many bytes of arguments may be out at once. A single chunk may always be out.
const MAX_BYTES: usize = 64 << 20;

/// How often a chunk may be returned or lost, for any reason, before its tasks fail as lost.
const RETURNS: u32 = 20;

/// A task fails when this many machines were lost while they had it.
const LOSSES: u32 = 3;

/// After a machine was lost with a chunk, the chunk is cut into at most this many parts.
const PARTS: usize = 64;

/// A chunk that is out: it is handed out, and its tasks have no fates yet.
struct Out {
    chunk: Chunk,
    arguments: Arc<Vec<u8>>,
    /// When the server confirmed that it has the chunk.
    confirmed: Option<Instant>,
    /// Whether the server did not have the chunk when it was last asked.
    missing: bool,
}

struct Job {
    link: Arc<Link>,
    number: u64,
    begin: Instant,
    function: Function,
    options: CallOptions,
    mailbox: Arc<Mailbox>,
    notes: UnboundedReceiver<Note>,
    feed: Feed,
    /// Chunks that must be handed out again, before new ones.
    again: VecDeque<(Chunk, Arc<Vec<u8>>)>,
    /// The chunks that are out, by the number of their first task.
    out: HashMap<usize, Out>,
    out_bytes: usize,
    publishing: JoinSet<Result<Chunk, (Chunk, Error)>>,
    fetching: JoinSet<(Reply, Result<Vec<u8>, Error>)>,
    /// No more tasks will come.
    ended: bool,
    /// Whether pieces of large values, or chunks that were handed out twice, may be at the server.
    leaves: bool,
}

/// Starts a job on the driver's runtime. Returns where its caller sends notes, and its mailbox.
///
/// # Errors
///
/// The cluster is closed.
pub(crate) fn start(
    runtime: &tokio::runtime::Handle,
    link: &Arc<Link>,
    function: Function,
    options: CallOptions,
) -> Result<(UnboundedSender<Note>, Arc<Mailbox>), Error> {
    let (sender, notes) = mpsc::unbounded_channel();
    let number = link.open_job(sender.clone())?;
    let mailbox = Arc::new(Mailbox::default());
    let job = Job {
        link: Arc::clone(link),
        number,
        begin: Instant::now(),
        function,
        options,
        mailbox: Arc::clone(&mailbox),
        notes,
        feed: Feed::new(options.chunksize),
        again: VecDeque::new(),
        out: HashMap::new(),
        out_bytes: 0,
        publishing: JoinSet::new(),
        fetching: JoinSet::new(),
        ended: false,
        leaves: false,
    };
    runtime.spawn(job.run());
    Ok((sender, mailbox))
}

impl Drop for Job {
    fn drop(&mut self) {
        // The job may end in any way, also by a panic: its caller must not wait for ever.
        self.mailbox.close(crate::link::closed());
    }
}

impl Job {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(self.look_every());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(self.ended && self.is_done()) {
            self.hand_out();
            tokio::select! {
                note = self.notes.recv() => match note {
                    Some(Note::Tasks(batch)) => self.feed.add(batch),
                    Some(Note::End) => self.ended = true,
                    Some(Note::Reply(reply)) => self.take(reply).await,
                    Some(Note::Close(error)) => {
                        self.give_up(error);
                        break;
                    }
                    None => break,
                },
                Some(published) = self.publishing.join_next() => match published {
                    Ok(Ok(chunk)) => self.confirm(chunk),
                    Ok(Err((chunk, error))) => self.fail(chunk, error),
                    // The publication was aborted, which happens only when the job ends. A panic in
                    // it arrives as an error, see `unpanicked`.
                    Err(_) => {}
                },
                Some(fetched) = self.fetching.join_next() => {
                    if let Ok((reply, fates)) = fetched {
                        self.take_fetched(reply, fates).await;
                    }
                }
                _ = tick.tick() => self.housekeep().await,
            }
        }
        self.clean_up().await;
    }

    fn is_done(&self) -> bool {
        self.feed.is_empty() && self.again.is_empty() && self.out.is_empty()
    }

    /// Hands out chunks until the window is full.
    fn hand_out(&mut self) {
        let workers = self.link.workers().max(1);
        while self.out.len() < self.window(workers)
            && (self.out_bytes < MAX_BYTES || self.out.is_empty())
        {
            let next = self.next_again().or_else(|| self.feed.cut(workers));
            let Some((chunk, arguments)) = next else { return };
            self.leaves |= chunk.attempt > 0 || arguments.len() > message::PIECE;
            self.out_bytes += arguments.len();
            self.publish(chunk, &arguments);
            let out = Out { chunk, arguments, confirmed: None, missing: false };
            self.out.insert(chunk.first, out);
        }
    }

    /// Returns the next chunk that must be handed out again.
    ///
    /// Of the chunks that must run alone, only one is out at a time. Otherwise an agent that
    /// requests several chunks could receive two of them, and if one took the machine down, both
    /// would be suspect.
    fn next_again(&mut self) -> Option<(Chunk, Arc<Vec<u8>>)> {
        if self.again.is_empty() {
            return None;
        }
        let one_is_out = self.out.values().any(|out| out.chunk.must_be_alone());
        let may_go = |(chunk, _): &(Chunk, _)| !(one_is_out && chunk.must_be_alone());
        let next = self.again.iter().position(may_go)?;
        self.again.remove(next)
    }

    /// How many chunks may be out: two for each worker, and more if chunks take almost no time.
    fn window(&self, workers: usize) -> usize {
        let cheap = self.feed.chunk_cost().map_or(0, |cost| (AHEAD / cost) as usize);
        2 * workers + workers.saturating_mul(cheap).min(MAX_CHUNKS)
    }

    fn publish(&mut self, chunk: Chunk, arguments: &Arc<Vec<u8>>) {
        let publication = Publication {
            link: Arc::clone(&self.link),
            job: self.number,
            function: self.function,
            options: self.options,
            chunk,
            arguments: Arc::clone(arguments),
        };
        self.publishing.spawn(publication.run());
    }

    fn confirm(&mut self, chunk: Chunk) {
        if let Some(out) = self.out.get_mut(&chunk.first).filter(|out| out.chunk == chunk) {
            out.confirmed = Some(Instant::now());
        }
    }

    /// Removes the chunk that a reply is for from `out`, and returns it. Returns `None` if its
    /// tasks have their fates already, or are now out in other chunks.
    fn settle(&mut self, chunk: Chunk) -> Option<Out> {
        self.out.get(&chunk.first).filter(|out| out.chunk.count == chunk.count)?;
        let out = self.out.remove(&chunk.first)?;
        self.out_bytes -= out.arguments.len();
        Some(out)
    }

    fn deliver(&self, chunk: Chunk, host: String, fates: Result<Vec<u8>, Error>) {
        self.mailbox.deliver(Delivery { first: chunk.first, count: chunk.count, host, fates });
    }

    fn fail(&mut self, chunk: Chunk, error: Error) {
        // Does nothing if the tasks were handed out again since.
        let is_out = self.out.get(&chunk.first).is_some_and(|out| out.chunk == chunk);
        if is_out && self.settle(chunk).is_some() {
            self.deliver(chunk, String::new(), Err(error));
        }
    }

    async fn take(&mut self, mut reply: Reply) {
        let acknowledge = std::mem::take(&mut reply.acknowledge);
        let Reply { chunk, .. } = reply;
        match reply.outcome {
            Outcome::Done { fates: body @ Body::Stored { .. }, nanoseconds } => {
                reply.acknowledge = acknowledge;
                reply.outcome = Outcome::Done { fates: Body::Inline(Vec::new()), nanoseconds };
                self.fetch(reply, body);
                return;
            }
            Outcome::Done { fates: Body::Inline(fates), nanoseconds } => {
                self.take_fates(chunk, reply.host, fates, nanoseconds);
            }
            Outcome::Failed(error) => {
                if self.settle(chunk).is_some() {
                    self.deliver(chunk, reply.host, Err(remote::error_from_bytes(&error)));
                }
            }
            Outcome::Returned => self.hand_out_anew(chunk),
            Outcome::Busy => self.hand_on(chunk),
            Outcome::Suspect => self.suspect(chunk, reply.host),
        }
        self.link.acknowledge(acknowledge).await;
    }

    fn take_fates(&mut self, chunk: Chunk, host: String, fates: Vec<u8>, nanoseconds: u64) {
        if self.settle(chunk).is_some() {
            self.feed.learn(nanoseconds, chunk.count);
            self.deliver(chunk, host, Ok(fates));
        }
    }

    /// Fetches stored results in the background, and renews the lease of the chunk meanwhile.
    fn fetch(&mut self, reply: Reply, body: Body) {
        self.leaves = true;
        let link = Arc::clone(&self.link);
        let job = self.number;
        self.fetching.spawn(async move {
            let subject = link.names.fates(link.driver, job, reply.chunk, reply.delivered);
            let fetched = link.store.get(body, &subject);
            if !lease::is_place(&reply.acknowledge) {
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

    async fn take_fetched(&mut self, reply: Reply, fates: Result<Vec<u8>, Error>) {
        let Outcome::Done { nanoseconds, .. } = reply.outcome else { return };
        match fates {
            Ok(fates) => self.take_fates(reply.chunk, reply.host, fates, nanoseconds),
            Err(error) => {
                warn!(%error, "results were not fetched");
                self.hand_out_anew(reply.chunk);
            }
        }
        self.link.acknowledge(reply.acknowledge).await;
    }

    /// Hands out again a chunk for which a machine had no room. This is not counted as a return.
    fn hand_on(&mut self, chunk: Chunk) {
        let Some(Out { chunk, arguments, .. }) = self.settle(chunk) else { return };
        debug!(job = self.number, ?chunk, "handed on");
        self.again.push_back((Chunk { attempt: chunk.attempt + 1, ..chunk }, arguments));
    }

    /// Hands out again a chunk that was returned or lost, unless that has happened too often.
    fn hand_out_anew(&mut self, chunk: Chunk) {
        let Some(Out { chunk, arguments, .. }) = self.settle(chunk) else { return };
        debug!(job = self.number, ?chunk, "handed out anew");
        let (attempt, returns) = (chunk.attempt + 1, chunk.returns + 1);
        if returns > RETURNS {
            let error = remote::lost_error(format!(
                "no machine kept it: it was given back or lost {RETURNS} times; see the agents' logs"
            ));
            return self.deliver(chunk, String::new(), Err(error));
        }
        self.again.push_back((Chunk { attempt, returns, ..chunk }, arguments));
    }

    /// Handles the loss of a machine that had this chunk. One of the tasks may be the cause.
    ///
    /// The tasks are handed out again in smaller and smaller parts, and at last each alone on a
    /// machine, until the task that takes machines down is found.
    fn suspect(&mut self, chunk: Chunk, host: String) {
        // No machine is missing: the server was away, and only the renewals of the lease were lost.
        if !self.link.has_lost_a_machine() {
            return self.hand_out_anew(chunk);
        }
        let Some(Out { chunk, arguments, .. }) = self.settle(chunk) else { return };
        let losses = chunk.losses + 1;
        debug!(job = self.number, ?chunk, "suspect");
        if chunk.count == 1 && losses >= LOSSES {
            let error = remote::lost_error(format!(
                "{losses} machines in turn began it and were not heard of again; if it needs more \
                 memory than they have, or takes them down otherwise, it is to run elsewhere"
            ));
            return self.deliver(chunk, host, Err(error));
        }
        // Each part gets at least one more attempt, however often its chunk was lost.
        let losses = losses.min(LOSSES - 1);
        let part = chunk.count.div_ceil(PARTS);
        let mut rest = &arguments[..];
        for first in (chunk.first..chunk.first + chunk.count).step_by(part) {
            let count = part.min(chunk.first + chunk.count - first);
            let bytes = feed::take_records(&mut rest, count).to_vec();
            let (attempt, returns) = (chunk.attempt + 1, chunk.returns + 1);
            let part = Chunk { first, count, attempt, returns, losses };
            self.again.push_back((part, Arc::new(bytes)));
        }
    }

    /// Looks for chunks that the server has lost. Ends the job if no agent was there for too long.
    async fn housekeep(&mut self) {
        if self.is_done() || !is_connected(&self.link.client) {
            return;
        }
        if let Some(absence) = self.link.absence(self.begin) {
            return self.give_up(absence);
        }
        self.look_for_what_is_lost().await;
    }

    /// How often the job looks for chunks that the server has lost.
    fn look_every(&self) -> Duration {
        (self.link.config.lease / 2).min(Duration::from_secs(2))
    }

    /// Hands out again the chunks that the server confirmed some time ago and no longer has.
    ///
    /// The server keeps a chunk until the driver acknowledges it, also while the chunk runs. The
    /// job never asks for chunks that are answered soon.
    async fn look_for_what_is_lost(&mut self) {
        let every = self.look_every();
        let is_old = |out: &Out| out.confirmed.is_some_and(|since| since.elapsed() >= every);
        let old: Vec<Chunk> =
            self.out.values().filter(|out| is_old(out)).map(|out| out.chunk).collect();
        if old.is_empty() {
            return;
        }
        // The list is younger than the confirmations of the old chunks. So an old chunk that is not
        // in the list is missing at the server.
        let look = self.link.work_at_the_server(every / 2);
        let there = match tokio::time::timeout(REQUEST_TIMEOUT, look).await {
            Ok(Ok(there)) => there,
            Ok(Err(error)) => {
                warn!(%error, "the queue cannot be looked at");
                let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.link.make_streams()).await;
                return;
            }
            Err(_) => return,
        };
        for chunk in old {
            let Link { names, build, driver, .. } = &*self.link;
            let missing = !there.contains(&names.work(build, *driver, self.number, chunk));
            let Some(out) = self.out.get_mut(&chunk.first) else { continue };
            // The chunk must be missing twice, since another server of a cluster may not know it
            // yet.
            if std::mem::replace(&mut out.missing, missing) && missing {
                warn!(job = self.number, ?chunk, "the server has lost work");
                self.hand_out_anew(chunk);
            }
        }
    }

    /// Ends all open tasks with one error.
    fn give_up(&mut self, error: Error) {
        self.leaves |= !self.out.is_empty();
        self.mailbox.close(error);
        self.out.clear();
        self.again.clear();
        self.feed = Feed::new(None);
        self.ended = true;
    }

    /// Removes everything of the job from the server.
    async fn clean_up(mut self) {
        self.mailbox.close(crate::link::closed());
        self.link.close_job(self.number, self.leaves);
        // Chunks on their way to the server must arrive before they can be removed.
        let all_published = async { while self.publishing.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, all_published).await;
        self.publishing.shutdown().await;
        self.fetching.shutdown().await;
        if self.leaves {
            let purged = self.link.purge(self.number);
            match tokio::time::timeout(REQUEST_TIMEOUT, purged).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "something may be left at the server"),
                Err(_) => warn!("something may be left at the server, which does not answer"),
            }
        }
        // `Link::join` waits until this channel is closed.
        self.notes.close();
    }
}
