//! Shared state: `proc_core::sync` against real processes.

mod everything;
mod storm;

pub(crate) mod barriers;
pub(crate) mod copies;
pub(crate) mod kills;
pub(crate) mod leftovers;
pub(crate) mod places;
pub(crate) mod refusals;
pub(crate) mod shortages;
pub(crate) mod signals;
pub(crate) mod waits;
