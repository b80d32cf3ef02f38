//! A driver's connection: its streams, the jobs that replies belong to, and the fleet it hears.

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

/// How long a driver waits for a server that is not there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server keeps what no driver looks after any more.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// How many chunks of one build may be with agents, in all.
const MAX_ACK_PENDING: i64 = 1_000_000;

/// How many requests for work may wait, in all: one or two for each agent.
const MAX_WAITING: i64 = 100_000;

/// What a driver asks of its fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriverConfig {
    /// Within which an agent must give word of what it has.
    pub(crate) lease: Duration,
    /// How long calls wait for an agent where there is none.
    pub(crate) patience: Duration,
    /// On how many servers of a cluster the work is stored.
    pub(crate) replicas: usize,
}

/// Everything a driver's calls share.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) store: Store,
    pub(crate) names: Names,
    pub(crate) build: String,
    /// This driver's own number.
    pub(crate) driver: u64,
    pub(crate) config: DriverConfig,
    jobs: Mutex<Jobs>,
    roster: Mutex<Roster>,
    /// Signalled when an agent was heard.
    heard: Condvar,
    /// When an agent of our build was last there.
    served: Mutex<Instant>,
    /// What the server had of our work, when that was last asked.
    looked: tokio::sync::Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
    /// Something is to be said to agents at once.
    urgent: Notify,
}

#[derive(Default)]
struct Jobs {
    newest: u64,
    open: HashMap<u64, mpsc::UnboundedSender<Note>>,
    /// Those that may still remove what they left at the server.
    ending: Vec<mpsc::UnboundedSender<Note>>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Connects and starts to listen; to be called on the runtime that is to do so.
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
        // Each ends when the runtime does.
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

    /// Makes what is not there: the streams, and the consumer of this build.
    ///
    /// # Errors
    ///
    /// The server has no JetStream, or we have no right to it.
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
            max_messages_per_subject: 1, // what is sent again takes the first one's place
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

    /// A number for a new job, whose replies go to `notes`.
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

    /// Nobody waits for the job any more. Agents that may still have some of it (`left`) are to stop.
    pub(crate) fn close_job(&self, job: u64, left: bool) {
        let mut jobs = lock(&self.jobs);
        jobs.ending.retain(|notes| !notes.is_closed());
        let notes = jobs.open.remove(&job);
        jobs.ending.extend(notes);
        if left {
            self.urgent.notify_one();
        }
    }

    /// Takes no more jobs.
    pub(crate) fn close(&self) {
        lock(&self.jobs).closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.jobs).closed
    }

    /// Ends all jobs, and takes no more.
    pub(crate) fn terminate(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.closed = true;
        for notes in jobs.open.values() {
            let _ = notes.send(Note::Close(closed())); // it may have ended by itself
        }
    }

    /// Waits until all jobs have ended and cleaned up.
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

    /// How many workers there are for us.
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

    /// Whether a machine may have been lost: an agent has missed three of its words, or a lease of them.
    pub(crate) fn has_lost_a_machine(&self) -> bool {
        let silence = Duration::from_millis(1500).min(self.config.lease);
        lock(&self.roster).has_lost(&self.build, silence)
    }

    /// Why nobody does our work, if that has been so, since a call that began then, for longer than is
    /// to be borne.
    pub(crate) fn absence(&self, begin: Instant) -> Option<Error> {
        let mut served = lock(&self.served);
        if self.workers() > 0 {
            *served = Instant::now();
        }
        let gone = begin.max(*served).elapsed() > self.config.patience;
        gone.then(|| fleet_error(lock(&self.roster).absence(&self.build)))
    }

    /// Says that a reply has arrived, and the work need not be done again.
    pub(crate) async fn acknowledge(&self, subject: String) {
        if lease::is_place(&subject) {
            // One that is lost is made good by the next delivery.
            let _ = self.client.publish(subject, "+ACK".into()).await;
        }
    }

    /// The subjects under which the server has some of our work, at an agent or not, at most so long ago.
    ///
    /// All jobs ask; the server is asked once for them.
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

    /// Looks what the server has, and makes it go on where it has stopped.
    ///
    /// nats-server 2.10.27 that was killed may come back with an empty stream that counts from one again, but with
    /// the consumer's old place in it, and then delivers nothing below that: such a consumer is made
    /// anew. One that is gone is an error, which has everything made that is not there.
    async fn look(&self) -> Result<HashSet<String>, Error> {
        let failed = |error: &dyn std::fmt::Display| fleet_error(error.to_string());
        let stream = self.context.get_stream_no_info(self.names.tasks()).await;
        let stream = stream.map_err(|error| failed(&error))?;
        // The place first: the stream is never behind it then.
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

    /// Removes a job's work and data.
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
                self.acknowledge(reply.acknowledge).await; // nobody waits for it any more
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

    /// Tells agents that we live, and of which jobs.
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
            return; // it is said again soon
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
