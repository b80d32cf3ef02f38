//! Processes that have locks, mutexes, values, arrays and permits are killed at random moments. The
//! others go on, and find what was promised.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::sync::{Array, Event, Lock, Mutex, RLock, Semaphore, Value};
use proc_core::{ErrorKind, StartMethod};

use crate::support::{Arguments, SOON, describe, procfs};
use crate::sync::storm::{Storm, seeded, survives};

programs![
    kill_with_locks,
    kill_with_rlocks,
    kill_with_mutexes,
    kill_with_values,
    kill_with_arrays,
    kill_with_permits,
    kill_workers_with_everything,
];

tests! {
    locks_of_the_dead_are_taken_over: forkserver spawn fork;
    rlocks_of_the_dead_are_taken_over: forkserver spawn fork;
    mutexes_of_the_dead_are_abandoned_until_recovered: forkserver spawn fork;
    values_are_whole_after_kills: forkserver spawn fork;
    array_elements_are_whole_after_kills: forkserver spawn fork;
    permits_of_the_dead_come_back: forkserver spawn fork;
    workers_are_killed_with_everything: forkserver spawn fork;
}

/// Numbers that are changed in several steps: their holder must be the only one.
///
/// Two counters, which are equal whenever nobody is in the middle of a change, and the pid of the
/// one that changes them.
type Steps = Array<u64>;

/// How often a holder changes what it has, so that one of the processes has it most of the time.
const LONG: u32 = 4;

/// Changes the numbers. Only a holder that finds an abandoned lock may see half a change.
fn step(steps: &Steps, was_abandoned: bool) {
    step_around(steps, was_abandoned, || ());
}

/// Like [`step`], with something in the middle.
fn step_around(steps: &Steps, was_abandoned: bool, middle: impl FnOnce()) {
    let pid = u64::from(std::process::id());
    let (a, b) = (steps.get(0), steps.get(1));
    assert!(a == b || (was_abandoned && a == b + 1), "{a} and {b}, abandoned: {was_abandoned}");
    steps.set(1, a); // completes the change of a dead holder
    steps.set(2, pid);
    steps.set(0, a + 1);
    middle();
    assert_eq!(steps.get(2), pid, "another process has the lock too");
    steps.set(1, a + 1);
    assert_eq!((steps.get(0), steps.get(2)), (a + 1, pid), "another process has the lock too");
}

/// Takes the lock in each way in turn, until it is told to stop. Counts what was abandoned.
fn lock_again_and_again((stop, lock, steps, abandoned): (Event, Lock, Steps, Value<u64>)) -> u64 {
    let mut turns = 0;
    while !stop.is_set() {
        let guard = match turns % 3 {
            0 => Some(lock.lock().expect("this thread does not have it")),
            1 => lock.lock_timeout(SOON).expect("this thread does not have it"),
            _ => lock.try_lock().expect("there are locks"),
        };
        assert!(guard.is_some() || turns % 3 > 0, "without a time limit it gets the lock");
        if let Some(guard) = guard {
            step(&steps, guard.was_abandoned());
            abandoned.fetch_add(guard.was_abandoned().into());
            // When others get the processor, this one often has the lock. So it is killed with it.
            (0..LONG).for_each(|_| step_around(&steps, false, std::thread::yield_now));
        }
        std::thread::yield_now(); // others get it more often
        turns += 1;
    }
    turns
}

fn kill_with_locks(arguments: &Arguments) {
    let (stop, lock) = (Event::new().expect("memory"), Lock::new().expect("memory"));
    let steps: Steps = Array::zeroed(3).expect("memory");
    let abandoned = Value::new(0).expect("memory");
    let all = (stop.clone(), lock.clone(), steps.clone(), abandoned.clone());
    let mut storm = Storm::begin(arguments, 4, lock_again_and_again, all);
    while storm.kill_some() {
        let guard = lock.lock().expect("this thread does not have it");
        step(&steps, guard.was_abandoned());
        abandoned.fetch_add(guard.was_abandoned().into());
    }
    stop.set();
    let kills = u64::from(storm.kills());
    assert!(storm.end().into_iter().any(|turns| turns > 0));
    let abandoned = abandoned.get();
    assert!((1..=kills).contains(&abandoned), "{abandoned} were abandoned by {kills} kills");
    // If a process was killed with the lock, another one has taken the lock over, and has completed
    // the change.
    assert_eq!(steps.get(0), steps.get(1));
    assert!(!lock.lock().expect("nobody has it").was_abandoned());
}

fn locks_of_the_dead_are_taken_over(start_method: StartMethod) {
    survives(kill_with_locks, start_method);
}

/// Takes the lock up to five times at once.
fn lock_many_times((stop, lock, steps): (Event, RLock, Steps)) -> u64 {
    let mut turns = 0;
    while !stop.is_set() {
        let outer = lock.lock().expect("there are locks");
        let inner: Vec<_> = (0..turns % 4)
            .map(|_| lock.try_lock().expect("there are locks").expect("this thread has it"))
            .collect();
        assert!(inner.iter().all(|guard| !guard.was_abandoned()), "it was told once");
        let was_abandoned = outer.was_abandoned();
        // The last guard that is dropped releases the lock, whichever it is.
        let last = if turns % 2 == 0 {
            outer
        } else {
            let last = lock.lock().expect("there are locks");
            drop(outer);
            last
        };
        step_around(&steps, was_abandoned, std::thread::yield_now);
        drop(inner);
        assert_eq!(steps.get(0), steps.get(1));
        drop(last);
        std::thread::yield_now(); // others get it more often
        turns += 1;
    }
    turns
}

fn kill_with_rlocks(arguments: &Arguments) {
    let (stop, lock) = (Event::new().expect("memory"), RLock::new().expect("memory"));
    let steps: Steps = Array::zeroed(3).expect("memory");
    let all = (stop.clone(), lock.clone(), steps.clone());
    let mut storm = Storm::begin(arguments, 4, lock_many_times, all);
    let mut abandoned = 0;
    while storm.kill_some() {
        let guard = lock.lock().expect("there are locks");
        step(&steps, guard.was_abandoned());
        abandoned += u32::from(guard.was_abandoned());
    }
    stop.set();
    assert!(abandoned <= storm.kills());
    assert!(storm.end().into_iter().any(|turns| turns > 0));
    assert_eq!(steps.get(0), steps.get(1));
}

fn rlocks_of_the_dead_are_taken_over(start_method: StartMethod) {
    survives(kill_with_rlocks, start_method);
}

/// Adds 1 to each word, again and again. Repairs what others have left, and counts that.
fn add_to_all_words((stop, mutex, recovered): (Event, Mutex<[u64; 32]>, Value<u64>)) -> u64 {
    let mut turns = 0;
    while !stop.is_set() {
        let mut words = match mutex.lock() {
            Ok(words) => {
                assert!(
                    words.iter().all(|word| *word == words[0]),
                    "the words differ, but the mutex was not abandoned: {words:?}"
                );
                words
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error));
                let mut words = mutex.recover().expect("this thread does not have it");
                let first = words[0];
                words.iter_mut().for_each(|word| *word = first);
                recovered.fetch_add(1);
                words
            }
        };
        for _ in 0..LONG {
            words[..20].iter_mut().for_each(|word| *word += 1);
            std::thread::yield_now(); // others get the processor, and perhaps kill this one
            words[20..].iter_mut().for_each(|word| *word += 1);
        }
        drop(words);
        std::thread::yield_now(); // others get it more often
        turns += 1;
    }
    turns
}

fn kill_with_mutexes(arguments: &Arguments) {
    let stop = Event::new().expect("memory");
    let mutex = Mutex::new([0_u64; 32]).expect("memory");
    let recovered = Value::new(0_u64).expect("memory");
    let all = (stop.clone(), mutex.clone(), recovered.clone());
    let mut storm = Storm::begin(arguments, 4, add_to_all_words, all);
    while storm.kill_some() {
        match mutex.lock() {
            Ok(words) => {
                assert!(
                    words.iter().all(|word| *word == words[0]),
                    "the words differ, but the mutex was not abandoned: {words:?}"
                );
            }
            // One of the processes recovers it.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error)),
        }
    }
    stop.set();
    assert!(storm.end().into_iter().any(|turns| turns > 0));
    assert!(recovered.get() > 0, "somebody died while it had the mutex");
    let words = mutex.recover().expect("nobody has it");
    assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
}

fn mutexes_of_the_dead_are_abandoned_until_recovered(start_method: StartMethod) {
    survives(kill_with_mutexes, start_method);
}

/// What the processes of [`kill_with_values`] share.
type Values = (Event, Value<[u64; 32]>, Value<u32>, Value<u64>);

/// Counts in a large value and in a small one, and then adds 1 to the number of completed turns.
fn count((stop, large, small, completed): Values) -> u64 {
    let mut last = 0;
    while !stop.is_set() {
        large.update(|words| words.iter_mut().for_each(|word| *word += 1));
        small.fetch_add(1);
        completed.fetch_add(1);
        let words = large.get();
        assert!(words.iter().all(|word| *word == words[0]), "a mixture: {words:?}");
        assert!(words[0] > last, "{} after {last}", words[0]);
        last = words[0];
    }
    last
}

fn kill_with_values(arguments: &Arguments) {
    let stop = Event::new().expect("memory");
    let large = Value::new([0_u64; 32]).expect("memory");
    let (small, completed) =
        (Value::new(0_u32).expect("memory"), Value::new(0_u64).expect("memory"));
    let all = (stop.clone(), large.clone(), small.clone(), completed.clone());
    let mut storm = Storm::begin(arguments, 4, count, all);
    let mut last = 0;
    while storm.kill_some() {
        let words = large.get();
        assert!(words.iter().all(|word| *word == words[0]), "a mixture: {words:?}");
        assert!(words[0] >= last, "{} after {last}", words[0]);
        last = words[0];
    }
    stop.set();
    let kills = u64::from(storm.kills());
    assert!(storm.end().into_iter().any(|last| last > 0));
    // Each process that was killed may have died before it noted its last counts.
    let noted = completed.get()..=completed.get() + kills;
    let large = large.get();
    assert!(large.iter().all(|word| *word == large[0]), "{large:?}");
    assert!(noted.contains(&large[0]), "{} of {noted:?}", large[0]);
    assert!(noted.contains(&small.get().into()), "{} of {noted:?}", small.get());
}

fn values_are_whole_after_kills(start_method: StartMethod) {
    survives(kill_with_values, start_method);
}

/// What the processes of [`kill_with_arrays`] share.
type Arrays = (Event, Array<u64>, Array<u16>, Array<u64>);

/// Writes elements with two equal halves, and counts in another array.
fn write_halves((stop, halves, small, counts): Arrays) -> u64 {
    let mut turns = 0;
    let pid = u64::from(std::process::id());
    while !stop.is_set() {
        let index = turns as usize % halves.len();
        halves.set(index, pid << 32 | pid);
        halves.update(index, |element| *element = (*element).rotate_left(32));
        small.write(index..=index, &[0x0101 * (turns % 256) as u16]);
        let element = halves.get((index + 1) % halves.len());
        assert_eq!(element, element.rotate_left(32), "half an element");
        assert!(small.snapshot().iter().all(|element| element % 0x0101 == 0), "half an element");
        counts.update(0, |count| *count += 1);
        counts.update(1, |count| *count += 1);
        turns += 1;
    }
    turns
}

fn kill_with_arrays(arguments: &Arguments) {
    let stop = Event::new().expect("memory");
    let (halves, small) = (Array::zeroed(7).expect("memory"), Array::zeroed(7).expect("memory"));
    let counts = Array::zeroed(2).expect("memory");
    let all = (stop.clone(), halves.clone(), small.clone(), counts.clone());
    let mut storm = Storm::begin(arguments, 4, write_halves, all);
    while storm.kill_some() {
        let halves = halves.snapshot();
        assert!(halves.iter().all(|element: &u64| *element == element.rotate_left(32)));
    }
    stop.set();
    let kills = u64::from(storm.kills());
    assert!(storm.end().into_iter().any(|turns| turns > 0));
    let (first, second) = (counts.get(0), counts.get(1));
    assert!((second..=second + kills).contains(&first), "{first}, {second}, {kills} kills");
}

fn array_elements_are_whole_after_kills(start_method: StartMethod) {
    survives(kill_with_arrays, start_method);
}

const PERMITS: u32 = 3;

/// Takes a cell, of which there are as many as permits. Panics if all are taken by processes that
/// live, and so have permits too.
fn take_cell(cells: &Array<u64>, token: u64) -> usize {
    let is_running = |token: u64| procfs::is_running((token >> 32) as u32);
    let look = || cells.snapshot();
    loop {
        for (index, old) in look().into_iter().enumerate() {
            let is_free = old == 0 || !is_running(old);
            let take = |cell: &mut u64| {
                let is_as_before = *cell == old;
                if is_as_before {
                    *cell = token;
                }
                is_as_before
            };
            if is_free && cells.update(index, take) {
                return index;
            }
        }
        let (first, second) = (look(), look());
        if first != second || first.contains(&0) {
            continue;
        }
        // Between the two looks, all cells were taken. That is right only if one of their processes
        // was about to be dead.
        let outlives_its_turn = |(index, token): (usize, &u64)| {
            while cells.get(index) == *token && is_running(*token) {
                std::thread::yield_now();
            }
            is_running(*token)
        };
        let are_alive = first.iter().enumerate().all(outlives_its_turn);
        assert!(!are_alive, "more than {PERMITS} processes have permits: {first:x?}");
    }
}

fn take_permits((stop, semaphore, cells): (Event, Semaphore, Array<u64>)) -> u64 {
    let mut turns = 0;
    while !stop.is_set() {
        let permit = match turns % 3 {
            0 => semaphore.try_acquire(),
            1 => semaphore.acquire_timeout(SOON),
            _ => semaphore.acquire().map(Some),
        };
        let permit = permit.expect("few are lent");
        assert!(permit.is_some() || turns % 3 < 2, "without a time limit it gets a permit");
        if let Some(permit) = permit {
            let token = u64::from(std::process::id()) << 32 | turns << 1 | 1;
            let cell = take_cell(&cells, token);
            assert_eq!(cells.get(cell), token, "it was taken away");
            cells.set(cell, 0);
            drop(permit);
        }
        turns += 1;
    }
    turns
}

fn kill_with_permits(arguments: &Arguments) {
    let stop = Event::new().expect("memory");
    let semaphore = Semaphore::new(PERMITS).expect("memory");
    let cells = Array::zeroed(PERMITS as usize).expect("memory");
    let all = (stop.clone(), semaphore.clone(), cells);
    let mut storm = Storm::begin(arguments, 6, take_permits, all);
    while storm.kill_some() {
        let _permit = semaphore.acquire().expect("few are lent");
        let available = semaphore.available_permits().expect("there are locks");
        assert!(available < PERMITS, "one is lent to this process");
    }
    stop.set();
    assert!(storm.end().into_iter().any(|turns| turns > 0));
    assert_eq!(semaphore.available_permits().expect("there are locks"), PERMITS);
    let all: Vec<_> =
        (0..PERMITS).map(|_| semaphore.try_acquire().expect("few are lent")).collect();
    assert!(all.iter().all(Option::is_some), "all have come back");
    assert!(semaphore.try_acquire().expect("few are lent").is_none());
}

fn permits_of_the_dead_come_back(start_method: StartMethod) {
    survives(kill_with_permits, start_method);
}

/// What the tasks of [`kill_workers_with_everything`] borrow.
type Borrowed = (Lock, Steps, Mutex<[u64; 8]>, Semaphore, Value<[u64; 8]>);

fn use_all((lock, steps, mutex, semaphore, value): &Borrowed, x: u64) -> u64 {
    let _permit = semaphore.acquire().expect("few are lent");
    let guard = lock.lock().expect("this thread does not have it");
    step(steps, guard.was_abandoned());
    (0..LONG).for_each(|_| step(steps, false));
    let mut words = mutex.lock().or_else(|error| {
        assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error));
        let mut words = mutex.recover()?;
        let first = words[0];
        words.iter_mut().for_each(|word| *word = first);
        Ok::<_, proc_core::Error>(words)
    });
    let words = words.as_mut().expect("this thread does not have it");
    words.iter_mut().for_each(|word| *std::hint::black_box(word) += 1);
    value.update(|all| all.iter_mut().for_each(|word| *word += 1));
    x
}

/// Workers of a pool are killed while their tasks use all the objects of [`Borrowed`].
fn kill_workers_with_everything(arguments: &Arguments) {
    const MIN_CALLS: u64 = 5;
    const MIN_DEATHS: u64 = 10;
    const TASKS: u64 = 300;
    let mut rng = seeded(arguments);
    let pool = arguments.pool(4);
    let steps: Steps = Array::zeroed(3).expect("memory");
    let (lock, mutex) = (Lock::new().expect("memory"), Mutex::new([0; 8]).expect("memory"));
    let semaphore = Semaphore::new(2).expect("memory");
    let value = Value::new([0; 8]).expect("memory");
    let borrowed = (lock.clone(), steps, mutex.clone(), semaphore.clone(), value.clone());
    let is_over = AtomicBool::new(false);
    let (calls, done, died) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(rng.u64(..8000))); // a random moment
                if let Some(pid) = rng.choice(pool.worker_pids()) {
                    // It may have been replaced by now.
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
                }
            }
        });
        let (mut calls, mut done, mut died) = (0, 0, 0);
        while calls < MIN_CALLS || died < MIN_DEATHS {
            calls += 1;
            let with = pool.options().chunksize(1).with(borrowed.clone());
            for (result, x) in with.try_map(use_all, 0..TASKS).into_iter().zip(0..) {
                match result {
                    Ok(same) => done += u64::from(same == x),
                    Err(error) if error.is_death() => died += 1,
                    Err(error) => panic!("{}", describe(&error)),
                }
            }
        }
        is_over.store(true, Ordering::Relaxed);
        (calls, done, died)
    });
    assert_eq!(done + died, calls * TASKS);
    // A worker may have been killed after its last update, and before its result was there.
    let updates = value.get();
    assert!(updates.iter().all(|word| *word == updates[0]), "{updates:?}");
    assert!((done..=done + died).contains(&updates[0]), "{done}, {died}, {updates:?}");
    assert_eq!(semaphore.available_permits().expect("there are locks"), 2);
    drop(lock.lock_timeout(SOON).expect("it does not have it").expect("nobody has it"));
    drop(mutex.recover().expect("nobody has it"));
}

fn workers_are_killed_with_everything(start_method: StartMethod) {
    survives(kill_workers_with_everything, start_method);
}
