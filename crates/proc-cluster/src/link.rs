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
use crate::connection::{Settings, is_connected};
use crate::data::Store;
use crate::fleet::{Fleet, Roster};
use crate::job::Note;
use crate::lease;
use crate::message::{self, AgentHeartbeat, DriverHeartbeat, Names, Reply};

/// How long a connecting driver tries to reach the server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server keeps work and data that no driver looks after any more.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// How many chunks of one build agents may have in hand, in all.
const MAX_ACK_PENDING: i64 = 1_000_000;

/// How many requests for work may be open at the server, in all: one or two for each agent.
const MAX_WAITING: i64 = 100_000;

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
    jobs: Mutex<Jobs>,
    roster: Mutex<Roster>,
    /// Notified when an agent's heartbeat has arrived.
    heard: Condvar,
    /// When an agent of this build was last there.
    served: Mutex<Instant>,
    /// The last list of this driver's chunks at the server (their subjects), and its time.
    looked: tokio::sync::Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
    /// Notified when a heartbeat must be sent at once.
    urgent: Notify,
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
            .connect("driver", REQUEST_TIMEOUT, move |event| drop(send_event.send(event)))
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
            jobs: Mutex::default(),
            roster: Mutex::default(),
            heard: Condvar::new(),
            served: Mutex::new(Instant::now()),
            looked: tokio::sync::Mutex::default(),
            urgent: Notify::new(),
        });
        link.make_streams().await?;
        let replies = link.listen(link.names.replies(link.driver)).await?;
        let presences = link.listen(link.names.presences()).await?;
        // These tasks end when the runtime ends.
        tokio::spawn(Arc::clone(&link).read_replies(replies));
        tokio::spawn(Arc::clone(&link).read_presences(presences));
        tokio::spawn(Arc::clone(&link).heartbeat());
        let heedful = Arc::clone(&link);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                info!(%event, "connection");
                if matches!(event, Event::Connected) {
                    lock(&heedful.roster).refresh();
                    *lock(&heedful.served) = Instant::now();
                }
            }
        });
        Ok(link)
    }

    async fn listen(&self, subject: String) -> Result<async_nats::Subscriber, Error> {
        let heard = self.client.subscribe(subject).await;
        heard.map_err(|error| fleet_error(format!("cannot listen: {error}")))
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
            max_age: LEFT_OVER,
            ..stream::Config::default()
        };
        let data = stream::Config {
            name: self.names.data(),
            subjects: vec![self.names.all_data()],
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            max_age: LEFT_OVER,
            max_messages_per_subject: 1, // a piece sent twice is stored once
            allow_direct: true,
            ..stream::Config::default()
        };
        let failed = |error: &dyn std::fmt::Display| {
            fleet_error(format!(
                "the server refuses a queue: {error}; does it run with JetStream (-js), and may this \
                 user submit work?"
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
            inactive_threshold: LEFT_OVER,
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

    /// Closes a job whose caller does not wait any more. If agents may still have some of its work
    /// (`left`), they are told at once to stop.
    pub(crate) fn close_job(&self, job: u64, left: bool) {
        let mut jobs = lock(&self.jobs);
        jobs.ending.retain(|notes| !notes.is_closed());
        let notes = jobs.open.remove(&job);
        jobs.ending.extend(notes);
        if left {
            self.urgent.notify_one();
        }
    }

    /// Accepts no more jobs.
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

    /// Waits until all jobs have ended and have removed their work from the server.
    pub(crate) async fn join(&self) {
        let jobs: Vec<_> = {
            let jobs = lock(&self.jobs);
            jobs.open.values().chain(&jobs.ending).cloned().collect()
        };
        for notes in jobs {
            notes.closed().await;
        }
        self.send_beat().await;
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
        let few = |roster: &mut Roster| roster.workers(&self.build) < wanted;
        let waited = self.heard.wait_timeout_while(roster, timeout, few);
        let (mut roster, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if !timeout.timed_out() {
            return Ok(());
        }
        let there = roster.workers(&self.build);
        let who = if there == 0 {
            roster.absence(&self.build)
        } else {
            format!("agents with {there} workers are there, fewer than {wanted}")
        };
        Err(fleet_error(who))
    }

    /// Whether a machine may have been lost: an agent of this build has been silent for three
    /// heartbeats, or for a lease if that is shorter.
    pub(crate) fn has_lost_a_machine(&self) -> bool {
        let silence = Duration::from_millis(1500).min(self.config.lease);
        lock(&self.roster).has_lost(&self.build, silence)
    }

    /// Returns the error which says why no agent of this build is there, if that has lasted for
    /// longer than `patience`.
    ///
    /// The time counts from when an agent was last there, or from the begin of the call (`begin`)
    /// if that is later.
    pub(crate) fn absence(&self, begin: Instant) -> Option<Error> {
        let mut served = lock(&self.served);
        if self.workers() > 0 {
            *served = Instant::now();
        }
        let gone = begin.max(*served).elapsed() > self.config.patience;
        gone.then(|| fleet_error(lock(&self.roster).absence(&self.build)))
    }

    /// Acknowledges a chunk whose reply has arrived, so that the server removes the chunk.
    pub(crate) async fn acknowledge(&self, subject: String) {
        if lease::is_place(&subject) {
            // If the acknowledgement is lost, the server redelivers the chunk, and the next reply
            // is acknowledged.
            let _ = self.client.publish(subject, "+ACK".into()).await;
        }
    }

    /// The subjects of this driver's chunks that the server has, including chunks that are with
    /// agents. The list is at most `ago` old.
    ///
    /// All jobs share the list, so that the server is asked once for all of them.
    pub(crate) async fn work_at_the_server(
        &self,
        ago: Duration,
    ) -> Result<Arc<HashSet<String>>, Error> {
        let mut looked = self.looked.lock().await;
        if let Some((when, there)) = &*looked
            && when.elapsed() < ago
        {
            return Ok(Arc::clone(there));
        }
        let now = Instant::now();
        let there = Arc::new(self.look().await?);
        *looked = Some((now, Arc::clone(&there)));
        Ok(there)
    }

    /// Asks the server for the list of this driver's chunks, and repairs a consumer that delivers
    /// nothing.
    ///
    /// When nats-server 2.10.27 was killed, it may come back with an empty stream, which counts
    /// from one again, while the consumer still has its old position in the stream. The consumer
    /// then delivers nothing below that position, so it is created anew. A missing consumer is an
    /// error; the caller then creates everything that is missing.
    async fn look(&self) -> Result<HashSet<String>, Error> {
        let failed = |error: &dyn std::fmt::Display| fleet_error(error.to_string());
        let stream = self.context.get_stream_no_info(self.names.tasks()).await;
        let stream = stream.map_err(|error| failed(&error))?;
        // The consumer's position is read first, and the end of the stream after it. Streams only
        // grow, so the position is beyond the end only if the server has lost count.
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
    pub(crate) async fn purge(&self, job: u64) -> Result<(), Error> {
        for (stream, filter) in [
            (self.names.tasks(), self.names.work_of_job(&self.build, self.driver, job)),
            (self.names.data(), self.names.data_of_job(self.driver, job)),
        ] {
            let failed = |error: &dyn std::fmt::Display| fleet_error(error.to_string());
            let stream = self.context.get_stream_no_info(stream).await;
            let stream = stream.map_err(|error| failed(&error))?;
            stream.purge().filter(filter).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    async fn read_replies(self: Arc<Link>, mut replies: async_nats::Subscriber) {
        while let Some(Message { payload, .. }) = replies.next().await {
            let Some(reply) = message::decode::<Reply>(&payload) else {
                warn!("rubbish among the replies");
                continue;
            };
            let notes = lock(&self.jobs).open.get(&reply.job).cloned();
            let left = match notes {
                Some(notes) => notes.send(Note::Reply(reply)).err().map(|refused| refused.0),
                None => Some(Note::Reply(reply)),
            };
            if let Some(Note::Reply(reply)) = left {
                self.acknowledge(reply.acknowledge).await; // the job has ended
            }
        }
    }

    async fn read_presences(self: Arc<Link>, mut presences: async_nats::Subscriber) {
        while let Some(Message { payload, .. }) = presences.next().await {
            if let Some(heartbeat) = message::decode::<AgentHeartbeat>(&payload) {
                lock(&self.roster).hear(heartbeat);
                self.heard.notify_all();
            }
        }
    }

    /// Tells agents regularly that this driver is alive, and for which jobs it waits.
    async fn heartbeat(self: Arc<Link>) {
        let every = (self.config.lease / 4).min(Duration::from_secs(1));
        loop {
            self.send_beat().await;
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.urgent.notified() => {}
            }
        }
    }

    async fn send_beat(&self) {
        if !is_connected(&self.client) {
            return; // the next heartbeat follows soon
        }
        let heartbeat = {
            let jobs = lock(&self.jobs);
            DriverHeartbeat {
                driver: self.driver,
                newest: jobs.newest,
                open: jobs.open.keys().copied().collect(),
            }
        };
        if let Ok(heartbeat) = message::encode(&heartbeat) {
            let _ = self.client.publish(self.names.heartbeats(), heartbeat.into()).await;
        }
    }
}

pub(crate) fn closed() -> Error {
    fleet_error("the connection to the fleet is closed")
}
