//! proc-core in a library that Python has loaded never executes Python.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proc_core::StartMethod;

use crate::support::{Running, machine};

tests! {
    init_before_threads_works;
    fork_works_with_one_thread;
    late_init_is_told_what_works;
    missing_init_with_threads_is_told_what_works;
    missing_init_works_or_is_told_what_works;
    spawn_is_told_what_works;
    fork_is_refused_with_threads;
    init_after_the_first_use_works;
}

/// Loads the library, and does the steps: starts a thread, calls `init` and uses the library, or
/// only uses it. Afterwards the program's input must still be there.
const PROGRAM: &str = "
import ctypes, sys, threading
library = ctypes.CDLL(sys.argv[1])
for step in sys.argv[3:]:
    if step == 'thread':
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    else:
        library.use_processes(int(sys.argv[2]), int(step == 'init'))
print('input', sys.stdin.read(), end='', flush=True)
";

/// Builds the library in the target directory of this test. Returns its path.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a file");
        let profile = test.ancestors().nth(2).expect("it is in `deps` of its profile");
        let mut build = Command::new(env!("CARGO"));
        // Build scripts that read these variables would run again in each build, and all crates
        // that depend on them would be built again.
        let is_cargos = |name: &OsString| {
            let name = name.as_bytes();
            name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_cargos(name)) {
            build.env_remove(name);
        }
        build.args(["build", "--quiet", "--locked", "-p", "proc-tests", "--example", "loaded"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        build.arg("--target-dir").arg(profile.parent().expect("profiles have a directory"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().expect("there is a cargo").success(), "it does not build");
        profile.join("examples/libloaded.so")
    })
}

/// Does the steps in Python: `thread`, `init` and `use`. Returns what was printed, or `None`
/// without Python.
///
/// Python's stdin is a Python program, which must not be run.
fn told(start_method: StartMethod, steps: &[&str]) -> Option<String> {
    let python = machine::or_skip(machine::python3())?;
    let directory = tempfile::tempdir().expect("a directory can be made");
    let executed = directory.path().join("executed");
    let input = format!("open({executed:?}, 'w').close()\n");
    let input_file = directory.path().join("input");
    std::fs::write(&input_file, &input).expect("there is room");
    let mut told = String::new();
    // The input is a file, then a pipe. Processes that inherit it share it.
    for line in
        [r#"file="$1"; shift; exec "$@" < "$file""#, r#"file="$1"; shift; cat "$file" | "$@""#]
    {
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh"]).arg(&input_file).arg(&python);
        command.args(["-c", PROGRAM]).arg(library());
        // The library has these numbers for start methods.
        let number = match start_method {
            StartMethod::Forkserver => "0",
            StartMethod::Spawn => "1",
            StartMethod::Fork => "2",
        };
        command.arg(number).args(steps);
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
        command.stdout(Stdio::piped());
        let finished = Running::start(command).finish();
        assert!(!executed.exists(), "Python was executed, and ran its input:\n{}", finished.stdout);
        let stdout = finished.succeeded().to_owned();
        let end = format!("input {input}");
        told = stdout.strip_suffix(&end).unwrap_or_else(|| panic!("{stdout}")).to_owned();
    }
    Some(told)
}

/// Asserts that the output is an error of the start, or of a wrong use, that names what works in
/// such a program.
#[track_caller]
fn expect_advice(told: &str) {
    assert!(told.starts_with("error start ") || told.starts_with("error invalid "), "{told}");
    for word in ["init", "Fork", "thread"] {
        assert!(told.contains(word), "{word} is not in: {told}");
    }
}

const RESULTS: &str = "results [2, 3, 42]\n";

fn init_before_threads_works() {
    let Some(told) = told(StartMethod::Forkserver, &["init"]) else { return };
    assert_eq!(told, RESULTS);
}

fn fork_works_with_one_thread() {
    for step in ["init", "use"] {
        let Some(told) = told(StartMethod::Fork, &[step]) else { return };
        assert_eq!(told, "result 42\n");
    }
}

fn late_init_is_told_what_works() {
    let Some(told) = told(StartMethod::Forkserver, &["thread", "init"]) else { return };
    expect_advice(&told);
}

fn missing_init_with_threads_is_told_what_works() {
    let Some(told) = told(StartMethod::Forkserver, &["thread", "use"]) else { return };
    expect_advice(&told);
}

/// With one thread the first use may be as good as init.
fn missing_init_works_or_is_told_what_works() {
    let Some(told) = told(StartMethod::Forkserver, &["use"]) else { return };
    if told != RESULTS {
        expect_advice(&told);
    }
}

fn spawn_is_told_what_works() {
    for steps in [&["init"][..], &["use"], &["thread", "init"], &["thread", "use"]] {
        let Some(told) = told(StartMethod::Spawn, steps) else { return };
        expect_advice(&told);
    }
}

fn fork_is_refused_with_threads() {
    let Some(told) = told(StartMethod::Fork, &["thread", "init"]) else { return };
    assert!(told.starts_with("error start ") && told.contains("threads"), "{told}");
}

/// The first use has made a fork server. `init` makes another one, or keeps the first one if there
/// are threads.
fn init_after_the_first_use_works() {
    for steps in [&["use", "init", "use"][..], &["use", "thread", "init", "use"]] {
        let Some(told) = told(StartMethod::Forkserver, steps) else { return };
        assert_eq!(told, RESULTS.repeat(3), "{steps:?}");
    }
}
