//! Publishing: cuts chunks from task queues, writes them into shared memory, puts them on the board
//! and wakes sleeping workers. Takes work back, too: tickets that no worker has claimed, and
//! claimed tasks that their claimer has not taken.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::state::{InFlight, Phase, Scheduler, State, read_arguments, unlock};
use crate::error::Error;
use crate::memory::{Arena, Block, Lease, MIN_BLOCK_BYTES};
use crate::pool::board::{Chunk, TicketId};
use crate::pool::job::{ChunkCut, Inbox, LargeArg, TaskQueue};
use crate::pool::records;
use crate::wire::Lender;

/// Upper bound on the room that a chunk gets because earlier results were large. A result that does
/// not fit is sent out of band.
const MAX_ROOM_BYTES: usize = 16 << 20;

/// Upper bound on the room reserved by the guess that a result is as large as its argument. For
/// larger arguments, a wrong guess would waste too much memory.
const MAX_GUESSED_BYTES: usize = 1 << 30;

/// With more than half of this in use, large results are copied out of shared memory at once, which
/// costs a second copy, instead of being lent. The memory limit of a pool replaces this number.
const MAX_LENT_BYTES: usize = 512 << 20;

/// Encoded bytes that are enough to have ready: this many, or [`ENOUGH_BYTES_EACH`] for each worker
/// if that is more. More than enough would only cost memory, and would have left the processor's
/// caches before a worker reads it.
const ENOUGH_BYTES: usize = 16 << 20;
const ENOUGH_BYTES_EACH: usize = 4 << 20;

impl Lender for Scheduler {
    fn lend(&self, len: usize, results: Option<usize>) -> Option<Lease> {
        let room = results.map_or(len.min(MAX_GUESSED_BYTES), |size| size.min(MAX_ROOM_BYTES));
        let len =
            len.checked_add(room.min(self.most_room(len)) + records::MIN_RESULT_BYTES + 16)?;
        // A forked copy of the process that built the pool must not touch the pool's memory.
        let mut state = self.is_ours().then(|| self.lock())?;
        if self.spare(&mut state) < len {
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
}

impl Scheduler {
    /// Ends the pool: open calls fail with `cause`, and workers are dismissed.
    pub(super) fn end(&self, state: &mut State, cause: Option<Error>) {
        if matches!(state.phase, Phase::Over(_)) {
            return;
        }
        state.phase = Phase::Over(cause.clone());
        let error = || cause.clone().unwrap_or_else(Error::closed);
        let State { queues, in_flight, wakers, .. } = state;
        for queue in queues.drain(..) {
            wakers.extend(queue.inbox.close(error()));
        }
        for (ticket, in_flight) in in_flight {
            self.board.retract(*ticket, in_flight.position);
            wakers.extend(in_flight.inbox.close(error()));
        }
        self.board.admit(0);
        self.wake(state, usize::MAX);
        self.timed.notify_all();
        self.called.notify_all();
    }

    /// Wakes all sleeping workers if published work waits. The worker that was woken for that work
    /// may have been stopped by a signal.
    pub(super) fn wake_for_neglected(&self, state: &mut State) {
        if self.board.has_ready() {
            self.wake(state, usize::MAX);
        }
    }

    /// Takes a ticket out of use, and releases its block.
    pub(super) fn retire(&self, state: &mut State, ticket: TicketId) -> Option<InFlight> {
        let in_flight = self.take_out(state, ticket)?;
        state.arena.release(in_flight.block);
        Some(in_flight)
    }

    /// Takes a ticket out of use. The caller becomes responsible for its block.
    pub(super) fn take_out(&self, state: &mut State, ticket: TicketId) -> Option<InFlight> {
        let in_flight = state.in_flight.remove(&ticket)?;
        self.board.forget_claim(ticket, in_flight.position);
        self.count_stealable(state, in_flight.stealable, -1);
        state.free.push(ticket);
        Some(in_flight)
    }

    /// Abandons a call that nobody waits for: drops its queues, and takes back its tickets that no
    /// worker has claimed.
    pub(crate) fn drop_queues(&self, inbox: &Arc<Inbox>) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        // Nobody waits for the call, so the waker is not called.
        let _ = inbox.discard(Error::cancelled());
        self.withdraw(&mut state, inbox);
        self.pump(&mut state);
        unlock(state, Vec::new());
    }

    /// Takes back all tasks of a call that no worker has claimed.
    pub(super) fn withdraw(&self, state: &mut State, inbox: &Arc<Inbox>) {
        state.queues.retain(|queue| !Arc::ptr_eq(&queue.inbox, inbox));
        let theirs = |in_flight: &InFlight| Arc::ptr_eq(&in_flight.inbox, inbox);
        let open: Vec<TicketId> = state
            .in_flight
            .iter()
            .filter(|(_, in_flight)| theirs(in_flight))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in open {
            let position = state.in_flight.get(&ticket).map_or(0, |in_flight| in_flight.position);
            let waiting = state.requeued.contains(&ticket);
            if waiting || self.board.retract(ticket, position) {
                state.requeued.retain(|other| *other != ticket);
                self.retire(state, ticket);
            }
        }
    }

    /// Publishes all that can be published, and wakes a sleeping worker for each grain of it. If a
    /// worker is starving, steals tasks for the sleepers that are left. Then fills vacant slots if
    /// there is more work than workers, and dismisses all workers of a closing pool that has no
    /// work left.
    pub(super) fn pump(&self, state: &mut State) {
        let starving = self.board.take_starving();
        self.publish_all(state);
        // Workers that are still asleep got none of what was just published.
        if starving && self.share(state) {
            self.publish_all(state);
        }
        self.call_workers(state);
        if matches!(state.phase, Phase::Closing) && state.is_idle() {
            self.board.admit(0);
            self.wake(state, usize::MAX);
            self.called.notify_all();
        }
    }

    fn publish_all(&self, state: &mut State) {
        let mut grains = 0;
        while let Some(more) = self.publish_one(state) {
            grains += more;
        }
        if grains > 0 {
            self.wake(state, grains);
        }
    }

    pub(super) fn wake(&self, state: &mut State, most: usize) {
        for slot_id in self.board.take_sleepers(state.slot_ids(), most) {
            state.call(slot_id);
        }
    }

    /// Steals tasks for sleeping workers: takes back tasks that other workers have claimed but not
    /// taken, and queues them. Returns false if there were none.
    fn share(&self, state: &mut State) -> bool {
        let before = state.queues.len();
        let mut sleepers = match state.phase {
            Phase::Over(_) => 0,
            _ => self.board.sleeping(state.slot_ids()),
        };
        while sleepers > 0 {
            let untaken = |(ticket, in_flight): (&TicketId, &InFlight)| {
                (self.board.untaken(*ticket, in_flight.chunk.count), *ticket)
            };
            let wanted = |(_, in_flight): &(&TicketId, &InFlight)| {
                in_flight.stealable && !in_flight.inbox.is_closed()
            };
            let mut most: Vec<_> = state.in_flight.iter().filter(wanted).map(untaken).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            let share = most.into_iter().find_map(|(_, ticket)| self.take_share(state, ticket));
            let Some((queue, grains)) = share else { break };
            sleepers = sleepers.saturating_sub(grains);
            state.queues.push_back(queue);
        }
        state.queues.len() > before
    }

    /// Takes back the tasks that a claimer can spare. Returns them as a queue, with their number of
    /// grains.
    fn take_share(&self, state: &mut State, ticket: TicketId) -> Option<(TaskQueue, usize)> {
        let in_flight = state.in_flight.get_mut(&ticket)?;
        let limit =
            self.board.split(ticket, in_flight.chunk.count, in_flight.chunk.grain)? as usize;
        let tasks = in_flight.first + limit..in_flight.first + in_flight.count;
        (in_flight.count, in_flight.chunk.count) = (limit, limit as u32);
        // Arguments lie in memory that workers can write to: read once, then checked.
        let arguments = read_arguments(&state.arena, in_flight);
        let inbox = Arc::clone(&in_flight.inbox);
        let rest = TaskQueue::rest(in_flight.chunk.name, &inbox, tasks, arguments, limit);
        let Some(mut queue) = rest else {
            state.wakers.extend(inbox.close(Error::overwritten()));
            return None;
        };
        (queue.attempts, queue.chunksize) = (in_flight.attempts, in_flight.chunksize);
        let grains = queue.left.div_ceil(in_flight.chunk.grain as usize);
        Some((queue, grains))
    }

    /// Publishes the next chunk, if there is one and if there is room for it. Returns its number of
    /// grains, which is how many workers could run a part of it.
    fn publish_one(&self, state: &mut State) -> Option<usize> {
        if matches!(state.phase, Phase::Over(_)) {
            return None;
        }
        if let Some(ticket) = state.requeued.pop_front() {
            return self.publish(state, ticket);
        }
        let workers = self.processes();
        let queue = state.queues.front()?;
        // A chunk whose size adapts to measurements is published only just ahead of the workers, so
        // that it can adapt. So are the first chunks, until it is known how much room results need.
        let settled = queue.is_one_chunk() && queue.inbox.result_size().is_some();
        let ahead = if settled { usize::MAX } else { 2 * workers + 2 };
        if state.in_flight.len() >= ahead {
            return None;
        }
        let likely = queue.inbox.result_size().unwrap_or(0).min(MAX_ROOM_BYTES);
        let (cost, alone) = (queue.next_cost(likely), state.in_flight.is_empty());
        let most = self.spare(state);
        if most < cost && !alone {
            return None;
        }
        let ticket = state.free.pop()?;
        let mut queue = state.queues.pop_front()?;
        let prepared = self.prepare(state, &mut queue, workers, most);
        if queue.left > 0 {
            state.queues.push_back(queue);
        }
        match prepared {
            Ok(in_flight) => {
                self.count_stealable(state, in_flight.stealable, 1);
                state.in_flight.insert(ticket, in_flight);
                self.publish(state, ticket)
            }
            Err((inbox, error)) => {
                state.free.push(ticket);
                state.queues.retain(|queue| !Arc::ptr_eq(&queue.inbox, &inbox));
                state.wakers.extend(inbox.close(error));
                Some(0)
            }
        }
    }

    /// Cuts a chunk from a queue and writes it into a block.
    fn prepare(
        &self,
        state: &mut State,
        queue: &mut TaskQueue,
        workers: usize,
        most: usize,
    ) -> Result<InFlight, (Arc<Inbox>, Error)> {
        let (inbox, name, attempts) = (Arc::clone(&queue.inbox), queue.name, queue.attempts);
        let fail = |error| (Arc::clone(&inbox), error);
        let (chunksize, measured) = (queue.chunksize, !queue.is_one_chunk());
        let size = inbox.result_size().unwrap_or(0);
        let Some(cut) = queue.cut(workers, most, size.min(MAX_ROOM_BYTES)) else {
            return Err(fail(Error::invalid("a call's arguments are not whole")));
        };
        let ChunkCut { first, count, grain, bytes, handles, large_arg } = cut;
        let (block, arguments) = if let Some(LargeArg { lease, len }) = large_arg {
            (lease.keep(), len as u64)
        } else {
            // Results are expected to be as large as the arguments, or as earlier results. A result
            // that does not fit is sent out of band.
            let likely = size.saturating_mul(count).min(MAX_ROOM_BYTES);
            let room =
                bytes.len().min(MAX_GUESSED_BYTES).max(likely).min(self.most_room(bytes.len()));
            let room = room + count * (records::MIN_RESULT_BYTES + 16);
            let block = self.allocate(state, bytes.len() + room);
            let block = block.map_err(|error| fail(Error::start("a chunk's memory", error)))?;
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
            timed: inbox.options.timeout.is_some(),
            measured,
        };
        Ok(InFlight {
            inbox,
            first,
            count,
            attempts,
            block,
            chunk,
            chunksize,
            stealable: grain < count,
            position: 0,
            claimer: None,
            handles,
            out_of_band: HashMap::new(),
            waits_for_out_of_band: false,
            stuck: None,
        })
    }

    /// Allocates a block. If its region is new, sends the region to all workers.
    fn allocate(&self, state: &mut State, len: usize) -> io::Result<Block> {
        let block = state.arena.allocate(len)?;
        let announced = state.announce();
        if announced.is_err() {
            state.arena.release(block);
        }
        announced.map(|()| block)
    }

    /// How many bytes of shared memory chunks may still take under the pool's memory limit.
    fn spare(&self, state: &mut State) -> usize {
        let Some(bound) = self.config.memory else { return usize::MAX };
        // Allocation rounds a block up by at most a quarter, or to the smallest block.
        (bound.saturating_sub(state.arena.used()) / 5 * 4).saturating_sub(MIN_BLOCK_BYTES)
    }

    /// How much room the memory limit allows for results beside so many bytes of arguments.
    fn most_room(&self, arguments: usize) -> usize {
        self.config.memory.map_or(usize::MAX, |bound| bound.saturating_sub(arguments))
    }

    /// Whether a call with `open` chunks in flight should stop encoding for now: the memory limit
    /// is reached, or there is enough to keep all workers busy.
    pub(crate) fn is_full(&self, open: usize) -> bool {
        let workers = self.processes();
        let enough = ENOUGH_BYTES.max(workers * ENOUGH_BYTES_EACH);
        let enough = if open > 2 * workers + 2 { enough } else { usize::MAX };
        let bound = self.config.memory.unwrap_or(usize::MAX).min(enough);
        if open == 0 || bound == usize::MAX || !self.is_ours() {
            return false;
        }
        let mut state = self.lock();
        let waiting: usize = state.queues.iter().map(TaskQueue::waiting).sum();
        state.arena.used().saturating_add(waiting) >= bound
    }

    /// Whether large results may stay in shared memory until they are decoded.
    ///
    /// Lent results must not take the memory that chunks need: the caller that is to decode the
    /// results may itself be waiting for those chunks.
    pub(super) fn may_lend(&self, arena: &mut Arena) -> bool {
        arena.used() <= self.config.memory.unwrap_or(MAX_LENT_BYTES) / 2
    }

    /// Adds `change` to the number of stealable tickets if `is_one`. Tells workers when there are
    /// some now, or none any more.
    pub(super) fn count_stealable(&self, state: &mut State, is_one: bool, change: isize) {
        if is_one {
            let before = state.stealable;
            state.stealable = before.saturating_add_signed(change);
            if (before == 0) != (state.stealable == 0) {
                self.board.set_stealable(before == 0);
            }
        }
    }

    fn publish(&self, state: &mut State, ticket: TicketId) -> Option<usize> {
        let State { in_flight, requeued, .. } = state;
        let entry = in_flight.get_mut(&ticket)?;
        let chunk = entry.chunk;
        entry.claimer = None;
        entry.position = self.board.position();
        let keep = |ticket, slot_id| {
            if let Some(other) = in_flight.get_mut(&ticket) {
                other.claimer = Some(slot_id);
            }
        };
        let published = self.board.publish(ticket, &chunk, keep);
        if !published {
            requeued.push_front(ticket);
        }
        published.then(|| chunk.count.div_ceil(chunk.grain) as usize)
    }
}
