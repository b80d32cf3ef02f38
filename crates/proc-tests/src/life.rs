//! How long processes live: longer than threads, never longer than their program.

use proc_core::{Context, Process};

use crate::{Arguments, Scenario, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("stay", stay)];

/// Prints `busy` once for each task, or `asleep` for each process of a task; then goes on for ever.
fn stay(arguments: &Arguments) {
    match arguments.word() {
        "idle" => {
            let pool = arguments.pool(2);
            let done = pool.map(|x: u32| x, 0..100).expect("nothing fails");
            assert_eq!(done.len(), 100);
            println!("idle");
            work_for_ever()
        }
        "busy" => {
            let pool = arguments.pool(2);
            pool.map(busy, 0..8).expect("it is ended from outside");
        }
        "nested" => {
            let pool = arguments.pool(2);
            // A context does not cross between processes, so it is part of the function.
            match arguments.context {
                Context::Spawn => pool.map(nested::<true>, 0..2),
                _ => pool.map(nested::<false>, 0..2),
            }
            .expect("it is ended from outside");
        }
        other => panic!("no way to stay: {other}"),
    }
}

fn busy(_: u32) {
    println!("busy");
    work_for_ever()
}

fn nested<const SPAWN: bool>(_: u32) {
    let context = if SPAWN { Context::Spawn } else { Context::Forkserver };
    let asleep = |()| {
        println!("asleep");
        work_for_ever()
    };
    let children: Vec<_> = (0..2)
        .map(|_| Process::new(asleep, ()).context(context).start().expect("it can be started"))
        .collect();
    for child in children {
        child.join().expect("it is ended from outside");
    }
}
