//! `Process` and `Child`.

mod support;
use support::{Running, assert_told, command, scenario};

in_contexts! {
    names_are_for_people_and_ps: forkserver spawn fork;
    surroundings_are_those_of_the_start: forkserver spawn fork;
    every_end_is_told: forkserver spawn fork;
    child_comes_back_from_a_timeout: forkserver spawn fork;
    signals_end_a_child: forkserver spawn fork;
    stop_asks_and_then_kills: forkserver spawn fork;
    overrides_reach_the_process: forkserver spawn fork;
    sentinels_tell_who_has_ended: forkserver spawn;
    many_children_are_waited_for_at_once: forkserver spawn fork;
    dropped_child_goes_on: forkserver spawn fork;
    fork_is_refused_with_threads: fork;
    large_values_block_nobody: forkserver spawn fork;
}

fn names_are_for_people_and_ps(context: &str) {
    assert_told("names", 1, scenario("names", context, &[]).succeeded());
}

fn surroundings_are_those_of_the_start(context: &str) {
    let mut command = command();
    command.args(["environment-at-start", context]).env("PROC_TESTS_INHERITED", "yes");
    assert_eq!(
        Running::start(command).finish().succeeded(),
        "at first\nanother directory\na new variable\none changed, one gone\nand back\na worker\n"
    );
}

fn every_end_is_told(context: &str) {
    let finished = scenario("ends", context, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_told("ends", 0, &finished.stdout);
    // The one panic, as in a program of its own.
    assert_eq!(finished.stderr.matches("panicked at").count(), 1, "{}", finished.stderr);
}

fn child_comes_back_from_a_timeout(context: &str) {
    assert_told("join_timeout", 0, scenario("join-timeout", context, &[]).succeeded());
}

fn signals_end_a_child(context: &str) {
    assert_told("signals", 0, scenario("signals", context, &[]).succeeded());
}

fn stop_asks_and_then_kills(context: &str) {
    assert_told("stopped", 0, scenario("stopped", context, &[]).succeeded());
}

fn overrides_reach_the_process(context: &str) {
    assert_told("overrides", 0, scenario("overrides", context, &[]).succeeded());
}

fn sentinels_tell_who_has_ended(context: &str) {
    assert_eq!(scenario("sentinels", context, &[]).succeeded(), "one\nanother\nthe last\n");
}

fn many_children_are_waited_for_at_once(context: &str) {
    // What is not killed: all below 20 that three does not divide.
    assert_eq!(scenario("many-sentinels", context, &[]).succeeded(), "127\n");
}

fn dropped_child_goes_on(context: &str) {
    assert_eq!(scenario("dropped-child", context, &[]).succeeded(), "done\ndropped\n");
}

fn fork_is_refused_with_threads(context: &str) {
    assert_told("fork_with_threads", 0, scenario("fork-with-threads", context, &[]).succeeded());
}

fn large_values_block_nobody(context: &str) {
    assert_told("large_and_killed", 0, scenario("large-and-killed", context, &[]).succeeded());
}

#[test]
fn fork_alone_sees_the_callers_memory() {
    let told = |process_1, process_2, worker| {
        format!(
            "unfinished process {process_1}\nprocess {process_2}\nworker {worker}\n\
             next worker {worker}\n"
        )
    };
    let seen = |context| scenario("fork-sees-memory", context, &[]).succeeded().to_owned();
    assert_eq!(seen("fork"), told(2, 3, 3));
    assert_eq!(seen("forkserver"), told(1, 1, 1));
    assert_eq!(seen("spawn"), told(1, 1, 1));
}
