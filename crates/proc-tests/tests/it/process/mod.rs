//! `Process` and `Child`.

pub(crate) mod end;
pub(crate) mod start;
pub(crate) mod wait;
