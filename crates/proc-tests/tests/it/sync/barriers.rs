//! Barriers whose parties die, end in order, or give up.

use std::time::{Duration, Instant};

use proc_core::sync::{Barrier, Event, Value};
use proc_core::{Child, ErrorKind, Process, StartMethod};

use crate::support::{Arguments, SOON, describe, run, wait_until};
use crate::sync::storm::{kill_now, seeded, survives};

programs![kill_parties, exit_in_order, give_up, wait_in_many_rounds];

tests! {
    death_of_a_party_is_told_to_all: forkserver spawn fork;
    parties_that_end_in_order_break_no_barrier: forkserver spawn fork;
    parties_that_give_up_have_not_arrived: forkserver spawn fork;
    barriers_serve_many_rounds: forkserver spawn fork;
}

/// How many barriers are broken, if there is time.
const BARRIERS: u32 = 60;

/// After this time no more barriers are made, on a busy machine.
const DURATION: Duration = Duration::from_millis(2500);

const PARTIES: u32 = 4;

/// Waits until the barrier is broken. Returns in how many rounds all have arrived, and the pid that
/// the error has.
fn wait_until_broken((barrier, begun): (Barrier, Value<u32>)) -> (u64, Option<u32>) {
    begun.fetch_add(1);
    let mut rounds = 0;
    loop {
        match barrier.wait() {
            Ok(before) => assert!(before < PARTIES as usize),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error));
                return (rounds, error.pid());
            }
        }
        rounds += 1;
    }
}

/// One of four processes at a barrier is killed at a random moment.
fn kill_parties(arguments: &Arguments) {
    let mut rng = seeded(arguments);
    let began = Instant::now();
    for _ in (0..BARRIERS).take_while(|_| began.elapsed() < DURATION) {
        let barrier = Barrier::new(PARTIES).expect("memory");
        let begun = Value::new(0).expect("memory");
        let start = |_| {
            let process = Process::new(wait_until_broken, (barrier.clone(), begun.clone()));
            process.start_method(arguments.start_method).start().expect("it can be started")
        };
        let mut children: Vec<Child<_>> = (0..PARTIES).map(start).collect();
        wait_until(|| begun.get() == PARTIES); // all of them have the barrier
        std::thread::sleep(Duration::from_micros(rng.u64(..2000))); // a random moment
        let victim = children.swap_remove(rng.usize(..children.len()));
        let pid = victim.pid();
        kill_now(pid);
        assert!(victim.join().expect_err("it was killed").is_death());
        let told: Vec<_> =
            children.into_iter().map(|child| child.join().expect("it returns")).collect();
        // All agree in which round it was broken, and by whom.
        assert!(told.iter().all(|told| *told == (told.0, Some(pid))), "not {pid}: {told:?}");
        assert!(told.iter().all(|(rounds, _)| *rounds == told[0].0), "{told:?}");
        for late in [barrier.wait().map(Some), barrier.wait_timeout(Duration::ZERO)] {
            let error = late.expect_err("it is broken for good");
            assert_eq!((error.kind(), error.pid()), (ErrorKind::Abandoned, Some(pid)));
        }
    }
}

fn death_of_a_party_is_told_to_all(start_method: StartMethod) {
    survives(kill_parties, start_method);
}

/// Each worker ends after one task, while it still has the barrier. At the same moment, the next
/// workers arrive at it.
fn exit_in_order(arguments: &Arguments) {
    let barrier = Barrier::new(2).expect("memory");
    let run_out = || -> Result<(), proc_core::Error> {
        let wait = |barrier: &Barrier, ()| match barrier.wait_timeout(SOON) {
            Ok(before) => before.is_some(),
            Err(error) => panic!("{}", describe(&error)),
        };
        let first = Process::new(|barrier: Barrier| barrier.wait().is_ok(), barrier.clone());
        let first = first.start_method(arguments.start_method).start()?;
        assert!(barrier.wait()? < 2);
        assert!(first.join()?);
        let pool = arguments.pool_builder(2).max_tasks_per_child(1).build()?;
        let with = pool.options().chunksize(1).with(barrier);
        assert!(with.map(wait, [(); 200])?.into_iter().all(|is_complete| is_complete));
        Ok(())
    };
    run_out().unwrap_or_else(|error| panic!("{}", describe(&error)));
}

fn parties_that_end_in_order_break_no_barrier(start_method: StartMethod) {
    run(exit_in_order, start_method, &[]).succeeded();
}

/// Parties give up at the moment at which the last one arrives. All agree whether all have arrived.
fn give_up(arguments: &Arguments) {
    const ROUNDS: usize = 300;
    let barrier = Barrier::new(2).expect("memory");
    let wait = |barrier: Barrier| -> Vec<bool> {
        let wait = |round: usize| {
            let patience = Duration::from_micros(50 * (round % 10) as u64);
            barrier.wait_timeout(patience).expect("nobody dies").is_some()
        };
        (0..ROUNDS).map(wait).collect()
    };
    let start = || {
        let process = Process::new(wait, barrier.clone()).start_method(arguments.start_method);
        process.start().expect("it can be started")
    };
    let both = [start(), start()].map(|child| child.join().expect("it returns"));
    let [a, b] = both.map(|met| met.into_iter().filter(|met| *met).count());
    assert_eq!(a, b, "each meeting has two parties");
    assert_eq!(barrier.wait_timeout(Duration::ZERO).expect("nobody died"), None);
    // Those that gave up do not count.
    let there = Event::new().expect("memory");
    let meet = |(there, barrier): (Event, Barrier)| {
        there.set();
        barrier.wait().expect("nobody dies")
    };
    let process = Process::new(meet, (there.clone(), barrier.clone()));
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    there.wait();
    let before = barrier.wait().expect("nobody dies");
    assert_eq!(before + child.join().expect("it returns"), 1, "one came before the other");
}

fn parties_that_give_up_have_not_arrived(start_method: StartMethod) {
    run(give_up, start_method, &[]).succeeded();
}

/// Each party waits more often than a barrier has places for holders. With `Fork`, a process may
/// have the barrier because its original had it.
fn wait_in_many_rounds(arguments: &Arguments) {
    const ROUNDS: usize = 1000;
    static BARRIER: std::sync::OnceLock<Barrier> = std::sync::OnceLock::new();
    let barrier = Barrier::new(2).expect("memory");
    let _ = BARRIER.set(barrier.clone());
    let wait = |sent: Option<Barrier>| -> usize {
        let barrier = sent.as_ref().or(BARRIER.get()).expect("it was sent, or copied by fork");
        (0..ROUNDS).map(|_| barrier.wait().expect("nobody dies")).sum()
    };
    let sent = Some(barrier.clone()).filter(|_| arguments.start_method != StartMethod::Fork);
    let process = Process::new(wait, sent).start_method(arguments.start_method);
    let child = process.start().expect("it can be started");
    let came_first: usize = (0..ROUNDS).map(|_| barrier.wait().expect("nobody dies")).sum();
    assert_eq!(came_first + child.join().expect("it returns"), ROUNDS);
}

fn barriers_serve_many_rounds(start_method: StartMethod) {
    run(wait_in_many_rounds, start_method, &[]).succeeded();
}
