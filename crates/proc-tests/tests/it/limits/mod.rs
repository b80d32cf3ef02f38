//! Limits of the kernel, and what is told when they are reached.

pub(crate) mod attributes;
pub(crate) mod descriptors;
pub(crate) mod memory;
pub(crate) mod processes;
