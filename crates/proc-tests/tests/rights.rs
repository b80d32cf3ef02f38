//! No worker and no process has more rights than its program has when it is started.

mod support;
use std::io::Write as _;

use support::scenario;

in_contexts! {
    capabilities_given_up_stay_away: forkserver spawn fork;
    bounding_sets_stay_empty: forkserver spawn fork;
    groups_given_up_stay_away: forkserver spawn fork;
    no_new_privs_and_filters_hold_for_all: forkserver spawn fork;
    sandboxes_hold_for_all: forkserver spawn fork;
    namespaces_are_left_by_all: forkserver spawn fork;
    changed_roots_hold_for_all: forkserver spawn fork;
    who_gives_up_nothing_loses_nothing: forkserver spawn fork;
}

/// What is started after rights were given up.
const LATER: [&str; 4] = ["process", "nested", "pool", "preload"];
/// What was there before, and starts a worker anew.
const EARLIER: [&str; 2] = ["replaced", "preloaded"];

fn check(context: &str, ways: &[&str]) {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: only root has rights to give up");
        return;
    }
    for way in ways {
        let run = |stages: &[&str]| {
            let finished = scenario("rights", context, &[&[*way], stages].concat());
            let told = finished.succeeded();
            assert_eq!(told.lines().count(), stages.iter().filter(|s| **s != "forkserver").count());
            for line in told.lines() {
                let (what, came) = line.split_once(": ").expect("each line names a stage");
                assert!(!came.starts_with("MORE"), "{way}: {line}");
                // An empty root has no program that could be executed, and what was made before may
                // have nobody left who could make more.
                let may_fail = *way == "chroot-empty" || EARLIER.contains(&what);
                assert!(
                    came == "no more" || may_fail && came.starts_with("refused: "),
                    "{way}: {line}"
                );
            }
        };
        if context == "fork" {
            // Once a pool has threads there is no forking.
            LATER.iter().chain(&EARLIER).for_each(|stage| run(&[stage]));
        } else {
            run(&LATER);
            run(&[&["forkserver"], &LATER[..]].concat());
            run(&EARLIER);
        }
    }
}

fn capabilities_given_up_stay_away(context: &str) {
    check(context, &["capabilities", "some-capabilities", "effective"]);
}

fn bounding_sets_stay_empty(context: &str) {
    check(context, &["bounding", "all-capabilities"]);
}

fn groups_given_up_stay_away(context: &str) {
    check(context, &["groups", "one-group"]);
}

fn no_new_privs_and_filters_hold_for_all(context: &str) {
    check(context, &["no-new-privs", "seccomp"]);
}

fn sandboxes_hold_for_all(context: &str) {
    check(context, &["sandbox"]);
}

fn namespaces_are_left_by_all(context: &str) {
    check(context, &["net", "uts", "ipc", "mount", "cgroup"]);
}

fn changed_roots_hold_for_all(context: &str) {
    check(context, &["chroot-whole", "chroot-empty"]);
}

fn who_gives_up_nothing_loses_nothing(context: &str) {
    check(context, &["nothing"]);
}
