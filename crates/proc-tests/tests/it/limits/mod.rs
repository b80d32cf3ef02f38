//! Limits of the kernel, and the errors when they are reached.

pub(crate) mod attributes;
pub(crate) mod descriptors;
pub(crate) mod memory;
pub(crate) mod processes;
