//! The model check of [`Barrier`].

use std::mem::ManuallyDrop;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::Ordering::Relaxed;

use super::super::barrier::Barrier;
use super::*;
use crate::error::{Error, ErrorKind};
use crate::memory::atomics::AtomicU32;
use crate::memory::loom::tick;

/// What a process was told: how many had arrived before it, or that the barrier is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Passed(usize),
    Broken,
}

fn told(result: Result<usize, Error>) -> Told {
    match result {
        Ok(before) => Told::Passed(before),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Abandoned, "{error}");
            Told::Broken
        }
    }
}

/// Processes at a barrier, beginning with process 1. Each writes before it waits, and sees what the
/// others have written when it was told that all have arrived.
struct Party {
    written: Vec<AtomicU32>,
    told: StdMutex<Vec<(u32, Told)>>,
    /// The barrier, as each other process has it. A process that is killed does not drop it.
    handles: StdMutex<Vec<Arc<ManuallyDrop<Barrier>>>>,
}

/// Gives back the memory of the barrier, when all processes of a model have ended.
impl Drop for Party {
    fn drop(&mut self) {
        for handle in self.handles.get_mut().expect("no thread panics").drain(..) {
            let handle = Arc::into_inner(handle).expect("the process has ended");
            drop(ManuallyDrop::into_inner(handle));
        }
    }
}

impl Party {
    fn new(count: u32) -> Arc<Party> {
        let written = (0..count).map(|_| AtomicU32::default()).collect();
        Arc::new(Party { written, told: StdMutex::default(), handles: StdMutex::default() })
    }

    fn meet(&self, id: u32, wait: impl FnOnce() -> Result<usize, Error>) -> Told {
        self.written[id as usize - 1].store(1, Relaxed);
        let told = told(wait());
        if told != Told::Broken {
            let all = self.written.iter().all(|word| word.load(Relaxed) == 1);
            assert!(all, "a process that passes sees what was written before");
        }
        self.told.lock().expect("no thread panics").push((id, told));
        told
    }

    /// Starts process `id`, which has the barrier already.
    fn start(self: &Arc<Self>, barrier: &Barrier, id: u32, life: usize) -> JoinHandle<bool> {
        let barrier = Arc::new(ManuallyDrop::new(receive(barrier, id)));
        self.handles.lock().expect("no thread panics").push(Arc::clone(&barrier));
        let party = Arc::clone(self);
        let wait = move || {
            party.meet(id, || barrier.wait());
            drop(barrier);
        };
        start(id, life, wait, ignore)
    }

    /// Checks that all who were told anything were told the same: that the barrier is broken, or
    /// that all have arrived. In the second case, each was told another number of earlier arrivals.
    fn check_told(&self, passed: usize) {
        let told = self.told.lock().expect("no thread panics");
        let mut places: Vec<usize> = { told.iter() }
            .filter_map(|(_, told)| match told {
                Told::Passed(before) => Some(*before),
                Told::Broken => None,
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() == told.len() || places.is_empty(), "{told:?}");
        assert!(places.len() >= passed, "{told:?}");
    }
}

/// Lets process `id` receive the barrier.
fn receive(barrier: &Barrier, id: u32) -> Barrier {
    let mut received = None;
    assert!(live_as(id, UNHARMED, || received = Some(barrier.received())));
    assert!(live_as(1, UNHARMED, || ()));
    received.expect("it was received")
}

#[test]
fn all_pass_when_all_have_arrived() {
    check(2, || {
        begin(2);
        let (barrier, party) = (Barrier::new(2).expect("there is memory"), Party::new(2));
        let other = party.start(&barrier, 2, UNHARMED);
        party.meet(1, || barrier.wait());
        join_all([other]);
        party.check_told(2);
    });
}

#[test]
fn death_at_any_operation_breaks_the_barrier_or_comes_after_all_have_passed() {
    check_killed(2, 20, |life| {
        begin(2);
        let (barrier, party) = (Barrier::new(2).expect("there is memory"), Party::new(2));
        let killed = party.start(&barrier, 2, life);
        party.meet(1, || barrier.wait());
        let is_alive = killed.join().expect("it does not panic");
        party.check_told(if is_alive { 2 } else { 0 });
        if !is_alive {
            assert_eq!(told(barrier.wait()), Told::Broken);
            let error = barrier.wait().expect_err("it stays broken");
            assert_eq!(error.pid(), Some(2));
        }
        is_alive
    });
}

#[test]
fn death_of_one_of_three_is_told_to_both_others_or_to_none() {
    check_killed(1, 20, |life| {
        begin(3);
        let (barrier, party) = (Barrier::new(3).expect("there is memory"), Party::new(3));
        let killed = party.start(&barrier, 2, life);
        let other = party.start(&barrier, 3, UNHARMED);
        party.meet(1, || barrier.wait());
        let is_alive = killed.join().expect("it does not panic");
        join_all([other]);
        party.check_told(if is_alive { 3 } else { 0 });
        is_alive
    });
}

#[test]
fn death_of_a_process_that_receives_the_barrier_breaks_it_or_changes_nothing() {
    check_killed(2, 8, |life| {
        begin(2);
        let barrier = Barrier::new(1).expect("there is memory");
        let killed = {
            let barrier = barrier.clone();
            start(2, life, move || std::mem::forget(barrier.received()), ignore)
        };
        let first = told(barrier.wait());
        let is_alive = killed.join().expect("it does not panic");
        let second = told(barrier.wait());
        if is_alive {
            assert_eq!([first, second], [Told::Passed(0); 2]);
        }
        assert!(first != Told::Broken || second == Told::Broken);
        is_alive
    });
}

#[test]
fn process_that_exits_with_code_0_does_not_break_the_barrier() {
    check(3, || {
        begin(2);
        let barrier = Barrier::new(1).expect("there is memory");
        std::mem::forget(receive(&barrier, 2));
        let exiting = thread::spawn(|| end(2, EXITED));
        for _ in 0..2 {
            assert_eq!(told(barrier.wait()), Told::Passed(0));
        }
        exiting.join().expect("it does not panic");
        assert_eq!(told(barrier.wait()), Told::Passed(0));
    });
}

#[test]
fn process_that_gives_up_can_arrive_again() {
    check(2, || {
        begin(2);
        let (barrier, party) = (Barrier::new(2).expect("there is memory"), Party::new(2));
        let other = party.start(&barrier, 2, UNHARMED);
        let ticking = thread::spawn(tick);
        party.meet(1, || match barrier.wait_timeout(ONE_TICK)? {
            Some(before) => Ok(before),
            None => barrier.wait(),
        });
        join_all([other]);
        ticking.join().expect("it does not panic");
        party.check_told(2);
    });
}

#[test]
fn copy_of_a_process_has_one_entry_however_often_it_waits() {
    check(0, || {
        begin(2);
        let barrier = Barrier::new(1).expect("there is memory");
        assert!(live_as(2, UNHARMED, || {
            for _ in 0..5 {
                assert_eq!(told(barrier.wait()), Told::Passed(0));
            }
        }));
    });
}
