//! What a process is started with beside its job.

pub(crate) mod environment;
pub(crate) mod limits;
pub(crate) mod streams;

use environment::Overrides;
use limits::Limits;
use streams::Streams;

use super::Tie;

/// What a process is started with beside its job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) tie: Tie,
    pub(crate) overrides: Overrides,
    pub(crate) limits: Limits,
    pub(crate) streams: Streams,
}
