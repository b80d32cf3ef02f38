//! Calls whose tasks send items to each other through queues, and change a manager's dictionary.

use std::time::Duration;

use proc_core::sync::{Array, Dict, Manager, Queue, Value};
use proc_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::verdicts::Tally;
use super::{Caller, Timing};
use crate::tasks::mix;
use crate::test_pool::TestPool;
use crate::watch::fail;

/// Section of the ledger: what became of the items.
const ITEMS: &str = "items of queues";

/// How long a task waits for what may never come.
const SHORT: Duration = Duration::from_millis(2);

/// How often a call runs a task at most, and how many items a task puts at most.
const RUNS: u64 = 3;
const MOST_ITEMS: u64 = 3;

/// Number of an item, and some bytes.
type Item = (u32, ByteBuf);

/// Entries of the dictionary: one for each task, and the count of changes.
type Entries = Dict<Option<u64>, u64>;

/// How often something was begun, and how often it was ended. In between, a task may be killed.
#[derive(Clone, Serialize, Deserialize)]
struct Steps {
    begun: Value<u64>,
    ended: Value<u64>,
}

impl Steps {
    fn new() -> Result<Steps, Error> {
        Ok(Steps { begun: Value::new(0)?, ended: Value::new(0)? })
    }

    fn within<R>(&self, step: impl FnOnce() -> R) -> R {
        self.begun.fetch_add(1);
        let result = step();
        self.ended.fetch_add(1);
        result
    }
}

/// What the tasks of one call share.
#[derive(Clone, Serialize, Deserialize)]
struct Messages {
    /// Each task puts an item before it takes one. So no task waits in vain for an item.
    open: Queue<Item>,
    /// Tasks wait for room or an item for a short time only.
    bounded: Queue<Item>,
    /// Number of items that were made.
    items: Value<u32>,
    /// For each item: 1 if its task knows that it is in a queue.
    put: Array<u8>,
    /// For each item, how often a task has got it, and how often one had it with a lease and was
    /// about to say that it is done.
    got: Array<u8>,
    done: Array<u8>,
    gets: Steps,
    dones: Steps,
    entries: Option<Entries>,
    changes: Value<u64>,
}

/// What a task returns: the result of [`mix`], and whether it has changed the dictionary.
type Outcome = (u64, bool);

fn bytes_of(id: u32) -> ByteBuf {
    let len = match mix(id.into()) % 64 {
        0 => 300_000,
        1..=3 => 70_000,
        4..=9 => 3000,
        rest => rest as usize,
    };
    ByteBuf::from(vec![id as u8; len])
}

/// Counts an item in `counts`.
fn mark(counts: &Array<u8>, (id, bytes): &Item) {
    assert_eq!(*bytes, bytes_of(*id), "item {id} is spoiled");
    counts.update(*id as usize, |count| *count = count.saturating_add(1));
}

impl Messages {
    fn new(tasks: u64, bound: usize, entries: Option<Entries>) -> Result<Messages, Error> {
        let marks = || Array::zeroed((tasks.max(1) * RUNS * MOST_ITEMS) as usize);
        Ok(Messages {
            open: Queue::new()?,
            bounded: Queue::bounded(bound)?,
            items: Value::new(0)?,
            put: marks()?,
            got: marks()?,
            done: marks()?,
            gets: Steps::new()?,
            dones: Steps::new()?,
            entries,
            changes: Value::new(0)?,
        })
    }

    /// Puts one item or several.
    fn put(&self, queue: &Queue<Item>, number: u64) -> Result<(), Error> {
        let is_bounded = number.is_multiple_of(4);
        let count = if number.is_multiple_of(5) && !is_bounded { MOST_ITEMS as u32 } else { 1 };
        let first = self.items.fetch_add(count);
        let mut items = (first..first + count).map(|id| (id, bytes_of(id)));
        let is_put = match (is_bounded, count) {
            (true, _) => match items.next() {
                Some(item) => queue.put_timeout(item, SHORT)?.is_none(),
                None => false,
            },
            (false, 1) => items.try_for_each(|item| queue.put(item)).map(|()| true)?,
            (false, _) => queue.put_all(items).map(|()| true)?,
        };
        if is_put {
            (first..first + count).for_each(|id| self.put.set(id as usize, 1));
        }
        Ok(())
    }

    /// Takes an item: for good, or with a lease that may be given back.
    fn take(&self, queue: &Queue<Item>, number: u64) -> Result<(), Error> {
        let is_bounded = number.is_multiple_of(4);
        let leased = match (number / 4 % 4, is_bounded) {
            (0 | 1, _) => {
                return self.gets.within(|| {
                    let item = match is_bounded {
                        true => queue.get_timeout(SHORT)?,
                        false => Some(queue.get()?),
                    };
                    item.iter().for_each(|item| mark(&self.got, item));
                    Ok(())
                });
            }
            (_, true) => queue.lease_timeout(SHORT)?,
            (_, false) => Some(queue.lease()?),
        };
        let Some(leased) = leased else { return Ok(()) };
        match number / 4 % 4 {
            2 => drop(leased),
            _ => self.dones.within(|| {
                mark(&self.done, &leased);
                leased.done();
            }),
        }
        Ok(())
    }

    /// Changes the dictionary. Returns whether the manager lives.
    fn change(&self, number: u64) -> Result<bool, Error> {
        let Some(entries) = &self.entries else { return Ok(false) };
        self.changes.fetch_add(1);
        let add = |count: &mut Option<u64>, by: u64| *count = Some(count.unwrap_or(0) + by);
        let changed = { entries.insert(Some(number), mix(number)) }
            .and_then(|_| entries.update(None, add, 1));
        match changed {
            Ok(()) => Ok(true),
            Err(error) if is_end_of_manager(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn use_all(&self, number: u64) -> Result<bool, Error> {
        let queue = if number.is_multiple_of(4) { &self.bounded } else { &self.open };
        let used = self.put(queue, number).and_then(|()| self.take(queue, number));
        match used {
            // The pool was terminated, and the program has closed the queues.
            Err(error) if error.is_closed() => Ok(false),
            Err(error) => Err(error),
            Ok(()) => self.change(number),
        }
    }

    /// Ends the queues and takes what is left. Returns how many items that was.
    fn take_rest(&self) -> Result<u64, Error> {
        let mut rest = 0;
        for queue in [&self.open, &self.bounded] {
            queue.close();
            loop {
                match queue.lease_timeout(SHORT) {
                    Ok(Some(leased)) => {
                        mark(&self.done, &leased);
                        leased.done();
                        rest += 1;
                    }
                    Ok(None) => {}
                    // A task of a pool that was terminated may have an item, until its death.
                    Err(error) if error.is_closed() => {
                        if queue.join_timeout(SHORT)? {
                            break;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(rest)
    }

    /// Checks that an item is lost only if a process died while it was getting one, and that an
    /// item comes twice only if a process died while it was saying that the item is done. Returns
    /// how many were lost and how many came twice.
    fn check_items(&self) -> [u64; 2] {
        // Tasks of a pool that was terminated may go on for a moment. So what they have ended is
        // read before, and what they have begun is read after.
        let ended = [self.gets.ended.get(), self.dones.ended.get()];
        let (mut lost, mut twice) = (0, 0);
        let put = self.put.snapshot();
        for ((put, got), done) in put.into_iter().zip(self.got.snapshot()).zip(self.done.snapshot())
        {
            let times = u64::from(got) + u64::from(done);
            lost += u64::from(put == 1 && times == 0);
            twice += times.saturating_sub(1);
        }
        let begun = [self.gets.begun.get(), self.dones.begun.get()];
        let counts = [("lost", lost, 0), ("there twice", twice, 1)];
        for (what, count, of) in counts {
            let deaths = begun[of] - ended[of];
            if count > deaths {
                fail(&format!("{count} items are {what}, and {deaths} deaths explain that"));
            }
        }
        [lost, twice]
    }
}

/// Whether the error may mean that a manager has died. (Until its death is announced, the error may
/// have the kind `Start`.)
fn is_end_of_manager(error: &Error) -> bool {
    error.is_closed() || error.kind() == ErrorKind::Start
}

impl Caller<'_> {
    /// Maps tasks that send items to each other.
    pub(super) fn messages(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("try_map of tasks that share queues and a manager");
        let count = if test_pool.is_slow { self.rng.u64(..20) } else { self.rng.u64(..200) };
        let first = self.rng.u64(..1 << 40);
        let number = |index: u64| first + index;
        let entries = if self.rng.u32(..4) == 0 { self.entries() } else { None };
        let messages = Messages::new(count, self.rng.usize(1..5), entries);
        let messages =
            messages.unwrap_or_else(|error| fail(&format!("no queue can be made: {error}")));
        let exchange = |messages: &Messages, number: u64| -> Outcome {
            let has_changed = messages.use_all(number).unwrap_or_else(|error| panic!("{error}"));
            (mix(number), has_changed)
        };
        let with = self.options(test_pool).with(messages.clone());
        let results = with.try_map(exchange, (0..count).map(number));
        if results.len() as u64 != count {
            fail(&format!("{} results for {count} tasks", results.len()));
        }
        let (mut tally, mut changed) = (Tally::default(), Vec::new());
        for (index, result) in results.into_iter().enumerate() {
            let task = number(index as u64);
            match result {
                Ok((value, has_changed)) if value == mix(task) => {
                    tally.add("result");
                    changed.extend(has_changed.then_some(task));
                }
                Ok((value, _)) => fail(&format!("exchanging task {index} gives {value}")),
                Err(error) => {
                    self.excuse(test_pool, Timing::Plain, index, &error, &mut tally);
                }
            }
        }
        tally.book(self.round.ledger);
        let rest = messages.take_rest();
        let rest = rest.unwrap_or_else(|error| fail(&format!("a queue cannot be ended: {error}")));
        let [lost, twice] = messages.check_items();
        let made = messages.items.get();
        let counts =
            [("made", made.into()), ("left", rest), ("lost", lost), ("there twice", twice)];
        for (name, count) in counts {
            self.round.ledger.add(ITEMS, name, count);
        }
        self.check_entries(&messages, &changed);
    }

    /// Starts a manager, and makes a dictionary. Returns `None` if a fault ends the manager.
    fn entries(&self) -> Option<Entries> {
        let killed = self.round.faults.fork_servers_killed();
        match Manager::new() {
            Ok(manager) => match manager.dict() {
                Ok(entries) => Some(entries),
                Err(error) => {
                    self.excuse_manager(&error);
                    None
                }
            },
            Err(error)
                if error.kind() == ErrorKind::Start
                    && killed < self.round.faults.fork_servers_killed() =>
            {
                None
            }
            Err(error) => fail(&format!("no manager can be started: {error}")),
        }
    }

    /// Checks that the dictionary has what the tasks have put there, unless a fault has ended the
    /// manager.
    fn check_entries(&self, messages: &Messages, changed: &[u64]) {
        let Some(entries) = &messages.entries else { return };
        match entries.snapshot() {
            Ok(snapshot) => {
                for task in changed {
                    if snapshot.get(&Some(*task)) != Some(&mix(*task)) {
                        fail(&format!("a manager has lost the entry of task {task}"));
                    }
                }
                let count = snapshot.get(&None).copied().unwrap_or(0);
                let most = messages.changes.get();
                if !(changed.len() as u64..=most).contains(&count) {
                    fail(&format!("a manager has counted {count} changes of {most}"));
                }
                self.round.ledger.add(ITEMS, "entry of a dictionary", snapshot.len() as u64);
            }
            Err(error) => self.excuse_manager(&error),
        }
    }

    /// Judges an error of a manager: a fault must explain its death.
    fn excuse_manager(&self, error: &Error) {
        let is_explained = is_end_of_manager(error) && self.round.faults.may_have_killed(error);
        if !is_explained {
            fail(&format!("a manager: {error}, but nothing explains it"));
        }
        self.round.ledger.add(ITEMS, "dictionary, gone with its manager", 1);
    }
}
