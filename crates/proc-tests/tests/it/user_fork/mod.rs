//! Copies that the user's own `fork` makes.

pub(crate) mod program;
pub(crate) mod worker;
