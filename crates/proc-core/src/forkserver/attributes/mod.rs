//! What a process is started with beside its job.

pub(crate) mod environment;
pub(crate) mod limits;
pub(crate) mod streams;

use environment::Overrides;
use limits::Limits;
use streams::Streams;

use super::Lifetime;

/// What a process is started with beside its job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) lifetime: Lifetime,
    pub(crate) overrides: Overrides,
    pub(crate) limits: Limits,
    pub(crate) streams: Streams,
}
