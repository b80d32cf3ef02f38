//! The calls of proc-core's pool, such as `map`, on a fleet of machines.
//!
//! ```no_run
//! use proc_cluster::Cluster;
//!
//! fn square(x: i64) -> i64 {
//!     x * x
//! }
//!
//! fn main() -> Result<(), proc_cluster::Error> {
//!     proc_cluster::init(); // first line of main, instead of proc_core::init
//!
//!     let cluster = Cluster::connect("nats://127.0.0.1:4222")?; // was: Pool::new()?
//!     assert_eq!(cluster.map(square, [3, 4, 5])?, [9, 16, 25]);
//!     Ok(())
//! }
//! ```
//!
//! # Three parts
//!
//! - **The server** is NATS with JetStream, version 2.10.27 or newer: `nats-server -js`. It stores
//!   work from the driver until the driver has received the results.
//! - **Agents** do the work. An agent is *the same program*, started on each machine with the
//!   server's address in the environment: `PROC_CLUSTER_AGENT=nats://server:4222 ./program`.
//!   [`init`] reads that variable, and serves with a pool of one worker for each processor. Agents
//!   may join and leave at any time.
//! - **The driver** is the program itself, with a [`Cluster`] in place of its
//!   [`Pool`](proc_core::Pool).
//!
//! # What is guaranteed
//!
//! Each input gets exactly one result or one error. If a machine is lost, its tasks run on another
//! machine after their *lease* has expired (30 seconds by default, see [`ClusterBuilder::lease`]).
//! A task that kills its worker fails alone, as in a pool. A task that crashes its machine fails
//! alone, after three machines were lost with it. If a server has lost work, the driver hands that
//! work out again.
//!
//! So a task may *run* more than once, although it has one result. Write tasks that may be
//! repeated, or that recognise a repetition. [`attempt`] tells a running task which task of which
//! call it is, and how often the task was handed out before:
//!
//! ```
//! fn charge(order: u64) -> String {
//!     let key = proc_cluster::attempt().map(|this| format!("{:x}-{}", this.job, this.task));
//!     // The key is the same in all attempts, so the receiver notices a repetition.
//!     format!("charged order {order} under {key:?}")
//! }
//!
//! fn main() {
//!     proc_cluster::init();
//!     assert_eq!(charge(7), "charged order 7 under None"); // no task of a fleet
//! }
//! ```
//!
//! # What is different from a pool
//!
//! - Driver and agents must run the same file. An agent of another build gets no work, and errors
//!   name it.
//! - Arguments, data of [`with`](Cluster::with) and results cannot contain channel ends or shared
//!   memory, since both work within one machine only.
//! - A timeout counts the time that a task runs on its agent, not the time of its transport.
//! - A priority orders the work that an agent has. The server passes work on in the order in which
//!   it came.
//!
//! The page `docs/cluster.md` of [the book](proc_core#the-book) explains how to run a fleet.
//! `ARCHITECTURE.md`, in the same repository, explains how this crate works inside.

mod agent;
mod bound_data;
mod build_id;
mod cluster;
mod connection;
mod data;
mod data_numbers;
mod engine;
mod fleet;
mod job;
mod lease;
mod link;
mod mailbox;
mod message;

pub use agent::serve;
pub use cluster::{Cluster, ClusterBuilder};
pub use fleet::{AgentState, AgentStatus, Fleet};
#[doc(inline)]
pub use proc_core::remote::{Attempt, attempt};
pub use proc_core::{
    Current, Error, ErrorKind, Executor, Imap, ImapUnordered, Indexed, Message, Options, Progress,
    Task, With, current,
};

#[cfg(feature = "progress")]
pub use proc_core::progress_bar;

/// Items that the expansions of this crate's macros use; not part of its interface.
#[doc(hidden)]
pub mod __private {
    pub use proc_core::__private::ctor;
}

/// Prepares this program for processes, and makes it an agent if the environment says so. Call it
/// in the first line of `main`.
///
/// `init` calls [`proc_core::init`]. If the environment contains
/// `PROC_CLUSTER_AGENT=nats://server:4222`, `init` serves as an agent and does not return. The
/// agent ends at SIGTERM or SIGINT, and has at most 20 seconds to finish the work that it has
/// begun. Besides the address, an agent reads these variables:
///
/// | variable | what |
/// |---|---|
/// | `PROC_CLUSTER_WORKERS` | the number of worker processes; by default the number of processors |
/// | `PROC_CLUSTER_FLEET` | the name of the fleet; by default `default` |
/// | `PROC_CLUSTER_CREDENTIALS` | a file with credentials or a seed |
/// | `PROC_CLUSTER_CA` | a file with certificates to trust |
/// | `PROC_CLUSTER_CERT`, `PROC_CLUSTER_KEY` | files with a client certificate and its key |
/// | `PROC_CLUSTER_PLAINTEXT` | `anywhere`: the network is trusted, and TLS is not needed |
///
/// Drivers read the same variables, except `PROC_CLUSTER_WORKERS`. A program whose agents need
/// another pool (for example one with an initializer) calls [`serve`] itself.
///
/// # Examples
///
/// ```no_run
/// use proc_cluster::Cluster;
///
/// fn main() -> Result<(), proc_cluster::Error> {
///     proc_cluster::init(); // an agent does not return from here
///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
///     assert_eq!(cluster.apply(|x: u32| x + 1, 41)?, 42);
///     Ok(())
/// }
/// ```
pub fn init() {
    proc_core::init();
    agent::serve_if_asked();
}

/// Lets the tests of a crate use a fleet; one line at the top level of a test file.
///
/// This macro works like [`proc_core::init_tests!`]. In addition, a test binary that is started
/// with `PROC_CLUSTER_AGENT` becomes an agent, so that tests can start agents of their own build.
///
/// ```no_run
/// fn main() {
///     proc_cluster::init();
/// }
///
/// #[cfg(test)]
/// proc_cluster::init_tests!();
/// ```
#[macro_export]
macro_rules! init_tests {
    () => {
        $crate::__private::ctor::declarative::ctor! {
            #[ctor(unsafe)]
            #[allow(unsafe_code)]
            fn proc_cluster_init_tests() {
                $crate::init();
            }
        }
    };
}

/// Returns a random number. It identifies a driver or an agent.
fn nonce() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The keys of `RandomState` come from the system's source of randomness.
    RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now()))
}
