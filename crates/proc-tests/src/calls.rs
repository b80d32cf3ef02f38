//! Calls as they should be: windows, sizes, replaced workers.

use std::collections::BTreeMap;

use proc_core::Pool;

use crate::{Arguments, Scenario};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("max-tasks", max_tasks)];

/// One worker, two tasks each, 100 tasks.
fn max_tasks(arguments: &Arguments) {
    let pool = Pool::builder()
        .processes(1)
        .context(arguments.context)
        .max_tasks_per_child(2)
        .build()
        .expect("the pool can be built");
    let task = |task: u32| (task, std::process::id());
    let results = match arguments.number() {
        0 => pool.map(task, 0..100),
        chunksize => pool.options().chunksize(chunksize).map(task, 0..100),
    };
    let results = results.expect("nothing fails");
    assert!(results.iter().map(|(task, _)| *task).eq(0..100));
    let mut tasks = BTreeMap::<u32, u32>::new();
    for (_, pid) in &results {
        *tasks.entry(*pid).or_default() += 1;
    }
    println!("{} processes", tasks.len());
    println!("at most {} tasks in one", tasks.values().max().expect("there are some"));
}
