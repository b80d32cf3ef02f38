//! The end of a program, and of a process: who is waited for, and who is not.

mod support;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{scenario, start};

in_contexts! {
    end_of_main_waits_for_children: forkserver spawn fork;
    interrupt_ends_the_waiting: forkserver spawn fork;
    killed_program_waits_for_nobody: forkserver spawn fork;
    daemons_are_told_to_end: forkserver spawn fork;
    process_waits_for_its_own_children: forkserver spawn fork;
    worker_waits_for_nobody: forkserver spawn fork;
}

fn end_of_main_waits_for_children(context: &str) {
    for (way, code) in [("returns", 0), ("exits", 3), ("exits in a thread", 3), ("panics", 101)] {
        let finished = scenario("children-at-the-end", context, &[way]);
        assert_eq!(finished.stdout, "main ends\nboth children are done\n", "{way}");
        assert_eq!(finished.status.code(), Some(code), "{way}: {}", finished.status);
        let panics = finished.stderr.matches("panicked at").count();
        assert_eq!(panics, usize::from(way == "panics"), "{}", finished.stderr);
    }
}

fn interrupt_ends_the_waiting(context: &str) {
    let mut program = start("stuck-at-the-end", context, &[]);
    program.lines(1, "main is over");
    program.signal_group(Signal::SIGINT);
    program.finish().was_killed_by(Signal::SIGINT);
}

fn killed_program_waits_for_nobody(context: &str) {
    let mut program = start("stuck-at-the-end", context, &[]);
    program.lines(1, "main is over");
    program.signal(Signal::SIGKILL);
    program.finish().was_killed_by(Signal::SIGKILL);
}

fn daemons_are_told_to_end(context: &str) {
    for way in ["dropped", "kept"] {
        let finished = scenario("daemons-at-the-end", context, &[way]);
        assert_eq!(finished.succeeded(), "main ends\ndaemon was told\nchild is done\n", "{way}");
        // One is deaf, and has half a second.
        assert!(finished.took >= Duration::from_millis(500), "{:?}", finished.took);
    }
}

fn process_waits_for_its_own_children(context: &str) {
    let told = "child returns\ngrandchild is done\njoined\n";
    assert_eq!(scenario("grandchildren", context, &[]).succeeded(), told);
}

fn worker_waits_for_nobody(context: &str) {
    assert_eq!(scenario("children-of-workers", context, &[]).succeeded(), "joined\n");
}
