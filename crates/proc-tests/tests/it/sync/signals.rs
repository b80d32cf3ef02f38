//! Events and conditions wake everybody, although processes that wait are killed at that very
//! moment. For events, the process that signals is killed too.

use std::time::{Duration, Instant};

use proc_core::sync::{Array, Condition, Event, Mutex, MutexGuard};
use proc_core::{Child, ErrorKind, Process, StartMethod};

use crate::support::{Arguments, describe, wait_until};
use crate::sync::storm::{kill_now, seeded, survives};

programs![kill_at_events, kill_at_conditions];

tests! {
    events_wake_all_that_are_not_killed: forkserver spawn fork;
    conditions_wake_all_that_are_not_killed: forkserver spawn fork;
}

/// How many rounds a program makes, if there is time.
const ROUNDS: u64 = 120;

/// After this time there are no more rounds, on a busy machine.
const DURATION: Duration = Duration::from_millis(2500);

/// How many processes wait. In [`kill_at_events`], one more sets what they wait for.
const WAITING: usize = 4;

/// What the processes of [`kill_at_events`] share.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Events {
    /// Asks for `go`.
    ask: Event,
    go: Event,
    /// Ends the round.
    back: Event,
    /// How many events each process has got past.
    passed: Array<u64>,
}

/// Waits for each round to begin and to end.
fn wait_in_rounds((number, events): (usize, Events)) {
    loop {
        events.go.wait();
        events.passed.update(number, |passed| *passed += 1);
        events.back.wait();
        events.passed.update(number, |passed| *passed += 1);
    }
}

/// Begins each round when it is asked to.
fn begin_rounds((number, events): (usize, Events)) {
    loop {
        events.ask.wait();
        events.go.set();
        events.passed.update(number, |passed| *passed += 1);
        events.back.wait();
        events.passed.update(number, |passed| *passed += 1);
    }
}

/// Kills a process, and waits until it is reaped.
fn end(child: Child<()>) {
    kill_now(child.pid());
    let error = child.join().expect_err("it never returns");
    assert!(error.is_death(), "{}", describe(&error));
}

fn kill_at_events(arguments: &Arguments) {
    let mut rng = seeded(arguments);
    let event = || Event::new().expect("memory");
    let passed = Array::zeroed(WAITING + 1).expect("memory");
    let events = Events { ask: event(), go: event(), back: event(), passed };
    let start = |number: usize| {
        let argument = (number, events.clone());
        let child = match number {
            WAITING => {
                Process::new(begin_rounds, argument).start_method(arguments.start_method).start()
            }
            _ => {
                Process::new(wait_in_rounds, argument).start_method(arguments.start_method).start()
            }
        };
        child.expect("it can be started")
    };
    let mut children: Vec<Child<()>> = (0..=WAITING).map(start).collect();
    let began = Instant::now();
    for round in (0..ROUNDS).take_while(|_| began.elapsed() < DURATION) {
        let victim = rng.usize(..=WAITING);
        events.ask.set();
        std::thread::sleep(Duration::from_micros(rng.u64(..300))); // a random moment
        end(children.remove(victim));
        // The one that signals may have been killed before it did.
        if victim == WAITING && !events.go.is_set() {
            events.go.set();
        }
        let others = || (0..=WAITING).filter(|number| *number != victim);
        wait_until(|| others().all(|number| events.passed.get(number) == 2 * round + 1));
        events.ask.clear();
        events.go.clear();
        events.back.set();
        wait_until(|| others().all(|number| events.passed.get(number) == 2 * round + 2));
        events.back.clear();
        events.passed.set(victim, 2 * round + 2);
        children.insert(victim, start(victim));
    }
    children.into_iter().for_each(end);
}

fn events_wake_all_that_are_not_killed(start_method: StartMethod) {
    survives(kill_at_events, start_method);
}

/// Items to take, and a number that changes when everybody is to look at it.
type Stock = Mutex<[u64; 2]>;

/// Locks the stock. Its words never need repair.
fn locked(stock: &Stock) -> MutexGuard<'_, [u64; 2]> {
    let guard = stock.lock().or_else(|error| {
        assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error));
        stock.recover()
    });
    guard.expect("this thread does not have it")
}

/// Takes items, and notes each change of the number.
fn consume((number, stock, changed, seen): (usize, Stock, Condition, Array<u64>)) {
    loop {
        let last = seen.get(number);
        let is_nothing_new =
            |[items, generation]: &mut [u64; 2]| *items == 0 && *generation == last;
        match changed.wait_while(locked(&stock), is_nothing_new) {
            Ok(mut stock) => {
                stock[0] = stock[0].saturating_sub(1);
                seen.set(number, stock[1]);
            }
            // Another consumer was killed with the lock, which the next turn recovers.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error)),
        }
    }
}

fn kill_at_conditions(arguments: &Arguments) {
    let mut rng = seeded(arguments);
    let stock: Stock = Mutex::new([0, 0]).expect("memory");
    let changed = Condition::new().expect("memory");
    let seen = Array::zeroed(WAITING).expect("memory");
    let start = |number: usize| {
        let argument = (number, stock.clone(), changed.clone(), seen.clone());
        let process = Process::new(consume, argument).start_method(arguments.start_method);
        process.start().expect("it can be started")
    };
    let mut children: Vec<Child<()>> = (0..WAITING).map(start).collect();
    let began = Instant::now();
    for round in (0..ROUNDS).take_while(|_| began.elapsed() < DURATION) {
        let victim = rng.usize(..WAITING);
        let generation = if round % 2 == 0 {
            // Each item wakes one process, perhaps the one that is killed.
            for _ in 0..3 {
                locked(&stock)[0] += 1;
                changed.notify_one();
            }
            None
        } else {
            let mut stock = locked(&stock);
            stock[1] += 1;
            changed.notify_all();
            Some(stock[1])
        };
        std::thread::sleep(Duration::from_micros(rng.u64(..300))); // a random moment
        end(children.remove(victim));
        match generation {
            None => wait_until(|| locked(&stock)[0] == 0),
            Some(generation) => wait_until(|| {
                let mut others = (0..WAITING).filter(|number| *number != victim);
                others.all(|number| seen.get(number) == generation)
            }),
        }
        seen.set(victim, locked(&stock)[1]);
        children.insert(victim, start(victim));
    }
    children.into_iter().for_each(end);
}

fn conditions_wake_all_that_are_not_killed(start_method: StartMethod) {
    survives(kill_at_conditions, start_method);
}
