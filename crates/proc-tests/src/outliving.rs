//! What must not outlive a program that executes another, changes its user, or just ends.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::unistd::{self, Uid};
use proc_core::{Child, Pool, Process};

use crate::life::{children, children_of};
use crate::{Arguments, Scenario, marks, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("executes", executes),
    ("other-user", other_user),
    ("ends-somehow", ends_somehow),
    ("subreaper", subreaper),
];

fn increment(x: u32) -> u32 {
    x + 1
}

fn busy(_: u32) {
    println!("busy");
    work_for_ever();
}

/// The program becomes another one, while it has workers and processes.
fn executes(arguments: &Arguments) {
    let [state, program] = &arguments.rest[..] else { panic!("a state and a program") };
    let start = |daemon| {
        let asleep = |()| work_for_ever();
        Process::new(asleep, ()).start_method(arguments.context).daemon(daemon).start()
    };
    let children = [false, true].map(|daemon| start(daemon).expect("it can be started"));
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let mut tasks = Vec::new();
    if state == "busy" {
        tasks.extend((0..4).map(|x| pool.apply_async(busy, x).expect("the pool is open")));
    }
    // Nobody wants anything of the fork server of a Fork process whose child was dropped.
    let mut children = Vec::from(children);
    if state == "dropped" {
        children.clear();
    }
    println!("ready");
    // The test has seen everything alive when there is this mark.
    let go = std::env::temp_dir().join("go");
    marks::wait_for(&go);
    std::fs::remove_file(go).expect("it is there");
    let error = match program.as_str() {
        "sleep" => Command::new("sleep").arg("1000").exec(),
        _ => {
            let name = match arguments.context {
                proc_core::StartMethod::Forkserver => "forkserver",
                proc_core::StartMethod::Spawn => "spawn",
                proc_core::StartMethod::Fork => "fork",
            };
            let own = std::env::current_exe().expect("/proc is mounted");
            Command::new(own).args(["stay", name, "idle"]).exec()
        }
    };
    panic!("{error}, with {children:?} and {tasks:?}");
}

fn become_nobody(_: ()) {
    unistd::setuid(Uid::from_raw(65534)).expect("root may");
}

/// Workers have another user than the program and the fork server, from their set-up on.
fn other_user(arguments: &Arguments) {
    let builder = Pool::builder().processes(2).start_method(arguments.context);
    let is_nobody = |_: u32| {
        assert_eq!(unistd::getuid().as_raw(), 65534);
        busy(0);
    };
    let results = match arguments.word() {
        "initializer" => builder
            .initializer(become_nobody, ())
            .build()
            .map(|pool| pool.options().chunksize(1).try_map(is_nobody, 0..2)),
        "preload" => builder
            .preload(become_nobody, ())
            .build()
            .map(|pool| pool.options().chunksize(1).try_map(is_nobody, 0..2)),
        "state" => builder
            .state(become_nobody, ())
            .build()
            .map(|pool| pool.options().chunksize(1).try_map(is_nobody, 0..2)),
        other => panic!("no such place: {other}"),
    };
    let results = results.expect("the pool can be built");
    assert!(results.iter().all(Result::is_err), "they were killed: {results:?}");
    println!("done");
    work_for_ever();
}

static POOL: OnceLock<Pool> = OnceLock::new();

/// One of the ways in which a program ends in order.
fn ends_somehow(arguments: &Arguments) {
    let sleep = |()| work_for_ever();
    let context = arguments.context;
    match arguments.word() {
        "static" => {
            let pool = POOL.get_or_init(|| arguments.pool(2));
            pool.map(increment, 0..10).expect("nothing fails");
        }
        "busy" => {
            let pool = POOL.get_or_init(|| arguments.pool(2));
            std::mem::forget(pool.map_async(|_: u32| work_for_ever(), 0..4));
        }
        "daemon" => {
            let daemon = Process::new(sleep, ()).start_method(context).daemon(true).start();
            drop(daemon.expect("it can be started"));
        }
        "child" => {
            let child = Process::new(increment, 1).start_method(context).start();
            assert_eq!(child.and_then(Child::join).expect("it returns"), 2);
        }
        "waited-for" => {
            let child = Process::new(increment, 1).start_method(context).start();
            drop(child.expect("it can be started"));
        }
        "nothing" => {}
        how => {
            let pool = arguments.pool(2);
            pool.map(increment, 0..10).expect("nothing fails");
            match how {
                "return" => drop(pool),
                "exit" => std::process::exit(0),
                "panic" => panic!("told to"),
                "joined" => {
                    pool.close();
                    pool.join().expect("the workers end");
                }
                other => panic!("no such way: {other}"),
            }
        }
    }
}

/// A parent that orphans are given to and that collects only what it has started itself, as a
/// program that is pid 1 of a container.
fn subreaper(arguments: &Arguments) {
    let [way, context] = &arguments.rest[..] else { panic!("a way and a context") };
    nix::sys::prctl::set_child_subreaper(true).expect("Linux can");
    let before = children();
    for run in 0..5 {
        let own = std::env::current_exe().expect("/proc is mounted");
        let mut program = Command::new(own);
        program.args(["ends-somehow", context, way]).stdout(Stdio::null()).stderr(Stdio::null());
        let status = program.status().expect("it is there");
        assert_eq!(status.code(), Some(if way == "panic" { 101 } else { 0 }), "run {run}");
        let ours = || children().into_iter().filter(|pid| !before.contains(pid));
        let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // Whoever lives on for a moment ends, and is then collected or is a zombie for ever.
        marks::wait_until(|| ours().all(|pid| stat(&pid).is_ok_and(|stat| stat.contains(") Z "))));
        let left: Vec<String> = ours().filter_map(|pid| stat(&pid).ok()).collect();
        assert!(left.is_empty(), "run {run} of {way} left zombies: {left:?}");
    }
    assert!(before.iter().all(|pid| children_of(*pid).is_empty()));
    println!("clean");
}
