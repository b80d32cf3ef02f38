//! `Cluster`, by which a program uses a fleet, and `ClusterBuilder` with its settings.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use proc_core::remote::{fleet_error, invalid_error};
use proc_core::{Error, Message, Options, With, executor_calls};
use tokio::runtime::Runtime;

use crate::connection::{Plaintext, Settings};
use crate::fleet::Fleet;
use crate::link::{DriverConfig, Link};
use crate::message::MAX_LEASE;

/// The shortest lease that a driver may ask for.
const MIN_LEASE: Duration = Duration::from_millis(100);

/// How long `terminate` waits for the server to remove the work of the cluster's calls.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A fleet of machines that runs functions over inputs, as a [`Pool`](proc_core::Pool) does on one
/// machine.
///
/// The calls have the names that they have in a pool. Each takes a function that captures nothing
/// and has one argument, and that may borrow data (see [`with`](Cluster::with)). Any number of
/// threads may call at once. Dropping a cluster ends it like [`terminate`](Cluster::terminate).
///
/// ```no_run
/// use proc_cluster::Cluster;
///
/// fn main() -> Result<(), proc_cluster::Error> {
///     proc_cluster::init();
///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
///     assert_eq!(cluster.map(|x: u32| x * x, [1, 2, 3])?, [1, 4, 9]);
///     println!("{}", cluster.fleet());
///     Ok(())
/// }
/// ```
///
/// As with a pool, the compiler refuses a function that captures:
///
/// ```compile_fail,E0080
/// use proc_cluster::Cluster;
///
/// fn main() -> Result<(), proc_cluster::Error> {
///     proc_cluster::init();
///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
///     let factor = 3;
///     cluster.map(move |x: u32| x * factor, [1, 2, 3])?;
///     Ok(())
/// }
/// ```
pub struct Cluster {
    link: Arc<Link>,
    runtime: Option<Runtime>,
}

impl Cluster {
    /// Connects to the server at `address`, whose agents are the fleet. The other settings come
    /// from the environment (see [`init`](crate::init)).
    ///
    /// # Errors
    ///
    /// See [`ClusterBuilder::connect`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use proc_cluster::Cluster;
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
    ///     assert_eq!(cluster.apply(|x: u32| x + 1, 41)?, 42);
    ///     Ok(())
    /// }
    /// ```
    pub fn connect(address: &str) -> Result<Cluster, Error> {
        Cluster::builder(address).connect()
    }

    /// Returns a builder, for a cluster with other settings.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn builder(address: &str) -> ClusterBuilder {
        ClusterBuilder {
            settings: Settings::from_env(address),
            lease: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            replicas: 1,
        }
    }

    /// Returns an [`Options`]: the same calls, with settings such as a timeout for each task.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use proc_cluster::Cluster;
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
    ///     let patient = cluster.options().timeout(Duration::from_secs(60)).retries(1);
    ///     assert_eq!(patient.map(|x: u64| x * x, [1, 2, 3])?, [1, 4, 9]);
    ///     Ok(())
    /// }
    /// ```
    pub fn options(&self) -> Options<'_, Cluster> {
        Options::new(self)
    }

    /// Returns a [`With`]: the same calls, for functions that borrow `data` beside their argument.
    ///
    /// The data are encoded once, and stored at the server once, however many calls are made. Each
    /// agent fetches them once, and each of its workers decodes them once. (Data of up to 4 KiB
    /// travel with the tasks.) They are kept until the last clone of the `With` is dropped and its
    /// calls are done; then they are removed from the server. (An agent keeps the data of at most
    /// 64 `with`s, with 256 MiB of encoded bytes together. It keeps more only if its running tasks
    /// use them, and always the data that were used last. It fetches dropped data again when it
    /// needs them.)
    ///
    /// Channel ends and shared memory cannot be part of the data, because both work within one
    /// machine only. If the data cannot be encoded, each call fails with that error. If a worker
    /// cannot decode them, the call ends with one error
    /// ([`ErrorKind::Decode`](crate::ErrorKind::Decode)).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::collections::HashMap;
    ///
    /// use proc_cluster::Cluster;
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
    ///     let prices: HashMap<u64, f64> = (0..1_000_000).map(|n| (n, n as f64 / 100.0)).collect();
    ///     let shop = cluster.with(prices);
    ///     let total = |prices: &HashMap<u64, f64>, order: Vec<u64>| -> f64 {
    ///         order.iter().map(|article| prices[article]).sum()
    ///     };
    ///     assert_eq!(shop.map(total, [vec![50, 150], vec![100]])?, [2.0, 1.0]);
    ///     assert_eq!(shop.apply(total, vec![200])?, 2.0); // another call, the same data
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "partial")]
    pub fn with<D: Message + Send + Sync>(&self, data: D) -> With<'_, Cluster, D> {
        self.options().with(data)
    }

    /// Returns the agents of this build and of others, with the state of each.
    ///
    /// Agents send a heartbeat twice a second, so some may be missing just after `connect`.
    ///
    /// See the example of [`Fleet`].
    pub fn fleet(&self) -> Fleet {
        self.link.fleet()
    }

    /// Waits, for at most `timeout`, until the agents of this build have at least `workers`
    /// workers.
    ///
    /// Calls need not wait for this: a call begins with the agents that are up.
    ///
    /// # Errors
    ///
    /// There are fewer workers when the time is over. The error says how many, and which agents
    /// of other builds there are if there are none of this build.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use proc_cluster::Cluster;
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
    ///     cluster.wait_for_workers(8, Duration::from_secs(60))?;
    ///     println!("{} workers are up", cluster.fleet().workers());
    ///     Ok(())
    /// }
    /// ```
    pub fn wait_for_workers(&self, workers: usize, timeout: Duration) -> Result<(), Error> {
        self.link.wait_for_workers(workers, timeout)
    }

    executor_calls! {
        [pub]
        ///
        /// A call also fails if it finds no agents for longer than
        /// [`patience`](ClusterBuilder::patience).
        ///
        /// # Examples
        ///
        /// ```no_run
        /// use proc_cluster::Cluster;
        ///
        /// fn square(x: i64) -> i64 {
        ///     x * x
        /// }
        ///
        /// fn main() -> Result<(), proc_cluster::Error> {
        ///     proc_cluster::init();
        ///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
        ///     assert_eq!(cluster.map(square, [3, 4, 5])?, [9, 16, 25]);
        ///     Ok(())
        /// }
        /// ```
        map
        ///
        /// See the example of [`Pool::try_map`](proc_core::Pool::try_map).
        try_map
        ///
        /// See the example of [`Pool::imap`](proc_core::Pool::imap).
        imap
        ///
        /// See the example of [`Pool::imap_unordered`](proc_core::Pool::imap_unordered).
        imap_unordered
        ///
        /// The call also fails if there are no agents to run it.
        ///
        /// See the example of [`Pool::apply`](proc_core::Pool::apply).
        apply
        ///
        /// See the example of [`Pool::apply_async`](proc_core::Pool::apply_async).
        apply_async
        ///
        /// See the example of [`Pool::map_async`](proc_core::Pool::map_async).
        map_async
    }

    /// The parts that a call needs.
    ///
    /// # Errors
    ///
    /// The cluster has ended.
    pub(crate) fn parts(&self) -> Result<(&Arc<Link>, &tokio::runtime::Handle), Error> {
        let runtime = self.runtime.as_ref().ok_or_else(crate::link::closed)?;
        Ok((&self.link, runtime.handle()))
    }

    /// Accepts no more calls. Calls that were made before still run to the end.
    ///
    /// See the example of [`join`](Cluster::join).
    pub fn close(&self) {
        self.link.close();
    }

    /// Waits until all calls have ended, and the server has removed their work.
    ///
    /// # Errors
    ///
    /// The cluster is still open, so more calls could follow.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use proc_cluster::Cluster;
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
    ///     let answer = cluster.apply_async(|x: u32| x + 1, 41)?;
    ///     cluster.close();
    ///     cluster.join()?; // the call runs to the end
    ///     assert_eq!(answer.get()?, 42);
    ///     Ok(())
    /// }
    /// ```
    pub fn join(&self) -> Result<(), Error> {
        if !self.link.is_closed() {
            let what = "an open cluster cannot be joined: call close or terminate first";
            return Err(invalid_error(what));
        }
        self.wait_for_jobs(None);
        Ok(())
    }

    /// Cancels all open calls, and accepts no more. Threads that wait for a result get an error
    /// ([`ErrorKind::Fleet`](crate::ErrorKind::Fleet)).
    ///
    /// Returns when the server has removed the work of the calls, or after five seconds. The agents
    /// keep running, since they do not belong to the cluster.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use proc_cluster::{Cluster, ErrorKind};
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
    ///     let never = |_: u32| -> u32 { loop { std::thread::park() } };
    ///     let task = cluster.apply_async(never, 1)?;
    ///     cluster.terminate();
    ///     assert!(task.get().is_err_and(|error| error.kind() == ErrorKind::Fleet));
    ///     Ok(())
    /// }
    /// ```
    pub fn terminate(&self) {
        self.link.terminate();
        self.wait_for_jobs(Some(END_TIMEOUT));
    }

    /// Waits until all calls have ended and the server has removed their work.
    fn wait_for_jobs(&self, limit: Option<Duration>) {
        let Some(runtime) = &self.runtime else { return };
        let link = Arc::clone(&self.link);
        let (done, wait) = mpsc::channel::<()>();
        runtime.spawn(async move {
            link.join().await;
            drop(done);
        });
        // Receiving ends when the runtime's task drops `done`.
        let _ = match limit {
            Some(limit) => wait.recv_timeout(limit).is_ok(),
            None => wait.recv().is_ok(),
        };
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.terminate();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("build", &self.link.build).finish_non_exhaustive()
    }
}

/// The settings of a cluster that is not connected yet.
///
/// Settings from the environment (see [`init`](crate::init)), such as credentials and certificates,
/// hold unless they are set here.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use proc_cluster::Cluster;
///
/// fn main() -> Result<(), proc_cluster::Error> {
///     proc_cluster::init();
///     let cluster = Cluster::builder("tls://nats.example.org:4222")
///         .fleet("nightly")
///         .credentials("/etc/nightly/driver.creds")
///         .authority("/etc/nightly/ca.pem")
///         .lease(Duration::from_secs(10))
///         .patience(Duration::from_secs(300))
///         .replicas(3)
///         .connect()?;
///     assert_eq!(cluster.map(|x: u32| x * x, [1, 2, 3])?, [1, 4, 9]);
///     Ok(())
/// }
/// ```
#[must_use = "nothing is connected before `connect`"]
#[derive(Debug)]
pub struct ClusterBuilder {
    settings: Result<Settings, Error>,
    lease: Duration,
    patience: Duration,
    replicas: usize,
}

impl ClusterBuilder {
    /// Sets the name of the fleet, by default `default`. Clusters with the same name at one server
    /// share their agents.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn fleet(self, name: &str) -> Self {
        self.set(|settings| settings.fleet = Some(name.to_owned()))
    }

    /// Sets a file with credentials as `nsc` writes them, or with a seed alone.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn credentials(self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.set(|settings| settings.credentials = Some(file))
    }

    /// Sets a file with certificates to trust in addition to the system's.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn authority(self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.set(|settings| settings.authority = Some(file))
    }

    /// Sets files with a client certificate and its key, for a server that asks for one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use proc_cluster::Cluster;
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::builder("tls://nats.example.org:4222")
    ///         .identity("/etc/nightly/client.pem", "/etc/nightly/client.key")
    ///         .connect()?;
    ///     println!("{}", cluster.fleet());
    ///     Ok(())
    /// }
    /// ```
    pub fn identity(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let files = (certificate.into(), key.into());
        self.set(|settings| settings.identity = Some(files))
    }

    /// Allows arguments and results to cross the network in plain text, because the network is
    /// trusted or encrypts all traffic itself.
    ///
    /// Without this setting, only a connection to a server on this machine may be without TLS.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use proc_cluster::Cluster;
    ///
    /// fn main() -> Result<(), proc_cluster::Error> {
    ///     proc_cluster::init();
    ///     let cluster = Cluster::builder("nats://10.0.0.7:4222").plaintext_anywhere().connect()?;
    ///     println!("{}", cluster.fleet());
    ///     Ok(())
    /// }
    /// ```
    pub fn plaintext_anywhere(self) -> Self {
        self.set(|settings| settings.plaintext = Plaintext::Anywhere)
    }

    /// Sets the lease: an agent must renew its claim on a chunk within this time. Otherwise another
    /// agent receives the chunk.
    ///
    /// The default is 30 seconds, the minimum 100 milliseconds, the maximum one day. Agents renew
    /// three times during each lease. All drivers of one build should use the same lease.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets how long a call waits while there is no agent of this build, before the call fails
    /// ([`ErrorKind::Fleet`](crate::ErrorKind::Fleet)). The default is one minute.
    ///
    /// Time in which the server is unreachable does not count: calls continue when the server is
    /// back.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets on how many servers of a NATS cluster the work is stored, by default on one. Three
    /// servers survive the loss of one. The setting takes effect when the streams are first
    /// created.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn replicas(mut self, servers: usize) -> Self {
        self.replicas = servers;
        self
    }

    /// Connects to the server, and creates the queue there if it is missing.
    ///
    /// # Errors
    ///
    /// A setting is invalid; or the server cannot be reached, is too old, or refuses
    /// ([`ErrorKind::Fleet`](crate::ErrorKind::Fleet)). It is no error if there are no agents: they
    /// may come later.
    ///
    /// See the example of [`ClusterBuilder`].
    pub fn connect(self) -> Result<Cluster, Error> {
        let settings = self.settings?;
        if !(MIN_LEASE..=MAX_LEASE).contains(&self.lease) {
            return Err(invalid_error("a lease is 100 milliseconds at least and a day at most"));
        }
        let config =
            DriverConfig { lease: self.lease, patience: self.patience, replicas: self.replicas };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proc-cluster")
            .enable_all()
            .build()
            .map_err(|error| {
                fleet_error(format!("the thread of the connection cannot start: {error}"))
            })?;
        let (sender, connected) = mpsc::channel();
        runtime.spawn(async move { drop(sender.send(Link::connect(&settings, config).await)) });
        let link = connected.recv().unwrap_or_else(|_| Err(crate::link::closed()));
        match link {
            Ok(link) => Ok(Cluster { link, runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        if let Ok(settings) = &mut self.settings {
            set(settings);
        }
        self
    }
}
