//! `init`: missing, repeated, after a thread, in a child, and before `daemon`.

use std::process::Command;

use proc_core::{Pool, Process, StartMethod};

use crate::support::fork::fork_and_wait;
use crate::support::{Arguments, Running, run};

programs![
    init_twice,
    init_in_child,
    daemon_after_init,
    #[without_init]
    init_is_missing,
    #[without_init]
    init_after_a_thread
];

tests! {
    processes_and_pools_work_without_init: forkserver spawn fork;
    late_init_falls_back_to_execution: forkserver spawn;
    init_twice_is_harmless: forkserver spawn;
    init_in_a_child_is_harmless: forkserver spawn fork;
    error_of_a_daemon_after_init_says_what_to_do: forkserver spawn fork;
    program_need_not_reach_init_when_it_is_executed;
}

fn init_is_missing(arguments: &Arguments) {
    use_everything(arguments.start_method);
}

fn processes_and_pools_work_without_init(start_method: StartMethod) {
    assert_eq!(run(init_is_missing, start_method, &[]).succeeded(), "used\n");
}

/// `init` is called beside a second thread that lives on.
fn init_after_a_thread(arguments: &Arguments) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    proc_core::init();
    use_everything(arguments.start_method);
    drop(stop);
    assert!(thread.join().expect("it does not panic").is_err());
}

fn late_init_falls_back_to_execution(start_method: StartMethod) {
    assert_eq!(run(init_after_a_thread, start_method, &[]).succeeded(), "used\n");
}

fn init_twice(arguments: &Arguments) {
    proc_core::init();
    use_everything(arguments.start_method);
    proc_core::init();
    use_everything(arguments.start_method);
}

fn init_twice_is_harmless(start_method: StartMethod) {
    assert_eq!(run(init_twice, start_method, &[]).succeeded(), "used\nused\n");
}

fn init_in_child(arguments: &Arguments) {
    let nested = |x: u32| {
        proc_core::init();
        use_everything(StartMethod::Forkserver);
        proc_core::init();
        x
    };
    let child = Process::new(nested, 5).start_method(arguments.start_method).start();
    println!("process {}", child.and_then(proc_core::Child::join).expect("init is harmless"));
    let pool = Pool::builder().processes(1).start_method(arguments.start_method).build();
    println!("pool {}", pool.and_then(|pool| pool.apply(nested, 6)).expect("init is harmless"));
}

fn use_everything(start_method: StartMethod) {
    let child =
        Process::new(double, 21).start_method(start_method).start().expect("it can be started");
    assert_eq!(child.join().expect("it returns"), 42);
    let pool = Pool::builder().processes(2).start_method(start_method).build();
    let pool = pool.expect("it can be built");
    assert_eq!(pool.map(double, 0..10).expect("nothing fails").iter().sum::<u32>(), 90);
    println!("used");
}

fn double(x: u32) -> u32 {
    2 * x
}

fn init_in_a_child_is_harmless(start_method: StartMethod) {
    let expected = "used\nprocess 5\nused\npool 6\n";
    assert_eq!(run(init_in_child, start_method, &[]).succeeded(), expected);
}

/// The program goes on as a copy of itself in a session of its own, as daemons do.
fn daemon_after_init(arguments: &Arguments) {
    if fork_and_wait() {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("Linux can");
        nix::unistd::setsid().expect("it leads no group");
        crate::environment::use_all(arguments);
        std::process::exit(0);
    }
    println!("daemon ended");
}

fn error_of_a_daemon_after_init_says_what_to_do(start_method: StartMethod) {
    let finished = run(daemon_after_init, start_method, &[]);
    let told = finished.succeeded();
    for line in told.lines() {
        let is_fine = line.ends_with(": fine") || line == "daemon ended";
        assert!(is_fine || line.contains("fork") && line.contains("init"), "{line}");
    }
    assert!(told.ends_with("daemon ended\n"));
}

/// The program calls `init` only if it has arguments. An executed fork server has none.
fn program_need_not_reach_init_when_it_is_executed() {
    for way in ["forkserver", "spawn"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_careless"));
        command.env_clear().arg(way).stdout(std::process::Stdio::piped());
        assert_eq!(Running::start(command).finish().succeeded(), "Ok(42)\n", "{way}");
    }
}
