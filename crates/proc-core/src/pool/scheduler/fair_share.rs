//! The order in which calls are served: by priority, and fairly among calls of one priority.
//!
//! Each call has a *virtual time*: how much time of workers its chunks have taken. The call with
//! the least virtual time is served next, so that calls of one priority get the same share, however
//! many tasks they have. A new call begins at the pool's own virtual time, the *clock*, which goes
//! on by a fair part of each finished chunk. This is start-time fair queueing (Goyal, Vin and
//! Cheng, 1996), with a clock that also goes on where many short calls follow one another, so that
//! they cannot keep a long call waiting forever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::pool::board::SlotId;
use crate::pool::job::{Inbox, TaskQueue};

/// The virtual time that a chunk takes before the time of a task is known, in nanoseconds.
const UNKNOWN_NANOS: u64 = 100_000;

/// The most virtual time that one chunk may take. A corrupt worker may report any time.
const MAX_NANOS: u64 = 1 << 50;

/// The place of a call in the order. The least one is served next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: Reverse<i32>,
    virtual_time: u64,
    /// Whether the call had a turn before, or was served in this one. At the same virtual time, a
    /// new call goes first.
    was_served: bool,
    /// Calls that began earlier go first.
    serial: u64,
}

impl Turn {
    /// The turn of a call of which a chunk was published.
    pub(super) fn of_served(inbox: &Inbox) -> Turn {
        Turn {
            priority: Reverse(inbox.options.priority),
            virtual_time: inbox.virtual_time(),
            was_served: true,
            serial: inbox.serial_or(0),
        }
    }

    /// Whether the call goes before usual ones.
    pub(super) fn is_urgent(&self) -> bool {
        self.priority < Reverse(0)
    }

    /// Whether the call has a lower priority than another one.
    pub(super) fn yields_to(&self, other: Turn) -> bool {
        self.priority > other.priority
    }

    /// Whether a new call of the same priority may go before a chunk that was cut in this turn. The
    /// first chunk of a call of priority 0 keeps its place.
    pub(super) fn may_be_overtaken(&self) -> bool {
        self.was_served || self.priority != Reverse(0)
    }
}

/// The task queues of all calls, in the order in which the calls are served.
#[derive(Default)]
pub(super) struct FairQueues {
    calls: BTreeMap<Turn, VecDeque<Box<TaskQueue>>>,
    /// The memory for the queues of a new call. The list is empty.
    spare: VecDeque<Box<TaskQueue>>,
    /// The turns of the calls in `calls`, by the address of the call's inbox. The call's queues
    /// keep the inbox alive.
    turns: FxHashMap<usize, Turn>,
    clock: u64,
    last_serial: u64,
    /// Tasks of broadcasts, which only the worker in one slot may run: by that slot, in the order
    /// of the calls. They take no turns: each worker runs them between two chunks.
    for_slots: BTreeMap<SlotId, VecDeque<Box<TaskQueue>>>,
}

impl FairQueues {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.for_slots.is_empty()
    }

    /// All queues, in the order in which their calls are served; then those of broadcasts.
    pub(super) fn iter(&self) -> impl Iterator<Item = &TaskQueue> {
        self.calls.values().chain(self.for_slots.values()).flatten().map(Box::as_ref)
    }

    /// Whether a call has queued tasks.
    pub(super) fn has(&self, inbox: &Arc<Inbox>) -> bool {
        let mut for_slots = self.for_slots.values().flatten();
        self.has_turn(inbox) || for_slots.any(|queue| Arc::ptr_eq(&queue.inbox, inbox))
    }

    /// Whether a call has queued tasks that any worker may run.
    fn has_turn(&self, inbox: &Arc<Inbox>) -> bool {
        self.turns.contains_key(&address(inbox))
    }

    /// Whether tasks for the worker in any one slot are queued.
    pub(super) fn has_for_slots(&self) -> bool {
        !self.for_slots.is_empty()
    }

    /// Whether tasks for the worker in a slot are queued.
    pub(super) fn has_for_slot(&self, slot_id: SlotId) -> bool {
        self.for_slots.contains_key(&slot_id)
    }

    /// Takes the next tasks for the worker in a slot.
    pub(super) fn pop_for_slot(&mut self, slot_id: SlotId) -> Option<Box<TaskQueue>> {
        let queues = self.for_slots.get_mut(&slot_id)?;
        let queue = queues.pop_front();
        if queues.is_empty() {
            self.for_slots.remove(&slot_id);
        }
        queue
    }

    /// Begins to count the time of a call, or goes on with that. A call that had nothing to do has
    /// no claim to the time that has passed.
    pub(super) fn begin(&self, inbox: &Inbox) {
        inbox.set_virtual_time(inbox.virtual_time().max(self.clock));
    }

    /// Queues tasks behind those of the same call. Returns the turn of the call if it is new.
    pub(super) fn push_back(&mut self, queue: Box<TaskQueue>) -> Option<Turn> {
        if let Some(slot_id) = queue.slot_id {
            self.for_slots.entry(slot_id).or_default().push_back(queue);
            return None;
        }
        let is_new = !self.has_turn(&queue.inbox);
        if is_new {
            self.begin(&queue.inbox);
        }
        let turn = self.turn_of(&queue.inbox);
        self.queues_of(turn).push_back(queue);
        is_new.then_some(turn)
    }

    /// Queues tasks before those of the same call.
    pub(super) fn push_front(&mut self, queue: Box<TaskQueue>) {
        if let Some(slot_id) = queue.slot_id {
            return self.for_slots.entry(slot_id).or_default().push_front(queue);
        }
        let turn = self.turn_of(&queue.inbox);
        self.queues_of(turn).push_front(queue);
    }

    /// The queue that is served next, and its turn.
    pub(super) fn first(&self) -> Option<(Turn, &TaskQueue)> {
        let (turn, queues) = self.calls.first_key_value()?;
        Some((*turn, queues.front()?))
    }

    /// Takes the queue that is served next. If it was the only one of its call, the call has no
    /// turn until the queue is [put back](FairQueues::put_back) or another one of the call is
    /// queued.
    pub(super) fn pop_first(&mut self) -> Option<Box<TaskQueue>> {
        let mut first = self.calls.first_entry()?;
        let queue = first.get_mut().pop_front()?;
        if first.get().is_empty() {
            self.spare = first.remove();
            self.turns.remove(&address(&queue.inbox));
        }
        Some(queue)
    }

    /// Puts back a queue of which a chunk of `count` tasks was cut, if it has more tasks. Charges
    /// the call for the chunk, and returns how much.
    pub(super) fn put_back(&mut self, queue: Box<TaskQueue>, count: usize) -> u64 {
        let inbox = Arc::clone(&queue.inbox);
        if queue.left > 0 {
            self.push_front(queue);
        }
        self.charge(&inbox, count)
    }

    /// Charges a call for a chunk of `count` tasks. Returns how much.
    pub(super) fn charge(&mut self, inbox: &Arc<Inbox>, count: usize) -> u64 {
        let charge = inbox.estimate_nanos(count).unwrap_or(UNKNOWN_NANOS).min(MAX_NANOS);
        inbox.set_virtual_time(inbox.virtual_time() + charge);
        self.renew_turn(inbox);
        charge
    }

    /// Gives back to a call what it was charged for a chunk.
    pub(super) fn refund(&mut self, inbox: &Arc<Inbox>, charge: u64) {
        inbox.set_virtual_time(inbox.virtual_time().saturating_sub(charge));
        self.renew_turn(inbox);
    }

    /// Replaces what a call was charged for a chunk by `nanos`, the time that the chunk took, if
    /// that is known. The clock goes on.
    pub(super) fn settle(&mut self, inbox: &Arc<Inbox>, charge: u64, nanos: Option<u64>) {
        let nanos = nanos.unwrap_or(charge).min(MAX_NANOS);
        let corrected = inbox.virtual_time().saturating_add(nanos).saturating_sub(charge);
        inbox.set_virtual_time(corrected);
        let others = self.turns.len() - usize::from(self.has_turn(inbox));
        self.clock = self.clock.saturating_add(nanos / (others as u64 + 1));
        self.renew_turn(inbox);
    }

    /// Drops all queues of a call.
    pub(super) fn remove(&mut self, inbox: &Arc<Inbox>) {
        if let Some(turn) = self.turns.remove(&address(inbox)) {
            self.calls.remove(&turn);
        }
        self.for_slots.retain(|_, queues| {
            queues.retain(|queue| !Arc::ptr_eq(&queue.inbox, inbox));
            !queues.is_empty()
        });
    }

    /// Takes all queues.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Box<TaskQueue>> + use<> {
        self.turns.clear();
        let for_slots = std::mem::take(&mut self.for_slots).into_values();
        std::mem::take(&mut self.calls).into_values().chain(for_slots).flatten()
    }

    /// The queues of the call that has a turn.
    fn queues_of(&mut self, turn: Turn) -> &mut VecDeque<Box<TaskQueue>> {
        let FairQueues { calls, spare, .. } = self;
        calls.entry(turn).or_insert_with(|| std::mem::take(spare))
    }

    /// The turn of a call. A new call gets one.
    fn turn_of(&mut self, inbox: &Arc<Inbox>) -> Turn {
        let FairQueues { turns, last_serial, .. } = self;
        let new_turn = || {
            let serial = inbox.serial_or(*last_serial + 1);
            let was_served = serial <= *last_serial;
            *last_serial = serial.max(*last_serial);
            Turn {
                priority: Reverse(inbox.options.priority),
                virtual_time: inbox.virtual_time(),
                was_served,
                serial,
            }
        };
        *turns.entry(address(inbox)).or_insert_with(new_turn)
    }

    /// Moves a call to the place in the order that its virtual time gives it.
    fn renew_turn(&mut self, inbox: &Arc<Inbox>) {
        let Some(turn) = self.turns.get_mut(&address(inbox)) else { return };
        let Some(queues) = self.calls.remove(turn) else { return };
        turn.virtual_time = inbox.virtual_time();
        turn.was_served = true;
        self.calls.insert(*turn, queues);
    }
}

/// The address of an inbox, which tells calls apart.
fn address(inbox: &Arc<Inbox>) -> usize {
    Arc::as_ptr(inbox).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::CallOptions;
    use crate::pool::worker;

    fn call(priority: i32) -> Arc<Inbox> {
        Inbox::new(CallOptions { priority, ..CallOptions::default() }, None, None)
    }

    fn queue(inbox: &Arc<Inbox>, tasks: usize) -> Box<TaskQueue> {
        fn name<F: Fn(u8) -> u8 + Copy + 'static>(_: F) -> crate::call::Name {
            worker::task::<F, u8, u8>().expect("it is part of this program")
        }
        let mut queue = TaskQueue::new(name(|x| x), inbox, 0);
        (0..tasks).for_each(|_| queue.push_encoded(&[0]));
        queue
    }

    /// Serves the next call with one task, which takes `nanos`. Returns its inbox.
    fn serve(queues: &mut FairQueues, nanos: u64) -> Arc<Inbox> {
        let mut queue = queues.pop_first().expect("a call waits");
        let inbox = Arc::clone(&queue.inbox);
        queue.left -= 1;
        let charge = queues.put_back(queue, 1);
        queues.settle(&inbox, charge, Some(nanos));
        inbox
    }

    #[test]
    fn calls_get_the_same_time_whatever_their_tasks_take() {
        let mut queues = FairQueues::default();
        let (slow, fast) = (call(0), call(0));
        queues.push_back(queue(&slow, 1000));
        queues.push_back(queue(&fast, 1000));
        let (mut of_slow, mut of_fast) = (0, 0);
        for _ in 0..110 {
            let first = queues.first().expect("both wait").1;
            let nanos = if Arc::ptr_eq(&first.inbox, &slow) { 1_000_000 } else { 100_000 };
            let served = serve(&mut queues, nanos);
            *(if Arc::ptr_eq(&served, &slow) { &mut of_slow } else { &mut of_fast }) += nanos;
        }
        assert!(of_slow.abs_diff(of_fast) <= 1_000_000, "{of_slow} and {of_fast}");
    }

    #[test]
    fn new_call_goes_first_and_many_new_calls_do_not_starve_an_old_one() {
        let mut queues = FairQueues::default();
        let old = call(0);
        queues.push_back(queue(&old, 1_000_000));
        (0..10).for_each(|_| drop(serve(&mut queues, 2_000_000)));
        let mut served_old = 0;
        for round in 0..1000 {
            let new = call(0);
            queues.push_back(queue(&new, 1));
            loop {
                let served = serve(&mut queues, 2_000_000);
                if Arc::ptr_eq(&served, &new) {
                    break;
                }
                assert!(round > 0, "the first new call goes before the old one");
                served_old += 1;
            }
        }
        assert!((400..=1100).contains(&served_old), "{served_old}");
    }

    #[test]
    fn higher_priority_goes_first_and_equal_calls_go_by_age() {
        let mut queues = FairQueues::default();
        let calls = [call(0), call(-1), call(5), call(0)];
        for call in &calls {
            queues.push_back(queue(call, 1));
        }
        for expected in [2, 0, 3, 1] {
            assert!(Arc::ptr_eq(&serve(&mut queues, 1000), &calls[expected]), "{expected}");
        }
        assert!(queues.is_empty() && queues.turns.is_empty());
    }

    #[test]
    fn removed_call_is_gone_and_queues_of_a_call_keep_their_order() {
        let mut queues = FairQueues::default();
        let (one, two) = (call(0), call(0));
        assert!(queues.push_back(queue(&one, 1)).is_some());
        assert!(queues.push_back(queue(&one, 2)).is_none(), "it has a turn");
        queues.push_front(queue(&one, 3));
        queues.push_back(queue(&two, 4));
        assert_eq!(queues.iter().map(|queue| queue.left).collect::<Vec<_>>(), [3, 1, 2, 4]);
        queues.remove(&one);
        assert_eq!(queues.take_all().map(|queue| queue.left).collect::<Vec<_>>(), [4]);
        assert!(queues.is_empty() && !queues.has(&two));
    }
}
