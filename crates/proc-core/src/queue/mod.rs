//! The pool's work queue: shared memory in which workers claim chunks and leave results.
//!
//! README.md beside this file names the states and says why nothing is lost when a worker is killed
//! at any instruction. This module knows bytes and counters only: `board` is the protocol, `arena`
//! hands out the memory for chunks, `memory` is the one place that touches raw shared memory, `model`
//! runs the protocol in every order. What a task is, who starts workers and who waits for results is
//! none of its business.

mod arena;
mod atomics;
mod board;
mod memory;
#[cfg(all(test, loom))]
mod model;

pub(crate) use arena::{Arena, Block, Lease, Part, Returned, SMALLEST};
pub(crate) use board::{Board, Chunk, Claim, Layout, Owner, TicketId};
pub(crate) use memory::Region;
