//! How long calls wait. If the holder is stopped, they wait until their time is over. If what they
//! wait for happens, they return at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use proc_core::sync::{Array, Barrier, Condition, Event, Lock, Mutex, Permit, Semaphore, Value};
use proc_core::{Child, ErrorKind, Process, StartMethod};

use crate::support::{Arguments, SOON, describe, run, signal_self, wait_until};
use crate::sync::everything::Everything;
use crate::sync::storm::{go_on, halt, kill_now, parent_of, wait_until_asleep};

programs![
    wait_for_a_stopped_holder,
    read_during_an_update,
    give_way,
    wake_each_other,
    wake_after_release,
    wake_after_deaths,
    hand_permits_over,
    lose_holder_of_stopped_server,
    lose_server_of_holder,
];

tests! {
    calls_for_a_stopped_holder_time_out: forkserver spawn fork;
    values_are_read_in_the_middle_of_an_update: forkserver spawn fork;
    holder_that_locks_again_gives_way: forkserver spawn fork;
    signals_wake_at_once: forkserver spawn fork;
    released_locks_wake_at_once: forkserver spawn fork;
    deaths_wake_at_once: forkserver spawn fork;
    permits_go_back_from_any_thread: forkserver;
    death_is_noticed_though_the_fork_server_is_stopped: forkserver spawn fork;
    death_is_noticed_though_the_fork_server_is_dead: forkserver spawn fork;
}

const TIMEOUT: Duration = Duration::from_millis(60);

/// Runs a call that must wait until its time is over, and no longer.
#[track_caller]
fn until_timeout<T>(call: impl FnOnce(Duration) -> T) -> T {
    let begun = Instant::now();
    let returned = call(TIMEOUT);
    let took = begun.elapsed();
    assert!((TIMEOUT..SOON).contains(&took), "{took:?}");
    returned
}

/// Takes all that can be taken, until it is told to let go.
fn hold((all, ready, let_go): (Everything, Event, Event)) {
    let guards = (all.lock.lock(), all.rlock.lock(), all.mutex.lock());
    let permits = [(); 2].map(|()| all.semaphore.acquire());
    assert!(guards.0.is_ok() && guards.1.is_ok() && guards.2.is_ok(), "nobody else has them");
    ready.set();
    let_go.wait();
    drop((guards, permits));
}

fn wait_for_a_stopped_holder(arguments: &Arguments) {
    let all = Everything::new();
    let [ready, let_go] = [(); 2].map(|()| Event::new().expect("memory"));
    let barrier = Barrier::new(2).expect("memory");
    let process = Process::new(hold, (all.clone(), ready.clone(), let_go.clone()));
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    ready.wait();
    halt(child.pid());
    let soon = |what: &str, is_none: bool, begun: Instant| {
        assert!(is_none && begun.elapsed() < SOON, "{what}");
    };
    // For each lock: with a time limit, and without waiting.
    assert!(until_timeout(|t| all.lock.lock_timeout(t)).expect("it does not have it").is_none());
    assert!(until_timeout(|t| all.rlock.lock_timeout(t)).expect("there are locks").is_none());
    assert!(until_timeout(|t| all.mutex.lock_timeout(t)).expect("nobody died").is_none());
    assert!(until_timeout(|t| all.semaphore.acquire_timeout(t)).expect("few are lent").is_none());
    assert!(!until_timeout(|t| all.event.wait_timeout(t)));
    assert_eq!(until_timeout(|t| barrier.wait_timeout(t)).expect("nobody died"), None);
    let other = Lock::new().expect("memory");
    let guard = other.lock().expect("nobody has it");
    let (guard, was_woken) =
        until_timeout(|t| all.condition.wait_timeout(guard, t)).expect("nobody else has it");
    assert!(!was_woken);
    drop(guard);
    let begun = Instant::now();
    soon("lock", all.lock.try_lock().expect("there are locks").is_none(), begun);
    soon("rlock", all.rlock.try_lock().expect("there are locks").is_none(), begun);
    soon("mutex", all.mutex.try_lock().expect("nobody died").is_none(), begun);
    soon("permit", all.semaphore.try_acquire().expect("few are lent").is_none(), begun);
    soon("zero", all.lock.lock_timeout(Duration::ZERO).expect("it is fine").is_none(), begun);
    soon("zero", !all.event.wait_timeout(Duration::ZERO), begun);
    // A value that nobody is changing can be changed, although a process that has it is stopped.
    all.small.fetch_add(1);
    all.large.update(|words| words[0] = 1);
    all.small.set(0);
    all.large.set([0; 9]);
    go_on(child.pid());
    let_go.set();
    // No limit at all.
    drop(all.lock.lock_timeout(Duration::MAX).expect("it is fine").expect("it is let go"));
    drop(all.semaphore.acquire_timeout(Duration::MAX).expect("few are lent").expect("as before"));
    assert!(let_go.wait_timeout(Duration::MAX));
    child.join().unwrap_or_else(|error| panic!("{}", describe(&error)));
    all.expect_used(0);
}

fn calls_for_a_stopped_holder_time_out(start_method: StartMethod) {
    run(wait_for_a_stopped_holder, start_method, &[]).succeeded();
}

/// A process is in the middle of an update, and is killed there.
fn read_during_an_update(arguments: &Arguments) {
    let inside = Event::new().expect("memory");
    let value = Value::new([5_u64; 20]).expect("memory");
    let update = |(value, inside): (Value<[u64; 20]>, Event)| {
        value.update(|words| {
            *words = [6; 20];
            inside.set();
            crate::support::work_forever();
        });
    };
    let process = Process::new(update, (value.clone(), inside.clone()));
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    inside.wait();
    assert_eq!(value.get(), [5; 20], "the update is not complete");
    kill_now(child.pid());
    assert!(child.join().expect_err("it was killed").is_death());
    assert_eq!(value.get(), [5; 20], "nothing of the update was made");
    value.update(|words| words[0] = 7);
    assert_eq!(value.get()[..2], [7, 5]);
}

fn values_are_read_in_the_middle_of_an_update(start_method: StartMethod) {
    run(read_during_an_update, start_method, &[]).succeeded();
}

/// Lets this process use only one of its processors: the first or the last one.
fn stay_on_processor(is_last: bool) {
    let all = sched_getaffinity(Pid::this()).expect("it can be asked");
    let mut own = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).expect("it is in range"));
    let cpu = if is_last { own.next_back() } else { own.next() };
    let mut set = CpuSet::new();
    set.set(cpu.expect("there is one")).expect("it is in range");
    sched_setaffinity(Pid::this(), &set).expect("it is one of its own");
}

/// Takes both locks for two milliseconds, and again at once. Uses another processor than the
/// program, which could interrupt it otherwise just when the locks are free.
fn lock_again((lock, mutex, turns, stop): (Lock, Mutex<u64>, Value<u64>, Event)) {
    stay_on_processor(true);
    let work = || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        turns.fetch_add(1);
    };
    while !stop.is_set() {
        let _guard = mutex.lock().expect("nobody dies");
        let _guard = lock.lock().expect("this thread does not have it");
        work();
    }
}

/// Waits for a lock that a process takes again and again, and counts how often that process takes
/// it meanwhile. If the lock went to whoever is fastest, that would be some hundred times.
fn give_way(arguments: &Arguments) {
    let (lock, mutex) = (Lock::new().expect("memory"), Mutex::new(0).expect("memory"));
    let (turns, stop) = (Value::new(0_u64).expect("memory"), Event::new().expect("memory"));
    let process =
        Process::new(lock_again, (lock.clone(), mutex.clone(), turns.clone(), stop.clone()));
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    stay_on_processor(false);
    let count = |wait: &dyn Fn()| {
        let mut counts: Vec<u64> = (0..9)
            .map(|_| {
                let now = turns.get();
                wait_until(|| turns.get() > now);
                let before = turns.get();
                wait();
                turns.get() - before
            })
            .collect();
        counts.sort_unstable();
        assert!(counts[counts.len() / 2] <= 50, "{counts:?}");
    };
    count(&|| drop(lock.lock().expect("this thread does not have it")));
    count(&|| drop(mutex.lock().expect("nobody dies")));
    stop.set();
    child.join().unwrap_or_else(|error| panic!("{}", describe(&error)));
}

fn holder_that_locks_again_gives_way(start_method: StartMethod) {
    run(give_way, start_method, &[]).succeeded();
}

/// A thread that is not woken looks twice a second. So many turns without being woken would take
/// much longer than [`SOON`].
const TURNS: u32 = 100;

/// What two processes use to wake each other.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Signals {
    events: [Event; 2],
    semaphores: [Semaphore; 2],
    barrier: Barrier,
    lock: Lock,
    changed: Condition,
    turn: Array<u32>,
    mutex: Mutex<u32>,
    changed_too: Condition,
}

impl Signals {
    fn new() -> Result<Signals, proc_core::Error> {
        Ok(Signals {
            events: [Event::new()?, Event::new()?],
            semaphores: [Semaphore::new(0)?, Semaphore::new(0)?],
            barrier: Barrier::new(2)?,
            lock: Lock::new()?,
            changed: Condition::new()?,
            turn: Array::zeroed(1)?,
            mutex: Mutex::new(0)?,
            changed_too: Condition::new()?,
        })
    }

    /// Takes turns with the process that has the other number. Number 0 begins.
    fn take_turns(&self, me: usize) {
        let other = 1 - me;
        let soon = |what: &str, turn: &dyn Fn(u32)| {
            let begun = Instant::now();
            (0..TURNS).for_each(turn);
            assert!(begun.elapsed() < SOON, "{what} took {:?}", begun.elapsed());
        };
        self.barrier.wait().expect("nobody dies");
        if me == 0 {
            self.events[0].set();
            self.semaphores[0].add_permits(1).expect("few are there");
        }
        soon("events", &|_| {
            self.events[me].wait();
            self.events[me].clear();
            self.events[other].set();
        });
        soon("semaphores", &|_| {
            self.semaphores[me].acquire().expect("few are lent").forget();
            self.semaphores[other].add_permits(1).expect("few are there");
        });
        soon("barrier", &|_| assert!(self.barrier.wait().expect("nobody dies") < 2));
        let is_mine = |turn: u32| turn as usize % 2 == me;
        soon("condition and lock", &|_| {
            let guard = self.lock.lock().expect("this thread does not have it");
            let is_not_mine = |(): &mut ()| !is_mine(self.turn.get(0));
            let guard = self.changed.wait_while(guard, is_not_mine).expect("nobody dies");
            self.turn.update(0, |turn| *turn += 1);
            drop(guard);
            self.changed.notify_one();
        });
        soon("condition and mutex", &|_| {
            let mut guard = self.mutex.lock().expect("this thread does not have it");
            while !is_mine(*guard) {
                guard = match self.changed_too.wait_timeout(guard, SOON).expect("nobody dies") {
                    (guard, true) => guard,
                    (_, false) => panic!("nobody has woken it"),
                };
            }
            *guard += 1;
            self.changed_too.notify_all();
        });
    }
}

fn wake_each_other(arguments: &Arguments) {
    let signals = Signals::new().expect("memory");
    let process = Process::new(|signals: Signals| signals.take_turns(1), signals.clone());
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    signals.take_turns(0);
    child.join().unwrap_or_else(|error| panic!("{}", describe(&error)));
}

fn signals_wake_at_once(start_method: StartMethod) {
    run(wake_each_other, start_method, &[]).succeeded();
}

/// Waits without sleeping, so that its process sleeps nowhere else than in the call that follows.
fn spin_until(taken: &Value<u32>, count: u32) {
    while taken.get() < count {
        std::thread::yield_now();
    }
}

/// Takes one thing after the other, and releases each when the other process sleeps.
fn release_again_and_again((all, taken, other): (Everything, Value<u32>, u32)) {
    let release = |guard: &mut dyn FnMut()| {
        taken.fetch_add(1);
        wait_until_asleep(other);
        guard();
    };
    for _ in 0..TURNS / 4 {
        let mut guard = Some(all.lock.lock().expect("nobody dies"));
        release(&mut || drop(guard.take()));
        let mut guard = Some(all.rlock.lock().expect("nobody dies"));
        release(&mut || drop(guard.take()));
        let mut guard = Some(all.mutex.lock().expect("nobody dies"));
        release(&mut || drop(guard.take()));
        let mut permits = Some([(); 2].map(|()| all.semaphore.acquire().expect("few are lent")));
        release(&mut || drop(permits.take()));
    }
}

fn wake_after_release(arguments: &Arguments) {
    let (all, taken) = (Everything::new(), Value::new(0).expect("memory"));
    let argument = (all.clone(), taken.clone(), std::process::id());
    let process = Process::new(release_again_and_again, argument);
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    spin_until(&taken, 1);
    let begun = Instant::now();
    for turn in 0..TURNS / 4 {
        spin_until(&taken, 4 * turn + 1);
        drop(all.lock.lock().expect("nobody dies"));
        spin_until(&taken, 4 * turn + 2);
        drop(all.rlock.lock().expect("nobody dies"));
        spin_until(&taken, 4 * turn + 3);
        drop(all.mutex.lock().expect("nobody dies"));
        spin_until(&taken, 4 * turn + 4);
        drop(all.semaphore.acquire().expect("few are lent"));
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    child.join().unwrap_or_else(|error| panic!("{}", describe(&error)));
    all.expect_used(0);
}

fn released_locks_wake_at_once(start_method: StartMethod) {
    run(wake_after_release, start_method, &[]).succeeded();
}

/// Takes one thing, and dies with it when the other process sleeps.
fn die_with_one((all, what, taken, other): (Everything, u32, Value<u32>, u32)) {
    let _lock = (what == 0).then(|| all.lock.lock());
    let _mutex = (what == 1).then(|| all.mutex.lock());
    let _permits = (what == 2).then(|| [(); 2].map(|()| all.semaphore.acquire()));
    taken.fetch_add(1);
    wait_until_asleep(other);
    signal_self(Signal::SIGKILL);
}

fn wake_after_deaths(arguments: &Arguments) {
    let taken = Value::new(0).expect("memory");
    let mut waited = Duration::ZERO;
    for turn in 0..48 {
        let what = turn % 4;
        let all = Everything::new();
        let barrier = Barrier::new(2).expect("memory");
        let argument = (all.clone(), what, taken.clone(), std::process::id());
        let dies = |(argument, _barrier): (_, Barrier)| die_with_one(argument);
        let process = Process::new(dies, (argument, barrier.clone()));
        let child =
            process.start_method(arguments.start_method).start().expect("it can be started");
        spin_until(&taken, turn + 1);
        let begun = Instant::now();
        match what {
            0 => assert!(all.lock.lock().expect("this thread does not have it").was_abandoned()),
            1 => {
                let error = all.mutex.lock().expect_err("its holder died");
                assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error));
            }
            2 => drop(all.semaphore.acquire().expect("few are lent")),
            _ => {
                let error = barrier.wait().expect_err("a party died");
                assert_eq!(error.pid(), Some(child.pid()), "{}", describe(&error));
            }
        }
        waited += begun.elapsed();
        child.join().expect_err("it was killed");
    }
    // Without being woken, each of them would take half a second.
    assert!(waited < SOON, "{waited:?}");
}

fn deaths_wake_at_once(start_method: StartMethod) {
    run(wake_after_deaths, start_method, &[]).succeeded();
}

/// A process that has taken everything, and what it has: the objects, and a barrier as a party.
struct Held {
    all: Everything,
    barrier: Barrier,
    child: Child<()>,
}

impl Held {
    /// Starts a process that takes everything.
    fn start(arguments: &Arguments) -> Held {
        let (all, barrier) = (Everything::new(), Barrier::new(2).expect("memory"));
        let [ready, never] = [(); 2].map(|()| Event::new().expect("memory"));
        let hold_with = |(argument, _barrier): (_, Barrier)| hold(argument);
        let argument = ((all.clone(), ready.clone(), never), barrier.clone());
        let process = Process::new(hold_with, argument).start_method(arguments.start_method);
        let child = process.start().expect("it can be started");
        ready.wait();
        Held { all, barrier, child }
    }

    /// Asserts that all of it can be had soon.
    fn expect_released(&self) {
        let Held { all, barrier, child } = self;
        let begun = Instant::now();
        assert!(all.lock.lock_timeout(SOON).expect("it is fine").expect("soon").was_abandoned());
        assert!(all.rlock.lock_timeout(SOON).expect("it is fine").expect("soon").was_abandoned());
        let error = all.mutex.lock_timeout(SOON).map(drop).expect_err("it was abandoned");
        assert_eq!((error.kind(), error.pid()), (ErrorKind::Abandoned, Some(child.pid())));
        let permits = [(); 2].map(|()| all.semaphore.acquire_timeout(SOON).expect("few are lent"));
        assert!(permits.iter().all(Option::is_some), "they came back");
        let error = barrier.wait_timeout(SOON).map(drop).expect_err("a party died");
        assert_eq!((error.kind(), error.pid()), (ErrorKind::Abandoned, Some(child.pid())));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

fn lose_holder_of_stopped_server(arguments: &Arguments) {
    for _ in 0..2 {
        let held = Held::start(arguments);
        let server = parent_of(held.child.pid());
        assert_ne!(server, std::process::id());
        halt(server);
        kill_now(held.child.pid());
        held.expect_released();
        go_on(server);
        assert!(held.child.join().expect_err("it was killed").is_death());
    }
}

fn death_is_noticed_though_the_fork_server_is_stopped(start_method: StartMethod) {
    run(lose_holder_of_stopped_server, start_method, &[]).succeeded();
}

fn lose_server_of_holder(arguments: &Arguments) {
    for _ in 0..2 {
        let held = Held::start(arguments);
        kill_now(parent_of(held.child.pid()));
        held.expect_released();
        held.child.join().expect_err("it went with its fork server");
    }
    // The fork server that replaces the killed one belongs to the same family (`memory/family.rs`),
    // so deaths of its processes are noticed, too.
    let held = Held::start(arguments);
    kill_now(held.child.pid());
    held.expect_released();
    held.child.join().expect_err("it was killed");
}

fn death_is_noticed_though_the_fork_server_is_dead(start_method: StartMethod) {
    run(lose_server_of_holder, start_method, &[]).succeeded();
}

/// One thread acquires permits, and another one returns them, while others acquire more.
fn hand_permits_over(_: &Arguments) {
    const PERMITS: u32 = 4;
    let semaphore = Semaphore::new(PERMITS).expect("there is memory");
    let lent = AtomicU32::new(0);
    let acquire = || {
        let permit = semaphore.acquire_timeout(SOON).expect("there are places");
        assert!(lent.fetch_add(1, Ordering::SeqCst) < PERMITS, "a permit was lent twice");
        permit.expect("no permit is lost")
    };
    let give_back = |permit| {
        lent.fetch_sub(1, Ordering::SeqCst);
        drop::<Permit<'_>>(permit);
    };
    std::thread::scope(|scope| {
        let (give, take) = std::sync::mpsc::channel();
        scope.spawn(move || take.into_iter().for_each(give_back));
        for _ in 0..2 {
            scope.spawn(|| (0..100_000).for_each(|_| give_back(acquire())));
        }
        for _ in 0..100_000 {
            give.send(acquire()).expect("the other thread receives");
        }
        drop(give);
    });
    println!("{}", semaphore.available_permits().expect("there are record locks"));
}

fn permits_go_back_from_any_thread(start_method: StartMethod) {
    assert_eq!(run(hand_permits_over, start_method, &[]).succeeded(), "4\n");
}
