//! Signals to a whole group, as terminals and service managers send them: what they do to a
//! program, its workers, its processes, its fork servers and what its tasks execute. Each line of
//! the table in `docs/signals.md` has its tests here. (Most tests of SIGKILL are in other files.)

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use proc_core::{Child, Limits, Pool, Process, StartMethod};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::procfs::{SignalSets, bit, children, is_running};
use crate::support::{Arguments, Running, machine, raw, run, start, wait_until, work_forever};

programs![
    count_group_signals,
    read_while_signals_come,
    let_processes_die,
    look_at_signals,
    start_in_a_task,
    execute_and_end,
    #[without_init]
    handle_signals,
    reset_signals,
    work_under_signals,
    #[without_init]
    make_fork_servers,
    stop_all,
    lose_a_worker
];

tests! {
    group_signals_reach_the_program_alone: forkserver spawn fork;
    group_signals_do_not_interrupt_a_task_that_reads: forkserver spawn fork;
    group_signals_end_processes: forkserver spawn fork;
    signals_of_a_process_are_as_the_table_says: forkserver spawn fork;
    process_of_a_task_has_default_actions: forkserver spawn fork;
    what_a_task_has_executed_goes_on: forkserver spawn fork;
    handlers_of_the_user_stay: forkserver spawn fork;
    initializer_may_choose_the_default_action: forkserver spawn fork;
    signals_at_any_moment_harm_nothing: forkserver spawn fork;
    program_that_dies_while_it_starts_leaves_nothing: forkserver spawn fork;
    stop_signals_stop_all_until_they_are_continued: forkserver spawn fork;
    program_gets_no_sigchld_for_workers: forkserver spawn fork;
    python_loses_the_tasks;
}

/// The signals that a terminal or a service manager sends to all processes of a program.
const GROUP_SIGNALS: [Signal; 4] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The pids of both workers of a pool, sorted: two tasks wait for each other.
fn both_workers(pool: &Pool, marks: &MarkerFiles, when: &str) -> Vec<u32> {
    let meet = |(own, other): (PathBuf, PathBuf)| {
        marker_files::create(&own);
        marker_files::wait_for(&other);
        std::process::id()
    };
    let [a, b] = ["a", "b"].map(|name| marks.path(&format!("{when} {name}")));
    let pids = pool.options().chunksize(1).map(meet, [(a.clone(), b.clone()), (b, a)]);
    let mut pids = pids.expect("both workers live");
    pids.sort_unstable();
    pids
}

/// A pool of two workers; its own fork server makes them if the word says so.
fn plain_or_preloaded_pool(arguments: &Arguments) -> Pool {
    let builder = arguments.pool_builder(2);
    let builder = match arguments.word() {
        "plain" => builder,
        "preloaded" => builder.preload(|()| (), ()),
        other => panic!("no such pool: {other}"),
    };
    builder.build().expect("it can be built")
}

/// The program counts signals. One of its workers is idle, the other is busy.
fn count_group_signals(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let pool = plain_or_preloaded_pool(arguments);
    let before = (both_workers(&pool, &marks, "before"), children());
    let work = |(begun, end): (PathBuf, PathBuf)| {
        marker_files::create(&begun);
        marker_files::wait_for(&end);
        std::process::id()
    };
    let paths = (marks.path("begun"), marks.path("end"));
    let busy = pool.apply_async(work, paths).expect("the pool is open");
    marker_files::wait_for(&marks.path("begun"));
    // Copies of the program that were made before have no such handler.
    GROUP_SIGNALS.into_iter().for_each(raw::count_signal);
    println!("ready");
    wait_until(|| GROUP_SIGNALS.into_iter().all(|signal| raw::counted(signal) == 1));
    marker_files::create(&marks.path("end"));
    assert!(before.0.contains(&busy.get().expect("it is not interrupted")));
    assert_eq!((both_workers(&pool, &marks, "after"), children()), before);
    // Its fork server lives on too, and makes another worker.
    pool.resize(3).expect("it can grow");
    assert_eq!(pool.map(|x: u32| x + 1, [1, 2]).expect("nothing fails"), [2, 3]);
    println!("the same workers");
}

fn group_signals_reach_the_program_alone(start_method: StartMethod) {
    for pool in ["plain", "preloaded"] {
        let mut program = start(count_group_signals, start_method, &[pool]);
        program.lines(1, "ready");
        GROUP_SIGNALS.into_iter().for_each(|signal| program.signal_group(signal));
        assert_eq!(program.finish().succeeded(), "ready\nthe same workers\n");
    }
}

/// A task waits in `read` while signals come.
fn read_while_signals_come(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let fifo = marks.path("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("it can be made");
    let pool = arguments.pool(1);
    let worker = pool.worker_pids()[0];
    let read = |fifo: PathBuf| -> String {
        let mut byte = [0];
        match File::open(fifo).and_then(|mut fifo| fifo.read(&mut byte)) {
            Ok(read) => format!("read {read}"),
            Err(error) => format!("{error}"),
        }
    };
    let task = pool.apply_async(read, fifo.clone()).expect("the pool is open");
    let mut fifo = File::options().write(true).open(fifo).expect("the task reads it");
    let is_asleep = || {
        let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).expect("it lives");
        stat.contains(") S ")
    };
    wait_until(is_asleep);
    for signal in GROUP_SIGNALS {
        kill(Pid::from_raw(worker as i32), signal).expect("it lives");
    }
    // It has taken the signals, and waits again.
    let pending = || {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).expect("it lives");
        !status.contains("ShdPnd:\t0000000000000000")
    };
    wait_until(|| !pending() && is_asleep());
    fifo.write_all(b"x").expect("the task reads it");
    println!("{}", task.get().expect("the worker lives"));
}

fn group_signals_do_not_interrupt_a_task_that_reads(start_method: StartMethod) {
    assert_eq!(run(read_while_signals_come, start_method, &[]).succeeded(), "read 1\n");
}

fn signal_named(name: &str) -> Signal {
    name.parse().expect("it is the name of a signal")
}

/// The program survives a signal to its group; its processes do not.
fn let_processes_die(arguments: &Arguments) {
    let signal = signal_named(arguments.word());
    let start = || {
        let process = Process::new(|()| work_forever(), ()).start_method(arguments.start_method);
        process.limits(Limits::new().no_core_dumps()).start()
    };
    let child = start().expect("it can be started");
    // A process of `Fork` that begins later would be a copy with this handler.
    raw::count_signal(signal);
    println!("ready");
    wait_until(|| raw::counted(signal) == 1);
    let error = child.join().expect_err("the signal has ended it");
    let pid = format!("pid {}", error.pid().expect("it had one"));
    println!("{}", error.to_string().replace(&pid, "pid"));
}

fn group_signals_end_processes(start_method: StartMethod) {
    for signal in GROUP_SIGNALS {
        let mut program = start(let_processes_die, start_method, &[signal.as_str()]);
        program.lines(1, "ready");
        program.signal_group(signal);
        let finished = program.finish();
        let killed = format!("the process was killed by signal {} ({signal})", signal as i32);
        assert!(finished.succeeded().contains(&killed), "{}", finished.stdout);
    }
}

/// The sets of a program that the calling process executes.
fn sets_of_executed(_: ()) -> SignalSets {
    let output = Command::new("cat").arg("/proc/self/status").output().expect("there is a cat");
    SignalSets::parse(&String::from_utf8(output.stdout).expect("it is text"))
}

fn own_sets(_: ()) -> SignalSets {
    SignalSets::of_process("self")
}

fn all_group_signals() -> u64 {
    GROUP_SIGNALS.map(bit).into_iter().sum()
}

fn look_at_signals(arguments: &Arguments) {
    // A process of `Fork` must begin before the pool's threads.
    let process = Process::new(own_sets, ()).start_method(arguments.start_method).start();
    let process = process.and_then(Child::join).expect("it returns");
    let of_process = Process::new(sets_of_executed, ()).start_method(arguments.start_method);
    let of_process = of_process.start().and_then(Child::join).expect("it returns");
    let pool = plain_or_preloaded_pool(arguments);
    let all = all_group_signals();
    let (sigpipe, sigchld) = (bit(Signal::SIGPIPE), bit(Signal::SIGCHLD));
    let program = own_sets(());
    assert_eq!(program.ignored, sigpipe, "{program:x?}");
    let worker = pool.apply(own_sets, ()).expect("it returns");
    assert_eq!((worker.blocked, worker.ignored), (program.blocked, sigpipe), "{worker:x?}");
    assert_eq!(worker.handled & (all | sigchld), all, "{worker:x?}");
    assert_eq!((process.blocked, process.ignored), (program.blocked, sigpipe), "{process:x?}");
    assert_eq!(process.handled & (all | sigchld), 0, "{process:x?}");
    for fork_server in children() {
        let sets = SignalSets::of_process(&fork_server.to_string());
        assert_eq!(sets.blocked & (all | sigchld), all | sigchld, "{sets:x?}");
        assert_eq!(sets.ignored, sigpipe, "{sets:x?}");
    }
    // A program that a task executes is like one that the program executes: it blocks, ignores and
    // handles no signal.
    let executed = sets_of_executed(());
    assert_eq!(executed, SignalSets { blocked: 0, ignored: 0, handled: 0 });
    assert_eq!(pool.apply(sets_of_executed, ()).expect("it returns"), executed);
    assert_eq!(of_process, executed);
    println!("as the table says");
}

fn signals_of_a_process_are_as_the_table_says(start_method: StartMethod) {
    for pool in ["plain", "preloaded"] {
        let finished = run(look_at_signals, start_method, &[pool]);
        assert_eq!(finished.succeeded(), "as the table says\n");
    }
}

/// A process that a task starts is no worker, whichever way it is made.
fn start_in_a_task(arguments: &Arguments) {
    fn start<const START_METHOD: u8>(_: ()) -> u64 {
        let start_method = match START_METHOD {
            0 => StartMethod::Forkserver,
            1 => StartMethod::Spawn,
            _ => StartMethod::Fork,
        };
        let child = Process::new(own_sets, ()).start_method(start_method).start();
        let sets = child.and_then(Child::join).expect("it returns");
        let stuck = Process::new(|()| work_forever(), ()).start_method(start_method).start();
        let stuck = stuck.expect("it can be started");
        stuck.terminate().expect("it is ours");
        let error = stuck.join().expect_err("it is ended");
        assert!(error.to_string().contains("SIGTERM"), "{error}");
        sets.handled
    }
    let pool = plain_or_preloaded_pool(arguments);
    let all = all_group_signals();
    let handled = [
        pool.apply(start::<0>, ()).expect("nothing fails"),
        pool.apply(start::<1>, ()).expect("nothing fails"),
        pool.apply(start::<2>, ()).expect("nothing fails"),
    ];
    assert_eq!(handled.map(|handled| handled & all), [0; 3]);
    println!("default actions");
}

fn process_of_a_task_has_default_actions(start_method: StartMethod) {
    for pool in ["plain", "preloaded"] {
        let finished = run(start_in_a_task, start_method, &[pool]);
        assert_eq!(finished.succeeded(), "default actions\n");
    }
}

/// A task has executed a program. Its worker ends in the way that is named.
fn execute_and_end(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let pool = arguments.pool(1);
    let execute = |(file, is_busy): (PathBuf, bool)| {
        #[expect(clippy::zombie_processes, reason = "the worker ends first")]
        let executed = Command::new("sleep").arg("1000").spawn().expect("there is a sleep");
        // The whole file appears at once.
        std::fs::write(file.with_extension("new"), executed.id().to_string()).expect("a file");
        std::fs::rename(file.with_extension("new"), &file).expect("it is there");
        if is_busy {
            work_forever();
        }
    };
    let file = marks.path("pid");
    let way = arguments.word();
    let argument = (file.clone(), way != "idle");
    let task = match way {
        "timeout" => pool.options().timeout(Duration::from_millis(500)),
        _ => pool.options(),
    }
    .apply_async(execute, argument);
    let task = task.expect("the pool is open");
    marker_files::wait_for(&file);
    let executed = std::fs::read_to_string(&file).expect("it is there");
    let executed: u32 = executed.parse().expect("it is a pid");
    let worker = pool.worker_pids()[0];
    match way {
        "idle" => {
            task.get().expect("it returns");
            pool.terminate();
        }
        "terminate" => pool.terminate(),
        "drop" => drop(pool),
        "cancel" => assert!(task.cancel(), "it runs"),
        "timeout" => assert!(task.get().expect_err("it has not returned").is_timeout()),
        "kill" => kill(Pid::from_raw(worker as i32), Signal::SIGKILL).expect("it lives"),
        other => panic!("no such end: {other}"),
    }
    wait_until(|| !is_running(worker));
    assert!(is_running(executed), "it went with its worker");
    // It has the default action.
    kill(Pid::from_raw(executed as i32), Signal::SIGTERM).expect("it runs");
    wait_until(|| !is_running(executed));
    println!("it went on");
}

fn what_a_task_has_executed_goes_on(start_method: StartMethod) {
    for way in ["idle", "terminate", "drop", "cancel", "timeout", "kill"] {
        let finished = run(execute_and_end, start_method, &[way]);
        assert_eq!(finished.succeeded(), "it went on\n", "{way}");
    }
}

/// The program has set a handler before its fork server was made, or the function of `preload` or
/// `initializer` sets one.
fn handle_signals(arguments: &Arguments) {
    let pool = match arguments.word() {
        "program" => {
            GROUP_SIGNALS.into_iter().for_each(raw::count_signal);
            proc_core::init();
            let child = Process::new(own_sets, ()).start_method(arguments.start_method).start();
            let sets = child.and_then(Child::join).expect("it returns");
            let is_copy = sets.handled & all_group_signals() == all_group_signals();
            assert_eq!(is_copy, arguments.start_method != StartMethod::Spawn, "{sets:x?}");
            arguments.pool(1)
        }
        "preload" => {
            proc_core::init();
            let set = |()| GROUP_SIGNALS.into_iter().for_each(raw::count_signal);
            arguments.pool_builder(1).preload(set, ()).build().expect("it can be built")
        }
        "initializer" => {
            proc_core::init();
            let set = |()| GROUP_SIGNALS.into_iter().for_each(raw::count_signal);
            arguments.pool_builder(1).initializer(set, ()).build().expect("it can be built")
        }
        other => panic!("no such place: {other}"),
    };
    let count = |()| GROUP_SIGNALS.map(raw::counted);
    assert_eq!(pool.apply(count, ()).expect("it returns"), [0; 4]);
    GROUP_SIGNALS.into_iter().for_each(raw::count_signal);
    println!("ready");
    wait_until(|| GROUP_SIGNALS.into_iter().all(|signal| raw::counted(signal) == 1));
    println!("{:?}", pool.apply(count, ()).expect("it returns"));
}

fn handlers_of_the_user_stay(start_method: StartMethod) {
    for place in ["program", "preload", "initializer"] {
        let mut program = start(handle_signals, start_method, &[place]);
        program.lines(1, "ready");
        GROUP_SIGNALS.into_iter().for_each(|signal| program.signal_group(signal));
        // An executed program has no handlers.
        let executed = start_method == StartMethod::Spawn && place == "program";
        let counts = if executed { "[0, 0, 0, 0]" } else { "[1, 1, 1, 1]" };
        assert_eq!(program.finish().succeeded(), format!("ready\n{counts}\n"), "{place}");
    }
}

/// An initializer has given SIGTERM its default action.
fn reset_signals(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let reset = |()| raw::reset_signal(Signal::SIGTERM);
    let builder = arguments.pool_builder(1).initializer(reset, ());
    let pool = builder.build().expect("it can be built");
    let work = |mark: PathBuf| {
        marker_files::create(&mark);
        work_forever();
    };
    let task = pool.apply_async(work, marks.path("busy")).expect("the pool is open");
    marker_files::wait_for(&marks.path("busy"));
    raw::count_signal(Signal::SIGTERM);
    println!("ready");
    let error = task.get().expect_err("the signal has ended the worker");
    println!("killed {}", error.to_string().contains("SIGTERM"));
}

fn initializer_may_choose_the_default_action(start_method: StartMethod) {
    let mut program = start(reset_signals, start_method, &[]);
    program.lines(1, "ready");
    program.signal_group(Signal::SIGTERM);
    assert_eq!(program.finish().succeeded(), "ready\nkilled true\n");
}

/// Makes and uses pools while signals come all the time.
fn work_under_signals(arguments: &Arguments) {
    GROUP_SIGNALS.into_iter().for_each(raw::count_signal);
    println!("ready");
    wait_until(|| GROUP_SIGNALS.into_iter().all(|signal| raw::counted(signal) > 0));
    for round in 0..5 {
        let builder = match (arguments.start_method, round) {
            // Only the first pool is forked. The others have the default start method.
            (StartMethod::Fork, 1..) => Pool::builder().start_method(StartMethod::Forkserver),
            (start_method, _) => Pool::builder().start_method(start_method),
        };
        let builder = builder.processes(2).idle_timeout(Duration::from_millis(1 + round % 2));
        let builder = if round % 2 == 1 { builder.preload(|()| (), ()) } else { builder };
        let pool = builder.max_tasks_per_child(20).build().expect("it can be built");
        for _ in 0..5 {
            let results = pool.options().chunksize(1).map(|x: u32| x + 1, 0..100);
            assert!(results.expect("nothing fails").into_iter().eq(1..101));
        }
        if round % 3 == 0 {
            pool.close();
            pool.join().expect("the workers end");
        }
    }
    println!("done");
}

fn signals_at_any_moment_harm_nothing(start_method: StartMethod) {
    let mut program = start(work_under_signals, start_method, &[]);
    program.lines(1, "ready");
    let group = Pid::from_raw(program.pid());
    let (runs, end) = mpsc::channel::<()>();
    let sender = std::thread::spawn(move || {
        for signal in GROUP_SIGNALS.into_iter().cycle() {
            // The program must get on as well.
            let pause = end.recv_timeout(Duration::from_micros(300));
            if pause != Err(RecvTimeoutError::Timeout) || killpg(group, signal).is_err() {
                break;
            }
        }
    });
    program.lines(1, "done");
    drop(runs);
    sender.join().expect("it does not panic");
    program.finish().succeeded();
}

/// Without `init`, `Forkserver` executes a fork server too.
fn make_fork_servers(arguments: &Arguments) {
    println!("starts");
    let pool = arguments.pool_builder(2).preload(|()| (), ()).build().expect("it can be built");
    pool.map(|_: u32| work_forever(), 0..2).expect("it is ended from outside");
}

fn program_that_dies_while_it_starts_leaves_nothing(start_method: StartMethod) {
    for round in 0..40 {
        let mut program = start(make_fork_servers, start_method, &[]);
        program.lines(1, "starts");
        std::thread::sleep(Duration::from_micros(250 * round)); // another moment in each round
        program.signal_group(Signal::SIGTERM);
        program.finish().was_killed_by(Signal::SIGTERM);
    }
}

/// All processes of the program are stopped and continued while they work.
fn stop_all(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let go = marks.path("go");
    let pool = arguments.pool(2);
    let execute = |(begun, go): (PathBuf, PathBuf)| {
        let mut executed = Command::new("sleep").arg("1000").spawn().expect("there is a sleep");
        marker_files::create(&begun);
        marker_files::wait_for(&go);
        executed.kill().and_then(|()| executed.wait()).expect("it is ours");
        std::process::id()
    };
    let paths = (marks.path("task"), go.clone());
    let task = pool.apply_async(execute, paths).expect("the pool is open");
    let start_method = match arguments.start_method {
        StartMethod::Fork => StartMethod::Forkserver, // the pool's threads are there
        other => other,
    };
    let wait = |(begun, go): (PathBuf, PathBuf)| {
        marker_files::create(&begun);
        marker_files::wait_for(&go);
    };
    let paths = (marks.path("process"), go.clone());
    let child = Process::new(wait, paths).start_method(start_method).start();
    let child = child.expect("it can be started");
    marker_files::wait_for(&marks.path("task"));
    marker_files::wait_for(&marks.path("process"));
    raw::count_signal(Signal::SIGCONT);
    println!("ready");
    wait_until(|| raw::counted(Signal::SIGCONT) == 1);
    marker_files::create(&go);
    assert!(pool.worker_pids().contains(&task.get().expect("it goes on")));
    child.join().expect("it goes on");
    println!("all go on");
}

fn stop_signals_stop_all_until_they_are_continued(start_method: StartMethod) {
    for signal in [Signal::SIGTSTP, Signal::SIGSTOP] {
        let mut program = start(stop_all, start_method, &[]);
        program.lines(1, "ready");
        program.signal_group(signal);
        program.wait_for_members("all should be stopped", |members| {
            members.iter().any(|member| member.comm == "sleep")
                && members.iter().all(|member| member.state == 'T')
        });
        program.signal_group(Signal::SIGCONT);
        assert_eq!(program.finish().succeeded(), "ready\nall go on\n", "{signal}");
    }
}

/// A worker dies and is replaced.
fn lose_a_worker(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let pid = |()| std::process::id();
    let before = pool.apply(pid, ()).expect("it returns");
    raw::count_signal(Signal::SIGCHLD);
    kill(Pid::from_raw(before as i32), Signal::SIGKILL).expect("it lives");
    wait_until(|| !is_running(before));
    let after = pool.apply(pid, ()).expect("another worker takes over");
    assert_ne!(before, after);
    println!("{} signals", raw::counted(Signal::SIGCHLD));
}

fn program_gets_no_sigchld_for_workers(start_method: StartMethod) {
    assert_eq!(run(lose_a_worker, start_method, &[]).succeeded(), "0 signals\n");
}

/// A program with a handler for SIGTERM, and one busy worker of two. It waits until both workers
/// have ended, and says what has become of the task.
const PYTHON: &str = r#"
import multiprocessing, os, signal, sys, time
from multiprocessing.connection import wait


def work(mark):
    open(mark, "w").close()
    while True:
        time.sleep(1000)


if __name__ == "__main__":
    # Python leaves temporary files there, since it does not end in order.
    os.environ["TMPDIR"] = os.path.dirname(sys.argv[0])
    pool = multiprocessing.get_context(sys.argv[1]).Pool(2)
    mark = os.path.join(os.environ["TMPDIR"], sys.argv[1])
    task = pool.apply_async(work, (mark,))
    while not os.path.exists(mark):
        time.sleep(0.001)
    workers = list(pool._pool)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    print("ready", flush=True)
    for worker in workers:
        wait([worker.sentinel])
    assert asked
    try:
        task.get(timeout=1)
    except multiprocessing.TimeoutError:
        print("lost", flush=True)
    # Otherwise the end of the program could wait for ever.
    for worker in pool._pool:
        worker.kill()
    os._exit(0)
"#;

/// `docs/signals.md` says that Python loses them.
fn python_loses_the_tasks() {
    let Some(python) = machine::or_skip(machine::python3()) else { return };
    // Other start methods than `fork` need a file.
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("program.py");
    std::fs::write(&file, PYTHON).expect("there is room");
    for start_method in ["fork", "spawn", "forkserver"] {
        let mut command = Command::new(&python);
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
        command.arg(&file).arg(start_method).stdout(Stdio::piped());
        let mut program = Running::start(command);
        program.lines(1, "ready");
        program.signal_group(Signal::SIGTERM);
        let finished = program.finish();
        assert_eq!(finished.stdout, "ready\nlost\n", "{start_method}");
    }
}
