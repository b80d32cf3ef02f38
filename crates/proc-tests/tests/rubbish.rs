//! A worker that writes rubbish to its report channel is ended and replaced, and costs one task.

mod support;
use support::{Finished, scenario};

in_contexts! {
    rubbish_ends_its_worker: forkserver spawn fork;
    rubbish_that_looks_valid_harms_nobody: forkserver spawn fork;
    rubbish_without_end_is_ended_by_the_timeout: forkserver spawn fork;
}

/// What is told of task 3; the others are as they should be, and so is what follows.
fn fate(finished: &Finished) -> &str {
    // What the carrier panics at is caught, but said.
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
    let lines: Vec<&str> = finished.stdout.lines().collect();
    for (task, line) in lines.iter().enumerate().take(8).filter(|(task, _)| *task != 3) {
        assert_eq!(*line, format!("{task}: {task}"));
    }
    assert_eq!(lines[8..], ["afterwards 999000", "called back"]);
    lines[3]
}

fn rubbish_ends_its_worker(context: &str) {
    for kind in ["nothing", "noise", "long", "boast"] {
        let finished = scenario("rubbish", context, &[kind]);
        let fate = fate(&finished);
        assert!(fate.starts_with("3: death signal=9 task=3 "), "{kind}: {fate}");
    }
    // One that says that it has ended is taken at its word.
    let finished = scenario("rubbish", context, &["exit"]);
    let fate = fate(&finished);
    assert!(fate.starts_with("3: death code=0 task=3 "), "{fate}");
}

fn rubbish_that_looks_valid_harms_nobody(context: &str) {
    for kind in ["numbers", "news"] {
        assert_eq!(fate(&scenario("rubbish", context, &[kind])), "3: 3", "{kind}");
    }
}

fn rubbish_without_end_is_ended_by_the_timeout(context: &str) {
    for kind in ["headless", "flood"] {
        let finished = scenario("rubbish", context, &[kind]);
        let fate = fate(&finished);
        assert!(fate.starts_with("3: timeout task=3 "), "{kind}: {fate}");
    }
}
