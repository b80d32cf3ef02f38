//! Chunks in flight: cuts them from task queues, with a block of shared memory each, and takes
//! their tickets out of use.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::fair_share::Turn;
use super::state::{InFlight, Scheduler, State};
use crate::error::Error;
use crate::memory::{Block, Lease, MIN_BLOCK_BYTES};
use crate::pool::board::{Chunk, TicketId};
use crate::pool::job::{ChunkCut, LargeArg, TaskQueue};
use crate::pool::records;
use crate::wire::Lender;

/// The most room that a chunk gets because earlier results were large, unless its arguments are
/// larger than that. A result that does not fit is sent out of band.
pub(super) const MAX_ROOM_BYTES: usize = 16 << 20;

/// The most room that a chunk gets by the guess that results are as large as their arguments. For
/// larger arguments, a wrong guess would waste too much memory.
const MAX_GUESSED_BYTES: usize = 1 << 30;

impl Lender for Scheduler {
    fn lend(&self, len: usize, results: Option<usize>) -> Option<Lease> {
        if len > self.config.max_argument {
            return None;
        }
        let guessed = len.min(MAX_GUESSED_BYTES);
        let room = results.map_or(guessed, |size| size.min(guessed.max(MAX_ROOM_BYTES)));
        let len = len.checked_add(room.min(self.max_room(len)) + records::MIN_RESULT_BYTES + 16)?;
        // A forked copy must not touch the pool's memory.
        let mut state = (!self.is_forked_copy()).then(|| self.lock())?;
        if self.memory_left(&mut state) < len {
            return None;
        }
        let block = self.allocate(&mut state, len).ok()?;
        Some(state.arena.lease(block))
    }

    /// Beside an argument, a block always has room for the note that the result is sent out of
    /// band.
    fn spare(&self) -> usize {
        records::MIN_RESULT_BYTES
    }

    fn max_value(&self) -> usize {
        self.config.max_argument
    }
}

impl Scheduler {
    /// Cuts a chunk from a queue and writes it into a block. The chunk takes at most `max_bytes` of
    /// shared memory, unless it has one task. Tasks for one worker have no turn.
    pub(super) fn prepare(
        &self,
        state: &mut State,
        queue: &mut TaskQueue,
        turn: Option<Turn>,
        max_bytes: usize,
    ) -> Result<Box<InFlight>, Error> {
        let (inbox, name, attempts) = (Arc::clone(&queue.inbox), queue.name, queue.attempts);
        let slot_id = queue.slot_id;
        // Calls that wait share the workers by the time that chunks take.
        let measured = !queue.is_one_chunk() || !state.queues.is_empty();
        let size = inbox.result_size().unwrap_or(0);
        let Some(cut) = queue.cut(self.processes(), max_bytes, size.min(MAX_ROOM_BYTES)) else {
            return Err(Error::invalid("the call's encoded arguments are incomplete"));
        };
        let ChunkCut { first, count, grain, bytes, handles, large_arg } = cut;
        let (block, arguments) = if let Some(LargeArg { lease, len }) = large_arg {
            (lease.into_block(), len as u64)
        } else {
            // The room is for results that are as large as the arguments or as earlier results,
            // whichever is larger. A result that does not fit is sent out of band.
            let likely = size.saturating_mul(count).min(MAX_ROOM_BYTES);
            let room =
                bytes.len().min(MAX_GUESSED_BYTES).max(likely).min(self.max_room(bytes.len()));
            let room = room + count * (records::MIN_RESULT_BYTES + 16);
            let block = self.allocate(state, bytes.len() + room);
            let block = block.map_err(|error| Error::make("memory for a chunk of tasks", error))?;
            let written = state.arena.region(block).write(block.offset as usize, bytes);
            debug_assert!(written, "the block was allocated for it");
            (block, bytes.len() as u64)
        };
        let chunk = Chunk {
            name,
            region: block.region,
            offset: block.offset,
            arguments,
            room: block.len - arguments,
            count: count as u32,
            grain: grain as u32,
            needs_handles: handles.is_some(),
            measured,
            first: first as u64,
            attempt: attempts,
            data: inbox.data.as_ref().map_or(0, |data| data.id),
            seed: inbox.options.seed,
            timeout: inbox.options.timeout.map_or(0, nanoseconds),
            stoppable: inbox.options.grace.is_some(),
        };
        Ok(Box::new(InFlight {
            inbox,
            first,
            count,
            attempts,
            overtakable: turn.is_some_and(|turn| turn.may_be_overtaken()),
            charge: 0,
            block,
            chunk,
            stealable: grain < count,
            position: 0,
            claimer: slot_id,
            slot_id,
            handles,
            out_of_band: BTreeMap::new(),
            waits_for_out_of_band: false,
            stuck: None,
            stop: None,
        }))
    }

    /// Allocates a block. If its region is new, sends the region to all workers.
    ///
    /// # Errors
    ///
    /// There is no memory, or a region cannot be sent. The block is free then.
    fn allocate(&self, state: &mut State, len: usize) -> io::Result<Block> {
        let block = state.arena.allocate(len)?;
        let sent = state.send_new_regions();
        if sent.is_err() {
            state.arena.release(block);
        }
        sent.map(|()| block)
    }

    /// How many bytes of shared memory chunks may still take under the pool's memory limit.
    pub(super) fn memory_left(&self, state: &mut State) -> usize {
        let Some(limit) = self.config.memory_limit else { return usize::MAX };
        // Allocation rounds a block up by at most a quarter, or by less than the smallest block.
        (limit.saturating_sub(state.arena.used()) / 5 * 4).saturating_sub(MIN_BLOCK_BYTES)
    }

    /// The most room for results that the memory limit allows beside `arguments` bytes of
    /// arguments.
    fn max_room(&self, arguments: usize) -> usize {
        self.config.memory_limit.map_or(usize::MAX, |limit| limit.saturating_sub(arguments))
    }

    /// Takes a ticket out of use, and gives its block back to the arena.
    pub(super) fn free_ticket_and_block(
        &self,
        state: &mut State,
        ticket: TicketId,
    ) -> Option<Box<InFlight>> {
        let in_flight = self.free_ticket(state, ticket)?;
        state.arena.release(in_flight.block);
        Some(in_flight)
    }

    /// Takes a ticket out of use. The caller must lease its block or give it back.
    pub(super) fn free_ticket(&self, state: &mut State, ticket: TicketId) -> Option<Box<InFlight>> {
        let in_flight = state.in_flight.remove(&ticket)?;
        self.board.forget_claim(ticket, in_flight.position);
        if in_flight.stealable {
            self.remove_stealable(state);
        }
        state.overtakable_tickets -= usize::from(in_flight.overtakable);
        if let Some(slot_id) = in_flight.slot_id {
            self.board.unassign(ticket, slot_id);
            state.slots[slot_id as usize].assigned = None;
            state.assigned_tickets -= 1;
        }
        state.free.push(ticket);
        Some(in_flight)
    }

    /// Counts one more stealable ticket. Tells workers if it is the first.
    pub(super) fn add_stealable(&self, state: &mut State) {
        if state.stealable_tickets == 0 {
            self.board.set_stealable(true);
        }
        state.stealable_tickets += 1;
    }

    /// Counts one stealable ticket less. Tells workers if it was the last.
    fn remove_stealable(&self, state: &mut State) {
        state.stealable_tickets = state.stealable_tickets.saturating_sub(1);
        if state.stealable_tickets == 0 {
            self.board.set_stealable(false);
        }
    }
}

/// A time limit in nanoseconds: at least one, because 0 means that there is no limit.
fn nanoseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1)
}
