//! An agent: takes work from the server as fast as its pool can do it, and sends the results.
//!
//! An agent has one chunk in hand for each worker; two if chunks take less than 50 ms; up to 32 if
//! they take less than 2 ms. Few chunks in hand mean that little work is lost if the agent dies.
//!
//! Each chunk runs in a runtime task of its own, see `execution`. This module asks for work,
//! receives the heartbeats of drivers and sends the heartbeats of the agent. An agent never
//! acknowledges finished work. The driver does that, when it has the result.

mod data_cache;
mod environment;
mod execution;
mod shared;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::{Client, Event, Message, StatusCode, jetstream};
use data_cache::DataCache;
pub(crate) use environment::serve_if_asked;
use execution::{Cancel, Execution, Summary, WorkerWait};
use futures_util::StreamExt;
use proc_core::remote::fleet_error;
use proc_core::{Error, Pool, PoolBuilder};
use shared::{DeliveryInfo, MAX_CHUNKS_PER_WORKER, Shared};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{info, warn};

use crate::build_id;
use crate::connection::{Settings, is_connected, subscribe};
use crate::data::Store;
use crate::message::{
    self, AgentHeartbeat, Counts, DriverHeartbeat, Names, Numbers, Outcome, Work,
};

/// How long a request for work stays open at the server.
const REQUEST_EXPIRY: Duration = Duration::from_secs(20);

/// How long a starting agent tries to reach the server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often an agent sends a heartbeat, and checks whether its drivers have fallen silent.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// How long the chunks in hand may still run after the agent was told to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);

/// If chunks take less than this, the agent requests several for each worker: as many as take this
/// long together.
const FAST_CHUNK_NANOS: f64 = 2e6;

/// If chunks take less than this, the agent requests the next chunk for a worker while one runs.
/// Without that request, the worker would wait until a request and its answer have crossed the
/// network. Compared with a longer chunk, that wait is short.
const LONG_CHUNK_NANOS: f64 = 50e6;

/// Serves a fleet with a pool until SIGTERM or SIGINT, then finishes the work that it has begun.
///
/// This function is for programs whose agents need another pool than [`init`](crate::init) makes.
/// Credentials and the other settings of the connection come from the environment, as with `init`.
/// The pool's initializer runs in each worker.
///
/// # Errors
///
/// The pool cannot be built, or has ended; or the server cannot be reached, or refuses the agent.
///
/// # Examples
///
/// ```no_run
/// use proc_core::Pool;
///
/// fn main() -> Result<(), proc_cluster::Error> {
///     proc_core::init();
///     if let Ok(server) = std::env::var("AGENT_OF") {
///         let pool = Pool::builder().initializer(|seed: u64| println!("{seed}"), 7);
///         return proc_cluster::serve(&server, pool);
///     }
///     println!("this is the driver");
///     Ok(())
/// }
/// ```
pub fn serve(address: &str, pool: PoolBuilder) -> Result<(), Error> {
    let settings = Settings::from_env(address)?;
    // The pool is built before the client, so that the pool's processes do not inherit anything of
    // the client.
    let pool = pool.build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|e| fleet_error(format!("the agent's runtime cannot start: {e}")))?;
    let served = runtime.block_on(async {
        survive_broken_connections()?;
        Agent::connect(&settings, pool).await?.serve().await
    });
    runtime.shutdown_background();
    served
}

struct Agent {
    shared: Arc<Shared>,
    heartbeat: AgentHeartbeat,
    inbox: Inbox,
    heartbeats: async_nats::Subscriber,
    events: mpsc::UnboundedReceiver<Event>,
    /// Reports of executions that have ended.
    done: mpsc::UnboundedReceiver<execution::Done>,
    /// Where executions send these reports.
    send_done: mpsc::UnboundedSender<execution::Done>,
    /// How many chunks were requested and have not arrived.
    requested: usize,
    /// When the last request was sent.
    requested_at: Instant,
    /// The agent sends no request before this time, because the last request found no work.
    next_request: Instant,
    /// The chunks in hand, by their sequence number in the stream.
    in_hand: HashMap<u64, InHand>,
    drivers: HashMap<u64, Driver>,
    /// Nanoseconds that a chunk takes; 0 while that is unknown.
    chunk_nanos: f64,
    /// The reason, if the pool has ended.
    pool_ended: Option<Error>,
}

/// The subject on which requested work arrives.
struct Inbox {
    subject: String,
    work: async_nats::Subscriber,
    state: InboxState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InboxState {
    /// Requested work may arrive.
    Open,
    /// The server was told to send nothing more. Work that it sent before may still arrive.
    Closing,
    Closed,
}

impl Inbox {
    async fn open(client: &Client) -> Result<Inbox, Error> {
        // Each inbox has a new subject, so that only work that this inbox has requested arrives in
        // it.
        let subject = client.new_inbox();
        let work = subscribe(client, subject.clone()).await?;
        Ok(Inbox { subject, work, state: InboxState::Open })
    }

    /// Closes the inbox, and so withdraws the requests that are open: the server drops requests for
    /// subjects without a subscriber.
    async fn close(&mut self) {
        if self.state == InboxState::Open {
            // If this fails for want of a connection, nothing can arrive either.
            let drained = tokio::time::timeout(HEARTBEAT_INTERVAL, self.work.drain()).await;
            let will_end = matches!(drained, Ok(Ok(())));
            self.state = if will_end { InboxState::Closing } else { InboxState::Closed };
        }
    }

    /// Returns the next message; `None` when the inbox is closed.
    async fn next(&mut self) -> Option<Message> {
        let message = self.work.next().await;
        if message.is_none() {
            self.state = InboxState::Closed;
        }
        message
    }
}

/// A chunk in hand.
struct InHand {
    driver: u64,
    job: u64,
    tasks: u64,
    lease: Duration,
    /// Whether the chunk must be the only one on this machine.
    must_be_alone: bool,
    /// Cancels the execution; `None` once it is cancelled.
    cancel: Option<oneshot::Sender<Cancel>>,
}

/// What the agent knows about a driver.
struct Driver {
    /// Since when the driver is silent: since its last heartbeat (or its first work, if there was
    /// none), or since the agent has connected again, if that is later.
    silent_since: Instant,
    /// The jobs for which the driver waits.
    jobs: Numbers,
}

impl Driver {
    /// Whether the driver has been silent for two leases.
    fn is_silent(&self, lease: Duration) -> bool {
        self.silent_since.elapsed() > 2 * lease.max(HEARTBEAT_INTERVAL)
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
            (Inbox::open(&client).await?, subscribe(&client, names.driver_heartbeats()).await?);
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
        let permits = Semaphore::new(workers * MAX_CHUNKS_PER_WORKER);
        let (send_done, done) = mpsc::unbounded_channel();
        Ok(Agent {
            shared: Arc::new(Shared {
                client,
                store,
                names,
                pool,
                host,
                data: DataCache::default(),
                permits,
            }),
            heartbeat,
            inbox,
            heartbeats,
            events,
            done,
            send_done,
            requested: 0,
            requested_at: Instant::now(),
            next_request: Instant::now(),
            in_hand: HashMap::new(),
            drivers: HashMap::new(),
            chunk_nanos: 0.0,
            pool_ended: None,
        })
    }

    async fn serve(mut self) -> Result<(), Error> {
        let mut tick = tokio::time::interval(HEARTBEAT_INTERVAL);
        let mut leave = std::pin::pin!(leave_signal()?);
        let mut deadline = None;
        loop {
            if deadline.is_none() {
                self.request_work().await;
            } else if self.in_hand.is_empty() && self.can_receive_no_work() {
                break;
            }
            tokio::select! {
                biased;
                Some(done) = self.done.recv() => {
                    self.on_done(done);
                    if self.pool_ended.is_some() && deadline.is_none() {
                        deadline = Some(Instant::now());
                        self.leave().await;
                    }
                }
                message = self.inbox.next(), if self.inbox.state != InboxState::Closed => {
                    if let Some(message) = message {
                        self.on_work(message).await;
                    }
                }
                Some(message) = self.heartbeats.next() => self.on_heartbeat(&message).await,
                Some(event) = self.events.recv() => self.on_event(event),
                _ = tick.tick() => {
                    self.housekeep();
                    self.send_heartbeat().await;
                    if deadline.is_some_and(|deadline| deadline < Instant::now()) {
                        for chunk in self.in_hand.values_mut() {
                            chunk.cancel(Cancel::Leaving);
                        }
                    }
                }
                () = &mut leave, if deadline.is_none() => {
                    info!(in_hand = self.in_hand.len(), "agent leaves");
                    deadline = Some(Instant::now() + LEAVE_TIMEOUT);
                    self.leave().await;
                }
            }
        }
        self.send_heartbeat().await;
        // A failure is no error: without a connection, nobody can receive the heartbeat.
        let _ = tokio::time::timeout(HEARTBEAT_INTERVAL, self.shared.client.flush()).await;
        self.pool_ended.map_or(Ok(()), Err)
    }

    /// Requests no more work. Chunks that still arrive are handed back at once.
    async fn leave(&mut self) {
        self.heartbeat.leaving = true;
        self.send_heartbeat().await;
        self.inbox.close().await;
    }

    /// Whether no more work can arrive, because the inbox is closed or there is no connection.
    fn can_receive_no_work(&self) -> bool {
        self.inbox.state == InboxState::Closed || !is_connected(&self.shared.client)
    }

    /// Requests as many chunks as there is room for, unless enough are requested already.
    async fn request_work(&mut self) {
        if self.requested > 0 && self.requested_at.elapsed() > REQUEST_EXPIRY + HEARTBEAT_INTERVAL {
            self.requested = 0; // the answer to the request was lost
        }
        let client = &self.shared.client;
        if Instant::now() < self.next_request || !is_connected(client) || !self.open_inbox().await {
            return;
        }
        let allowed = max_in_hand(self.heartbeat.workers, self.in_hand.len(), self.chunk_nanos);
        let free = allowed.saturating_sub(self.in_hand.len() + self.requested);
        if free == 0 || (self.requested > 0 && free < allowed / 2) {
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
            self.requested += free;
            self.requested_at = Instant::now();
        }
    }

    /// Handles a message in the inbox: a chunk of work, or the end of a request without work.
    async fn on_work(&mut self, message: Message) {
        if let Some(status) = message.status {
            self.on_status(status, &message);
            return;
        }
        self.requested = self.requested.saturating_sub(1);
        let Some(delivery) = DeliveryInfo::of(&message) else { return };
        if self.in_hand.contains_key(&delivery.sequence) {
            return; // the lease expired, but the chunk is still in hand
        }
        let work = message::decode::<Work>(&message.payload);
        let Some(work) = work.filter(Work::is_within_limits) else {
            warn!(subject = %message.subject, "a message is not valid work");
            self.shared.acknowledge(&delivery, "+TERM").await;
            return;
        };
        if work.build != self.heartbeat.build {
            self.shared.acknowledge(&delivery, "-NAK {\"delay\":1000000000}").await;
            return;
        }
        let now = Instant::now();
        let new = || Driver { silent_since: now, jobs: Numbers::default() };
        let driver = self.drivers.entry(work.driver).or_insert_with(new);
        let is_silent = driver.is_silent(work.lease);
        if driver.jobs.is_over(work.job) || (delivery.count > 1 && is_silent) {
            self.shared.acknowledge(&delivery, "+TERM").await;
            return;
        }
        let (cancel, cancelled) = oneshot::channel();
        let (sequence, is_suspect) = (delivery.sequence, delivery.count > 1);
        let (driver, job, lease, chunk) = (work.driver, work.job, work.lease, work.chunk);
        let wait = match self.in_hand.len() < self.heartbeat.workers {
            true => WorkerWait::Unlimited,
            false => WorkerWait::Limited,
        };
        let execution =
            Execution { shared: Arc::clone(&self.shared), work, delivery, wait, cancelled };
        if is_suspect {
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
        let must_be_alone = chunk.must_be_alone();
        if must_be_alone {
            self.inbox.close().await;
            self.requested = 0;
        }
        let cancel = Some(cancel);
        self.in_hand.insert(sequence, InHand { driver, job, tasks, lease, must_be_alone, cancel });
        let send_done = self.send_done.clone();
        tokio::spawn(async move { drop(send_done.send(execution.run().await)) });
    }

    /// Opens a new inbox if the last one is closed, unless a chunk in hand must run alone. Returns
    /// whether the inbox is open, so that requested work can arrive.
    async fn open_inbox(&mut self) -> bool {
        let must_be_alone = self.in_hand.values().any(|chunk| chunk.must_be_alone);
        if self.inbox.state == InboxState::Closed
            && !must_be_alone
            && let Ok(inbox) = Inbox::open(&self.shared.client).await
        {
            self.inbox = inbox;
        }
        self.inbox.state == InboxState::Open
    }

    /// Handles the end of a request for work that the server has not fulfilled completely.
    fn on_status(&mut self, status: StatusCode, message: &Message) {
        let header =
            message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
        let pending: Option<usize> = header.and_then(|value| value.as_str().parse().ok());
        match pending {
            Some(pending) => self.requested = self.requested.saturating_sub(pending),
            // No driver has work for this build yet (503), or the server is about to forget the
            // requests (409).
            None if status != StatusCode::IDLE_HEARTBEAT => {
                self.requested = 0;
                self.next_request = Instant::now() + HEARTBEAT_INTERVAL;
            }
            None => {}
        }
    }

    /// Handles the end of an execution: counts its tasks, and learns how long a chunk takes.
    fn on_done(&mut self, done: execution::Done) {
        self.pool_ended = self.pool_ended.take().or(done.pool_ended);
        if let Some(chunk) = self.in_hand.remove(&done.sequence) {
            let counts = &mut self.heartbeat.counts;
            counts.in_flight -= chunk.tasks;
            match done.summary {
                Summary::Ran { nanoseconds, errors } => {
                    counts.done += chunk.tasks.saturating_sub(errors);
                    counts.failed += errors;
                    let (old, new) = (self.chunk_nanos, nanoseconds as f64);
                    self.chunk_nanos = if old == 0.0 { new } else { 0.75 * old + 0.25 * new };
                }
                // Some chunks take longer than estimated, so the agent requests no chunks ahead for
                // now.
                Summary::Busy => self.chunk_nanos = self.chunk_nanos.max(LONG_CHUNK_NANOS),
                Summary::Failed => counts.failed += chunk.tasks,
                Summary::Abandoned => {}
            }
        }
    }

    /// Handles a driver's heartbeat: cancels the chunks of jobs that the driver has given up, and
    /// drops the data that it has dropped.
    async fn on_heartbeat(&mut self, message: &Message) {
        let Some(heartbeat) = message::decode::<DriverHeartbeat>(&message.payload) else { return };
        let driver = Driver { silent_since: Instant::now(), jobs: heartbeat.jobs };
        for chunk in self.in_hand.values_mut() {
            if chunk.driver == heartbeat.driver && driver.jobs.is_over(chunk.job) {
                chunk.cancel(Cancel::Unwanted);
            }
        }
        self.shared.data.drop_closed(heartbeat.driver, &heartbeat.data);
        if self.drivers.insert(heartbeat.driver, driver).is_none() {
            self.send_heartbeat().await; // a new driver needs to know this agent
        }
        self.next_request = Instant::now(); // this driver may have work
    }

    fn on_event(&mut self, event: Event) {
        info!(%event, "connection");
        if matches!(event, Event::Connected) {
            // The server has forgotten the requests. Heartbeats of drivers could not arrive, so
            // their silence counts from now.
            self.requested = 0;
            self.drivers.values_mut().for_each(|driver| driver.silent_since = Instant::now());
        }
    }

    /// Cancels the chunks of drivers that have fallen silent, and drops their data. Forgets drivers
    /// that were silent for an hour and have no chunk in hand here.
    fn housekeep(&mut self) {
        if !is_connected(&self.shared.client) {
            return;
        }
        for chunk in self.in_hand.values_mut() {
            let driver = self.drivers.get(&chunk.driver);
            if driver.is_some_and(|driver| driver.is_silent(chunk.lease)) {
                chunk.cancel(Cancel::Unwanted);
            }
        }
        let drivers = &self.drivers;
        self.shared.data.drop_silent(|driver, lease| {
            drivers.get(&driver).is_none_or(|driver| driver.is_silent(lease))
        });
        self.shared.data.trim();
        let with_chunks: HashSet<u64> = self.in_hand.values().map(|chunk| chunk.driver).collect();
        self.drivers.retain(|number, driver| {
            with_chunks.contains(number)
                || driver.silent_since.elapsed() < Duration::from_secs(3600)
        });
    }

    /// Tells the drivers that this agent is alive, and how much work it has and has done.
    async fn send_heartbeat(&self) {
        // Without a connection this heartbeat is left out: the next one follows soon.
        if is_connected(&self.shared.client)
            && let Ok(heartbeat) = message::encode(&self.heartbeat)
        {
            let subject = self.shared.names.agent_heartbeats();
            let _ = self.shared.client.publish(subject, heartbeat.into()).await;
        }
    }
}

impl InHand {
    fn cancel(&mut self, why: Cancel) {
        if let Some(cancel) = self.cancel.take() {
            let _ = cancel.send(why); // fails if the execution has just ended
        }
    }
}

/// How many chunks a worker may have at once, if a chunk takes `chunk_nanos` nanoseconds (0 if that
/// is unknown).
fn max_per_worker(chunk_nanos: f64) -> usize {
    match chunk_nanos == 0.0 {
        true => 1,
        false => ((FAST_CHUNK_NANOS / chunk_nanos) as usize).clamp(1, MAX_CHUNKS_PER_WORKER),
    }
}

/// How many chunks may be in hand or requested in all, if `in_hand` of them are in hand.
///
/// The agent requests a chunk ahead only for a worker that has one already. The server gives one
/// chunk to each open request in turn, so an idle machine does not wait until all requests of busy
/// ones are served.
fn max_in_hand(workers: usize, in_hand: usize, chunk_nanos: f64) -> usize {
    let requests_ahead = chunk_nanos > 0.0 && chunk_nanos < LONG_CHUNK_NANOS;
    let ahead = if requests_ahead { in_hand.min(workers) } else { 0 };
    (workers * max_per_worker(chunk_nanos) + ahead).min(workers * MAX_CHUNKS_PER_WORKER)
}

/// Makes this process survive SIGPIPE, which the kernel sends when a process writes to a connection
/// that is broken. Programs in Rust ignore that signal from the beginning of `main`, but an agent
/// may run before (see [`init_tests!`](crate::init_tests)).
fn survive_broken_connections() -> Result<(), Error> {
    let handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe());
    handler.map(drop).map_err(|e| fleet_error(format!("the agent cannot handle signals: {e}")))
}

/// Resolves at the first SIGTERM or SIGINT.
fn leave_signal() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|e| fleet_error(format!("the agent cannot handle signals: {e}")))
    };
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
    fn max_in_hand_allows_chunks_ahead_unless_chunks_are_long_or_many() {
        let ms = 1e6;
        assert_eq!(max_in_hand(2, 0, 0.0), 2, "the time of a chunk is unknown");
        assert_eq!(max_in_hand(2, 2, 0.0), 2, "the time of a chunk is unknown");
        assert_eq!(max_in_hand(2, 0, 5.0 * ms), 2, "an idle agent requests nothing ahead");
        assert_eq!(max_in_hand(2, 1, 5.0 * ms), 3);
        assert_eq!([2, 3, 4].map(|in_hand| max_in_hand(2, in_hand, 5.0 * ms)), [4; 3]);
        assert_eq!(max_in_hand(2, 2, 60.0 * ms), 2, "a chunk ahead would wait for long");
        let max = 2 * MAX_CHUNKS_PER_WORKER;
        assert_eq!([0, 2, max].map(|in_hand| max_in_hand(2, in_hand, 0.001 * ms)), [max; 3]);
    }
}
