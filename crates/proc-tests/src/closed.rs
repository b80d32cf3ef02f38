//! Standard streams that are closed, from the start or by the program.

use proc_core::{Child, Pool, Process, Shared};

use crate::{Arguments, Scenario};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("closed", closed),
    ("closed-no-init", closed),
    ("closed-by-main", closed_by_main),
    ("closed-by-main-no-init", closed_by_main),
];

pub(crate) fn is_without_init(name: &str) -> bool {
    ["closed-no-init", "closed-by-main-no-init"].contains(&name)
}

/// Prints go nowhere, and do not end up in what carries values.
fn work(values: Vec<u64>) -> Vec<u64> {
    println!("{} values", values.len());
    eprintln!("{} values", values.len());
    values.into_iter().map(|value| value + 1).collect()
}

/// The test has closed some. It sees the exit code alone.
fn closed(arguments: &Arguments) {
    let values = |length| vec![7_u64; length];
    for length in [0, 1, 1000] {
        let child = Process::new(work, values(length)).start_method(arguments.context).start();
        let result = child.and_then(Child::join).expect("it returns");
        assert!(result == vec![8; length]);
    }
    let build = || Pool::builder().processes(2).start_method(arguments.context).build();
    let pool = build().expect("it can be built");
    for _ in 0..5 {
        // The largest has memory of its own, beside what all workers share.
        let lengths = [0, 1, 1000, 30_000];
        let results = pool.try_map(work, lengths.map(values));
        for (result, length) in results.into_iter().zip(lengths) {
            assert!(result.expect("nothing fails") == vec![8; length]);
        }
        let shared = Shared::from_slice(&[1_u64, 2, 3]).expect("there is memory");
        let sum = |shared: Shared<u64>| {
            println!("{shared:?}");
            shared.iter().sum::<u64>()
        };
        assert_eq!(pool.map(sum, [shared.clone(), shared]).expect("nothing fails"), [6, 6]);
    }
    let error = pool.apply(|()| std::process::exit(7), ()).map(|(): ()| ());
    assert!(error.expect_err("it exits").is_death());
    assert_eq!(pool.apply(work, vec![1]).expect("it was replaced"), [2]);
}

/// The program has closed its streams itself, as daemons do, after init or without it.
fn closed_by_main(arguments: &Arguments) {
    for stream in 0..3 {
        if arguments.word().contains(&stream.to_string()) {
            nix::unistd::close(stream).expect("it was open");
        }
    }
    closed(arguments);
}
