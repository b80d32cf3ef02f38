//! A driver's connection: creates the streams, passes replies to the jobs, and records the
//! heartbeats of the fleet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, Event, Message};
use futures_util::{StreamExt, TryStreamExt};
use proc_core::Error;
use proc_core::remote::fleet_error;
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use crate::build_id;
use crate::connection::{Settings, is_connected, subscribe};
use crate::data::Store;
use crate::data_numbers::DataNumbers;
use crate::fleet::{Fleet, Roster};
use crate::job::Note;
use crate::lease;
use crate::message::{self, AgentHeartbeat, DriverHeartbeat, Names, Numbers, Reply};

/// How long a connecting driver tries to reach the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server keeps work and data at most. So it also removes what a lost driver has left
/// and no agent removes. A chunk that runs for longer is handed out again.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// How many chunks of one build all agents together may have in hand.
const MAX_ACK_PENDING: i64 = 1_000_000;

/// How many requests for work may be open at the server, in all. Each agent has a few.
const MAX_WAITING: i64 = 100_000;

/// How long the server may take to remove what a job or a `with` has stored.
const PURGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A driver's settings for its work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriverConfig {
    /// The time within which an agent must renew its claim on a chunk.
    pub(crate) lease: Duration,
    /// How long calls wait while there is no agent of this build.
    pub(crate) patience: Duration,
    /// On how many servers of a NATS cluster the work is stored.
    pub(crate) replicas: usize,
}

/// Everything that the calls of a driver share.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) store: Store,
    pub(crate) names: Names,
    pub(crate) build: String,
    /// The number that identifies this driver.
    pub(crate) driver: u64,
    pub(crate) config: DriverConfig,
    /// The data of this driver's `with`s.
    pub(crate) data: DataNumbers,
    jobs: Mutex<Jobs>,
    roster: Mutex<Roster>,
    /// Notified when an agent's heartbeat has arrived.
    roster_changed: Condvar,
    /// When an agent of this build was last seen, or when the driver connected, if that is later.
    last_agent_seen: Mutex<Instant>,
    /// The last list of this driver's chunks at the server (their subjects), and its time.
    work_list: tokio::sync::Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
    /// Notified when a heartbeat must be sent at once.
    heartbeat_now: Notify,
}

#[derive(Default)]
struct Jobs {
    newest: u64,
    open: HashMap<u64, mpsc::UnboundedSender<Note>>,
    /// Jobs without a caller, which may still be removing their work from the server.
    ending: Vec<mpsc::UnboundedSender<Note>>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Connects and starts to listen, on the runtime on which it is called.
    pub(crate) async fn connect(
        settings: &Settings,
        config: DriverConfig,
    ) -> Result<Arc<Link>, Error> {
        let names = Names::new(settings.fleet.as_deref().unwrap_or("default"))?;
        let build = build_id::get()?.to_owned();
        let (send_event, mut events) = mpsc::unbounded_channel();
        let client = settings
            .connect("driver", CONNECT_TIMEOUT, move |event| drop(send_event.send(event)))
            .await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(Duration::from_secs(5));
        let store = Store::new(&context, &names.data()).await?;
        let link = Arc::new(Link {
            client,
            context,
            store,
            names,
            build,
            driver: crate::nonce(),
            config,
            data: DataNumbers::default(),
            jobs: Mutex::default(),
            roster: Mutex::default(),
            roster_changed: Condvar::new(),
            last_agent_seen: Mutex::new(Instant::now()),
            work_list: tokio::sync::Mutex::default(),
            heartbeat_now: Notify::new(),
        });
        link.make_streams().await?;
        let replies = subscribe(&link.client, link.names.replies(link.driver)).await?;
        let heartbeats = subscribe(&link.client, link.names.agent_heartbeats()).await?;
        // These tasks end when the runtime ends.
        tokio::spawn(Arc::clone(&link).read_replies(replies));
        tokio::spawn(Arc::clone(&link).read_agent_heartbeats(heartbeats));
        tokio::spawn(Arc::clone(&link).send_heartbeats());
        let of_events = Arc::clone(&link);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                of_events.on_event(&event);
            }
        });
        Ok(link)
    }

    fn on_event(&self, event: &Event) {
        info!(%event, "connection");
        if matches!(event, Event::Connected) {
            lock(&self.roster).on_connected();
            *lock(&self.last_agent_seen) = Instant::now();
        }
    }

    /// Creates the streams and the consumer of this build, if they are missing.
    ///
    /// # Errors
    ///
    /// The server has no JetStream, or this user has no right to use it.
    pub(crate) async fn make_streams(&self) -> Result<(), Error> {
        let tasks = stream::Config {
            name: self.names.tasks(),
            subjects: vec![self.names.all_work()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            max_age: MAX_AGE,
            ..stream::Config::default()
        };
        let data = stream::Config {
            name: self.names.data(),
            subjects: vec![self.names.all_data()],
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            max_age: MAX_AGE,
            max_messages_per_subject: 1, // a piece sent twice is stored once
            allow_direct: true,
            ..stream::Config::default()
        };
        let failed = |error: &dyn std::fmt::Display| {
            fleet_error(format!(
                "the server refuses to make a queue: {error}; does it run with JetStream (-js), and may \
                 this user submit work?"
            ))
        };
        for stream in [tasks, data] {
            self.context.get_or_create_stream(stream).await.map_err(|error| failed(&error))?;
        }
        let consumer = pull::Config {
            durable_name: Some(self.build.clone()),
            filter_subject: self.names.work_of_build(&self.build),
            ack_wait: self.config.lease,
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_WAITING,
            inactive_threshold: MAX_AGE,
            ..pull::Config::default()
        };
        let made = self.context.create_consumer_on_stream(consumer, self.names.tasks()).await;
        made.map(drop).map_err(|error| failed(&error))
    }

    /// Opens a new job, whose replies go to `notes`, and returns its number.
    ///
    /// # Errors
    ///
    /// The cluster is closed.
    pub(crate) fn open_job(&self, notes: mpsc::UnboundedSender<Note>) -> Result<u64, Error> {
        let mut jobs = lock(&self.jobs);
        if jobs.closed {
            return Err(closed());
        }
        jobs.newest += 1;
        let job = jobs.newest;
        jobs.open.insert(job, notes);
        Ok(job)
    }

    /// Closes a job whose caller does not wait any more. Agents that still have some of its work
    /// stop when they receive the next heartbeat.
    pub(crate) fn close_job(&self, job: u64) {
        let mut jobs = lock(&self.jobs);
        jobs.ending.retain(|notes| !notes.is_closed());
        let notes = jobs.open.remove(&job);
        jobs.ending.extend(notes);
    }

    /// Sends the next heartbeat at once, so that agents stop the work of closed jobs.
    pub(crate) fn send_heartbeat_now(&self) {
        self.heartbeat_now.notify_one();
    }

    /// Accepts no more jobs. The jobs that are open run to their end.
    pub(crate) fn close(&self) {
        lock(&self.jobs).closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.jobs).closed
    }

    /// Ends all jobs, and accepts no more.
    pub(crate) fn terminate(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.closed = true;
        for notes in jobs.open.values() {
            let _ = notes.send(Note::Close(closed())); // fails if the job has ended
        }
    }

    /// Waits until all jobs have ended and have removed their work from the server. No calls can
    /// follow, so all data are removed too.
    pub(crate) async fn join(&self) {
        let jobs: Vec<_> = {
            let jobs = lock(&self.jobs);
            jobs.open.values().chain(&jobs.ending).cloned().collect()
        };
        for notes in jobs {
            notes.closed().await;
        }
        if self.data.has_stored() {
            let all = self.names.bound_data_of_driver(self.driver);
            match self.purge(self.names.data(), all).await {
                Ok(()) => self.data.note_all_removed(),
                Err(error) => warn!(%error, "data may be left at the server"),
            }
        }
        self.send_heartbeat().await;
        let _ = self.client.flush().await;
    }

    pub(crate) fn fleet(&self) -> Fleet {
        lock(&self.roster).fleet(&self.build)
    }

    /// How many workers the agents of this build have.
    pub(crate) fn workers(&self) -> usize {
        lock(&self.roster).workers(&self.build)
    }

    pub(crate) fn wait_for_workers(&self, wanted: usize, timeout: Duration) -> Result<(), Error> {
        let roster = lock(&self.roster);
        let are_too_few = |roster: &mut Roster| roster.workers(&self.build) < wanted;
        let waited = self.roster_changed.wait_timeout_while(roster, timeout, are_too_few);
        let (mut roster, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if !timeout.timed_out() {
            return Ok(());
        }
        let there = roster.workers(&self.build);
        let why = if there == 0 {
            roster.absence(&self.build)
        } else {
            format!(
                "the agents of this build have {there} workers, and {wanted} are wanted: start more \
                 agents, or wait longer"
            )
        };
        Err(fleet_error(why))
    }

    /// Whether a machine of this build is lost, see [`Roster::has_lost`].
    pub(crate) fn has_lost_a_machine(
        &self,
        handed_out: Instant,
        redelivered: Instant,
    ) -> Option<bool> {
        lock(&self.roster).has_lost(&self.build, handed_out, redelivered)
    }

    /// Returns an error if there was no agent of this build for longer than `patience`. The error
    /// says why.
    ///
    /// The time counts from when an agent was last seen or the driver connected, or from the
    /// beginning of the call (`begin`) if that is later.
    pub(crate) fn absence(&self, begin: Instant) -> Option<Error> {
        let mut last_agent_seen = lock(&self.last_agent_seen);
        if self.workers() > 0 {
            *last_agent_seen = Instant::now();
        }
        let is_too_long = begin.max(*last_agent_seen).elapsed() > self.config.patience;
        is_too_long.then(|| fleet_error(lock(&self.roster).absence(&self.build)))
    }

    /// Acknowledges a chunk whose reply has arrived, so that the server removes the chunk.
    pub(crate) async fn acknowledge(&self, subject: String) {
        if lease::is_acknowledge_subject(&subject) {
            // If the acknowledgement is lost, the server redelivers the chunk, and the next reply
            // is acknowledged.
            let _ = self.client.publish(subject, "+ACK".into()).await;
        }
    }

    /// The subjects of this driver's chunks that the server has, including chunks that are with
    /// agents. The list is at most `max_age` old.
    ///
    /// All jobs share the list, so that the server is asked once for all of them.
    pub(crate) async fn work_at_server(
        &self,
        max_age: Duration,
    ) -> Result<Arc<HashSet<String>>, Error> {
        let mut work_list = self.work_list.lock().await;
        if let Some((when, subjects)) = &*work_list
            && when.elapsed() < max_age
        {
            return Ok(Arc::clone(subjects));
        }
        let now = Instant::now();
        let subjects = Arc::new(self.list_work().await?);
        *work_list = Some((now, Arc::clone(&subjects)));
        Ok(subjects)
    }

    /// Asks the server for the list of this driver's chunks, and repairs a consumer that delivers
    /// nothing.
    ///
    /// If nats-server 2.10.27 was killed, it may come back with an empty stream, which counts from
    /// one again, while the consumer still has its old position in the stream. The consumer then
    /// delivers nothing below that position, so this function creates it anew. A missing consumer
    /// is an error; the caller then creates everything that is missing.
    async fn list_work(&self) -> Result<HashSet<String>, Error> {
        let failed = |error: &dyn std::fmt::Display| {
            fleet_error(format!("the work at the server cannot be listed: {error}"))
        };
        let stream = self.context.get_stream_no_info(self.names.tasks()).await;
        let stream = stream.map_err(|error| failed(&error))?;
        // The consumer's position is read first, and the last number of the stream after it. That
        // number only grows, so the position is beyond it only if the server has lost count.
        let consumer = stream.consumer_info(&self.build).await.map_err(|error| failed(&error))?;
        let filter = self.names.work_of_driver(&self.build, self.driver);
        let subjects = stream.info_with_subjects(filter).await.map_err(|error| failed(&error))?;
        if consumer.delivered.stream_sequence > subjects.info.state.last_sequence {
            warn!("the server has lost count of the work and is corrected");
            stream.delete_consumer(&self.build).await.map_err(|error| failed(&error))?;
            self.make_streams().await?;
        }
        let counts: Vec<(String, usize)> =
            subjects.try_collect().await.map_err(|error| failed(&error))?;
        Ok(counts.into_iter().map(|(subject, _)| subject).collect())
    }

    /// Removes the work and the data of a job from the server.
    pub(crate) async fn remove_job(&self, job: u64) -> Result<(), Error> {
        let work = self.names.work_of_job(&self.build, self.driver, job);
        self.purge(self.names.tasks(), work).await?;
        self.purge(self.names.data(), self.names.data_of_job(self.driver, job)).await
    }

    /// Removes the data of a `with` from the server.
    pub(crate) async fn remove_data(&self, id: u64) -> Result<(), Error> {
        let pieces = format!("{}.>", self.names.bound_data(self.driver, id));
        self.purge(self.names.data(), pieces).await?;
        self.data.note_removed(id);
        Ok(())
    }

    /// Removes the messages of a stream whose subjects match `filter`.
    async fn purge(&self, stream: String, filter: String) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| {
            fleet_error(format!("what is stored as {filter} cannot be removed: {error}"))
        };
        let purge = async {
            let stream = self.context.get_stream_no_info(stream).await;
            let stream = stream.map_err(|error| failed(&error))?;
            stream.purge().filter(&filter).await.map_err(|error| failed(&error))
        };
        let purged = tokio::time::timeout(PURGE_TIMEOUT, purge).await;
        purged.unwrap_or_else(|_| Err(failed(&"the server does not answer"))).map(drop)
    }

    async fn read_replies(self: Arc<Link>, mut replies: async_nats::Subscriber) {
        while let Some(Message { payload, .. }) = replies.next().await {
            match message::decode::<Reply>(&payload) {
                Some(reply) => self.on_reply(reply).await,
                None => warn!("a message is not a valid reply"),
            }
        }
    }

    /// Passes a reply to its job. If the job has ended, acknowledges the chunk.
    async fn on_reply(&self, reply: Reply) {
        let notes = lock(&self.jobs).open.get(&reply.job).cloned();
        let refused = match notes {
            Some(notes) => notes.send(Note::Reply(reply)).err().map(|refused| refused.0),
            None => Some(Note::Reply(reply)),
        };
        if let Some(Note::Reply(reply)) = refused {
            self.acknowledge(reply.acknowledge).await;
        }
    }

    async fn read_agent_heartbeats(self: Arc<Link>, mut heartbeats: async_nats::Subscriber) {
        while let Some(Message { payload, .. }) = heartbeats.next().await {
            if let Some(heartbeat) = message::decode::<AgentHeartbeat>(&payload) {
                lock(&self.roster).on_heartbeat(heartbeat);
                self.roster_changed.notify_all();
            }
        }
    }

    /// Tells agents regularly that this driver is alive, and for which jobs it waits.
    async fn send_heartbeats(self: Arc<Link>) {
        let interval = (self.config.lease / 4).min(Duration::from_secs(1));
        loop {
            self.send_heartbeat().await;
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.heartbeat_now.notified() => {}
            }
        }
    }

    async fn send_heartbeat(&self) {
        if !is_connected(&self.client) {
            return; // the next heartbeat follows soon
        }
        let heartbeat = {
            let jobs = lock(&self.jobs);
            let open = jobs.open.keys().copied().collect();
            let jobs = Numbers { newest: jobs.newest, open };
            DriverHeartbeat { driver: self.driver, jobs, data: self.data.get() }
        };
        if let Ok(heartbeat) = message::encode(&heartbeat) {
            let _ = self.client.publish(self.names.driver_heartbeats(), heartbeat.into()).await;
        }
    }
}

pub(crate) fn closed() -> Error {
    fleet_error("the connection to the fleet is closed")
}
