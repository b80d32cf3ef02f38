//! A fleet in the caller's hand, and its settings.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use proc_core::remote::{fleet_error, invalid_error};
use proc_core::{Error, Message};
use tokio::runtime::Runtime;

use crate::connection::{Plaintext, Settings};
use crate::fleet::Fleet;
use crate::imap::{Imap, ImapUnordered};
use crate::link::{DriverConfig, Link};
use crate::message::MAX_LEASE;
use crate::options::Options;
use crate::task::Task;

/// The shortest time within which an agent must give word.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// How long a cluster that is ended waits until the server has forgotten its calls.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A fleet of machines that runs functions over inputs; a [`Pool`](proc_core::Pool) of them.
///
/// All calls are those of the pool, under its names: they take a function that captures nothing, with
/// one argument. Any number of threads may call at once. Dropping a
/// cluster ends it like [`terminate`](Cluster::terminate).
///
/// ```no_run
/// # fn main() -> Result<(), proc_cluster::Error> {
/// # proc_cluster::init();
/// let cluster = proc_cluster::Cluster::connect("nats://127.0.0.1:4222")?;
/// println!("{}", cluster.fleet());
/// assert_eq!(cluster.map(|x: u32| x * x, [1, 2, 3])?, [1, 4, 9]);
/// # Ok(())
/// # }
/// ```
///
/// As with a pool, the compiler refuses a function that captures:
///
/// ```compile_fail,E0080
/// # fn main() -> Result<(), proc_cluster::Error> {
/// let cluster = proc_cluster::Cluster::connect("nats://127.0.0.1:4222")?;
/// let factor = 3;
/// cluster.map(move |x: u32| x * factor, [1, 2, 3])?;
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    link: Arc<Link>,
    runtime: Option<Runtime>,
}

impl Cluster {
    /// A cluster of the agents at a server, with what else the environment says (see
    /// [`init`](crate::init)).
    ///
    /// # Errors
    ///
    /// See [`ClusterBuilder::connect`].
    pub fn connect(address: &str) -> Result<Cluster, Error> {
        Cluster::builder(address).connect()
    }

    /// A cluster with other settings.
    pub fn builder(address: &str) -> ClusterBuilder {
        ClusterBuilder {
            settings: Settings::from_env(address),
            lease: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            replicas: 1,
        }
    }

    /// Calls with other settings than the cluster's.
    pub fn options(&self) -> Options<'_> {
        Options::new(&self.link, self.runtime.as_ref().map(Runtime::handle))
    }

    /// Who is there: agents of this build and of others, and how each fares.
    ///
    /// Agents tell of themselves twice a second, so just after connecting some may be missing.
    pub fn fleet(&self) -> Fleet {
        self.link.fleet()
    }

    /// Waits until there are so many workers for this build, for at most `timeout`.
    ///
    /// Calls need not wait for this: they begin with whoever is there.
    ///
    /// # Errors
    ///
    /// There are fewer when the time is over; the error says who is there.
    pub fn wait_for_workers(&self, workers: usize, timeout: Duration) -> Result<(), Error> {
        self.link.wait_for_workers(workers, timeout)
    }

    /// Calls `function` with each input and returns the results in the order of the inputs.
    ///
    /// # Errors
    ///
    /// The error of the first input (by order, not by time) that failed. All inputs are run; where
    /// the other results matter, use [`try_map`](Cluster::try_map).
    #[doc(alias = "starmap")]
    pub fn map<F, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().map(function, inputs)
    }

    /// Like [`map`](Cluster::map), with each input's own fate.
    pub fn try_map<F, A, R, I>(&self, function: F, inputs: I) -> Vec<Result<R, Error>>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().try_map(function, inputs)
    }

    /// Results one by one, in the order of the inputs, while later ones are still being worked on.
    ///
    /// Inputs are taken lazily, never more than a window ahead of the results taken: 16 for each
    /// worker of the fleet, and at least 64. An endless input is fine. Dropping the iterator calls off
    /// the rest.
    pub fn imap<F, A, R, I>(&self, function: F, inputs: I) -> Imap<'_, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().imap(function, inputs)
    }

    /// Like [`imap`](Cluster::imap), in the order in which results arrive.
    pub fn imap_unordered<F, A, R, I>(
        &self,
        function: F,
        inputs: I,
    ) -> ImapUnordered<'_, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().imap_unordered(function, inputs)
    }

    /// Calls `function` once on some machine and waits for its result.
    ///
    /// # Errors
    ///
    /// The task's own, as in a pool; there is no fleet to do it.
    pub fn apply<F, A, R>(&self, function: F, argument: A) -> Result<R, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.apply_async(function, argument)?.get()
    }

    /// Calls `function` once on some machine, without waiting.
    ///
    /// # Errors
    ///
    /// The argument cannot be encoded.
    pub fn apply_async<F, A, R>(&self, function: F, argument: A) -> Result<Task<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.options().apply_async(function, argument)
    }

    /// Calls `function` with each input, without waiting; the task's result is that of
    /// [`map`](Cluster::map).
    ///
    /// # Errors
    ///
    /// An argument cannot be encoded.
    pub fn map_async<F, A, R, I>(&self, function: F, inputs: I) -> Result<Task<Vec<R>>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message + Send,
        I: IntoIterator<Item = A>,
    {
        self.options().map_async(function, inputs)
    }

    /// Accepts no more calls. What was asked for is still done.
    pub fn close(&self) {
        self.link.close();
    }

    /// Waits until all calls have ended, and the server has forgotten them.
    ///
    /// # Errors
    ///
    /// The cluster is still open, so that there may be more calls.
    pub fn join(&self) -> Result<(), Error> {
        if !self.link.is_closed() {
            let what = "an open cluster cannot be joined: call close or terminate first";
            return Err(invalid_error(what));
        }
        self.wait_for_jobs(None);
        Ok(())
    }

    /// Calls off what is open, and accepts no more calls. Those who wait get an error
    /// ([`Error::is_fleet`]).
    ///
    /// Returns when the server has forgotten the calls, or after five seconds. Agents go on: they are
    /// not the cluster's.
    pub fn terminate(&self) {
        self.link.terminate();
        self.wait_for_jobs(Some(END_TIMEOUT));
    }

    fn wait_for_jobs(&self, limit: Option<Duration>) {
        let Some(runtime) = &self.runtime else { return };
        let link = Arc::clone(&self.link);
        let (done, wait) = mpsc::channel::<()>();
        runtime.spawn(async move {
            link.join().await;
            drop(done);
        });
        // Ends when `done` is dropped.
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

/// The settings of a cluster that is to be connected.
///
/// What the environment says of credentials and certificates (see [`init`](crate::init)) holds unless
/// it is said here.
#[must_use = "nothing is connected before `connect`"]
#[derive(Debug)]
pub struct ClusterBuilder {
    settings: Result<Settings, Error>,
    lease: Duration,
    patience: Duration,
    replicas: usize,
}

impl ClusterBuilder {
    /// Which fleet of the server; those of one name share their agents. `default` without it.
    pub fn fleet(self, name: &str) -> Self {
        self.set(|settings| settings.fleet = Some(name.to_owned()))
    }

    /// A file with credentials as `nsc` writes them, or with a seed alone.
    pub fn credentials(self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.set(|settings| settings.credentials = Some(file))
    }

    /// A file with certificates to trust beside the system's.
    pub fn authority(self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.set(|settings| settings.authority = Some(file))
    }

    /// Files with a certificate of our own and its key, where the server asks for one.
    pub fn identity(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let files = (certificate.into(), key.into());
        self.set(|settings| settings.identity = Some(files))
    }

    /// Lets arguments and results cross the network in plain text: it is trusted, or encrypts itself.
    ///
    /// Without it only a server on this machine may be spoken to without TLS.
    pub fn plaintext_anywhere(self) -> Self {
        self.set(|settings| settings.plaintext = Plaintext::Anywhere)
    }

    /// Within what time an agent must give word of what it has at hand, before others get it.
    ///
    /// 30 seconds without it, 100 milliseconds at least and a day at most. Agents give word three times
    /// as often. All drivers of one build should agree on it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long calls wait for an agent of this build where there is none, before they fail
    /// ([`Error::is_fleet`]). One minute without it.
    ///
    /// Time in which the server is away does not count: calls go on when it is back.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// On how many servers of a NATS cluster the work is stored, when the streams are first made: 3
    /// survive the loss of one server. One without it.
    pub fn replicas(mut self, servers: usize) -> Self {
        self.replicas = servers;
        self
    }

    /// Connects to the server, and makes its queue where that is missing.
    ///
    /// # Errors
    ///
    /// A setting makes no sense; the server cannot be reached, is too old, or refuses
    /// ([`Error::is_fleet`]). That there are no agents is no error: they may come.
    pub fn connect(self) -> Result<Cluster, Error> {
        let settings = self.settings?;
        if !(SHORTEST_LEASE..=MAX_LEASE).contains(&self.lease) {
            return Err(invalid_error("a lease is 100 milliseconds at least and a day at most"));
        }
        let config =
            DriverConfig { lease: self.lease, patience: self.patience, replicas: self.replicas };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proc-cluster")
            .enable_all()
            .build()
            .map_err(|error| fleet_error(format!("no thread for the connection: {error}")))?;
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
