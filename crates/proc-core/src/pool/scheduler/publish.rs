//! From feeds to the board: cutting chunks, writing them, waking sleepers, taking back.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::state::{Crew, Out, Phase, State, read_arguments, unlock};
use crate::error::Error;
use crate::memory::{Arena, Block, Lease, SMALLEST};
use crate::pool::board::{Chunk, TicketId};
use crate::pool::job::{Cut, Feed, Inbox, Parcel};
use crate::pool::records;
use crate::wire::Lender;

/// The most room that a chunk gets for large results; what does not fit comes by message.
const MOST_ROOM: usize = 16 << 20;

/// The most room for results as large as their arguments: of huge ones, nothing is wasted on a
/// guess.
const MOST_GUESSED: usize = 1 << 30;

/// Memory in use above which large results are copied out at once, twice.
const MOST_LENT: usize = 512 << 20;

/// So many bytes are enough to have ready, at least and for each worker: more would only cost
/// memory, and be out of the processor's caches before it is read.
const ENOUGH: usize = 16 << 20;
const ENOUGH_EACH: usize = 4 << 20;

impl Lender for Crew {
    fn lend(&self, len: usize, results: Option<usize>) -> Option<Lease> {
        let room = results.map_or(len.min(MOST_GUESSED), |size| size.min(MOST_ROOM));
        let len = len.checked_add(room.min(self.most_room(len)) + records::LEAST_RESULT + 16)?;
        // A copy of the process that built the pool has no business in its memory.
        let mut state = self.is_ours().then(|| self.lock())?;
        if self.spare(&mut state) < len {
            return None;
        }
        let block = self.allocate(&mut state, len).ok()?;
        Some(state.arena.lease(block))
    }

    /// Beside an argument there is always room for the note that its result is sent out of band.
    fn spare(&self) -> usize {
        records::LEAST_RESULT
    }
}

impl Crew {
    /// Calls everything off: open tasks fail, workers are to go.
    pub(super) fn end(&self, state: &mut State, cause: Option<Error>) {
        if matches!(state.phase, Phase::Over(_)) {
            return;
        }
        state.phase = Phase::Over(cause.clone());
        let error = || cause.clone().unwrap_or_else(Error::closed);
        let State { feeds, out, wakers, .. } = state;
        for feed in feeds.drain(..) {
            wakers.extend(feed.inbox.close(error()));
        }
        for (ticket, out) in out {
            self.board.retract(*ticket, out.position);
            wakers.extend(out.inbox.close(error()));
        }
        self.board.admit(0);
        self.wake(state, usize::MAX);
        self.timed.notify_all();
        self.called.notify_all();
    }

    /// Wakes all workers that sleep if work waits: the one that was woken for it may be stopped.
    pub(super) fn wake_for_neglected(&self, state: &mut State) {
        if self.board.has_ready() {
            self.wake(state, usize::MAX);
        }
    }

    /// Gives back a ticket and its block.
    pub(super) fn retire(&self, state: &mut State, ticket: TicketId) -> Option<Out> {
        let out = self.take_out(state, ticket)?;
        state.arena.release(out.block);
        Some(out)
    }

    /// Gives back a ticket; its block is the caller's.
    pub(super) fn take_out(&self, state: &mut State, ticket: TicketId) -> Option<Out> {
        let out = state.out.remove(&ticket)?;
        self.board.forget_claim(ticket, out.position);
        self.count_shareable(state, out.shareable, -1);
        state.free.push(ticket);
        Some(out)
    }

    /// Takes over a call's tasks.
    pub(crate) fn submit(self: &Arc<Self>, feed: Feed) -> Result<(), Error> {
        self.check_maker()?;
        let mut state = self.lock();
        state.phase.check_open()?;
        self.revive(&mut state);
        if feed.left > 0 {
            let timed = feed.inbox.terms.timeout.is_some();
            if let Some(size) = state.sizes.get(&feed.name) {
                feed.inbox.expect_size(*size);
            }
            state.feeds.push_back(feed);
            self.pump(&mut state);
            if timed {
                self.start_warden(&mut state)?;
            } else if state.warden {
                self.timed.notify_all();
            }
        }
        unlock(state, Vec::new());
        Ok(())
    }

    /// Forgets what was not handed out yet of a call that nobody waits for.
    pub(crate) fn drop_feeds(&self, inbox: &Arc<Inbox>) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        // Nobody waits for it, so nobody is to be woken.
        let _ = inbox.discard(Error::cancelled());
        self.withdraw(&mut state, inbox);
        self.pump(&mut state);
        unlock(state, Vec::new());
    }

    /// Takes back what no worker has claimed of a call.
    pub(super) fn withdraw(&self, state: &mut State, inbox: &Arc<Inbox>) {
        state.feeds.retain(|feed| !Arc::ptr_eq(&feed.inbox, inbox));
        let theirs = |out: &Out| Arc::ptr_eq(&out.inbox, inbox);
        let open: Vec<TicketId> =
            state.out.iter().filter(|(_, out)| theirs(out)).map(|(ticket, _)| *ticket).collect();
        for ticket in open {
            let position = state.out.get(&ticket).map_or(0, |out| out.position);
            let waiting = state.again.contains(&ticket);
            if waiting || self.board.retract(ticket, position) {
                state.again.retain(|other| *other != ticket);
                self.retire(state, ticket);
            }
        }
    }

    /// Publishes what can be published, and wakes as many sleepers as can take a step of it.
    pub(super) fn pump(&self, state: &mut State) {
        let hungry = self.board.take_hunger();
        self.publish_all(state);
        // Those who sleep on had no step of that.
        if hungry && self.share(state) {
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
        let mut steps = 0;
        while let Some(more) = self.publish_one(state) {
            steps += more;
        }
        if steps > 0 {
            self.wake(state, steps);
        }
    }

    pub(super) fn wake(&self, state: &mut State, most: usize) {
        for owner in self.board.pick_sleepers(state.owners(), most) {
            state.call(owner);
        }
    }

    /// Takes back, for workers that sleep, what others have claimed and not begun. False if
    /// nothing.
    fn share(&self, state: &mut State) -> bool {
        let before = state.feeds.len();
        let mut sleepers = match state.phase {
            Phase::Over(_) => 0,
            _ => self.board.sleeping(state.owners()),
        };
        while sleepers > 0 {
            let untaken = |(ticket, out): (&TicketId, &Out)| {
                (self.board.untaken(*ticket, out.chunk.count), *ticket)
            };
            let wanted = |(_, out): &(&TicketId, &Out)| out.shareable && !out.inbox.is_closed();
            let mut most: Vec<_> = state.out.iter().filter(wanted).map(untaken).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            let share = most.into_iter().find_map(|(_, ticket)| self.take_share(state, ticket));
            let Some((feed, steps)) = share else { break };
            sleepers = sleepers.saturating_sub(steps);
            state.feeds.push_back(feed);
        }
        state.feeds.len() > before
    }

    /// Takes back what a claimer can spare, and how many steps that is.
    fn take_share(&self, state: &mut State, ticket: TicketId) -> Option<(Feed, usize)> {
        let out = state.out.get_mut(&ticket)?;
        let limit = self.board.shorten(ticket, out.chunk.count, out.chunk.step)? as usize;
        let tasks = out.first + limit..out.first + out.count;
        (out.count, out.chunk.count) = (limit, limit as u32);
        // Arguments lie in memory that workers can write: read once, checked.
        let arguments = read_arguments(&state.arena, out);
        let inbox = Arc::clone(&out.inbox);
        let rest = Feed::rest(out.chunk.name, &inbox, tasks, arguments, limit);
        let Some(mut feed) = rest else {
            state.wakers.extend(inbox.close(Error::overwritten()));
            return None;
        };
        (feed.attempts, feed.chunksize) = (out.attempts, out.chunksize);
        let steps = feed.left.div_ceil(out.chunk.step as usize);
        Some((feed, steps))
    }

    /// Publishes the next chunk, if there is one and a place for it; how many workers could take a
    /// step of it.
    fn publish_one(&self, state: &mut State) -> Option<usize> {
        if matches!(state.phase, Phase::Over(_)) {
            return None;
        }
        if let Some(ticket) = state.again.pop_front() {
            return self.publish(state, ticket);
        }
        let workers = self.processes();
        let feed = state.feeds.front()?;
        // Chunks that adapt are published just ahead of the workers, so that they can; and so are
        // the first ones, until it is known how much room results need.
        let settled = feed.is_one_chunk() && feed.inbox.result_size().is_some();
        let ahead = if settled { usize::MAX } else { 2 * workers + 2 };
        if state.out.len() >= ahead {
            return None;
        }
        let likely = feed.inbox.result_size().unwrap_or(0).min(MOST_ROOM);
        let (cost, alone) = (feed.next_cost(likely), state.out.is_empty());
        let most = self.spare(state);
        if most < cost && !alone {
            return None;
        }
        let ticket = state.free.pop()?;
        let mut feed = state.feeds.pop_front()?;
        let prepared = self.prepare(state, &mut feed, workers, most);
        if feed.left > 0 {
            state.feeds.push_back(feed);
        }
        match prepared {
            Ok(out) => {
                self.count_shareable(state, out.shareable, 1);
                state.out.insert(ticket, out);
                self.publish(state, ticket)
            }
            Err((inbox, error)) => {
                state.free.push(ticket);
                state.feeds.retain(|feed| !Arc::ptr_eq(&feed.inbox, &inbox));
                state.wakers.extend(inbox.close(error));
                Some(0)
            }
        }
    }

    /// Cuts a chunk and writes it into a block.
    fn prepare(
        &self,
        state: &mut State,
        feed: &mut Feed,
        workers: usize,
        most: usize,
    ) -> Result<Out, (Arc<Inbox>, Error)> {
        let (inbox, name, attempts) = (Arc::clone(&feed.inbox), feed.name, feed.attempts);
        let fail = |error| (Arc::clone(&inbox), error);
        let (chunksize, measured) = (feed.chunksize, !feed.is_one_chunk());
        let size = inbox.result_size().unwrap_or(0);
        let Some(cut) = feed.cut(workers, most, size.min(MOST_ROOM)) else {
            return Err(fail(Error::invalid("a call's arguments are not whole")));
        };
        let Cut { first, count, step, bytes, handles, parcel } = cut;
        let (block, arguments) = if let Some(Parcel { lease, len }) = parcel {
            (lease.keep(), len as u64)
        } else {
            // Results are as large as arguments, or as they were so far; what does not fit comes by
            // message.
            let likely = size.saturating_mul(count).min(MOST_ROOM);
            let room = bytes.len().min(MOST_GUESSED).max(likely).min(self.most_room(bytes.len()));
            let room = room + count * (records::LEAST_RESULT + 16);
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
            step: step as u32,
            asks: handles.is_some(),
            timed: inbox.terms.timeout.is_some(),
            measured,
        };
        Ok(Out {
            inbox,
            first,
            count,
            attempts,
            block,
            chunk,
            chunksize,
            shareable: step < count,
            position: 0,
            owner: None,
            handles,
            apart: HashMap::new(),
            waits_for_apart: false,
            stuck: None,
        })
    }

    /// A block, in a region that the workers know, or are told of.
    fn allocate(&self, state: &mut State, len: usize) -> io::Result<Block> {
        let block = state.arena.allocate(len)?;
        let announced = state.announce();
        if announced.is_err() {
            state.arena.release(block);
        }
        announced.map(|()| block)
    }

    /// How many bytes of shared memory chunks may still take.
    fn spare(&self, state: &mut State) -> usize {
        let Some(bound) = self.plan.memory else { return usize::MAX };
        // Blocks are rounded up, by a quarter at most or to the smallest.
        (bound.saturating_sub(state.arena.used()) / 5 * 4).saturating_sub(SMALLEST)
    }

    /// How much room results may have beside so many bytes of arguments.
    fn most_room(&self, arguments: usize) -> usize {
        self.plan.memory.map_or(usize::MAX, |bound| bound.saturating_sub(arguments))
    }

    /// Whether a call that has `open` chunks on their way is to wait before it encodes more: as
    /// much is encoded as may be, or as is enough to keep all workers busy.
    pub(crate) fn is_full(&self, open: usize) -> bool {
        let workers = self.processes();
        let enough = ENOUGH.max(workers * ENOUGH_EACH);
        let enough = if open > 2 * workers + 2 { enough } else { usize::MAX };
        let bound = self.plan.memory.unwrap_or(usize::MAX).min(enough);
        if open == 0 || bound == usize::MAX || !self.is_ours() {
            return false;
        }
        let mut state = self.lock();
        let waiting: usize = state.feeds.iter().map(Feed::waiting).sum();
        state.arena.used().saturating_add(waiting) >= bound
    }

    /// Whether large results may stay where they are until they are decoded.
    ///
    /// They may not take what chunks need: whoever is to decode them may be waiting for these.
    pub(super) fn may_lend(&self, arena: &mut Arena) -> bool {
        arena.used() <= self.plan.memory.unwrap_or(MOST_LENT) / 2
    }

    /// Counts tickets that can be shared, and tells workers whether there are any.
    pub(super) fn count_shareable(&self, state: &mut State, is_one: bool, change: isize) {
        if is_one {
            let before = state.shareable;
            state.shareable = before.saturating_add_signed(change);
            if (before == 0) != (state.shareable == 0) {
                self.board.set_shareable(before == 0);
            }
        }
    }

    fn publish(&self, state: &mut State, ticket: TicketId) -> Option<usize> {
        let State { out, again, .. } = state;
        let entry = out.get_mut(&ticket)?;
        let chunk = entry.chunk;
        entry.owner = None;
        entry.position = self.board.position();
        let keep = |ticket, owner| {
            if let Some(other) = out.get_mut(&ticket) {
                other.owner = Some(owner);
            }
        };
        let published = self.board.publish(ticket, &chunk, keep);
        if !published {
            again.push_front(ticket);
        }
        published.then(|| chunk.count.div_ceil(chunk.step) as usize)
    }
}
