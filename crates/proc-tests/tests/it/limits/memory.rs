//! A lack of memory is an error of the call that needed the memory: no panic, no abort, no hang.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use proc_core::{Child, Error, Limits, Pool, Process, Shared, StartMethod, ipc};
use serde_bytes::ByteBuf;

use crate::support::{
    Arguments, Finished, Program, Running, describe, machine, own_arguments, own_file, run,
    wait_until,
};

programs![
    limit_address_space,
    limit_address_space_of_workers,
    limit_address_space_of_a_pool,
    large_value_in_a_cgroup,
    many_values_in_a_cgroup,
    shared_memory_in_a_cgroup,
    #[without_init]
    limit_file_sizes,
    return_shared_memory_without_files,
];

tests! {
    arguments_beyond_the_address_space_are_errors: forkserver spawn fork;
    other_calls_beyond_the_address_space_are_errors: forkserver spawn fork;
    results_beyond_the_address_space_are_errors: forkserver spawn fork;
    tasks_beside_a_death_beyond_the_address_space_are_errors: forkserver spawn fork;
    values_beyond_the_limit_of_data_are_errors: forkserver spawn fork;
    processes_beyond_the_address_space_are_errors: forkserver spawn fork;
    workers_without_address_space_are_errors: forkserver spawn fork;
    pool_with_a_limit_of_address_space_outlives_large_values: forkserver spawn fork;
    values_beyond_the_limit_of_file_sizes_are_errors: forkserver spawn fork;
    process_without_files_returns_shared_memory: forkserver spawn fork;
    values_beyond_a_cgroup_are_errors: forkserver spawn fork;
    many_values_arrive_though_a_cgroup_is_small: forkserver spawn fork;
    shared_memory_beyond_a_cgroup_is_an_error: forkserver spawn fork;
}

const MIB: usize = 1 << 20;

fn length(bytes: ByteBuf) -> usize {
    bytes.len()
}

fn make(len: usize) -> ByteBuf {
    ByteBuf::from(vec![7; len])
}

/// Like [`tell`], for a process that may die: of limits that it inherits from this one, or by
/// itself.
fn tell_end<T>(what: &str, result: Result<T, Error>, names: &[&str]) {
    match result {
        Err(error) if error.is_death() => println!("{what}: refused"),
        result => tell(what, result, names),
    }
}

/// Prints whether a call succeeded. An error must be no panic, and name what is lacking.
fn tell<T>(what: &str, result: Result<T, Error>, names: &[&str]) {
    let Err(error) = result else { return println!("{what}: fine") };
    let told = describe(&error);
    let lower = told.to_lowercase();
    assert!(!error.is_panic() && !lower.contains("panicked"), "{what}: {told}");
    assert!(names.iter().all(|name| lower.contains(name)), "{what}: no {names:?} in {told}");
    println!("{what}: refused");
}

/// Sets the soft limit only, so that it can be raised again.
fn limit(resource: Resource, soft: u64) {
    let (_, most) = getrlimit(resource).expect("it can be asked");
    setrlimit(resource, soft, most).expect("the hard limit stays");
}

/// How much memory of one kind this process has: address space, or data.
fn memory_now(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let size = status.lines().find_map(|line| line.strip_prefix(field));
    let size = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    size.expect("the kernel tells it in kB") << 10
}

/// Whether all threads but the calling one wait for something.
fn other_threads_sleep() -> bool {
    let own = nix::unistd::gettid().to_string();
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let mut others = tasks.flatten().filter(|task| *task.file_name() != *own);
    others.all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    })
}

/// Four values of 3 MiB, in an address space (or data) that may grow by a number of KiB.
fn limit_address_space(arguments: &Arguments) {
    let [way, margin, kind] = &arguments.rest[..] else { panic!("three words") };
    let (resource, field) = match kind.as_str() {
        "space" => (Resource::RLIMIT_AS, "VmSize:"),
        "data" => (Resource::RLIMIT_DATA, "VmData:"),
        other => panic!("no such memory: {other}"),
    };
    let margin = margin.parse::<u64>().expect("it is a number") << 10;
    const LEN: usize = 3 * MIB;
    const NAMES: &[&str] = &["memory"];
    println!("begun"); // allocates the buffer of stdout
    let mut values: Vec<ByteBuf> = (0..4).map(|_| make(LEN)).collect();
    let again = values[0].clone();
    // With Fork a process can be made only while there is one thread, so before any pool.
    let pool = (!way.starts_with("process")).then(|| arguments.pool(2));
    if let Some(pool) = &pool {
        pool.map(length, [ByteBuf::new()]).expect("nothing fails");
    }
    // A starting thread needs memory of its own, and Rust aborts if there is none.
    wait_until(other_threads_sleep);
    let process =
        |value| Process::new(length, value).start_method(arguments.start_method).name("p");
    limit(resource, memory_now(field) + margin);
    match (way.as_str(), &pool) {
        ("map", Some(pool)) => tell("map", pool.map(length, values), NAMES),
        ("try_map", Some(pool)) => {
            for result in pool.options().chunksize(1).try_map(length, values) {
                tell("try_map", result, NAMES);
            }
        }
        ("imap", Some(pool)) => {
            for result in pool.options().chunksize(1).imap(length, values) {
                tell("imap", result, NAMES);
            }
        }
        ("map_async", Some(pool)) => {
            let task = pool.map_async(length, values);
            tell("map_async", task.and_then(|task| task.get()), NAMES);
        }
        ("apply", Some(pool)) => {
            for value in values {
                tell("apply", pool.apply(length, value), NAMES);
            }
        }
        ("results", Some(pool)) => {
            for result in pool.options().chunksize(1).try_map(make, [LEN; 4]) {
                tell("results", result, NAMES);
            }
        }
        ("results-to-retry", Some(pool)) => {
            let calls = pool.options().retries(1).chunksize(1);
            for result in calls.try_map(|value: ByteBuf| value, values) {
                tell("results-to-retry", result, NAMES);
            }
        }
        ("death", Some(pool)) => {
            let first_dies = |(task, value): (usize, ByteBuf)| match task {
                0 => std::process::abort(),
                _ => value.len(),
            };
            let inputs = values.into_iter().enumerate();
            let results = pool.options().chunksize(4).try_map(first_dies, inputs);
            for (task, result) in results.into_iter().enumerate() {
                match task {
                    0 => tell_end("death", result, NAMES),
                    _ => tell("beside a death", result, NAMES),
                }
            }
        }
        ("shared", Some(_)) => {
            let shared = values.iter().map(|value| Shared::from_slice(&value[..]));
            let shared: Vec<_> = shared.collect();
            shared.into_iter().for_each(|made| tell("shared", made, NAMES));
        }
        ("build", Some(_)) => {
            // With `Fork`, the threads of the first pool would be in the way.
            let built = Pool::builder().processes(2).build();
            tell("build", built.and_then(|pool| pool.map(length, values)), NAMES);
        }
        ("process", None) => {
            for value in values {
                tell_end("process", process(value).start().and_then(Child::join), NAMES);
            }
        }
        ("process-result", None) => {
            let child =
                Process::new(make, LEN).start_method(arguments.start_method).name("p").start();
            tell_end("process-result", child.and_then(Child::join), NAMES);
        }
        (other, _) => panic!("no such way: {other}"),
    }
    limit(resource, RLIM_INFINITY);
    values = vec![again; 4];
    match pool {
        Some(pool) => {
            assert_eq!(pool.map(length, values).expect("the pool goes on"), [LEN; 4]);
            let made = pool.map(make, [LEN; 4]).expect("the pool goes on");
            assert!(made.iter().all(|made| made.len() == LEN));
        }
        None => {
            let child = process(values.remove(0)).start();
            assert_eq!(child.and_then(Child::join).expect("there is memory again"), LEN);
        }
    }
    println!("afterwards");
}

/// Runs each way with every margin in KiB.
#[track_caller]
fn with_each_margin(start_method: StartMethod, kind: &str, ways: &[&str]) {
    const MARGINS: [u32; 13] =
        [512, 1024, 2048, 3072, 3584, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536];
    let mut is_refused = false;
    for (way, margin) in ways.iter().flat_map(|way| MARGINS.map(|margin| (way, margin))) {
        let finished = run(limit_address_space, start_method, &[way, &margin.to_string(), kind]);
        let told = format!("{way} with {margin} KiB: {}\n{}", finished.status, finished.stderr);
        assert!(finished.status.success(), "{told}");
        // A process that inherits the limit may reach it in its own work. Rust prints that.
        let tells = |line: &str| {
            line.contains("memory allocation") || line.contains("RUST_BACKTRACE") || line.is_empty()
        };
        let is_own = |line: &str| way.starts_with("process") && tells(line);
        assert!(finished.stderr.lines().all(is_own), "{told}");
        assert!(finished.stdout.ends_with("afterwards\n"), "{told}\n{}", finished.stdout);
        is_refused |= finished.stdout.contains("refused");
    }
    assert!(is_refused, "the limit has taken effect");
}

fn arguments_beyond_the_address_space_are_errors(start_method: StartMethod) {
    with_each_margin(start_method, "space", &["map", "try_map", "apply"]);
}

fn tasks_beside_a_death_beyond_the_address_space_are_errors(start_method: StartMethod) {
    with_each_margin(start_method, "space", &["death"]);
}

fn other_calls_beyond_the_address_space_are_errors(start_method: StartMethod) {
    with_each_margin(start_method, "space", &["imap", "map_async", "shared", "build"]);
}

fn results_beyond_the_address_space_are_errors(start_method: StartMethod) {
    with_each_margin(start_method, "space", &["results", "results-to-retry"]);
}

/// Limits the memory that a process may allocate for itself. Shared memory does not count.
fn values_beyond_the_limit_of_data_are_errors(start_method: StartMethod) {
    with_each_margin(start_method, "data", &["map", "results"]);
}

fn processes_beyond_the_address_space_are_errors(start_method: StartMethod) {
    with_each_margin(start_method, "space", &["process", "process-result"]);
}

/// Limits the address space of workers and processes to some KiB.
fn limit_address_space_of_workers(arguments: &Arguments) {
    const LEN: usize = 3 * MIB;
    let space = (arguments.number() as u64) << 10;
    let limits = || Limits::new().address_space(space).no_core_dumps();
    let tell = |what: &str, result: Result<(), Error>| match result {
        Ok(()) => println!("{what}: fine"),
        Err(error) => {
            // Either the library has noticed that there is no memory, or the worker died of its
            // limit.
            let told = describe(&error);
            let is_named = error.is_limit() || told.contains("memory");
            assert!(is_named && !error.is_panic() && !told.contains("panicked"), "{what}: {told}");
            println!("{what}: refused");
        }
    };
    let process =
        Process::new(length, make(LEN)).limits(limits()).start_method(arguments.start_method);
    tell("process", process.start().and_then(Child::join).map(|_| ()));
    let process = Process::new(make, LEN).limits(limits()).start_method(arguments.start_method);
    tell("process result", process.start().and_then(Child::join).map(drop));
    let pool =
        Pool::builder().processes(1).limits(limits()).start_method(arguments.start_method).build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => return tell("pool", Err(error)),
    };
    tell("task", pool.apply(length, make(LEN)).map(|_| ()));
    tell("result", pool.apply(make, LEN).map(drop));
    for result in pool.try_map(length, (0..4).map(|_| make(LEN))) {
        tell("try_map", result.map(|_| ()));
    }
}

fn workers_without_address_space_are_errors(start_method: StartMethod) {
    for mib in [1, 4, 8, 16, 24, 32, 64, 128, 256, 1024] {
        let finished =
            run(limit_address_space_of_workers, start_method, &[&(mib << 10).to_string()]);
        let told = format!("{mib} MiB:\n{}\n{}", finished.stdout, finished.stderr);
        // A dying worker may print that an allocation failed.
        assert!(finished.status.success() && !finished.stderr.contains("panicked"), "{told}");
        if mib == 1 || mib == 1024 {
            assert_eq!(finished.stdout.contains("refused"), mib == 1, "{told}");
        }
    }
}

/// Values of 2 MiB, while files may have only some KiB.
fn limit_file_sizes(arguments: &Arguments) {
    const LEN: usize = 2 * MIB;
    const NAMES: &[&str] = &["file size", "ulimit -f"];
    let [size, order] = &arguments.rest[..] else { panic!("two words") };
    let size = size.parse::<u64>().expect("it is a number") << 10;
    let set = || setrlimit(Resource::RLIMIT_FSIZE, size, size).expect("less is allowed");
    if order == "before" {
        set();
        proc_core::init();
    } else {
        proc_core::init();
        set();
    }
    let start_method = arguments.start_method;
    // Processes come first: they can be forked only while there is one thread.
    let small = Process::new(|x: u32| x + 1, 41).start_method(start_method).start();
    tell("small process", small.and_then(Child::join), NAMES);
    let process = Process::new(length, make(LEN)).start_method(start_method).start();
    tell("process", process.and_then(Child::join), NAMES);
    let process = Process::new(make, LEN).start_method(start_method).start();
    tell("process result", process.and_then(Child::join), NAMES);
    tell("shared", Shared::from_slice(&make(LEN)), NAMES);
    let pool = Pool::builder().processes(2).start_method(start_method).build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => return tell("pool", Err::<(), _>(error), NAMES),
    };
    tell("small", pool.map(|x: u32| x + 1, 0..100), NAMES);
    tell("apply", pool.apply(length, make(LEN)), NAMES);
    tell("map", pool.map(length, (0..4).map(|_| make(LEN))), NAMES);
    for result in pool.try_map(length, [1, LEN, 1].map(make)) {
        tell("try_map", result, NAMES);
    }
    for result in pool.imap(length, [1, LEN, 1].map(make)) {
        tell("imap", result, NAMES);
    }
    for result in pool.try_map(make, [1, LEN, 1]) {
        tell("results", result, NAMES);
    }
    let share = |len: usize| Shared::from_slice(&vec![7_u8; len]).map(|shared| shared.len());
    let shared = pool.apply(move |len: usize| share(len).map_err(|error| error.to_string()), LEN);
    match shared.expect("a task may fail to share") {
        Ok(_) => println!("shared in a task: fine"),
        Err(why) => {
            assert!(NAMES.iter().all(|name| why.to_lowercase().contains(name)), "{why}");
            println!("shared in a task: refused");
        }
    }
    tell("small again", pool.map(|x: u32| x + 1, 0..100), NAMES);
    // A program or a task that writes too large a file of its own must still be stopped by the
    // signal.
    println!("here {}", too_large_files_are_fatal(()));
    println!("in a task {}", pool.apply(too_large_files_are_fatal, ()).expect("nothing fails"));
}

/// Whether SIGXFSZ is neither ignored, nor blocked, nor caught.
fn too_large_files_are_fatal(_: ()) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let is_set = |field: &str| {
        let set = status.lines().find_map(|line| line.strip_prefix(field));
        let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        set.expect("it is a set of bits") >> (nix::libc::SIGXFSZ - 1) & 1 == 1
    };
    !["SigBlk:", "SigIgn:", "SigCgt:"].into_iter().any(is_set)
}

fn values_beyond_the_limit_of_file_sizes_are_errors(start_method: StartMethod) {
    for (size, order) in
        [512, 64, 4, 0].into_iter().flat_map(|size| [(size, "after"), (size, "before")])
    {
        let finished = run(limit_file_sizes, start_method, &[&size.to_string(), order]);
        let told = finished.succeeded();
        assert!(!told.is_empty(), "{size} {order}");
        assert!(size > 0 || told.contains("refused"), "{size} {order}: {told}");
        if told.contains("here ") {
            assert_eq!([finished.after("here "), finished.after("in a task ")], ["true"; 2]);
        }
        if size == 512 {
            for small in ["small process: ", "small: ", "small again: "] {
                assert_eq!(finished.after(small), "fine", "{small} {order}");
            }
        }
    }
}

/// A process whose files must stay empty returns memory that it has received.
fn return_shared_memory_without_files(arguments: &Arguments) {
    let give_back = |memory: ipc::IpcSharedMemory| {
        let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).expect("it can be read");
        setrlimit(Resource::RLIMIT_FSIZE, 0, most).expect("less is allowed");
        (memory, 0_u8)
    };
    let memory = ipc::IpcSharedMemory::from_bytes(b"shared");
    let process = Process::new(give_back, memory).start_method(arguments.start_method).start();
    let (memory, _) = process.and_then(Child::join).expect("it returns the memory");
    assert_eq!(&*memory, b"shared");
}

fn process_without_files_returns_shared_memory(start_method: StartMethod) {
    run(return_shared_memory_without_files, start_method, &[]).succeeded();
}

/// The workers can map 168 MiB besides this program, whose size grows whenever a test is added.
/// After each call that was too large, the pool must go on.
fn limit_address_space_of_a_pool(arguments: &Arguments) {
    const NAMES: &[&str] = &["limits::address_space"];
    let set_up = |(): ()| ();
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let size = size.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let program = size.expect("the kernel tells it in kB") << 10;
    let limits = Limits::new().address_space((168 << 20) + program);
    let builder = || arguments.pool_builder(2).limits(limits.clone());
    let builder = match arguments.word() {
        "initializer" => builder().initializer(set_up, ()),
        _ => builder(),
    };
    let pool = builder.build().expect("there is room for workers");
    let assert_goes_on = |what: &str| {
        let lengths = pool.map(length, (0..50).map(|_| make(1000)));
        assert_eq!(lengths.expect(what), [1000; 50]);
    };
    assert_goes_on("at first");
    tell("apply", pool.apply(length, make(150 * MIB)), NAMES);
    assert_goes_on("after apply");
    for result in pool.try_map(length, [make(5), make(150 * MIB), make(5)]) {
        tell("try_map", result, NAMES);
    }
    let lengths = pool.map(length, (0..30).map(|_| make(20 * MIB)));
    assert_eq!(lengths.expect("there is room for some at a time"), [20 * MIB; 30]);
    // The workers can map each of these values, but not the memory that all of them together leave
    // behind.
    for size in (30..100).step_by(10) {
        let result = pool.apply(length, make(size * MIB));
        assert!(result.as_ref().is_err_and(|e| !e.is_panic()) || result.is_ok_and(|len| len > 0));
        // Calls fail if no worker can be started. A later call tries again.
        wait_until(|| pool.map(length, (0..50).map(|_| make(1000))).is_ok());
    }
    println!("goes on");
}

fn pool_with_a_limit_of_address_space_outlives_large_values(start_method: StartMethod) {
    let told = "apply: refused\ntry_map: fine\ntry_map: refused\ntry_map: fine\ngoes on\n";
    for word in ["plain", "initializer"] {
        let finished = run(limit_address_space_of_a_pool, start_method, &[word]);
        assert_eq!(finished.succeeded(), told, "{word}");
    }
}

/// Values for which the cgroup has no memory. The kernel allocates zeros only when they are used,
/// so the argument itself needs none.
fn large_value_in_a_cgroup(arguments: &Arguments) {
    const LEN: usize = 800 * MIB;
    const NAMES: &[&str] = &["cgroup", "memory"];
    let zeros = || ByteBuf::from(vec![0; LEN]);
    let process = Process::new(length, zeros()).start_method(arguments.start_method).start();
    tell("process", process.and_then(Child::join), NAMES);
    let pool = arguments.pool(2);
    tell("apply", pool.apply(length, zeros()), NAMES);
    tell("map", pool.map(length, [zeros()]), NAMES);
    for result in pool.try_map(length, [ByteBuf::new(), zeros(), ByteBuf::new()]) {
        tell("try_map", result, NAMES);
    }
    let make_zeros = |len: usize| ByteBuf::from(vec![0; len]);
    for result in pool.try_map(make_zeros, [1, LEN, 1]) {
        tell("results", result, NAMES);
    }
    println!("{:?}", pool.map(|x: u32| x + 1, 0..3).expect("the pool goes on"));
}

/// A cgroup with a limit of memory, and a cgroup inside it without a limit of its own. Both are
/// removed with this object.
struct Cgroup(PathBuf);

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
enum Place {
    Limited,
    Inside,
}

impl Cgroup {
    /// Makes a cgroup with this memory limit. Returns `None` if this machine does not allow that.
    fn of(bytes: u64, name: &str) -> Option<Cgroup> {
        let name = format!("proc-tests-{}-{name}", std::process::id());
        let made = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/unified", "memory.max"),
        ]
        .into_iter()
        .find_map(|(root, limit)| {
            let path = Path::new(root).join(&name);
            std::fs::create_dir(&path).ok()?;
            // The directory is removed again if it has no such file.
            let cgroup = Cgroup(path);
            let file = std::fs::OpenOptions::new().write(true).open(cgroup.0.join(limit));
            file.and_then(|mut file| file.write_all(bytes.to_string().as_bytes())).ok()?;
            std::fs::create_dir(cgroup.0.join("inside")).ok()?;
            Some(cgroup)
        });
        if made.is_none() {
            let skipped = machine::or_skip(machine::cgroup());
            assert!(skipped.is_none(), "a cgroup can be made, but not used");
        }
        made
    }

    /// Runs a program in it, from its first moment.
    fn run(&self, place: Place, program: Program, start_method: StartMethod) -> Finished {
        let path = match place {
            Place::Limited => self.0.clone(),
            Place::Inside => self.0.join("inside"),
        };
        let mut command = Command::new("sh");
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(path);
        command.arg(own_file()).args(own_arguments(program, start_method)).stdout(Stdio::piped());
        Running::start(command).finish()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(self.0.join("inside"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Runs a program in a cgroup of 300 MiB, and in one inside, each on its own.
#[track_caller]
fn in_cgroups(program: Program, start_method: StartMethod, told: &str) {
    for place in [Place::Limited, Place::Inside] {
        let [_, program_name, word] = own_arguments(program, start_method);
        let name = format!("{program_name}-{word}-{place:?}");
        let Some(cgroup) = Cgroup::of(300 << 20, &name) else { return };
        assert_eq!(cgroup.run(place, program, start_method).succeeded(), told);
    }
}

fn values_beyond_a_cgroup_are_errors(start_method: StartMethod) {
    let told = "process: refused\napply: refused\nmap: refused\n\
                try_map: fine\ntry_map: refused\ntry_map: fine\n\
                results: fine\nresults: refused\nresults: fine\n[1, 2, 3]\n";
    in_cgroups(large_value_in_a_cgroup, start_method, told);
}

/// Many arguments. The cgroup has memory for some of them at a time.
fn many_values_in_a_cgroup(arguments: &Arguments) {
    const LEN: usize = 8 * MIB;
    let pool = arguments.pool(2);
    let zeros = || (0..100).map(|_| ByteBuf::from(vec![0; LEN]));
    assert_eq!(pool.map(length, zeros()).expect("there is room for some"), [LEN; 100]);
    println!("map");
    for result in pool.imap(length, zeros()) {
        assert_eq!(result.expect("there is room for some"), LEN);
    }
    println!("imap");
}

fn many_values_arrive_though_a_cgroup_is_small(start_method: StartMethod) {
    in_cgroups(many_values_in_a_cgroup, start_method, "map\nimap\n");
}

fn shared_memory_in_a_cgroup(arguments: &Arguments) {
    let zeros = vec![0_u8; 800 * MIB];
    tell("shared", Shared::from_slice(&zeros), &["cgroup", "memory"]);
    let pool = arguments.pool(2);
    let shared = Shared::from_slice(&zeros[..MIB]).expect("there is room for that");
    let length = |shared: Shared<u8>| shared.len();
    assert_eq!(pool.map(length, vec![shared; 3]).expect("nothing fails"), [MIB; 3]);
    println!("little");
}

fn shared_memory_beyond_a_cgroup_is_an_error(start_method: StartMethod) {
    in_cgroups(shared_memory_in_a_cgroup, start_method, "shared: refused\nlittle\n");
}
