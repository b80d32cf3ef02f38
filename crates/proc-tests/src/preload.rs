//! What all workers of a pool have from the start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::{Pool, PoolBuilder};

use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe};

pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("preload", preload), ("preload-fails", preload_fails), ("preload-again", preload_again)];

static TABLE: OnceLock<(u32, Vec<u64>)> = OnceLock::new();

fn fill(len: u64) {
    let table = (0..len).map(|x| x * x).collect();
    TABLE.set((std::process::id(), table)).expect("once in this process");
}

/// The process that filled the table, its parent as this worker sees it, and a value.
fn look(at: usize) -> (u32, u32, u64) {
    let (pid, table) = TABLE.get().expect("it was filled before this worker was made");
    (*pid, std::os::unix::process::parent_id(), table[at])
}

fn builder(arguments: &Arguments) -> PoolBuilder {
    Pool::builder().processes(2).start_method(arguments.context)
}

/// It is run once, in the parent of all workers, also of those that come later.
fn preload(arguments: &Arguments) {
    let pool = builder(arguments).preload(fill, 1000).max_tasks_per_child(2).build();
    let pool = pool.expect("it can be built");
    let seen = pool.options().chunksize(1).map(look, vec![999; 20]).expect("nothing fails");
    println!("values {:?}", BTreeSet::from_iter(seen.iter().map(|(.., value)| value)));
    println!("fork servers {}", BTreeSet::from_iter(seen.iter().map(|(pid, ..)| pid)).len());
    println!("parents {}", seen.iter().all(|(pid, parent, _)| pid == parent));
    println!("here {}", TABLE.get().is_some());
    let fork_server = seen[0].0;
    drop(pool);
    marks::wait_until(|| !marks::lives(fork_server));
    println!("gone");
}

fn preload_fails(arguments: &Arguments) {
    let fail = |how: u32| match how {
        0 => panic!("no table today"),
        1 => std::process::exit(3),
        2 => std::process::abort(),
        _ => drop(std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        })),
    };
    for how in 0..4 {
        let error = builder(arguments).preload(fail, how).build().expect_err("it fails");
        println!("{}", describe(&error));
    }
    let pool = builder(arguments).preload(|()| print!("once "), ()).build().expect("it is built");
    println!("{:?}", pool.map(|x: u32| x + 1, 0..4).expect("nothing fails"));
}

/// After the fork server has died, the next worker has another, which has run it again.
fn preload_again(arguments: &Arguments) {
    let marks = Marks::new();
    let run = |mark: PathBuf| {
        let number = (0..).find(|n| marks::leave(&mark.with_extension(n.to_string())));
        fill(number.expect("there are numbers"));
    };
    let pool = builder(arguments).processes(1).preload(run, marks.path("run")).build();
    let pool = pool.expect("it can be built");
    let length = |()| (TABLE.get().map(|(pid, table)| (*pid, table.len())), std::process::id());
    let (first, _) = pool.apply(length, ()).expect("it runs");
    let (fork_server, len) = first.expect("it was filled");
    println!("first {len}");
    kill(Pid::from_raw(fork_server as i32), Signal::SIGKILL).expect("it lives");
    // The worker goes down with it; a task that it was given meanwhile is lost.
    let mut again = pool.apply(length, ());
    marks::wait_until(|| {
        let is_new =
            again.as_ref().is_ok_and(|(found, _)| found.is_some_and(|(pid, _)| pid != fork_server));
        if !is_new {
            again = pool.apply(length, ());
        }
        is_new
    });
    let (second, _) = again.expect("it ran");
    println!("second {:?}", second.map(|(_, len)| len));
}
