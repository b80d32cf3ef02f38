//! An agent: takes work from the server as fast as its pool can do it, and sends what comes of it.
//!
//! It holds as many chunks as it has workers, one more for each that is at work where chunks are short,
//! and more only where they take no time; so little is lost with it. Each chunk is a task of its own here, see `execution`; this module asks for work, hears
//! from drivers and tells of itself. It acknowledges nothing: that is the driver's to do, once it has
//! the result.

mod environment;
mod execution;
mod shared;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::{Client, Event, Message, StatusCode, jetstream};
use bytes::Bytes;
pub(crate) use environment::serve_if_asked;
use execution::{Cancel, Course, Execution};
use futures_util::StreamExt;
use proc_core::remote::fleet_error;
use proc_core::{Error, Pool, PoolBuilder};
use shared::{MAX_CHUNKS_PER_WORKER, Place, Shared};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{info, warn};

use crate::build_id;
use crate::connection::{Settings, is_connected};
use crate::data::Store;
use crate::message::{self, AgentHeartbeat, Counts, DriverHeartbeat, Names, Outcome, Work};

/// How long a request for work waits at the server.
const REQUEST_EXPIRY: Duration = Duration::from_secs(20);

/// How long an agent waits for a server that is not there.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often an agent tells of itself, and looks after what nobody tells it.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// How long the work that is at hand may go on after the agent was told to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);

const FAST_CHUNK_NANOS: f64 = 2e6; // nanoseconds

/// How long chunks take at most where the next one is asked for while one runs: the way there and
/// back, which a worker would else wait for, counts for little beside more.
const LONG_CHUNK_NANOS: f64 = 50e6; // nanoseconds

/// Serves a fleet with a pool, until SIGTERM or SIGINT; then finishes what it has begun.
///
/// For programs that want another pool than [`init`](crate::init) makes. Credentials and all else are
/// heeded as there; the pool's initializer runs in each worker.
///
/// ```no_run
/// proc_core::init();
/// if let Ok(server) = std::env::var("AGENT_OF") {
///     let pool = proc_core::Pool::builder().initializer(|seed: u64| println!("{seed}"), 7);
///     return proc_cluster::serve(&server, pool);
/// }
/// # Ok::<(), proc_cluster::Error>(())
/// ```
///
/// # Errors
///
/// The pool cannot be built, or has ended; the server cannot be reached, or refuses.
pub fn serve(address: &str, pool: PoolBuilder) -> Result<(), Error> {
    let settings = Settings::from_env(address)?;
    // The pool first: what it forks has nothing of the client.
    let pool = pool.build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| fleet_error(format!("the agent cannot start: {e}")))?;
    let served = runtime.block_on(async { Agent::connect(&settings, pool).await?.serve().await });
    runtime.shutdown_background();
    served
}

struct Agent {
    shared: Arc<Shared>,
    heartbeat: AgentHeartbeat,
    inbox: Inbox,
    heartbeats: async_nats::Subscriber,
    events: mpsc::UnboundedReceiver<Event>,
    done: (mpsc::UnboundedSender<execution::Done>, mpsc::UnboundedReceiver<execution::Done>),
    /// Chunks that were asked for and have not come.
    asked: usize,
    asked_at: Instant,
    /// Before then there is nobody to ask, as far as is known.
    ask_again: Instant,
    /// What is at hand, by its place in the stream.
    at_hand: HashMap<u64, AtHand>,
    drivers: HashMap<u64, Driver>,
    /// Nanoseconds that a chunk takes.
    cost: f64,
    /// Why the pool has ended.
    over: Option<Error>,
}

/// Where work arrives.
struct Inbox {
    subject: String,
    work: async_nats::Subscriber,
    state: InboxState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InboxState {
    /// Work that was asked for may come.
    Open,
    /// The server is told to send nothing more, whatever was asked for; something may be on its way.
    Closing,
    Closed,
}

impl Inbox {
    async fn open(client: &Client) -> Result<Inbox, Error> {
        // A name of its own each time, so that the server sends here only what was asked for since.
        let subject = client.new_inbox();
        let work = listen(client, subject.clone()).await?;
        Ok(Inbox { subject, work, state: InboxState::Open })
    }

    /// Withdraws the requests that wait at the server: it drops those to which nobody listens.
    async fn close(&mut self) {
        if self.state == InboxState::Open {
            // A client that cannot take this, for want of a connection, gets nothing anyway.
            let drained = tokio::time::timeout(HEARTBEAT_INTERVAL, self.work.drain()).await;
            let will_end = matches!(drained, Ok(Ok(())));
            self.state = if will_end { InboxState::Closing } else { InboxState::Closed };
        }
    }

    /// What arrives, until the inbox is closed.
    async fn next(&mut self) -> Option<Message> {
        let message = self.work.next().await;
        if message.is_none() {
            self.state = InboxState::Closed;
        }
        message
    }
}

struct AtHand {
    driver: u64,
    job: u64,
    tasks: u64,
    lease: Duration,
    alone: bool,
    cancel: Option<oneshot::Sender<Cancel>>,
}

/// What is known of a driver.
struct Driver {
    heard: Instant,
    newest: u64,
    open: HashSet<u64>,
}

impl Driver {
    fn has_given_up(&self, job: u64) -> bool {
        job <= self.newest && !self.open.contains(&job)
    }
}

impl Agent {
    async fn connect(settings: &Settings, pool: Pool) -> Result<Agent, Error> {
        let names = Names::new(settings.fleet.as_deref().unwrap_or("default"))?;
        let build = build_id::get()?;
        let (send_event, events) = mpsc::unbounded_channel();
        let client = settings
            .connect("agent", SERVER_TIMEOUT, move |event| drop(send_event.send(event)))
            .await?;
        let context: Context = jetstream::new(client.clone());
        let store = Store::new(&context, &names.data()).await?;
        let (inbox, heartbeats) =
            (Inbox::open(&client).await?, listen(&client, names.heartbeats()).await?);
        let host = nix::unistd::gethostname()
            .map_or_else(|_| "unknown".into(), |name| name.to_string_lossy().into_owned());
        let workers = pool.processes();
        let heartbeat = AgentHeartbeat {
            agent: crate::nonce(),
            host: host.clone(),
            pid: std::process::id(),
            build: build.to_owned(),
            workers,
            counts: Counts::default(),
            leaving: false,
        };
        info!(build, workers, host, "agent connected");
        let room = Semaphore::new(workers * MAX_CHUNKS_PER_WORKER);
        Ok(Agent {
            shared: Arc::new(Shared { client, store, names, pool, host, room }),
            heartbeat,
            inbox,
            heartbeats,
            events,
            done: mpsc::unbounded_channel(),
            asked: 0,
            asked_at: Instant::now(),
            ask_again: Instant::now(),
            at_hand: HashMap::new(),
            drivers: HashMap::new(),
            cost: 0.0,
            over: None,
        })
    }

    async fn serve(mut self) -> Result<(), Error> {
        let mut tick = tokio::time::interval(HEARTBEAT_INTERVAL);
        let mut leave = std::pin::pin!(told_to_leave()?);
        let mut deadline = None;
        loop {
            if deadline.is_none() {
                self.ask().await;
            } else if self.at_hand.is_empty() && self.hears_no_more() {
                break;
            }
            tokio::select! {
                biased;
                Some(done) = self.done.1.recv() => {
                    self.settle(done);
                    if self.over.is_some() && deadline.is_none() {
                        deadline = Some(Instant::now());
                        self.leave().await;
                    }
                }
                message = self.inbox.next(), if self.inbox.state != InboxState::Closed => {
                    if let Some(message) = message {
                        self.take(message).await;
                    }
                }
                Some(message) = self.heartbeats.next() => self.hear(&message).await,
                Some(event) = self.events.recv() => self.on_event(event),
                _ = tick.tick() => {
                    self.housekeep();
                    self.tell().await;
                    if deadline.is_some_and(|deadline| deadline < Instant::now()) {
                        for at_hand in self.at_hand.values_mut() {
                            at_hand.cancel(Cancel::Leaving);
                        }
                    }
                }
                () = &mut leave, if deadline.is_none() => {
                    info!(at_hand = self.at_hand.len(), "agent leaves");
                    deadline = Some(Instant::now() + LEAVE_TIMEOUT);
                    self.leave().await;
                }
            }
        }
        self.tell().await;
        // Without a connection there is nobody to tell.
        let _ = tokio::time::timeout(HEARTBEAT_INTERVAL, self.shared.client.flush()).await;
        self.over.map_or(Ok(()), Err)
    }

    /// Takes no more work; what still arrives is handed back at once.
    async fn leave(&mut self) {
        self.heartbeat.leaving = true;
        self.tell().await;
        self.inbox.close().await;
    }

    /// Whether nothing is on its way here any more: without a connection it is lost to us anyway.
    fn hears_no_more(&self) -> bool {
        self.inbox.state == InboxState::Closed || !is_connected(&self.shared.client)
    }

    /// Asks for as many chunks as there is room for, unless enough are asked for.
    async fn ask(&mut self) {
        if self.asked > 0 && self.asked_at.elapsed() > REQUEST_EXPIRY + HEARTBEAT_INTERVAL {
            self.asked = 0; // the answer was lost
        }
        let client = &self.shared.client;
        if Instant::now() < self.ask_again || !is_connected(client) || !self.can_listen().await {
            return;
        }
        let allowed = most_at_hand(self.heartbeat.workers, self.at_hand.len(), self.cost);
        let free = allowed.saturating_sub(self.at_hand.len() + self.asked);
        if free == 0 || (self.asked > 0 && free < allowed / 2) {
            return;
        }
        let names = &self.shared.names;
        let (stream, consumer) = (names.tasks(), &self.heartbeat.build);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let request = format!(r#"{{"batch":{free},"expires":{}}}"#, REQUEST_EXPIRY.as_nanos());
        let sent = self.shared.client.publish_with_reply(
            subject,
            self.inbox.subject.clone(),
            request.into(),
        );
        if sent.await.is_ok() {
            self.asked += free;
            self.asked_at = Instant::now();
        }
    }

    /// Takes work, or word that there is none.
    async fn take(&mut self, message: Message) {
        if let Some(status) = message.status {
            self.on_status(status, &message);
            return;
        }
        self.asked = self.asked.saturating_sub(1);
        let Some(place) = Place::of(&message) else { return };
        if self.at_hand.contains_key(&place.sequence) {
            return; // the lease ran out, but we have it still
        }
        let work = message::decode::<Work>(&message.payload);
        let Some(work) = work.filter(Work::is_within_reason) else {
            warn!(subject = %message.subject, "rubbish among the work");
            self.answer(&place, "+TERM").await;
            return;
        };
        if work.build != self.heartbeat.build {
            self.answer(&place, "-NAK {\"delay\":1000000000}").await;
            return;
        }
        let now = Instant::now();
        let driver = self.drivers.entry(work.driver).or_insert_with(|| Driver {
            heard: now,
            newest: 0,
            open: HashSet::new(),
        });
        let silent = driver.heard.elapsed() > 2 * work.lease.max(HEARTBEAT_INTERVAL);
        if driver.has_given_up(work.job) || (place.delivered > 1 && silent) {
            self.answer(&place, "+TERM").await;
            return;
        }
        let (cancel, cancelled) = oneshot::channel();
        let (sequence, suspect) = (place.sequence, place.delivered > 1);
        let (driver, job, lease, chunk) = (work.driver, work.job, work.lease, work.chunk);
        let ahead = self.at_hand.len() >= self.heartbeat.workers;
        let execution =
            Execution { shared: Arc::clone(&self.shared), work, place, ahead, cancelled };
        if suspect {
            return execution.reply(Outcome::Suspect).await;
        }
        if self.inbox.state != InboxState::Open {
            return execution.reply(Outcome::Busy).await;
        }
        let tasks = chunk.count as u64;
        self.heartbeat.counts.in_flight += tasks;
        if chunk.attempt > 0 {
            self.heartbeat.counts.redelivered += tasks;
        }
        let alone = chunk.must_be_alone();
        if alone {
            self.inbox.close().await;
            self.asked = 0;
        }
        let cancel = Some(cancel);
        self.at_hand.insert(sequence, AtHand { driver, job, tasks, lease, alone, cancel });
        let done = self.done.0.clone();
        tokio::spawn(async move { drop(done.send(execution.run().await)) });
    }

    /// Whether what is asked for has somewhere to arrive: not beside what is to run alone.
    async fn can_listen(&mut self) -> bool {
        let has_one_alone = self.at_hand.values().any(|at_hand| at_hand.alone);
        if self.inbox.state == InboxState::Closed
            && !has_one_alone
            && let Ok(inbox) = Inbox::open(&self.shared.client).await
        {
            self.inbox = inbox;
        }
        self.inbox.state == InboxState::Open
    }

    /// A request for work has ended without it.
    fn on_status(&mut self, status: StatusCode, message: &Message) {
        let header =
            message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
        let pending: Option<usize> = header.and_then(|value| value.as_str().parse().ok());
        match pending {
            Some(pending) => self.asked = self.asked.saturating_sub(pending),
            // Nobody has work for this build yet (503), or the server is about to forget (409).
            None if status != StatusCode::IDLE_HEARTBEAT => {
                self.asked = 0;
                self.ask_again = Instant::now() + HEARTBEAT_INTERVAL;
            }
            None => {}
        }
    }

    async fn answer(&self, place: &Place, kind: &'static str) {
        // One that is lost is given again with the next delivery.
        let answer = Bytes::from_static(kind.as_bytes());
        let _ = self.shared.client.publish(place.acknowledge.clone(), answer).await;
    }

    fn settle(&mut self, done: execution::Done) {
        self.over = self.over.take().or(done.over);
        if let Some(at_hand) = self.at_hand.remove(&done.sequence) {
            let counts = &mut self.heartbeat.counts;
            counts.in_flight -= at_hand.tasks;
            match done.course {
                Course::Took { nanoseconds, errors } => {
                    counts.done += at_hand.tasks.saturating_sub(errors);
                    counts.failed += errors;
                    let took = nanoseconds as f64;
                    self.cost =
                        if self.cost == 0.0 { took } else { 0.75 * self.cost + 0.25 * took };
                }
                // Something takes longer than was known: nothing is asked for ahead for now.
                Course::NoRoom => self.cost = self.cost.max(LONG_CHUNK_NANOS),
                Course::Failed => counts.failed += at_hand.tasks,
                Course::BrokenOff => {}
            }
        }
    }

    /// Hears a driver: what it has given up is not gone on with.
    async fn hear(&mut self, message: &Message) {
        let Some(heartbeat) = message::decode::<DriverHeartbeat>(&message.payload) else { return };
        let open = heartbeat.open.into_iter().collect();
        let driver = Driver { heard: Instant::now(), newest: heartbeat.newest, open };
        for at_hand in self.at_hand.values_mut() {
            if at_hand.driver == heartbeat.driver && driver.has_given_up(at_hand.job) {
                at_hand.cancel(Cancel::Unwanted);
            }
        }
        if self.drivers.insert(heartbeat.driver, driver).is_none() {
            self.tell().await;
        }
        self.ask_again = Instant::now(); // where there was nobody to ask, there may be now
    }

    fn on_event(&mut self, event: Event) {
        info!(%event, "connection");
        if matches!(event, Event::Connected) {
            // The server has forgotten what was asked; drivers could not be heard.
            self.asked = 0;
            self.drivers.values_mut().for_each(|driver| driver.heard = Instant::now());
        }
    }

    /// Drops what belongs to drivers that are gone.
    fn housekeep(&mut self) {
        if !is_connected(&self.shared.client) {
            return;
        }
        for at_hand in self.at_hand.values_mut() {
            let driver = self.drivers.get(&at_hand.driver);
            if driver.is_some_and(|d| d.heard.elapsed() > 2 * at_hand.lease.max(HEARTBEAT_INTERVAL))
            {
                at_hand.cancel(Cancel::Unwanted);
            }
        }
        let at_hand: HashSet<u64> = self.at_hand.values().map(|at_hand| at_hand.driver).collect();
        self.drivers.retain(|name, driver| {
            at_hand.contains(name) || driver.heard.elapsed() < Duration::from_secs(3600)
        });
    }

    async fn tell(&self) {
        // Not while there is no connection: it is told again soon.
        if is_connected(&self.shared.client)
            && let Ok(heartbeat) = message::encode(&self.heartbeat)
        {
            let subject = self.shared.names.presences();
            let _ = self.shared.client.publish(subject, heartbeat.into()).await;
        }
    }
}

impl AtHand {
    fn cancel(&mut self, why: Cancel) {
        if let Some(cancel) = self.cancel.take() {
            let _ = cancel.send(why); // if it has just ended, all the better
        }
    }
}

/// How many chunks a worker may be given at once that take so many nanoseconds; 0 where nothing is known.
fn depth(cost: f64) -> usize {
    if cost == 0.0 {
        1
    } else {
        ((FAST_CHUNK_NANOS / cost) as usize).clamp(1, MAX_CHUNKS_PER_WORKER)
    }
}

/// How many chunks may be at hand or asked for, where so many are at hand.
///
/// What is ahead is asked for only as workers begin: the server serves requests in their order, so
/// machines with nothing to do come first.
fn most_at_hand(workers: usize, at_hand: usize, cost: f64) -> usize {
    let ahead = if cost > 0.0 && cost < LONG_CHUNK_NANOS { at_hand.min(workers) } else { 0 };
    workers * depth(cost) + ahead
}

async fn listen(client: &Client, subject: String) -> Result<async_nats::Subscriber, Error> {
    client.subscribe(subject).await.map_err(|e| fleet_error(format!("cannot listen: {e}")))
}

/// Resolves at the first SIGTERM or SIGINT.
fn told_to_leave() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|e| fleet_error(format!("no signals: {e}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_chunk_is_at_hand_unless_chunks_are_long() {
        let ms = 1e6;
        assert_eq!(most_at_hand(2, 0, 0.0), 2, "nothing is known");
        assert_eq!(most_at_hand(2, 2, 0.0), 2, "nothing is known yet");
        assert_eq!(most_at_hand(2, 0, 5.0 * ms), 2, "machines that do something ask later");
        assert_eq!(most_at_hand(2, 1, 5.0 * ms), 3);
        assert_eq!([2, 3, 4].map(|at_hand| most_at_hand(2, at_hand, 5.0 * ms)), [4; 3]);
        assert_eq!(most_at_hand(2, 2, 60.0 * ms), 2, "it would wait for long");
        assert_eq!(most_at_hand(2, 0, 0.001 * ms), 2 * MAX_CHUNKS_PER_WORKER, "they take no time");
    }
}
