//! Each process draws random numbers of its own, and runs where its program runs.

mod support;
use support::scenario;

in_contexts! {
    // A copy by Fork has what the program had drawn.
    each_process_has_a_seed_of_its_own: forkserver spawn;
    processors_of_the_program_reach_processes: forkserver spawn fork;
    processors_of_the_program_reach_workers: forkserver spawn fork;
    processors_of_a_task_are_its_own_affair: forkserver spawn fork;
}

fn each_process_has_a_seed_of_its_own(context: &str) {
    assert_eq!(scenario("seeds", context, &[]).succeeded(), "29 are apart\n");
}

/// On a machine with one processor there is nothing to choose.
fn followed(context: &str, what: &str) {
    let finished = scenario("affinity", context, &[what]);
    assert!(["followed\n", "one processor\n"].contains(&finished.succeeded()));
}

fn processors_of_the_program_reach_processes(context: &str) {
    followed(context, "process");
}

fn processors_of_the_program_reach_workers(context: &str) {
    followed(context, "pool");
}

fn processors_of_a_task_are_its_own_affair(context: &str) {
    assert_eq!(scenario("affinity-of-nobody", context, &[]).succeeded(), "apart\n");
}
