//! The model check of the protocol: loom runs each model in every order in which its threads
//! interrupt each other at most so many times as the test says.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p proc-core --lib --target-dir target/loom
//! pool::board::model`
//!
//! `parts` checks each promise of the board alone. `pool` checks a whole pool with workers that are
//! killed before each of their operations. README.md says what is checked and what cannot be.

mod parts;
mod pool;

use std::sync::Arc;

use super::{Board, Chunk, Layout, TicketId};
use crate::call::Name;
use crate::memory::loom::{Channel, check};

/// A board with a ring of `tickets` places. After that many publications, the next one uses the
/// first place again.
fn board(tickets: u32, workers: u32) -> Arc<Board> {
    let board = Board::new(Layout { tickets, workers }).expect("there is memory");
    // Loom's atomics are made when they are first used. That must happen before there are threads.
    assert_eq!((board.claims().count(), board.progress(0).begun), (0, 0));
    assert!(!board.cancel_sleep(0) && !board.is_assigned(0, 0));
    Arc::new(board)
}

/// Takes all finished tickets, oldest first.
fn take_finished(board: &Board) -> Vec<TicketId> {
    let mut finished = Vec::new();
    board.take_finished(&mut finished);
    finished
}

/// A chunk of `count` tasks, the first of which has the number `first`. The offset holds that
/// number.
fn chunk(first: usize, count: usize) -> Chunk {
    let name = Name::from_words([1, 2, 3]);
    Chunk {
        name,
        region: 4,
        offset: first as u64,
        arguments: 5,
        room: 6,
        count: count as u32,
        grain: 1,
        needs_handles: false,
        measured: true,
        first: 0,
        attempt: 0,
        data: 0,
        seed: None,
        timeout: 0,
        stoppable: false,
    }
}
