//! What surrounds a program and its workers, and is not as it should be.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{self, Gid, Pid, Uid};
use proc_core::{Child, Pool, Process, StartMethod, Task};
use serde_bytes::ByteBuf;

use crate::descriptors::count_descriptors;
use crate::life::{children, children_of};
use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, print_fates, signal_self};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("ignored-exits", ignored_exits),
    ("reaped-by-others", reaped_by_others),
    ("long-environment", long_environment),
    ("long-names", long_names),
    ("touched-program", touched_program),
    ("held-stream", held_stream),
    ("unspeakable-directory", unspeakable_directory),
    ("slow-input", slow_input),
    ("no-descriptors", no_descriptors),
    ("stopped-fork-server", stopped_fork_server),
    ("given-up-rights", given_up_rights),
    ("no-processes", no_processes),
    ("no-threads", no_threads),
    ("descriptors-under-way", descriptors_under_way),
    ("no-temporary-directory", no_temporary_directory),
    ("scribble", scribble),
];

fn increment(x: u32) -> u32 {
    x + 1
}

/// A process and a pool do what they are for.
fn use_both(arguments: &Arguments) {
    let child = Process::new(increment, 41).start_method(arguments.context).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    let pool = arguments.pool(2);
    println!("pool {:?}", pool.map(increment, 0..3).expect("nothing fails"));
}

/// The program was started with SIGCHLD ignored, as some daemons start what they start.
fn ignored_exits(arguments: &Arguments) {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    let bit = 1 << (Signal::SIGCHLD as u32 - 1);
    assert!(ignored.is_some_and(|set| set & bit != 0), "the test ignores it");
    use_both(arguments);
}

/// More than one message of the carrier is changed after the fork server was made.
fn long_environment(arguments: &Arguments) {
    let variables = (0..10).map(|number| (format!("PROC_TESTS_{number}"), "x".repeat(100_000)));
    for (name, value) in variables {
        dangerous::set_variable(&name, &value);
    }
    let total = |()| {
        let ours = std::env::vars().filter(|(name, _)| name.starts_with("PROC_TESTS_"));
        ours.map(|(_, value)| value.len()).sum::<usize>()
    };
    let child = Process::new(total, ()).start_method(arguments.context).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    println!("pool {}", arguments.pool(1).apply(total, ()).expect("it returns"));
}

fn long_names(arguments: &Arguments) {
    let name = "x".repeat(1_000_000);
    let process = Process::new(increment, 41).start_method(arguments.context).name(name.clone());
    let child = process.start().expect("it can be started");
    assert_eq!(child.name(), name);
    println!("process {}", child.join().expect("it returns"));
    let pool = Pool::builder().processes(1).start_method(arguments.context).name(name).build();
    let result = pool.expect("it can be built").apply(increment, 0);
    println!("pool {}", result.expect("it returns"));
}

/// The program's file gets another date, as a copy over it would give it. The test runs a copy.
fn touched_program(arguments: &Arguments) {
    let path = std::env::current_exe().expect("/proc is mounted");
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(path).and_then(|file| file.set_modified(date)).expect("it is ours");
    let child = Process::new(increment, 41).start_method(arguments.context).start();
    match child.and_then(Child::join) {
        Ok(result) => println!("process {result}"),
        Err(error) => println!("process {}", describe(&error)),
    }
    let pool = Pool::builder().processes(1).start_method(arguments.context).build();
    match pool.and_then(|pool| pool.apply(increment, 0)) {
        Ok(result) => println!("pool {result}"),
        Err(error) => println!("pool {}", describe(&error)),
    }
}

/// A task leaves a thread behind that holds a stream for ever.
fn held_stream(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let result = match arguments.word() {
        "stdout" => pool.apply(hold_stdout, ()),
        "stdin" => pool.apply(hold_stdin, ()),
        other => panic!("no such stream: {other}"),
    };
    println!("task {}", result.expect("it returns"));
    println!("next {:?}", pool.map(increment, 0..3).expect("the pool goes on"));
    drop(pool);
    let context = match arguments.context {
        // There were threads.
        StartMethod::Fork => StartMethod::Forkserver,
        other => other,
    };
    let child = match arguments.word() {
        "stdout" => Process::new(hold_stdout, ()).start_method(context).start(),
        _ => Process::new(hold_stdin, ()).start_method(context).start(),
    };
    println!("process {}", child.and_then(Child::join).expect("it returns"));
}

fn hold_stdout(_: ()) -> u32 {
    let (send, held) = mpsc::channel();
    std::thread::spawn(move || {
        let _stdout = std::io::stdout().lock();
        send.send(()).expect("it is waited for");
        loop {
            std::thread::park();
        }
    });
    held.recv().expect("the thread lives");
    7
}

fn hold_stdin(_: ()) -> u32 {
    let (reader, writer) = unistd::pipe().expect("a pipe can be made");
    unistd::dup2_stdin(reader).expect("stdin can be replaced");
    std::mem::forget(writer);
    let (send, reading) = mpsc::channel();
    std::thread::spawn(move || {
        send.send(unistd::gettid()).expect("it is waited for");
        dangerous::read_character()
    });
    let thread = reading.recv().expect("the thread lives");
    // From there on it sleeps nowhere else.
    marks::wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
        stat.is_ok_and(|stat| stat.contains(") S "))
    });
    7
}

/// The working directory has a name that is not UTF-8.
fn unspeakable_directory(arguments: &Arguments) {
    let marks = Marks::new();
    let directory = marks.path("x").with_file_name(OsStr::from_bytes(b"d\xff\xfe"));
    std::fs::create_dir(&directory).expect("it is new");
    std::env::set_current_dir(&directory).expect("it exists");
    let visit = |mark: String| -> OsString {
        File::create_new(mark).expect("it is new");
        std::env::current_dir().expect("it exists").into_os_string()
    };
    let child = Process::new(visit, "a".to_owned()).start_method(arguments.context).start();
    let seen = child.and_then(Child::join).expect("it returns");
    assert_eq!(seen, std::env::current_dir().expect("it exists"));
    assert!(seen.into_vec().ends_with(b"/d\xff\xfe"));
    assert!(directory.join("a").exists());
    let pool = arguments.pool(1);
    pool.apply(visit, "b".to_owned()).expect("it returns");
    assert!(directory.join("b").exists());
    println!("visited");
}

/// An input that gives its third item when it has been told the first result.
fn slow_input(arguments: &Arguments) {
    // One worker: whoever has the result of one task has those of the tasks before.
    let pool = arguments.pool(1);
    for ordered in [true, false] {
        let (send, third) = mpsc::channel();
        let inputs = (0..3).inspect(|number| match number {
            1 => drop(pool.apply(increment, 0).expect("nothing fails")),
            2 => third.recv().expect("the first result is there"),
            _ => {}
        });
        let print = |first: Option<Result<u32, _>>| {
            println!("{:?}", first.map(|result| result.expect("nothing fails")));
        };
        if ordered {
            let mut results = pool.imap(increment, inputs);
            print(results.next());
            send.send(()).expect("it is waited for");
            results.for_each(|result| print(Some(result)));
        } else {
            let mut results = pool.imap_unordered(increment, inputs);
            print(results.next());
            send.send(()).expect("it is waited for");
            results.for_each(|result| print(Some(result)));
        }
    }
}

/// Leaves this process so many descriptors, until what is returned is dropped.
pub(crate) fn leave_descriptors(count: usize) -> Vec<File> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).expect("less is allowed");
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    files.truncate(files.len().checked_sub(count).expect("so many were free"));
    files
}

/// A worker is to be replaced while there are so many descriptors; then there are more again.
fn no_descriptors(arguments: &Arguments) {
    let count = arguments.number();
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let marks = Marks::new();
    let meet = |(mine, other): (PathBuf, PathBuf)| {
        marks::leave(&mine);
        marks::wait_for(&other);
        std::process::id()
    };
    let die = |x: u32| {
        if x == 0 {
            signal_self(Signal::SIGKILL);
        }
        x
    };
    let files = leave_descriptors(count);
    let results = pool.options().chunksize(1).try_map(die, 0..5);
    drop(files);
    let mut results = results.into_iter();
    let first = results.next().expect("there is one result for each task");
    assert!(first.expect_err("it killed its worker").is_death());
    for (result, task) in results.zip(1..) {
        match result {
            Ok(value) => assert_eq!(value, task),
            Err(error) => assert!(error.is_start() || error.is_death(), "{}", describe(&error)),
        }
    }
    // Both workers are needed for that.
    let (a, b) = (marks.path("a"), marks.path("b"));
    let both = [(a.clone(), b.clone()), (b, a)];
    let pids = pool.options().chunksize(1).map(meet, both).expect("nothing fails");
    assert_ne!(pids[0], pids[1]);
    println!("both");
}

/// The fork servers do not run while the pool is dropped, with a task that never ends.
fn stopped_fork_server(arguments: &Arguments) {
    let marks = Marks::new();
    let pool = arguments.pool(1);
    let task = |mark: PathBuf| {
        marks::leave(&mark);
        crate::work_for_ever();
    };
    let stuck = pool.apply_async(task, marks.path("busy")).expect("the pool is open");
    marks::wait_for(&marks.path("busy"));
    for pid in children() {
        kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("it is our child");
    }
    let start = Instant::now();
    drop(pool);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    println!("{}", describe(&stuck.get().expect_err("it was dropped")));
}

/// The program was started as root and is somebody else now.
fn given_up_rights(arguments: &Arguments) {
    const NOBODY: u32 = 65534;
    let before = Process::new(rights, ()).start_method(arguments.context).start();
    println!("before {:?}", before.and_then(Child::join).expect("it returns"));
    // Fork servers that are executed need it.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(std::env::temp_dir(), open).expect("it is ours");
    unistd::setgid(Gid::from_raw(NOBODY)).expect("root may");
    unistd::setuid(Uid::from_raw(NOBODY)).expect("root may");
    let after = Process::new(rights, ()).start_method(arguments.context).start();
    println!("process {:?}", after.and_then(Child::join).expect("it returns"));
    println!("worker {:?}", arguments.pool(1).apply(rights, ()).expect("it returns"));
}

fn rights(_: ()) -> [u32; 4] {
    let users = [unistd::getuid(), unistd::geteuid()].map(Uid::as_raw);
    let groups = [unistd::getgid(), unistd::getegid()].map(Gid::as_raw);
    [users[0], users[1], groups[0], groups[1]]
}

/// Fork servers that somebody else reaps, the program or the system, leave nothing behind.
fn reaped_by_others(arguments: &Arguments) {
    let use_one = || {
        let child = Process::new(increment, 41).start_method(arguments.context).start();
        assert_eq!(child.and_then(Child::join).expect("it returns"), 42);
    };
    if arguments.rest == ["ignored"] {
        dangerous::ignore_exits();
    }
    use_one();
    let before = count_descriptors();
    for _ in 0..50 {
        use_one();
        // All that have ended: the program thinks that they are its own.
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(s) if s.pid().is_some()) {}
    }
    marks::wait_until(|| {
        use_one();
        count_descriptors() <= before + 2
    });
    println!("flat");
}

/// Becomes a user that has no other processes: limits for users do not bind root.
fn become_somebody() {
    let user = 30_000 + std::process::id() % 20_000;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(std::env::temp_dir(), open).expect("it is ours");
    unistd::setgid(Gid::from_raw(user)).expect("root may");
    unistd::setuid(Uid::from_raw(user)).expect("root may");
}

/// Workers that a pool has started and no thread can attend are ended, and what they had begun is
/// done by others.
fn no_threads(arguments: &Arguments) {
    become_somebody();
    let pool = arguments.pool(1);
    let first = pool.apply(|()| std::process::id(), ()).expect("it returns");
    let marks = Marks::new();
    let go = marks.path("go");
    let only_there = |(first, go): (u32, PathBuf)| {
        if std::process::id() != first {
            crate::work_for_ever();
        }
        marks::wait_for(&go);
    };
    let waits = pool.options().chunksize(1).map_async(only_there, vec![(first, go.clone()); 6]);
    let (_, most) = getrlimit(Resource::RLIMIT_NPROC).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NPROC, 1, most).expect("less is allowed");
    println!("{}", describe(&pool.resize(4).expect_err("there is no thread for it")));
    setrlimit(Resource::RLIMIT_NPROC, most, most).expect("the hard limit stayed");
    assert_eq!(pool.worker_pids(), [first]);
    marks::leave(&go);
    waits.and_then(Task::get).expect("the first worker does all");
    pool.resize(3).expect("there are threads again");
    println!("{:?}", pool.map(increment, 0..3).expect("nothing fails"));
}

/// The kernel bounds how many descriptors of a user are on their way: memory cannot be sent to
/// workers then.
fn descriptors_under_way(arguments: &Arguments) {
    become_somebody();
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let before = pool.worker_pids();
    let (soft, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NOFILE, 100, most).expect("less is allowed");
    let (ours, theirs) = UnixStream::pair().expect("a pair can be made");
    let fds = [ours.as_raw_fd(); 50];
    for _ in 0..3 {
        let (bytes, rights) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&fds)]);
        // Those of other processes' starts are on their way for a moment.
        marks::wait_until(|| {
            sendmsg::<()>(ours.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).is_ok()
        });
    }
    let large = |bytes: ByteBuf| bytes.len();
    for result in
        pool.options().chunksize(1).try_map(large, vec![ByteBuf::from(vec![1; 9 << 20]); 4])
    {
        println!("{}", describe(&result.expect_err("no memory can be sent to a worker")));
    }
    drop((ours, theirs));
    setrlimit(Resource::RLIMIT_NOFILE, soft, most).expect("the hard limit stayed");
    assert_eq!(pool.worker_pids(), before, "no worker is to blame");
    println!("{}", pool.apply(large, ByteBuf::from(vec![1; 9 << 20])).expect("nothing fails"));
}

/// There are no more processes to be had, first while a pool starts, then for a replacement.
fn no_processes(arguments: &Arguments) {
    become_somebody();
    let context = arguments.context;
    let (_, most) = getrlimit(Resource::RLIMIT_NPROC).expect("it can be asked");
    // The limit of whoever forks counts: a fork server, and with Fork this process, which it
    // copies.
    let limit = |processes: u64| {
        setrlimit(Resource::RLIMIT_NPROC, processes, most).expect("less is allowed");
        for fork_server in children() {
            dangerous::limit_processes(fork_server, processes, most);
        }
    };
    let grandchildren = || children().into_iter().flat_map(children_of).count();
    let child = Process::new(increment, 1).start_method(context).start();
    child.and_then(Child::join).expect("it returns");
    marks::wait_until(|| grandchildren() == 0);
    // This one, the fork server, and two workers of four.
    limit(4);
    let pool = Pool::builder().processes(4).start_method(context).build();
    println!("{}", describe(&pool.expect_err("there is no third worker")));
    marks::wait_until(|| grandchildren() == 0);
    limit(most);
    let pool = Pool::builder().processes(2).start_method(context).build().expect("it can be built");
    limit(0);
    let die = |task: u32| {
        if task == 0 {
            signal_self(Signal::SIGKILL);
        }
        task
    };
    print_fates(pool.options().chunksize(1).try_map(die, 0..4));
    println!("{:?}", pool.map(increment, 0..3).expect("one worker goes on"));
    assert_eq!(grandchildren(), 1);
    limit(most);
    marks::wait_until(|| grandchildren() == 2);
    println!("two again");
}

/// There is no directory for temporary files.
fn no_temporary_directory(arguments: &Arguments) {
    let child = Process::new(increment, 41).start_method(arguments.context).start();
    match child.and_then(Child::join) {
        Ok(result) => println!("process {result}"),
        Err(error) => println!("process {}", describe(&error)),
    }
    let pool = Pool::builder().processes(1).start_method(arguments.context).build();
    match pool.and_then(|pool| pool.apply(increment, 0)) {
        Ok(result) => println!("pool {result}"),
        Err(error) => println!("pool {}", describe(&error)),
    }
}

/// A worker overwrites all that it shares with others, and dies.
fn scribble(arguments: &Arguments) {
    let byte = u8::try_from(arguments.number()).expect("a byte comes after the context");
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let task = |(task, byte): (u32, u8)| {
        if task == 3 {
            dangerous::overwrite_shared_memory(byte);
            // Rust's own handler makes the first one harmless, unless it is a real fault.
            loop {
                signal_self(Signal::SIGSEGV);
            }
        }
        task
    };
    let results = pool.try_map(task, (0..20).map(|task| (task, byte)));
    // The others' results may be spoiled; that is told in the queue's README.
    assert_eq!(results.len(), 20);
    assert!(results[3].is_err(), "{results:?}");
    println!("told");
    drop(pool);
    // Only the first pool can be forked.
    let pool = Pool::builder().processes(2).build().expect("it can be built");
    println!("{:?}", pool.map(increment, 0..3).expect("nothing fails"));
}

/// What only code can do that the compiler does not check.
#[allow(unsafe_code, reason = "hardships that safe code cannot make")]
mod dangerous {
    use nix::sys::signal::{SigHandler, Signal, signal};

    /// Has the system reap children.
    pub(super) fn ignore_exits() {
        // SAFETY: ignoring a signal runs no code.
        let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    }

    unsafe extern "C" {
        safe fn getchar() -> i32;
    }

    /// Waits in C for a character of stdin, and holds the stream meanwhile.
    pub(super) fn read_character() -> i32 {
        getchar()
    }

    pub(super) fn set_variable(name: &str, value: &str) {
        // SAFETY: the scenario has one thread and has not made its pool yet.
        unsafe { std::env::set_var(name, value) };
    }

    /// Limits the processes of the user of process `pid`, as far as that one may start them.
    pub(super) fn limit_processes(pid: u32, soft: u64, hard: u64) {
        let limit = nix::libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: the kernel reads one rlimit and writes none. A fork server of another user is not
        // ours to limit, which is no harm.
        let _ = unsafe {
            nix::libc::prlimit(pid as i32, nix::libc::RLIMIT_NPROC, &limit, std::ptr::null_mut())
        };
    }

    /// Fills every shared mapping of this process that can be written to.
    pub(super) fn overwrite_shared_memory(byte: u8) {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
        let mut overwritten = 0;
        for line in maps.lines().filter(|line| line.contains(" rw-s ")) {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let (start, end) = range.expect("a line begins with a range");
            let address =
                |text| usize::from_str_radix(text, 16).expect("addresses are hexadecimal");
            let (start, end) = (address(start), address(end));
            // SAFETY: the kernel has just said that these pages are mapped and may be written; no
            // Rust object of this process lives in memory that others may change at any time. What
            // it does to the others is what the scenario is for.
            unsafe { std::ptr::write_bytes(start as *mut u8, byte, end - start) };
            overwritten += 1;
        }
        assert!(overwritten > 0, "nothing is shared");
    }
}
