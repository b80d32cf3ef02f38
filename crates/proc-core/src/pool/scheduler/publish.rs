//! Publishing: cuts chunks from task queues, writes them into shared memory, puts them on the board
//! and wakes sleepers. Also takes work back: tickets that no worker has claimed, and tasks that
//! their claimer has not taken.

use std::sync::Arc;

use super::chunk::MAX_ROOM_BYTES;
use super::fair_share::Turn;
use super::state::{InFlight, Phase, Scheduler, State, read_arguments, unlock};
use crate::error::Error;
use crate::memory::Arena;
use crate::pool::board::TicketId;
use crate::pool::job::{Inbox, TaskQueue};

/// If more than half of this memory is in use, large results are copied out of shared memory at
/// once, which costs a second copy, instead of being lent. In a pool with a memory limit, the limit
/// takes the place of this number.
const MAX_LENT_BYTES: usize = 512 << 20;

/// How many bytes the whole pool has ready, encoded or in shared memory, before a call that has
/// enough chunks in flight stops encoding: this many, or [`READY_BYTES_PER_WORKER`] for each worker
/// if that is more. More bytes would only cost memory, and would have left the processor's caches
/// before a worker reads them.
const READY_BYTES: usize = 16 << 20;
const READY_BYTES_PER_WORKER: usize = 4 << 20;

/// Whether there is room for another chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// There is no queue, or enough chunks are in flight.
    Later,
    /// There is no ticket, or no memory under the memory limit.
    None,
    /// The chunk may take at most this many bytes of shared memory.
    Bytes(usize),
}

/// What the next chunk of a queue needs.
struct Wish {
    /// Whether neither its size nor its room depends on measurements.
    are_sizes_known: bool,
    /// How many bytes of shared memory its first task probably needs.
    cost: usize,
}

impl Wish {
    fn of(queue: &TaskQueue) -> Wish {
        let size = queue.inbox.result_size();
        Wish {
            are_sizes_known: queue.is_one_chunk() && size.is_some(),
            cost: queue.next_cost(size.unwrap_or(0).min(MAX_ROOM_BYTES)),
        }
    }
}

impl Scheduler {
    /// Ends the pool: open calls fail with `cause`, and workers are dismissed.
    pub(super) fn end_pool(&self, state: &mut State, cause: Option<Error>) {
        if matches!(state.phase, Phase::Over(_)) {
            return;
        }
        state.phase = Phase::Over(cause.clone());
        let error = || cause.clone().unwrap_or_else(Error::closed);
        let State { queues, in_flight, wakers, .. } = state;
        for queue in queues.take_all() {
            wakers.extend(queue.inbox.close(error()));
        }
        for (ticket, in_flight) in in_flight {
            self.board.retract(*ticket, in_flight.position);
            wakers.extend(in_flight.inbox.close(error()));
        }
        self.board.admit(0);
        self.wake(state, usize::MAX);
        self.watcher_signal.notify_all();
        self.slots_changed.notify_all();
    }

    /// Wakes all sleepers if published work waits. The worker that was woken for that work may have
    /// been stopped by a signal.
    pub(super) fn wake_all_if_work_waits(&self, state: &mut State) {
        if self.board.has_ready() {
            self.wake(state, usize::MAX);
        }
    }

    /// Abandons a call whose results are not wanted any more: drops its queues, takes back its
    /// tickets that no worker has claimed, and drops the results of the others.
    pub(crate) fn abandon(&self, inbox: &Arc<Inbox>) {
        if self.is_forked_copy() {
            return;
        }
        let mut state = self.lock();
        // Nothing waits for the call, so the waker is not called.
        let _ = inbox.discard(Error::cancelled());
        self.withdraw(&mut state, inbox);
        self.dispatch(&mut state);
        unlock(state);
    }

    /// Takes back all tasks of a call that no worker has claimed. Returns whether there were any.
    pub(super) fn withdraw(&self, state: &mut State, inbox: &Arc<Inbox>) -> bool {
        let mut any = state.queues.has(inbox);
        state.queues.remove(inbox);
        for (ticket, position) in state.tickets_of(inbox) {
            let slot_id = state.in_flight.get(&ticket).and_then(|in_flight| in_flight.slot_id);
            let is_waiting = state.requeued.contains(&ticket)
                || slot_id.is_some_and(|slot_id| self.board.unassign(ticket, slot_id));
            if is_waiting || self.board.retract(ticket, position) {
                state.requeued.retain(|other| *other != ticket);
                self.free_ticket_and_block(state, ticket);
                any = true;
            }
        }
        any
    }

    /// Makes way for a new call of `tasks` tasks, whose turn comes before that of work which is
    /// published or claimed: takes back tickets that no worker has claimed, and tasks that their
    /// claimers have not taken. So the new call waits only for grains that workers have taken, or
    /// are about to take.
    pub(super) fn make_way(&self, state: &mut State, turn: Turn, tasks: usize) {
        if state.overtakable_tickets == 0 && !turn.is_urgent() {
            return;
        }
        let is_later = |(_, in_flight): &(TicketId, &InFlight)| {
            let now = Turn::of_served(&in_flight.inbox);
            now.yields_to(turn) || (in_flight.overtakable && now > turn)
        };
        let later = state.tickets().filter(is_later);
        let later: Vec<(TicketId, u64)> =
            later.map(|(ticket, in_flight)| (ticket, in_flight.position)).collect();
        for (ticket, position) in &later {
            if !state.requeued.contains(ticket) && self.board.retract(*ticket, *position) {
                if let Some(in_flight) = state.in_flight.get_mut(ticket) {
                    in_flight.forget_progress();
                }
                state.requeued.push_back(*ticket);
                state.refund(*ticket);
            }
        }
        let State { requeued, in_flight, .. } = state;
        let place = |ticket: &TicketId| {
            in_flight.get(ticket).map(|it| (Turn::of_served(&it.inbox), it.position))
        };
        requeued.make_contiguous().sort_by_key(place);
        if self.board.count_sleepers(state.slot_ids()) > 0 {
            return;
        }
        // Take back the later tasks of as many workers as the new call can use. Some have none.
        let mut wanted = tasks.min(self.processes());
        let running = later.iter().map(|(ticket, _)| *ticket);
        let running: Vec<TicketId> =
            running.filter(|ticket| !state.requeued.contains(ticket)).collect();
        for ticket in running {
            if wanted == 0 {
                return;
            }
            let mut rest = self.steal_from(state, ticket);
            wanted -= usize::from(rest.is_some());
            while let Some((queue, _)) = rest {
                state.queues.push_front(queue);
                rest = self.steal_from(state, ticket);
            }
        }
    }

    /// Publishes all that can be published, and wakes a sleeper for each new grain. If a worker is
    /// starving, steals tasks for the sleepers that are left. Fills vacant slots if there are more
    /// grains than workers. Assigns tasks that only one worker may run. Dismisses all workers if
    /// the pool is closing and no work is left.
    pub(super) fn dispatch(&self, state: &mut State) {
        let starving = self.board.take_starving();
        self.publish_all(state);
        // Workers that are still asleep got no grain of the chunks just published.
        if starving && self.steal_for_sleepers(state) {
            self.publish_all(state);
        }
        self.fill_vacant_slots(state);
        self.assign_waiting(state);
        if matches!(state.phase, Phase::Closing) && state.is_idle() {
            self.board.admit(0);
            self.wake(state, usize::MAX);
            self.slots_changed.notify_all();
        }
    }

    /// Publishes all that can be published, and wakes a sleeper for each new grain.
    fn publish_all(&self, state: &mut State) {
        let mut grains = 0;
        while let Some(more) = self.publish_one(state) {
            grains += more;
        }
        if grains > 0 {
            self.wake(state, grains);
        }
    }

    /// Wakes at most `max` sleepers.
    pub(super) fn wake(&self, state: &mut State, max: usize) {
        for slot_id in self.board.take_sleepers(state.slot_ids(), max) {
            state.wake(slot_id);
        }
    }

    /// Steals tasks for sleepers: takes back tasks that other workers have claimed but not taken,
    /// and queues them. Returns false if there were none.
    fn steal_for_sleepers(&self, state: &mut State) -> bool {
        let mut any = false;
        let mut sleepers = match state.phase {
            Phase::Over(_) => 0,
            _ => self.board.count_sleepers(state.slot_ids()),
        };
        while sleepers > 0 {
            let untaken = |(ticket, in_flight): (TicketId, &InFlight)| {
                (self.board.untaken(ticket, in_flight.chunk.count), ticket)
            };
            let is_stealable = |(_, in_flight): &(TicketId, &InFlight)| {
                in_flight.stealable && !in_flight.inbox.is_closed()
            };
            let mut most_first: Vec<_> =
                state.tickets().filter(is_stealable).map(untaken).collect();
            most_first.sort_unstable_by(|a, b| b.cmp(a));
            let stolen =
                most_first.into_iter().find_map(|(_, ticket)| self.steal_from(state, ticket));
            let Some((queue, grains)) = stolen else { break };
            sleepers = sleepers.saturating_sub(grains);
            state.queues.push_front(queue);
            any = true;
        }
        any
    }

    /// Takes back half of the tasks that the claimer of a ticket has not taken. Returns them as a
    /// queue, with their number of grains. Takes nothing of a call that is stopped: no other worker
    /// would know of the stop.
    fn steal_from(&self, state: &mut State, ticket: TicketId) -> Option<(Box<TaskQueue>, usize)> {
        let in_flight = state.in_flight.get_mut(&ticket)?;
        if in_flight.is_stopped_with_call() {
            return None;
        }
        let limit =
            self.board.split(ticket, in_flight.chunk.count, in_flight.chunk.grain)? as usize;
        let tasks = in_flight.first + limit..in_flight.first + in_flight.count;
        (in_flight.count, in_flight.chunk.count) = (limit, limit as u32);
        // Workers can write to the arguments' memory: the parent reads them once, then checks them.
        let arguments = read_arguments(&state.arena, in_flight);
        let inbox = Arc::clone(&in_flight.inbox);
        let rest = arguments.and_then(|arguments| {
            TaskQueue::rest(in_flight.chunk.name, &inbox, tasks, arguments, limit)
        });
        let mut queue = match rest {
            Ok(queue) => queue,
            Err(error) => {
                state.wakers.extend(inbox.close(error));
                return None;
            }
        };
        queue.attempts = in_flight.attempts;
        let grains = queue.left.div_ceil(in_flight.chunk.grain as usize);
        Some((queue, grains))
    }

    /// Publishes the next chunk, if there is one and there is memory for it. Returns its number of
    /// grains, which is how many workers can run a part of it.
    fn publish_one(&self, state: &mut State) -> Option<usize> {
        if matches!(state.phase, Phase::Over(_)) {
            return None;
        }
        let can_cut = self.can_cut(state);
        // If there is no room for another chunk, the requeued ones must run first: they make room.
        if let Some(ticket) = state.requeued.front()
            && let turn = state.in_flight.get(ticket).map(|it| Turn::of_served(&it.inbox))
            && (can_cut == Room::None
                || state.queues.first().is_none_or(|(next, _)| turn <= Some(next)))
        {
            let ticket = state.requeued.pop_front()?;
            state.charge(ticket);
            return self.publish(state, ticket);
        }
        let Room::Bytes(max_bytes) = can_cut else { return None };
        let (turn, _) = state.queues.first()?;
        let queue = state.queues.pop_first()?;
        self.publish_next(state, queue, Some(turn), max_bytes)
    }

    /// Publishes the next chunk of a queue, and puts the rest of the queue back. Returns its number
    /// of grains.
    fn publish_next(
        &self,
        state: &mut State,
        mut queue: Box<TaskQueue>,
        turn: Option<Turn>,
        max_bytes: usize,
    ) -> Option<usize> {
        let ticket = state.free.pop()?;
        match self.prepare(state, &mut queue, turn, max_bytes) {
            Ok(mut in_flight) => {
                in_flight.charge = state.queues.put_back(queue, in_flight.count);
                if in_flight.stealable {
                    self.add_stealable(state);
                }
                state.overtakable_tickets += usize::from(in_flight.overtakable);
                state.in_flight.insert(ticket, in_flight);
                self.publish(state, ticket)
            }
            Err(error) => {
                state.free.push(ticket);
                state.queues.remove(&queue.inbox);
                state.wakers.extend(queue.inbox.close(error));
                Some(0)
            }
        }
    }

    /// Queues tasks of a call, or publishes them at once if they are one chunk and nothing waits.
    pub(super) fn accept(&self, state: &mut State, queue: Box<TaskQueue>) {
        let is_alone = state.queues.is_empty()
            && state.requeued.is_empty()
            && state.overtakable_tickets == 0
            && queue.inbox.options.priority == 0
            && queue.is_one_chunk();
        if is_alone && let Room::Bytes(max_bytes) = self.room_for(state, Wish::of(&queue)) {
            state.queues.begin(&queue.inbox);
            if let Some(grains) = self.publish_next(state, queue, None, max_bytes) {
                self.wake(state, grains);
            }
            return;
        }
        let tasks = queue.left;
        if let Some(turn) = state.queues.push_back(queue) {
            self.make_way(state, turn, tasks);
        }
    }

    /// Whether a chunk may be cut from the queue that is served next.
    fn can_cut(&self, state: &mut State) -> Room {
        let wish = state.queues.first().map(|(_, queue)| Wish::of(queue));
        wish.map_or(Room::Later, |wish| self.room_for(state, wish))
    }

    /// Whether a chunk may be cut from a queue.
    fn room_for(&self, state: &mut State, wish: Wish) -> Room {
        // While the size or the room of chunks depends on measurements, chunks are cut only just
        // ahead of the workers. So later chunks can use newer measurements.
        let max_in_flight =
            if wish.are_sizes_known { usize::MAX } else { 2 * self.processes() + 2 };
        let waiting = state.requeued.len() + state.assigned_tickets;
        if state.in_flight.len() - waiting >= max_in_flight {
            return Room::Later;
        }
        let max_bytes = self.memory_left(state);
        // A chunk that does not fit under the memory limit goes alone.
        if state.free.is_empty() || (wish.cost > max_bytes && !state.in_flight.is_empty()) {
            return Room::None;
        }
        Room::Bytes(max_bytes)
    }

    /// Whether a call with `in_flight` chunks in flight should stop encoding for now: the memory
    /// limit is reached, or enough bytes are ready to keep all workers busy.
    pub(crate) fn is_full(&self, in_flight: usize) -> bool {
        let workers = self.processes();
        let enough = READY_BYTES.max(workers * READY_BYTES_PER_WORKER);
        let enough = if in_flight > 2 * workers + 2 { enough } else { usize::MAX };
        let max_bytes = self.config.memory_limit.unwrap_or(usize::MAX).min(enough);
        if in_flight == 0 || max_bytes == usize::MAX || self.is_forked_copy() {
            return false;
        }
        let mut state = self.lock();
        let waiting_bytes: usize = state.queues.iter().map(TaskQueue::waiting_bytes).sum();
        state.arena.used().saturating_add(waiting_bytes) >= max_bytes
    }

    /// Whether large results may stay in shared memory until they are decoded.
    ///
    /// Lent results must not take the memory that chunks need: a caller may decode results only
    /// after its other chunks have run.
    pub(super) fn may_lend(&self, arena: &mut Arena) -> bool {
        arena.used() <= self.config.memory_limit.unwrap_or(MAX_LENT_BYTES) / 2
    }

    /// Publishes a ticket. Returns its number of grains. If the ring is full, requeues the ticket
    /// and returns `None`.
    fn publish(&self, state: &mut State, ticket: TicketId) -> Option<usize> {
        let State { in_flight, requeued, .. } = state;
        let entry = in_flight.get_mut(&ticket)?;
        // Tasks of the chunk may be done since it was cut.
        entry.chunk.first = entry.first as u64;
        let chunk = entry.chunk;
        entry.claimer = None;
        entry.position = self.board.next_position();
        let note_claim = |ticket, slot_id| {
            if let Some(other) = in_flight.get_mut(&ticket) {
                other.claimer = Some(slot_id);
            }
        };
        let published = self.board.publish(ticket, &chunk, note_claim);
        if !published {
            requeued.push_front(ticket);
        }
        published.then(|| chunk.count.div_ceil(chunk.grain) as usize)
    }
}
