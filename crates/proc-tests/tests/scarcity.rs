//! Memory that runs out is an error of the call that wanted it: no panic, no abort, no hang.

mod support;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Finished, Running, scenario};

in_contexts! {
    arguments_beyond_the_address_space_are_errors: forkserver spawn fork;
    other_calls_beyond_the_address_space_are_errors: forkserver spawn fork;
    results_beyond_the_address_space_are_errors: forkserver spawn fork;
    values_beyond_the_limit_of_data_are_errors: forkserver spawn fork;
    processes_beyond_the_address_space_are_errors: forkserver spawn fork;
    workers_without_address_space_say_so: forkserver spawn fork;
    values_beyond_the_limit_of_file_sizes_are_errors: forkserver spawn fork;
    values_beyond_a_cgroup_are_errors: forkserver spawn fork;
    values_of_which_a_cgroup_has_room_for_some_arrive: forkserver spawn fork;
    shared_memory_beyond_a_cgroup_is_an_error: forkserver spawn fork;
}

/// Runs each way with every margin in KiB.
#[track_caller]
fn with_each_margin(context: &str, kind: &str, ways: &[&str]) {
    const MARGINS: [u32; 13] =
        [512, 1024, 2048, 3072, 3584, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536];
    for (way, margin) in ways.iter().flat_map(|way| MARGINS.map(|margin| (way, margin))) {
        let finished = scenario("address-space", context, &[way, &margin.to_string(), kind]);
        let told = format!("{way} with {margin} KiB: {}\n{}", finished.status, finished.stderr);
        assert!(finished.status.success(), "{told}");
        // A process that has the same limit may pass it by work of its own, which Rust tells.
        let tells = |line: &str| {
            line.contains("memory allocation") || line.contains("RUST_BACKTRACE") || line.is_empty()
        };
        let is_own = |line: &str| way.starts_with("process") && tells(line);
        assert!(finished.stderr.lines().all(is_own), "{told}");
        assert!(finished.stdout.ends_with("afterwards\n"), "{told}\n{}", finished.stdout);
    }
}

fn arguments_beyond_the_address_space_are_errors(context: &str) {
    with_each_margin(context, "space", &["map", "try_map", "apply"]);
}

fn other_calls_beyond_the_address_space_are_errors(context: &str) {
    with_each_margin(context, "space", &["imap", "map_async", "shared", "build"]);
}

fn results_beyond_the_address_space_are_errors(context: &str) {
    with_each_margin(context, "space", &["results"]);
}

/// The limit of what a process may allocate for itself, which shared memory does not count for.
fn values_beyond_the_limit_of_data_are_errors(context: &str) {
    with_each_margin(context, "data", &["map", "results"]);
}

fn processes_beyond_the_address_space_are_errors(context: &str) {
    with_each_margin(context, "space", &["process", "process-result"]);
}

fn workers_without_address_space_say_so(context: &str) {
    for mib in [1, 4, 8, 16, 24, 32, 64, 128, 256, 1024] {
        let finished = scenario("worker-address-space", context, &[&(mib << 10).to_string()]);
        let told = format!("{mib} MiB:\n{}\n{}", finished.stdout, finished.stderr);
        // A worker's own last words may be of an allocation that failed.
        assert!(finished.status.success() && !finished.stderr.contains("panicked"), "{told}");
        if mib == 1024 {
            assert!(!finished.stdout.contains("refused"), "{told}");
        }
    }
}

fn values_beyond_the_limit_of_file_sizes_are_errors(context: &str) {
    for (size, order) in
        [512, 64, 4, 0].into_iter().flat_map(|size| [(size, "after"), (size, "before")])
    {
        let finished = scenario("file-sizes", context, &[&size.to_string(), order]);
        let told = finished.succeeded();
        assert!(!told.is_empty(), "{size} {order}");
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

/// A cgroup with a limit of memory, and one inside that has none of its own; both go with this
/// object.
struct Cgroup(PathBuf);

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
enum Place {
    Limited,
    Inside,
}

impl Cgroup {
    /// One with so much memory, where this machine lets us make it.
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
            // It is removed again where it has no such file.
            let cgroup = Cgroup(path);
            let file = std::fs::OpenOptions::new().write(true).open(cgroup.0.join(limit));
            file.and_then(|mut file| file.write_all(bytes.to_string().as_bytes())).ok()?;
            std::fs::create_dir(cgroup.0.join("inside")).ok()?;
            Some(cgroup)
        });
        if made.is_none() {
            let _ = writeln!(std::io::stderr(), "skipped: no cgroup with a limit can be made here");
        }
        made
    }

    /// Runs a scenario in it, from its first moment.
    fn run(&self, place: Place, name: &str, context: &str) -> Finished {
        let path = match place {
            Place::Limited => self.0.clone(),
            Place::Inside => self.0.join("inside"),
        };
        let mut command = Command::new("sh");
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(path);
        command.args([env!("CARGO_BIN_EXE_scenario"), name, context]).stdout(Stdio::piped());
        Running::start(command).finish()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(self.0.join("inside"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Runs a scenario in a cgroup of 300 MiB, and in one inside, each on its own.
#[track_caller]
fn in_cgroups(name: &str, context: &str, told: &str) {
    for place in [Place::Limited, Place::Inside] {
        let path = format!("{name}-{context}-{place:?}");
        let Some(cgroup) = Cgroup::of(300 << 20, &path) else { return };
        assert_eq!(cgroup.run(place, name, context).succeeded(), told);
    }
}

fn values_beyond_a_cgroup_are_errors(context: &str) {
    let told = "process: refused\napply: refused\nmap: refused\n\
                try_map: fine\ntry_map: refused\ntry_map: fine\n\
                results: fine\nresults: refused\nresults: fine\n[1, 2, 3]\n";
    in_cgroups("cgroup-large", context, told);
}

fn values_of_which_a_cgroup_has_room_for_some_arrive(context: &str) {
    in_cgroups("cgroup-many", context, "map\nimap\n");
}

fn shared_memory_beyond_a_cgroup_is_an_error(context: &str) {
    in_cgroups("cgroup-shared", context, "shared: refused\nlittle\n");
}
