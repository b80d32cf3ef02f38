//! Code of the user's that forks in a worker: the copy never acts as the worker.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use proc_core::{Child, Pool, Process, StartMethod};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::fork::fork;
use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, Program, start};

programs![tasks_fork, values_fork, copies_return_late, set_up_forks, processes_fork];

tests! {
    copies_of_tasks_give_no_results: forkserver spawn fork;
    copies_made_by_values_give_no_results: forkserver spawn fork;
    copies_that_return_late_give_no_results: forkserver spawn fork;
    copies_made_before_tasks_give_no_results: forkserver spawn fork;
    copies_of_processes_give_no_results: forkserver spawn fork;
}

const ROUNDS: usize = 20;

/// What a copy returns where its original returns a small number.
const WRONG: u32 = 1000;

fn is_copy() -> bool {
    fork().is_none()
}

fn fork_here() {
    fork();
}

fn identity(x: u32) -> u32 {
    x
}

/// Asserts that later calls get their own results, each once.
fn expect_right(pool: &Pool) {
    for _ in 0..10 {
        let results = pool.try_map(identity, 0..20);
        assert_eq!(results.len(), 20);
        for (result, x) in results.into_iter().zip(0..) {
            assert_eq!(result.expect("nothing fails"), x);
        }
    }
}

fn returns(x: u32) -> u32 {
    if x == 1 && is_copy() { WRONG } else { x }
}

fn panics(x: u32) -> u32 {
    if x == 1 && is_copy() {
        panic!("only the copy panics");
    }
    x
}

fn exits(x: u32) -> u32 {
    if x == 1 && is_copy() {
        std::process::exit(0);
    }
    x
}

fn forks_twice(x: u32) -> u32 {
    // Four processes return from here, three of them copies.
    if x == 1 && (is_copy() | is_copy()) { WRONG } else { x }
}

/// The copy is made in a thread of a task, which is the only thread of the copy.
fn thread_returns(x: u32) -> u32 {
    let thread = std::thread::spawn(move || returns(x));
    thread.join().expect("it does not panic")
}

/// Calls with tasks that fork: each task has one result, and later calls are right.
fn tasks_fork(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let task = match arguments.word() {
        "returns" => |pool: &Pool| expect_once(pool, returns),
        "panics" => |pool: &Pool| expect_once(pool, panics),
        "exits" => |pool: &Pool| expect_once(pool, exits),
        "forks-twice" => |pool: &Pool| expect_once(pool, forks_twice),
        "thread" => |pool: &Pool| expect_once(pool, thread_returns),
        other => panic!("no such task: {other}"),
    };
    for _ in 0..ROUNDS {
        task(&pool);
        expect_right(&pool);
    }
    println!("right");
}

fn expect_once(pool: &Pool, task: impl Fn(u32) -> u32 + Copy + Send + Sync + 'static) {
    for chunksize in [1, 6] {
        let results = pool.options().chunksize(chunksize).try_map(task, 0..6);
        let results: Result<Vec<u32>, _> = results.into_iter().collect();
        assert_eq!(results.expect("nothing fails"), [0, 1, 2, 3, 4, 5]);
        let results = pool.options().chunksize(chunksize).imap_unordered(task, 0..6);
        let mut results: Vec<u32> = results.map(|result| result.expect("nothing fails")).collect();
        results.sort_unstable();
        assert_eq!(results, [0, 1, 2, 3, 4, 5]);
    }
    assert_eq!(pool.apply(task, 1).expect("nothing fails"), 1);
}

fn expect_right_results(program: Program, start_method: StartMethod, words: &[&str]) {
    let program = start(program, start_method, words).limited_to(Duration::from_secs(30));
    assert_eq!(program.finish().succeeded(), "right\n", "{start_method:?} {words:?}");
}

fn copies_of_tasks_give_no_results(start_method: StartMethod) {
    for task in ["returns", "panics", "exits", "forks-twice", "thread"] {
        expect_right_results(tasks_fork, start_method, &[task]);
    }
}

/// A value that forks in a worker while it is written, read or dropped. It does not fork in the
/// program itself.
struct Forks {
    program_pid: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Written,
    Read,
    Dropped,
}

impl Forks {
    fn fork_at(&self, place: Place) {
        if self.place == place && std::process::id() != self.program_pid {
            fork();
        }
    }
}

impl Serialize for Forks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fork_at(Place::Written);
        (self.program_pid, self.place).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Forks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Forks, D::Error> {
        let (program_pid, place) = Deserialize::deserialize(deserializer)?;
        let value = Forks { program_pid, place };
        value.fork_at(Place::Read);
        Ok(value)
    }
}

impl Drop for Forks {
    fn drop(&mut self) {
        self.fork_at(Place::Dropped);
    }
}

/// A value that forks while it is written, read or dropped in the worker.
fn values_fork(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let place = match arguments.word() {
        "written" => Place::Written,
        "read" => Place::Read,
        "dropped" => Place::Dropped,
        other => panic!("no such place: {other}"),
    };
    let value = || Forks { program_pid: std::process::id(), place };
    for _ in 0..ROUNDS {
        let back = pool.try_map(|value: Forks| value, (0..4).map(|_| value()));
        assert_eq!(back.len(), 4);
        for result in back {
            assert_eq!(result.expect("nothing fails").place, place);
        }
        expect_right(&pool);
        let taken = pool.try_map(|value: Forks| value.place, (0..4).map(|_| value()));
        for result in taken {
            assert_eq!(result.expect("nothing fails"), place);
        }
        expect_right(&pool);
    }
    println!("right");
}

fn copies_made_by_values_give_no_results(start_method: StartMethod) {
    for place in ["written", "read", "dropped"] {
        expect_right_results(values_fork, start_method, &[place]);
    }
}

/// A copy returns when its worker does other tasks, or none.
fn copies_return_late(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let pool = arguments.pool(2);
    let task = |(x, begun, go): (u32, PathBuf, PathBuf)| {
        if is_copy() {
            marker_files::create(&begun);
            marker_files::wait_for(&go);
            return WRONG;
        }
        x
    };
    for round in 0..ROUNDS as u32 {
        let paths =
            || (round, marks.path(&format!("begun-{round}")), marks.path(&format!("go-{round}")));
        let (_, begun, go) = paths();
        assert_eq!(pool.apply(task, paths()).expect("nothing fails"), round);
        marker_files::wait_for(&begun);
        expect_right(&pool);
        marker_files::create(&go);
        expect_right(&pool);
    }
    // The group must be empty when this program has ended, so each copy has ended by then.
    println!("right");
}

fn copies_that_return_late_give_no_results(start_method: StartMethod) {
    expect_right_results(copies_return_late, start_method, &[]);
}

static PRELOADED: OnceLock<u32> = OnceLock::new();

/// Forks in functions that a pool runs beside tasks: initializer, state, `worker_exit`, preload.
fn set_up_forks(arguments: &Arguments) {
    let builder = || Pool::builder().processes(2).start_method(arguments.start_method);
    let stateless = || match arguments.word() {
        "initializer" => builder().initializer(|()| fork_here(), ()).build(),
        _ => builder()
            .preload(|()| PRELOADED.set(if is_copy() { WRONG } else { 7 }).expect("once"), ())
            .build(),
    };
    let stateful = || {
        let made = builder().state(|()| if is_copy() { WRONG } else { 7 }, ());
        match arguments.word() {
            "state" => made.build(),
            _ => made.worker_exit(|_| fork_here()).build(),
        }
    };
    // With `Fork`, one round is enough.
    let rounds = if arguments.start_method == proc_core::StartMethod::Fork { 1 } else { 10 };
    for _ in 0..rounds {
        match arguments.word() {
            "initializer" | "preload" => {
                let pool = stateless().expect("it can be built");
                expect_right(&pool);
                if arguments.word() == "preload" {
                    let told = pool.map(|_: u32| PRELOADED.get().copied(), 0..20);
                    assert_eq!(told.expect("nothing fails"), [Some(7); 20]);
                }
                assert_eq!(pool.worker_pids().len(), 2);
                pool.close();
                pool.join().expect("the workers end");
            }
            "state" | "worker-exit" => {
                let pool = stateful().expect("it can be built");
                for _ in 0..10 {
                    let told = pool.with_state().map(|state: &mut u32, x: u32| *state + x, 0..20);
                    assert!(told.expect("nothing fails").into_iter().eq(7..27));
                }
                assert_eq!(pool.worker_pids().len(), 2);
                pool.close();
                pool.join().expect("the workers end");
            }
            other => panic!("no such place: {other}"),
        }
    }
    println!("right");
}

fn copies_made_before_tasks_give_no_results(start_method: StartMethod) {
    for place in ["initializer", "state", "worker-exit", "preload"] {
        expect_right_results(set_up_forks, start_method, &[place]);
    }
}

/// Forks in the function of a process, or in a thread of the process.
fn processes_fork(arguments: &Arguments) {
    for round in 0..ROUNDS {
        let start_method = arguments.start_method;
        let child = match round % 3 {
            0 => Process::new(returns, 1).start_method(start_method).start(),
            1 => Process::new(forks_twice, 1).start_method(start_method).start(),
            _ => Process::new(thread_returns, 1).start_method(start_method).start(),
        };
        assert_eq!(child.and_then(Child::join).expect("it returns"), 1, "round {round}");
    }
    println!("right");
}

fn copies_of_processes_give_no_results(start_method: StartMethod) {
    expect_right_results(processes_fork, start_method, &[]);
}
