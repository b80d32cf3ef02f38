//! Pools and their workers.

pub(crate) mod corrupt_workers;
pub(crate) mod end;
pub(crate) mod failed_starts;
pub(crate) mod failed_tasks;
pub(crate) mod killed_workers;
pub(crate) mod max_pending;
pub(crate) mod set_up;
pub(crate) mod shared;
pub(crate) mod state;
pub(crate) mod stopped_workers;
pub(crate) mod worker_count;
