//! Defines the attributes of a new process: what it is started with, besides its job.

pub(crate) mod environment;
pub(crate) mod limits;
pub(crate) mod stdio;
pub(crate) mod streams;

use environment::Overrides;
use limits::Limits;
use stdio::StdioConfig;
use streams::Streams;

use super::Lifetime;

/// Attributes of a new process: what it is started with, besides its job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) lifetime: Lifetime,
    pub(crate) overrides: Overrides,
    pub(crate) limits: Limits,
    pub(crate) stdio: StdioConfig,
    /// Descriptors that are sent in addition to the standard streams.
    pub(crate) streams: Streams,
}
