//! Starts processes: a fork server, which is a small copy of the program, forks them on request.

pub(crate) mod attributes;
mod client;
pub(crate) mod exit;
pub(crate) mod last_words;
pub(crate) mod lifeline;
mod link;
mod newborn;
pub(crate) mod preload;
mod protocol;
pub(crate) mod registry;
mod server;
mod server_link;
mod server_watch;
mod spawn;
pub(crate) mod start_method;

pub use attributes::limits::Limits;
pub use attributes::stdio::Stdio;
pub(crate) use attributes::stdio::{Pipes, StdioConfig};
pub(crate) use attributes::{Attributes, environment, streams};
pub(crate) use client::{ForkServer, Handle};
pub(crate) use exit::{end_idle_workers, register_end_of_workers};
pub(crate) use link::{Link, Received, next_serial};
pub(crate) use newborn::{Main, MainInputs};
pub(crate) use protocol::{Job, Key, Lifetime, Report, Request, Start};
pub(crate) use server::{Newborn, ServerInputs};
pub(crate) use server_link::ServerLink;
pub use start_method::{StartMethod, init};
