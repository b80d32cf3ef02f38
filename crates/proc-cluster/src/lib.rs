//! proc-core's pool over many machines: the same `map`, on a fleet of them.
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
//! - **The server** is NATS with JetStream, 2.10.27 or newer: `nats-server -js`. It keeps the work
//!   that is handed out until its results have arrived.
//! - **Agents** do the work: *the same program*, started on each machine with the server's address in
//!   its environment: `PROC_CLUSTER_AGENT=nats://server:4222 ./program`. [`init`] sees it, and serves
//!   with a pool of one worker for each processor. Agents may come and go at any time.
//! - **The driver** is the program as ever, with a [`Cluster`] for its [`Pool`](proc_core::Pool).
//!
//! # What is kept, whatever fails
//!
//! Each input gets exactly one result or one error. What a lost machine had runs elsewhere when its
//! *lease* is over (30 seconds, [`ClusterBuilder::lease`]); a task that kills its worker fails alone, as
//! in a pool; one that takes its machines down fails alone, after three of them. A server that restarts
//! with its data loses nothing, and what one has lost is handed out anew.
//!
//! So a task may *run* more than once, though it counts once: let it do nothing that must not be
//! repeated, or let it notice. [`attempt`] tells a running task which task of which call it is, and how
//! often that was handed out before:
//!
//! ```
//! fn charge(order: u64) -> String {
//!     let key = proc_cluster::attempt().map(|this| format!("{:x}-{}", this.job, this.task));
//!     // The same in all attempts: who gets it twice can tell.
//!     format!("charged order {order} under {key:?}")
//! }
//! assert_eq!(charge(7), "charged order 7 under None"); // called here, it is no task
//! ```
//!
//! # What is different from a pool
//!
//! - Driver and agents must be the same file; an agent of another build gets nothing, and errors name it.
//! - Channel ends and shared memory cannot be among arguments or results: they end at the machine.
//! - A timeout counts a task's time on its agent, not its way there.
//!
//! How it works inside is told in `ARCHITECTURE.md` of the repository, how a fleet is run in
//! `docs/cluster.md`.

mod agent;
mod build_id;
mod cluster;
mod connection;
mod data;
mod fleet;
mod imap;
mod job;
mod lease;
mod link;
mod mailbox;
mod message;
mod options;
mod task;

pub use agent::serve;
pub use cluster::{Cluster, ClusterBuilder};
pub use fleet::{AgentState, AgentStatus, Fleet};
pub use imap::{Imap, ImapUnordered};
pub use options::{Options, Progress};
#[doc(inline)]
pub use proc_core::remote::{Attempt, attempt};
pub use proc_core::{Error, Message};
pub use task::Task;

/// What macros of this crate need where they are used; not part of its interface.
#[doc(hidden)]
pub mod __private {
    pub use proc_core::__private::ctor;
}

/// Prepares this program for processes, and makes it an agent where the environment says so; to be
/// called first thing in `main`.
///
/// It calls [`proc_core::init`]. With `PROC_CLUSTER_AGENT=nats://server:4222` in the environment it
/// serves as an agent and does not return; it ends at SIGTERM or SIGINT, after at most 20 seconds for
/// what it has begun. Beside the address it heeds
///
/// | variable | what |
/// |---|---|
/// | `PROC_CLUSTER_WORKERS` | how many worker processes; as many as there are processors without it |
/// | `PROC_CLUSTER_FLEET` | which fleet of the server; `default` without it |
/// | `PROC_CLUSTER_CREDENTIALS` | a file with credentials or a seed |
/// | `PROC_CLUSTER_CA` | a file with certificates to trust |
/// | `PROC_CLUSTER_CERT`, `PROC_CLUSTER_KEY` | files with a certificate of its own, and its key |
/// | `PROC_CLUSTER_PLAINTEXT` | `anywhere`: the network is trusted, no TLS is needed |
///
/// Drivers heed all but the number of workers, too. A program that wants another pool for its agents
/// (with an initializer, say) calls [`serve`] itself.
pub fn init() {
    proc_core::init();
    agent::serve_if_asked();
}

/// Lets the tests of a crate use a fleet; one line at the top level of a test file.
///
/// Like [`proc_core::init_tests!`]; and a test binary that is started with `PROC_CLUSTER_AGENT` is an
/// agent, so that tests can start agents of their own build.
///
/// ```no_run
/// #[cfg(test)]
/// proc_cluster::init_tests!();
/// # fn main() {}
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

/// A number that nobody else draws.
fn nonce() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The keys come from the system's source of randomness.
    RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now()))
}
