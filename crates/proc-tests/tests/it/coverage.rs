//! What processes execute is counted, by coverage and for the optimizer, and nothing is counted
//! twice.
//!
//! The tests build a program with counters of the compiler, run it, and read the counts with LLVM's
//! tools. That takes a minute, so these tests run only with `--ignored`, as in `.ci/run`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proc_core::StartMethod;
use tempfile::TempDir;

use crate::support::cargo::{dependency_on_core, host, ours, take_versions, told_by, write};
use crate::support::{Running, machine};

tests! {
    #[ignore = "builds a program: .ci/run runs it"]
    everything_is_counted_once_forkserver;
    #[ignore = "builds a program: .ci/run runs it"]
    everything_is_counted_once_spawn;
    #[ignore = "builds a program: .ci/run runs it"]
    everything_is_counted_once_fork;
    #[ignore = "builds a program: .ci/run runs it"]
    files_may_have_any_names;
    #[ignore = "builds a program: .ci/run runs it"]
    processes_that_end_together_take_turns;
    #[ignore = "builds a program: .ci/run runs it"]
    killed_processes_are_not_counted;
    #[ignore = "builds a program: .ci/run runs it"]
    killed_processes_are_counted_in_continuous_mode;
    #[ignore = "builds a program: .ci/run runs it"]
    profiles_for_the_optimizer_are_written;
    #[ignore = "builds a program: .ci/run runs it"]
    commands_of_the_recipe_count_the_lines_of_tasks;
}

/// The program. Its first argument is a start method.
const MAIN: &str = r#"
use std::hint::black_box;
use std::sync::OnceLock;

use proc_core::{Error, Pool, Process, StartMethod};

unsafe extern "C" {
    fn atexit(handler: extern "C" fn()) -> i32;
    fn fork() -> i32;
    fn getpid() -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn wait(status: *mut i32) -> i32;
}

macro_rules! counted {
    ($($function:item)*) => { $( #[unsafe(no_mangle)] #[inline(never)] $function )* };
}

counted! {
    fn counted_in_main() { black_box(()); }
    extern "C" fn counted_exit_handler() { black_box(()); }
    fn counted_task(x: u32) -> u32 {
        black_box(x) + 1 // the counted line
    }
    fn counted_initializer(_: ()) { black_box(()); }
    fn counted_worker_exit(_: ()) { black_box(()); }
    fn counted_preload(_: ()) { black_box(()); }
    fn counted_child(x: u32) -> u32 { black_box(x) + 2 }
    fn counted_elsewhere(x: u32) -> u32 { black_box(x) + 3 }
    fn counted_panic(_: ()) { panic!("told to"); }
    fn counted_exit(_: ()) { std::process::exit(3); }
    fn counted_before_fork(x: u32) -> u32 { black_box(x) + 4 }
    fn counted_in_static(x: u32) -> u32 { black_box(x) + 5 }
    fn counted_before_death(x: u32) -> u32 { black_box(x) + 6 }
    // SAFETY: a process may signal itself.
    fn counted_death(_: ()) { unsafe { kill(getpid(), 9) }; }
}

fn forks(x: u32) -> u32 {
    let x = counted_before_fork(x);
    // SAFETY: a worker has one thread, so the copy may run any code.
    if unsafe { fork() } > 0 {
        // SAFETY: the status may be null.
        unsafe { wait(std::ptr::null_mut()) };
    }
    x
}

/// Returns at the same moment in all workers.
fn end_with_the_others() {
    let milliseconds = || {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
        now.as_millis() % 100
    };
    while milliseconds() > 2 {
        std::thread::yield_now();
    }
}

static POOL: OnceLock<Pool> = OnceLock::new();

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let start_method = match arguments[1].as_str() {
        "Forkserver" => StartMethod::Forkserver,
        "Spawn" => StartMethod::Spawn,
        "Fork" => StartMethod::Fork,
        other => panic!("{other}"),
    };
    for _ in 0..5 {
        counted_in_main();
    }
    // SAFETY: the function is part of the program, and does not unwind.
    unsafe { atexit(counted_exit_handler) };
    proc_core::init();
    let builder = || Pool::builder().processes(2).start_method(start_method);
    let word = arguments.get(2).map(String::as_str);
    if word == Some("crowd") {
        for _ in 0..10 {
            let pool = builder()
                .processes(10)
                .initializer(counted_initializer, ())
                .worker_exit(|()| end_with_the_others())
                .build()?;
            pool.close();
            pool.join()?;
        }
        return Ok(());
    }
    if word == Some("die") {
        let pool = builder().processes(1).build()?;
        pool.map(counted_before_death, 0..10)?;
        assert!(pool.apply(counted_death, ()).is_err());
        return Ok(());
    }
    let pool = builder()
        .initializer(counted_initializer, ())
        .worker_exit(counted_worker_exit)
        .build()?;
    for _ in 0..3 {
        counted_in_main();
    }
    pool.map(counted_task, 0..100)?;
    pool.close(); // a worker that is still being started is not killed
    pool.join()?;
    let pool = builder().preload(counted_preload, ()).max_tasks_per_child(10).build()?;
    pool.map(counted_task, 0..100)?;
    pool.close();
    pool.join()?;
    let pool = builder().processes(1).build()?;
    pool.map(forks, 0..10)?;
    drop(pool);
    let child = Process::new(counted_child, 1).start_method(start_method);
    assert_eq!(child.start()?.join()?, 3);
    let child = Process::new(counted_elsewhere, 1).start_method(start_method).current_dir("/");
    assert_eq!(child.env_clear().start()?.join()?, 4);
    let child = Process::new(counted_panic, ()).start_method(start_method);
    assert!(child.stderr(proc_core::Stdio::null()).start()?.join().is_err());
    let child = Process::new(counted_exit, ()).start_method(start_method);
    assert!(child.start()?.join().is_err());
    POOL.get_or_init(|| builder().build().expect("it can be built")).map(counted_in_static, 0..7)?;
    Ok(())
}
"#;

/// What a run of the whole program counts. Exit handlers run where the program itself says so: at
/// the end of `main`, and in the process that calls `exit`, if it has inherited them.
fn all(start_method: StartMethod) -> Counts {
    Counts::from([
        ("counted_in_main".into(), 8),
        ("counted_exit_handler".into(), if start_method == StartMethod::Spawn { 1 } else { 2 }),
        ("counted_task".into(), 200),
        ("counted_initializer".into(), 2),
        ("counted_worker_exit".into(), 2),
        ("counted_preload".into(), 1),
        ("counted_child".into(), 1),
        ("counted_elsewhere".into(), 1),
        ("counted_panic".into(), 1),
        ("counted_exit".into(), 1),
        ("counted_before_fork".into(), 10),
        ("counted_in_static".into(), 7),
    ])
}

/// How often each function of the program was called, without those that were never called.
type Counts = BTreeMap<String, u64>;

/// Builds the program, with `flags` for all its crates, and `own_flags` for the program itself.
fn build(name: &str, flags: &str, own_flags: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coverage").join(name);
    let mut manifest =
        "[workspace]\n[package]\nname = \"counted\"\nedition = \"2024\"\n".to_owned();
    let _ = write!(manifest, "[dependencies]\n{}\n", dependency_on_core());
    write(&root.join("Cargo.toml"), &manifest);
    write(&root.join("src/main.rs"), MAIN);
    take_versions(&root);
    let host = host();
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(&root).env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags);
    build.env("CARGO_PROFILE_DEV_DEBUG", "0"); // takes less disk
    build.args(["rustc", "--quiet", "--offline", "--target", &host]);
    build.arg("--target-dir").arg(root.join("target")).arg("--").args(own_flags);
    told_by(build);
    root.join("target").join(host).join("debug/counted")
}

/// The program, built for coverage. It can also count in continuous mode: the name of the file of
/// counts decides whether it does.
fn covered() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let own_flags = [
        "-C",
        "llvm-args=-runtime-counter-relocation",
        "-C",
        "llvm-args=-instrprof-atomic-counter-update-all",
    ];
    BUILT.get_or_init(|| build("covered", "-C instrument-coverage", &own_flags))
}

/// Files with counts that a program has written.
struct Counted {
    directory: TempDir,
    program: PathBuf,
    source: PathBuf,
    profdata: PathBuf,
    cov: PathBuf,
}

impl Counted {
    /// Runs the program in an empty directory, `HERE`, with this value of `LLVM_PROFILE_FILE`.
    /// Returns `None` if this machine has no tools to read the counts.
    fn by(
        program: impl FnOnce() -> PathBuf,
        file: Option<&str>,
        start_method: StartMethod,
        arguments: &[&str],
    ) -> Option<Counted> {
        let (profdata, cov) = machine::or_skip(machine::llvm_tools())?;
        let program = program();
        let directory = tempfile::tempdir().expect("a directory can be made");
        let mut command = Command::new(&program);
        let here = directory.path().to_str().expect("it is text");
        let file = file.map(|file| file.replace("HERE", here));
        command.env_clear().envs(file.map(|file| ("LLVM_PROFILE_FILE", file)));
        command.current_dir(&directory).arg(format!("{start_method:?}")).args(arguments);
        command.stdout(Stdio::piped());
        assert_eq!(Running::start(command).finish().succeeded(), "");
        let source =
            program.ancestors().nth(4).expect("it is in the workspace").join("src/main.rs");
        Some(Counted { directory, program, source, profdata, cov })
    }

    /// The names of the files.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.directory).expect("the directory is ours");
        let names = files.map(|file| file.expect("it can be read").file_name().into_string());
        let mut names: Vec<_> = names.map(|name| name.expect("it is text")).collect();
        names.retain(|name| name.ends_with(".profraw"));
        names.sort();
        names
    }

    /// Adds up the counts of all files. Returns the file of the sums.
    fn merge(&self) -> PathBuf {
        let merged = self.directory.path().join("merged.profdata");
        let mut merge = Command::new(&self.profdata);
        // A file that is half written is an error.
        merge.args(["merge", "--failure-mode=any", "-o"]).arg(&merged).args(self.files());
        merge.current_dir(&self.directory);
        told_by(merge);
        merged
    }

    /// How often each function of the program was called, in all processes.
    fn calls(&self) -> Counts {
        let mut show = Command::new(&self.profdata);
        show.args(["show", "--all-functions", "--counts"]).arg(self.merge());
        let shown = told_by(show);
        let mut counts = Counts::new();
        let mut function = "";
        for line in shown.lines().map(str::trim) {
            if let Some(name) = line.strip_suffix(':') {
                function = name;
            }
            // Coverage has a count of calls. Otherwise the counts are those of blocks. The
            // functions of the program have one block, and perhaps another one that panics.
            let blocks =
                line.strip_prefix("Block counts: [").and_then(|line| line.split([',', ']']).next());
            let count = line.strip_prefix("Function count: ").or(blocks);
            if let Some(count) = count.and_then(|count| count.parse().ok())
                && function.starts_with("counted_")
                && count > 0
            {
                counts.insert(function.to_owned(), count);
            }
        }
        counts
    }

    /// How often the line of the program with this text was executed, as llvm-cov says.
    fn line(&self, text: &str) -> u64 {
        let number = 1 + MAIN.lines().position(|line| line.contains(text)).expect("it is there");
        let mut export = Command::new(&self.cov);
        export.args(["export", "--format=lcov", "--instr-profile"]).arg(self.merge());
        export.arg(&self.program);
        let files = told_by(export);
        let mut files = files.split("SF:");
        let file = files.find(|file| file.starts_with(&*self.source.to_string_lossy()));
        let mut lines = file.expect("it is covered").lines();
        let count = lines.find_map(|line| line.strip_prefix(&format!("DA:{number},")));
        count.expect("it is covered").parse().expect("it is a number")
    }
}

fn is_counted_once(start_method: StartMethod) {
    // The name that cargo-llvm-cov gives.
    let file = Some("x-%p-%m.profraw");
    let program = || covered().to_owned();
    let Some(counted) = Counted::by(program, file, start_method, &[]) else { return };
    assert_eq!(counted.calls(), all(start_method));
    assert_eq!(counted.line("the counted line"), 200);
    // The program, 1 fork server of the program and 1 of a pool, and more than 10 workers. Each has
    // a file of its own.
    assert!(counted.files().len() > 13, "{:?}", counted.files());
}

fn everything_is_counted_once_forkserver() {
    is_counted_once(StartMethod::Forkserver);
}

fn everything_is_counted_once_spawn() {
    is_counted_once(StartMethod::Spawn);
}

fn everything_is_counted_once_fork() {
    is_counted_once(StartMethod::Fork);
}

fn files_may_have_any_names() {
    // The last two are common to all processes: they add to the counts in the file, or append.
    // `counted_elsewhere` runs in another directory. If its file has a pid in its name, the file is
    // written to the directory of the program all the same.
    let names = [
        (None, true),
        (Some("%p.profraw"), true),
        (Some("HERE/%m.profraw"), false),
        (Some("HERE/x.profraw"), false),
    ];
    for (file, has_pid) in names {
        let program = || covered().to_owned();
        let start_method = StartMethod::Forkserver;
        let Some(counted) = Counted::by(program, file, start_method, &[]) else { return };
        assert_eq!(counted.calls(), all(start_method), "{file:?}");
        assert_eq!(counted.files().len() > 13, has_pid, "{file:?}: {:?}", counted.files());
    }
}

fn processes_that_end_together_take_turns() {
    for file in ["HERE/x.profraw", "HERE/%m.profraw"] {
        let program = || covered().to_owned();
        let start_method = StartMethod::Forkserver;
        let Some(counted) = Counted::by(program, Some(file), start_method, &["crowd"]) else {
            return;
        };
        assert_eq!(counted.calls()["counted_initializer"], 100, "{file}");
    }
}

/// What a run counts in which a worker is killed.
fn with_death(file: &str, start_method: StartMethod) -> Option<Counts> {
    Some(Counted::by(|| covered().to_owned(), Some(file), start_method, &["die"])?.calls())
}

fn killed_processes_are_not_counted() {
    let Some(counts) = with_death("%p.profraw", StartMethod::Forkserver) else { return };
    let others = [("counted_exit_handler".into(), 1), ("counted_in_main".into(), 5)];
    assert_eq!(counts, Counts::from(others));
}

fn killed_processes_are_counted_in_continuous_mode() {
    for start_method in [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork] {
        let Some(counts) = with_death("x-%p%c.profraw", start_method) else { return };
        let all = [
            ("counted_before_death".into(), 10),
            ("counted_death".into(), 1),
            ("counted_exit_handler".into(), 1),
            ("counted_in_main".into(), 5),
        ];
        assert_eq!(counts, Counts::from(all), "{start_method:?}");
    }
}

fn profiles_for_the_optimizer_are_written() {
    let program = || build("profiled", "-C profile-generate", &[]);
    for file in ["%p.profraw", "HERE/%m.profraw"] {
        let file = Some(file);
        let start_method = StartMethod::Forkserver;
        let Some(counted) = Counted::by(program, file, start_method, &[]) else { return };
        assert_eq!(counted.calls(), all(start_method), "{file:?}");
    }
}

/// Returns the commands of the recipe about coverage: those in Python, and those in Rust.
fn commands_of_the_recipe() -> (String, String) {
    let page = std::fs::read_to_string(ours().join("docs/recipes.md")).expect("it is there");
    let recipe = page.split("## ").find(|part| part.starts_with("Coverage of tasks\n"));
    let mut blocks = recipe.expect("the page has it").split("```sh\n").skip(1);
    let mut commands = || Some(blocks.next()?.split_once("```")?.0.to_owned());
    commands().zip(commands()).expect("two blocks of commands")
}

/// The tests that the commands in Python run.
const RECIPE_IN_PYTHON: &str = "\
from multiprocessing import Pool


def task(x):
    return x * x


if __name__ == '__main__':
    pool = Pool(2)
    assert pool.map(task, range(4)) == [0, 1, 4, 9]
    pool.close()
    pool.join()
";

/// The tests that the commands in Rust run.
const RECIPE_IN_RUST: &str = "\
pub fn task(x: u32) -> u32 {
    x * x
}

#[test]
fn squares() -> Result<(), proc_core::Error> {
    let pool = proc_core::Pool::builder().processes(2).build()?;
    assert_eq!(pool.map(task, 0..4)?, [0, 1, 4, 9]);
    Ok(())
}
";

/// Both programs have one line that only workers execute. Both reports say that none is missing.
fn commands_of_the_recipe_count_the_lines_of_tasks() {
    let Some((profdata, cov)) = machine::or_skip(machine::llvm_tools()) else { return };
    let Some(mut path) = machine::or_skip(machine::coverage_tools()) else { return };
    let (in_python, in_rust) = commands_of_the_recipe();
    path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let path = std::env::join_paths(path).expect("they are names");
    let shell = |commands: &str, directory: &Path| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", commands]).current_dir(directory).env("PATH", &path);
        shell.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        shell.env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true");
        shell.env("LLVM_PROFDATA", &profdata).env("LLVM_COV", &cov);
        told_by(shell)
    };

    let directory = tempfile::tempdir().expect("a directory can be made");
    let root = directory.path();
    write(&root.join(".coveragerc"), "[run]\nconcurrency = multiprocessing\nparallel = true\n");
    write(&root.join("tests.py"), RECIPE_IN_PYTHON);
    let report = shell(&in_python, root);
    assert!(
        report.lines().any(|line| line.starts_with("tests.py ") && line.ends_with(" 100%")),
        "{report}"
    );

    let root = &Path::new(env!("CARGO_TARGET_TMPDIR")).join("coverage/recipe");
    let manifest = format!(
        "[workspace]\n[package]\nname = \"recipe\"\nedition = \"2024\"\n[dependencies]\n{}\n",
        dependency_on_core()
    );
    write(&root.join("Cargo.toml"), &manifest);
    write(&root.join("src/lib.rs"), RECIPE_IN_RUST);
    take_versions(root);
    let report = shell(&in_rust, root);
    // After the name: regions, functions, lines and branches; of each the number, how many are
    // missing, and the share of the others.
    let row = report.lines().find(|line| line.contains("/src/lib.rs "));
    let missing = row.and_then(|row| row.split_whitespace().rev().nth(4));
    assert_eq!(missing, Some("0"), "{report}");
}
