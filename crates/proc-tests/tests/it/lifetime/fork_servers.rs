//! Fork servers that are killed, stopped, or reaped by somebody else.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc::{SIGCONT, SIGKILL, SIGRTMAX, SIGRTMIN, SIGSTOP, SYS_sendmsg};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use proc_core::sync::Mutex;
use proc_core::{Child, Pool, Process, StartMethod, ipc};

use crate::support::descriptors::count_descriptors;
use crate::support::marker_files::{self, MarkerFiles};
use crate::support::procfs::{children, exists, is_running};
use crate::support::{
    Arguments, SOON, assert_snapshot, describe, print_results, raw, run, start_through_env,
    wait_until, work_forever,
};

programs![
    kill_fork_servers,
    kill_fork_server_of_a_pool,
    kill_fork_server_of_a_fork_pool,
    kill_fork_server_of_a_stopped_child,
    sigchld_is_ignored,
    drop_pool_of_a_stopped_fork_server,
    fill_channel_of_a_stopped_owner,
    kill_owner_of_a_fork_server,
    others_reap_fork_servers,
    send_receivers
];

tests! {
    killed_fork_server_is_replaced: forkserver spawn;
    receivers_cross_after_all_fork_servers_were_killed: forkserver spawn;
    pool_outlives_its_fork_server: forkserver spawn;
    forked_pool_ends_with_its_fork_server: fork;
    child_that_was_stopped_at_its_birth_ends_with_its_fork_server: forkserver spawn;
    exits_are_noticed_when_sigchld_is_ignored: forkserver spawn fork;
    pool_of_a_stopped_fork_server_ends: forkserver spawn fork;
    fork_server_does_not_wait_for_a_stopped_owner: forkserver;
    fork_server_that_ends_tells_how_its_children_ended: forkserver;
    fork_servers_that_others_reap_leave_nothing: forkserver spawn fork;
}

/// The fork servers of this program that have not ended.
fn fork_servers() -> Vec<Pid> {
    let is_fork_server = |pid: &u32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm == "forkserver\n") && is_running(*pid)
    };
    children().into_iter().filter(is_fork_server).map(|pid| Pid::from_raw(pid as i32)).collect()
}

/// The state of a process as one letter; `None` if it does not exist.
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

/// Lets `start` start a process in another thread, and stops that process before its first
/// instruction. Then kills the fork server.
fn orphan_at_birth<R: Send + 'static>(start: impl FnOnce() -> R + Send + 'static) -> R {
    // With `Spawn`, the fork server that `init` has made is there too, and older.
    let fork_server = fork_servers().into_iter().max().expect("it was made");
    ptrace::seize(fork_server, ptrace::Options::PTRACE_O_TRACEFORK).expect("it is a child");
    let started = std::thread::spawn(start);
    let flags = Some(WaitPidFlag::__WALL);
    let forked = waitpid(fork_server, flags).expect("it is traced");
    assert!(matches!(forked, WaitStatus::PtraceEvent(..)), "{forked:?}");
    let newborn = ptrace::getevent(fork_server).expect("it has forked");
    let newborn = Pid::from_raw(newborn as i32);
    waitpid(newborn, flags).expect("it is traced, too");
    kill(newborn, Signal::SIGSTOP).expect("it is there");
    ptrace::detach(newborn, None).expect("it is traced");
    ptrace::detach(fork_server, None).expect("it is traced");
    let started = started.join().expect("the fork server tells of the start");
    wait_until(|| state(newborn) == Some('T'));
    kill(fork_server, Signal::SIGKILL).expect("it is there");
    wait_until(|| state(fork_server).is_none_or(|state| state == 'Z'));
    assert_eq!(state(newborn), Some('T'), "the kernel does not know that it is to end");
    started
}

/// A process, and then the worker of a pool, never make their first step. The program waits for
/// them, and for other children of the same fork server. It drops the last `Child`, so it waits for
/// that process only at its end.
fn kill_fork_server_of_a_stopped_child(arguments: &Arguments) {
    let start_method = arguments.start_method;
    let start = move || Process::new(|()| work_forever(), ()).start_method(start_method).start();
    let first = start().expect("it is started");
    let child = orphan_at_birth(start).expect("it was started");
    assert!(child.join().expect_err("its fork server was killed").is_death());
    assert!(first.join().expect_err("its fork server was killed").is_death());
    let first = start().expect("it is started");
    let child = orphan_at_birth(start).expect("it was started");
    child.kill().expect("it is not waited for");
    assert!(first.join().expect_err("its fork server was killed").is_death());
    let build = move || Pool::builder().processes(1).start_method(start_method).build();
    let bystander = build().expect("it is built");
    let pool = orphan_at_birth(build).expect("it was built");
    assert_eq!(bystander.apply(|x: u32| x + 1, 41).expect("it has a new worker"), 42);
    assert_eq!(pool.apply(|x: u32| x + 1, 41).expect("it has a new worker"), 42);
    let _ = orphan_at_birth(start).expect("it was started");
}

fn child_that_was_stopped_at_its_birth_ends_with_its_fork_server(start_method: StartMethod) {
    run(kill_fork_server_of_a_stopped_child, start_method, &[]).succeeded();
}

/// The signal that kills fork servers in this round.
fn deadly_signal(round: usize) -> i32 {
    [SIGKILL, SIGRTMIN(), SIGRTMAX()][round % 3]
}

/// Fork servers are killed, and processes are started at once, or when the fork server is gone.
fn kill_fork_servers(arguments: &Arguments) {
    let start = || {
        let child = Process::new(|x: u32| x + 1, 41).start_method(arguments.start_method).start();
        child.and_then(Child::join).expect("another fork server takes over")
    };
    assert_eq!(start(), 42);
    for round in 0..20 {
        let doomed = fork_servers();
        assert!(!doomed.is_empty(), "round {round}");
        for fork_server in &doomed {
            raw::send_signal(fork_server.as_raw() as u32, deadly_signal(round));
        }
        if round % 2 == 0 {
            wait_until(|| doomed.iter().all(|pid| !is_running(pid.as_raw() as u32)));
        }
        assert_eq!(start(), 42);
        let pool = Pool::builder().processes(2).start_method(arguments.start_method).build();
        let results = pool.and_then(|pool| pool.map(|x: u32| x + 1, [1, 2]));
        assert_eq!(results.expect("another fork server takes over"), [2, 3]);
    }
    println!("fork servers {}", fork_servers().len());
}

fn killed_fork_server_is_replaced(start_method: StartMethod) {
    assert_eq!(run(kill_fork_servers, start_method, &[]).succeeded(), "fork servers 1\n");
}

/// Both fork servers of a program are killed. A receiver can be sent only once.
fn send_receivers(arguments: &Arguments) {
    for start_method in [StartMethod::Forkserver, StartMethod::Spawn] {
        let child = Process::new(|x: u32| x, 1).start_method(start_method).start();
        assert_eq!(child.and_then(Child::join).expect("it returns"), 1);
    }
    assert_eq!(fork_servers().len(), 2);
    for round in 0..6 {
        let doomed = fork_servers();
        for fork_server in &doomed {
            raw::send_signal(fork_server.as_raw() as u32, deadly_signal(round));
        }
        wait_until(|| doomed.iter().all(|pid| !is_running(pid.as_raw() as u32)));
        let (sender, receiver) = ipc::channel::<u32>().expect("there are descriptors");
        let receive = |receiver: ipc::IpcReceiver<u32>| receiver.recv().expect("it is sent");
        let child = Process::new(receive, receiver).start_method(arguments.start_method).start();
        let child = child.expect("another fork server takes over");
        sender.send(7).expect("the child receives it");
        assert_eq!(child.join().expect("it returns"), 7);
    }
}

fn receivers_cross_after_all_fork_servers_were_killed(start_method: StartMethod) {
    run(send_receivers, start_method, &[]).succeeded();
}

/// A pool's fork server is killed, and with it its workers: idle first, then in tasks.
fn kill_fork_server_of_a_pool(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let child = Process::new(|()| work_forever(), ()).start_method(StartMethod::Forkserver).start();
    let child = child.expect("it can be started");
    let before = pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails");
    let kill_all = || {
        let doomed = fork_servers();
        for fork_server in &doomed {
            kill(*fork_server, Signal::SIGKILL).expect("it is our child");
        }
        doomed
    };
    let doomed = kill_all();
    wait_until(|| doomed.iter().all(|pid| !is_running(pid.as_raw() as u32)));
    wait_until(|| before.iter().all(|pid| !is_running(*pid)));
    println!("child: {}", describe(&child.join().expect_err("it went with its fork server")));
    let after = pool.map(|_: u32| std::process::id(), 0..50).expect("the pool goes on");
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");

    let marks = MarkerFiles::new();
    let inputs = (0..6).map(|task| (task, marks.path(&task.to_string())));
    let task = |(task, mark): (u32, PathBuf)| {
        marker_files::create(&mark);
        if task < 2 {
            work_forever();
        }
        task
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            marker_files::wait_for(&marks.path("0"));
            marker_files::wait_for(&marks.path("1"));
            kill_all();
        });
        print_results(pool.options().chunksize(1).try_map(task, inputs));
    });
    println!("{:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"));
}

fn pool_outlives_its_fork_server(start_method: StartMethod) {
    let finished = run(kill_fork_server_of_a_pool, start_method, &[]);
    assert_snapshot("killed_fork_server", 2, finished.succeeded());
}

/// The fork server of a `Fork` pool cannot be made again, because the program has threads now.
fn kill_fork_server_of_a_fork_pool(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let before = pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails");
    for fork_server in fork_servers() {
        kill(fork_server, Signal::SIGKILL).expect("it is our child");
    }
    wait_until(|| before.iter().all(|pid| !is_running(*pid)));
    println!("{}", describe(&pool.map(|x: u32| x, 0..5).expect_err("the pool has no worker")));
    pool.close();
    println!("{}", describe(&pool.join().expect_err("it is over")));
    drop(pool);
    let child = Process::new(|x: u32| x + 1, 41).start();
    println!("{}", child.and_then(Child::join).expect("another fork server takes over"));
}

fn forked_pool_ends_with_its_fork_server(start_method: StartMethod) {
    let finished = run(kill_fork_server_of_a_fork_pool, start_method, &[]);
    assert_snapshot("killed_fork_server_of_a_fork_pool", 2, finished.succeeded());
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// Uses a process and a pool.
fn use_both(arguments: &Arguments) {
    let child = Process::new(increment, 41).start_method(arguments.start_method).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    let pool = arguments.pool(2);
    println!("pool {:?}", pool.map(increment, 0..3).expect("nothing fails"));
}

/// The program was started with SIGCHLD ignored, as some daemons start programs.
fn sigchld_is_ignored(arguments: &Arguments) {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    let bit = 1 << (Signal::SIGCHLD as u32 - 1);
    assert!(ignored.is_some_and(|set| set & bit != 0), "the test ignores it");
    use_both(arguments);
}

const USED: &str = "process 42\npool [1, 2, 3]\n";

fn exits_are_noticed_when_sigchld_is_ignored(start_method: StartMethod) {
    let program = start_through_env("--ignore-signal=CHLD", sigchld_is_ignored, start_method);
    assert_eq!(program.finish().succeeded(), USED);
}

/// The fork servers are stopped while a pool with an endless task is dropped.
fn drop_pool_of_a_stopped_fork_server(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let pool = arguments.pool(1);
    let task = |mark: PathBuf| {
        marker_files::create(&mark);
        work_forever();
    };
    let grace = Duration::from_millis(50);
    let stuck = match arguments.rest == ["grace"] {
        true => pool.options().grace(grace).apply_async(task, marks.path("busy")),
        false => pool.apply_async(task, marks.path("busy")),
    };
    let stuck = stuck.expect("the pool is open");
    marker_files::wait_for(&marks.path("busy"));
    for pid in children() {
        kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("it is our child");
    }
    let start = Instant::now();
    drop(pool);
    let took = start.elapsed();
    assert!(took < SOON, "{took:?}");
    println!("{}", describe(&stuck.get().expect_err("it was dropped")));
}

fn pool_of_a_stopped_fork_server_ends(start_method: StartMethod) {
    for rest in [&[] as &[&str], &["grace"]] {
        let finished = run(drop_pool_of_a_stopped_fork_server, start_method, rest);
        assert_eq!(finished.succeeded(), "closed | the pool is closed\n");
    }
}

/// Holds a mutex, and says so.
fn hold((mutex, held): (Mutex<u32>, ipc::IpcSender<()>)) {
    let _guard = mutex.lock().expect("nobody has held it");
    held.send(()).expect("the program waits for it");
    work_forever();
}

/// A child has a fork server of its own, and a process made by that. The child is killed. Its fork
/// server ends, and kills the process, which holds a mutex.
fn kill_owner_of_a_fork_server(_: &Arguments) {
    let own = |argument: (Mutex<u32>, ipc::IpcSender<()>)| {
        let child = Process::new(hold, argument).start_method(StartMethod::Fork).start();
        child.and_then(Child::join).expect("it never returns");
    };
    let mutex = Mutex::new(5_u32).expect("there is memory");
    let (sender, held) = ipc::channel().expect("there are descriptors");
    let owner = Process::new(own, (mutex.clone(), sender)).start().expect("it is started");
    held.recv().expect("the process sends it");
    raw::send_signal(owner.pid(), SIGKILL);
    println!("{}", describe(&mutex.lock().expect_err("its holder was killed")));
}

fn fork_server_that_ends_tells_how_its_children_ended(start_method: StartMethod) {
    let finished = run(kill_owner_of_a_fork_server, start_method, &[]);
    assert!(finished.succeeded().contains("SIGKILL"), "{:?}", finished.succeeded());
}

/// Number of the results below. Four of them fill a channel.
const LARGE_RESULTS: usize = 100;

/// Has a pool with one worker, whose results go through the report channel. Returns the error of
/// the task in which the worker is killed.
fn own_a_pool((worker, begun, gate): (ipc::IpcSender<u32>, PathBuf, PathBuf)) -> String {
    let pool = Pool::builder().processes(1).build().expect("it is built");
    worker.send(pool.worker_pids()[0]).expect("the program receives it");
    let task = |(begun, gate): (PathBuf, PathBuf)| {
        marker_files::create(&begun);
        marker_files::wait_for(&gate);
        let (sender, _) = ipc::channel::<u32>().expect("there are descriptors");
        (sender, vec![0_u8; 60_000])
    };
    let inputs = vec![(begun, gate); LARGE_RESULTS];
    let results = pool.options().chunksize(LARGE_RESULTS).try_map(task, inputs);
    let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    let [error] = errors[..] else { panic!("{errors:?}") };
    describe(error)
}

/// A child with a pool is stopped. Its worker fills the report channel and is killed. The fork
/// server, which made both, cannot report that before the child goes on.
fn fill_channel_of_a_stopped_owner(_: &Arguments) {
    let marks = MarkerFiles::new();
    let gate = marks.path("gate");
    let (sender, worker) = ipc::channel().expect("there are descriptors");
    let argument = (sender, marks.path("begun"), gate.clone());
    let owner = Process::new(own_a_pool, argument).start().expect("it is started");
    let worker = worker.recv().expect("the owner sends it");
    marker_files::wait_for(&marks.path("begun"));
    raw::send_signal(owner.pid(), SIGSTOP);
    wait_until(|| state(Pid::from_raw(owner.pid() as i32)) == Some('T'));
    marker_files::create(&gate);
    let is_sending = || {
        let call = std::fs::read_to_string(format!("/proc/{worker}/syscall")).unwrap_or_default();
        call.split(' ').next() == Some(&SYS_sendmsg.to_string())
    };
    wait_until(is_sending);
    raw::send_signal(worker, SIGKILL);
    wait_until(|| !exists(worker));
    for _ in 0..3 {
        let child = Process::new(increment, 41).start().expect("the fork server serves");
        assert_eq!(child.join().expect("it returns"), 42);
    }
    raw::send_signal(owner.pid(), SIGCONT);
    println!("{}", owner.join().expect("it returns"));
}

fn fork_server_does_not_wait_for_a_stopped_owner(start_method: StartMethod) {
    let finished = run(fill_channel_of_a_stopped_owner, start_method, &[]);
    // Only the report that the fork server has kept tells the signal.
    assert!(finished.succeeded().starts_with("death signal=9 "), "{:?}", finished.succeeded());
}

/// Fork servers that somebody else reaps, the program or the system, leave nothing behind.
fn others_reap_fork_servers(arguments: &Arguments) {
    let use_one = || {
        let child = Process::new(increment, 41).start_method(arguments.start_method).start();
        assert_eq!(child.and_then(Child::join).expect("it returns"), 42);
    };
    if arguments.rest == ["ignored"] {
        raw::ignore_exits();
    }
    use_one();
    let before = count_descriptors();
    for _ in 0..50 {
        use_one();
        // The program collects all processes that have ended, as if it had started them.
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(s) if s.pid().is_some()) {}
    }
    wait_until(|| {
        use_one();
        count_descriptors() <= before + 2
    });
    println!("flat");
}

fn fork_servers_that_others_reap_leave_nothing(start_method: StartMethod) {
    for by in ["ignored", "waited"] {
        let finished = run(others_reap_fork_servers, start_method, &[by]);
        assert_eq!(finished.succeeded(), "flat\n", "{by}");
    }
}
