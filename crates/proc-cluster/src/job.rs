//! One call's work: cut into chunks, handed out a window at a time, until each task has its fate.
//!
//! A job is a task of the driver's runtime. The caller only encodes, sends [`Note`]s, and waits at
//! its mailbox. The window does three things at once: it bounds what lies at the server, it lets
//! other jobs in between, and it leaves the size of later chunks open until a task's cost is known.
//!
//! Work leaves the server when this side says so, which it does when it has the reply; so whatever
//! is lost on the way is handed out again. What the server itself has lost is found by looking.

mod feed;
mod note;
mod publication;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use feed::Batch;
use feed::Feed;
use proc_core::remote::Function;
use proc_core::{Error, remote};
use publication::Publication;
use tokio::sync::mpsc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use self::note::REQUEST_TIMEOUT;
pub(crate) use self::note::{Note, Terms};
use crate::connection::is_connected;
use crate::lease;
use crate::link::Link;
use crate::mailbox::{Delivery, Mailbox};
use crate::message::{self, Body, Chunk, Outcome, Reply};

/// How many chunks may be handed out beyond what workers have, where chunks take no time.
const MAX_CHUNKS: usize = 512;

/// How long the work of one job that waits at the server should take.
const AHEAD: f64 = 50e6; // nanoseconds

/// How many bytes of arguments may be handed out at once, beside one chunk.
const MAX_BYTES: usize = 64 << 20;

/// How often a chunk is given back or lost before its tasks count as lost, whatever the reasons.
const RETURNS: u32 = 20;

/// How many machines a task may have been with when they were lost.
const LOSSES: u32 = 3;

/// Into how many parts a chunk is cut that was with a lost machine.
const PARTS: usize = 64;

/// A job as its caller sees it. Dropping it calls off what is not done, unless it is to go on.
#[derive(Debug)]
pub(crate) struct Handle {
    notes: UnboundedSender<Note>,
    pub(crate) mailbox: Arc<Mailbox>,
    goes_on: bool,
}

impl Handle {
    pub(crate) fn that_goes_on(mut self) -> Handle {
        self.goes_on = true;
        self
    }

    pub(crate) fn send(&self, note: Note) {
        // A job that has ended has said why in the mailbox.
        let _ = self.notes.send(note);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.goes_on {
            self.send(Note::Close(remote::cancelled_error()));
        }
    }
}

/// A chunk that is handed out.
struct Out {
    chunk: Chunk,
    arguments: Arc<Vec<u8>>,
    /// Since when the server has it for sure.
    confirmed: Option<Instant>,
    /// It was not at the server when that was last asked.
    missing: bool,
}

struct Job {
    link: Arc<Link>,
    number: u64,
    begin: Instant,
    function: Function,
    terms: Terms,
    mailbox: Arc<Mailbox>,
    notes: UnboundedReceiver<Note>,
    feed: Feed,
    /// To be handed out anew, before all else.
    again: VecDeque<(Chunk, Arc<Vec<u8>>)>,
    /// By the number of the first task.
    out: HashMap<usize, Out>,
    out_bytes: usize,
    publishing: JoinSet<Result<Chunk, (Chunk, Error)>>,
    fetching: JoinSet<(Reply, Result<Vec<u8>, Error>)>,
    /// No more tasks will come.
    ended: bool,
    /// Pieces of large values, or chunks handed out twice, may be left at the server.
    leaves: bool,
}

/// Starts a job on the link's runtime.
///
/// # Errors
///
/// The cluster is closed.
pub(crate) fn start(
    runtime: &tokio::runtime::Handle,
    link: &Arc<Link>,
    function: Function,
    terms: Terms,
) -> Result<Handle, Error> {
    let (sender, notes) = mpsc::unbounded_channel();
    let number = link.open_job(sender.clone())?;
    let mailbox = Arc::new(Mailbox::default());
    let job = Job {
        link: Arc::clone(link),
        number,
        begin: Instant::now(),
        function,
        terms,
        mailbox: Arc::clone(&mailbox),
        notes,
        feed: Feed::new(terms.chunksize),
        again: VecDeque::new(),
        out: HashMap::new(),
        out_bytes: 0,
        publishing: JoinSet::new(),
        fetching: JoinSet::new(),
        ended: false,
        leaves: false,
    };
    runtime.spawn(job.run());
    Ok(Handle { notes: sender, mailbox, goes_on: false })
}

impl Drop for Job {
    fn drop(&mut self) {
        // However it ends, nobody waits for more.
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
                    // Aborted, which happens only as the job ends: panics are errors of their own.
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

    /// The next chunk that is to be handed out anew.
    ///
    /// Of those that must be alone one is out at a time: an agent that asks for several chunks would
    /// else be sent two of them, and one that takes machines down would look like two.
    fn next_again(&mut self) -> Option<(Chunk, Arc<Vec<u8>>)> {
        if self.again.is_empty() {
            return None;
        }
        let one_is_out = self.out.values().any(|out| out.chunk.must_be_alone());
        let may_go = |(chunk, _): &(Chunk, _)| !(one_is_out && chunk.must_be_alone());
        let next = self.again.iter().position(may_go)?;
        self.again.remove(next)
    }

    /// How many chunks may be out: two for each worker, and more where they take no time.
    fn window(&self, workers: usize) -> usize {
        let cheap = self.feed.chunk_cost().map_or(0, |cost| (AHEAD / cost) as usize);
        2 * workers + workers.saturating_mul(cheap).min(MAX_CHUNKS)
    }

    fn publish(&mut self, chunk: Chunk, arguments: &Arc<Vec<u8>>) {
        let publication = Publication {
            link: Arc::clone(&self.link),
            job: self.number,
            function: self.function,
            terms: self.terms,
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

    /// Takes out what a reply is for; nothing if that has its fate, or is out in other parts now.
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
        // Not what was handed out anew since.
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

    /// Fetches stored results in the background; meanwhile the work is ours.
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

    /// Hands out a chunk for which a machine had no room; it is as good as before.
    fn hand_on(&mut self, chunk: Chunk) {
        let Some(Out { chunk, arguments, .. }) = self.settle(chunk) else { return };
        debug!(job = self.number, ?chunk, "handed on");
        self.again.push_back((Chunk { attempt: chunk.attempt + 1, ..chunk }, arguments));
    }

    /// Hands out a chunk that was given back or lost.
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

    /// A machine was lost that had this chunk; a task of it may be why, or may not.
    ///
    /// Tasks go on in smaller and smaller parts, then each with nothing beside it, until the one that
    /// takes machines down is found.
    fn suspect(&mut self, chunk: Chunk, host: String) {
        // Where a server was away, its word to prolong the lease is what was lost.
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
        // A part has one more chance, whatever it was part of.
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

    /// Looks for what the server has lost, and whether anybody is there to do the work.
    async fn housekeep(&mut self) {
        if self.is_done() || !is_connected(&self.link.client) {
            return;
        }
        if let Some(absence) = self.link.absence(self.begin) {
            return self.give_up(absence);
        }
        self.look_for_what_is_lost().await;
    }

    fn look_every(&self) -> Duration {
        (self.link.config.lease / 2).min(Duration::from_secs(2))
    }

    /// Hands out anew what the server has had for some time, and has no more.
    ///
    /// Work is there until we acknowledge it, also while it runs; what is answered soon is never asked for.
    async fn look_for_what_is_lost(&mut self) {
        let every = self.look_every();
        let is_old = |out: &Out| out.confirmed.is_some_and(|since| since.elapsed() >= every);
        let old: Vec<Chunk> =
            self.out.values().filter(|out| is_old(out)).map(|out| out.chunk).collect();
        if old.is_empty() {
            return;
        }
        // So it was looked after the server had confirmed what is old.
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
            // Twice, since another server of a cluster may not know yet.
            if std::mem::replace(&mut out.missing, missing) && missing {
                warn!(job = self.number, ?chunk, "the server has lost work");
                self.hand_out_anew(chunk);
            }
        }
    }

    /// Ends all that is open, for one reason.
    fn give_up(&mut self, error: Error) {
        self.leaves |= !self.out.is_empty();
        self.mailbox.close(error);
        self.out.clear();
        self.again.clear();
        self.feed = Feed::new(None);
        self.ended = true;
    }

    /// Leaves nothing of the job at the server.
    async fn clean_up(mut self) {
        self.mailbox.close(crate::link::closed());
        self.link.close_job(self.number, self.leaves);
        // What is on its way to the server must be there before it can be removed.
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
        // Whoever waits for the end waits for this channel to close.
        self.notes.close();
    }
}
