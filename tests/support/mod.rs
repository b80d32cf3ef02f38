//! Runs a program as a person would, and makes sure that nothing of it stays behind.
//!
//! [`run`] starts a program in a process group, a directory and an environment of its own, and
//! returns when the *whole group* has ended. A program that hangs is killed with all its processes
//! and the panic says which those were. The test process makes itself the reaper of orphans, so
//! that "has ended" is an event to wait for: nothing here sleeps or polls.
//!
//! On purpose, nothing here depends on a particular demo.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "every test file uses its part of this"
)]

pub(crate) mod machine;

use std::fmt::{self, Display, Formatter};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// The longest time that a program may take, on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How long the other processes of its group may still live after the program itself has ended.
const GRACE: Duration = Duration::from_secs(1);

/// What differs from run to run, and what stands for it in a snapshot.
const FILTERS: &[(&str, &str)] = &[
    (r"\bpid \d+\b", "pid [PID]"),
    (r"\b\d+(\.\d+)? ?(ns|µs|us|ms|s)\b", "[DURATION]"),
    (r"(?m)(^|[ '`(])/[^\s'`)]*/", "${1}[DIRECTORY]/"),
];

/// Compares what `Display` shows of the second argument with the snapshot that the first one names.
///
/// The files are `tests/snapshots/<test file>__<name>.snap` in the top directory.
macro_rules! snapshot {
    ($name:expr, $output:expr) => {
        $crate::support::settings().bind(|| insta::assert_snapshot!($name, $output))
    };
}
pub(crate) use snapshot;

/// The settings under which output is compared with a snapshot.
pub(crate) fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_snapshot_path(workspace().join("tests/snapshots"));
    for (pattern, replacement) in FILTERS {
        settings.add_filter(pattern, *replacement);
    }
    settings
}

/// The top directory of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).expect("packages are two levels down").to_owned()
}

/// The program at `path`, with nothing in its environment but `PATH`, and in a coverage run
/// `LLVM_PROFILE_FILE`.
pub(crate) fn program(path: impl AsRef<Path>) -> Command {
    let mut command = Command::new(path.as_ref());
    command.env_clear();
    // In a coverage run, programs write their coverage to the file that the second variable names.
    for name in ["PATH", "LLVM_PROFILE_FILE"] {
        command.envs(env::var_os(name).map(|value| (name, value)));
    }
    command
}

/// The Python program `path` of the workspace; `None`, and a note on stderr, if there is no Python.
///
/// With `PROC_CORE_REQUIRE_PYTHON` set, as in CI, its absence is a failure.
pub(crate) fn python(path: impl AsRef<Path>) -> Option<Command> {
    let mut command = program(machine::or_skip(machine::python3())?);
    command.arg(workspace().join(path));
    Some(command)
}

/// The output of the run that `.ci/record-runs` has written to `docs/runs/<name>.txt`.
///
/// Three lines come before the output: the command, the date and the processors, and the versions.
pub(crate) fn recorded(name: &str) -> Output {
    let file = workspace().join(format!("docs/runs/{name}.txt"));
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let [command, machine, versions, stdout @ ..] = &lines[..] else { panic!("{name}: too short") };
    let has_head = command.starts_with("$ ") && machine.starts_with("# 20");
    assert!(has_head && versions.starts_with("# "), "{name}: {command}{machine}{versions}");
    Output { stdout: stdout.concat(), stderr: String::new(), status: ExitStatus::default() }
}

/// What a program left: its output and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
}

impl Output {
    /// The same output with the lines of each process together.
    ///
    /// A line belongs to the process that is named before its first colon; a line without one
    /// is the parent's and comes last. The lines of one process stay in the order they came in, so
    /// what this hides is how processes interleaved, and whether the parent's line was the last.
    pub(crate) fn grouped(&self) -> Output {
        let mut lines: Vec<&str> = self.stdout.lines().collect();
        lines.sort_by_key(|line| match line.split_once(':') {
            Some((process, _)) => (false, process),
            None => (true, ""),
        });
        let stdout = lines.iter().map(|line| format!("{line}\n")).collect();
        Output { stdout, ..self.clone() }
    }
}

/// What a person sees: stdout, then stderr if there is any, then the status if it is no success.
impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stdout)?;
        if !self.stderr.is_empty() {
            write!(f, "----- stderr -----\n{}", self.stderr)?;
        }
        if !self.status.success() {
            write!(f, "----- {} -----", self.status)?;
        }
        Ok(())
    }
}

/// Runs `command` to its end, and to the end of every process in its group.
///
/// # Panics
///
/// It cannot be started, takes longer than [`LIMIT`], leaves a process alive for longer than
/// [`GRACE`], or leaves a temporary file behind.
pub(crate) fn run(command: &mut Command) -> Output {
    run_reading(command, usize::MAX)
}

/// Does the same as [`run`], but reads only so many lines of stdout, as `head` does.
///
/// With 0 lines, the pipe has no reader, even before the program starts.
pub(crate) fn run_reading(command: &mut Command, lines: usize) -> Output {
    run_with(command, lines, |_| ())
}

/// Does the same as [`run`], and calls `disturb` when the program has started, with its pid, which
/// is the number of its group too.
pub(crate) fn run_disturbed(command: &mut Command, disturb: impl FnOnce(Pid)) -> Output {
    run_with(command, usize::MAX, disturb)
}

fn run_with(command: &mut Command, lines: usize, disturb: impl FnOnce(Pid)) -> Output {
    adopt_orphans();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (stdout, writer) = io::pipe().expect("a pipe");
    let stdout = (lines > 0).then_some(stdout);
    let mut child = command
        .current_dir(directory.path())
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let group = Pid::from_raw(child.id().try_into().expect("a pid"));
    command.stdout(Stdio::null()); // drops the writing end

    let (sender, events) = mpsc::channel();
    read(stdout, lines, sender.clone(), Event::Stdout);
    read(child.stderr.take(), usize::MAX, sender.clone(), Event::Stderr);
    thread::spawn(move || {
        let status = child.wait().expect("our child");
        let _ = sender.send(Event::Ended(status));
        // What the program left in its group is ours by now; wait until there is no more.
        while waitpid(Pid::from_raw(-group.as_raw()), None) != Err(Errno::ECHILD) {}
    });
    disturb(group);

    let (mut stdout, mut stderr, mut ended) = (String::new(), String::new(), None);
    let mut note = |event| match event {
        Event::Stdout(text) => stdout = text,
        Event::Stderr(text) => stderr = text,
        Event::Ended(status) => ended = Some(status),
    };
    let mut deadline = Instant::now() + LIMIT;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => {
                if matches!(event, Event::Ended(_)) {
                    deadline = Instant::now() + GRACE;
                }
                note(event);
            }
            // All three threads are done.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let alive = members(group);
                let _ = killpg(group, Signal::SIGKILL);
                while let Ok(event) = events.recv_timeout(GRACE) {
                    note(event);
                }
                panic!(
                    "still alive when {command:?} should have ended:\n{alive}\n\
                     it ended with {ended:?}\nstdout:\n{stdout}\nstderr:\n{stderr}"
                );
            }
        }
    }
    let left: Vec<_> = fs::read_dir(directory.path()).expect("a directory").collect();
    assert!(left.is_empty(), "{command:?} left files behind: {left:?}");
    Output { stdout, stderr, status: ended.expect("it ended") }
}

enum Event {
    Stdout(String),
    Stderr(String),
    Ended(ExitStatus),
}

/// Sends what it has read from `pipe`: so many lines, or all until no process can write any more.
fn read(
    pipe: Option<impl Read + Send + 'static>,
    lines: usize,
    events: Sender<Event>,
    event: fn(String) -> Event,
) {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe.map(BufReader::new) {
            let mut next = || pipe.read_until(b'\n', &mut bytes).expect("a readable pipe");
            (0..lines).take_while(|_| next() > 0).for_each(drop);
        }
        let _ = events.send(event(String::from_utf8_lossy(&bytes).into_owned()));
    });
}

/// Asserts that a program ends without a word when nobody reads what it prints, as with `head -1`.
///
/// Its exit code is then the one that a shell shows for SIGPIPE.
#[track_caller]
pub(crate) fn assert_quiet_without_reader(mut command: impl FnMut() -> Command) {
    const NO_READER: i32 = 141;
    for _ in 0..5 {
        let nothing = run_reading(&mut command(), 0);
        assert_eq!(nothing.stderr, "");
        assert_eq!(nothing.status.code(), Some(NO_READER));
        let first = run_reading(&mut command(), 1);
        assert_eq!((first.stdout.lines().count(), first.stderr.as_str()), (1, ""));
        // What it prints may all fit into the pipe before `head` has ended.
        assert!([0, NO_READER].map(Some).contains(&first.status.code()), "{}", first.status);
    }
}

/// Makes this process the parent of processes that lose theirs.
///
/// On other systems than Linux, such processes go to init, and only the end of their output shows
/// that they have ended.
pub(crate) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
}

/// The processes of a group that are not zombies, one a line: pid, name, state.
pub(crate) fn members(group: Pid) -> String {
    let mut lines = String::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // pid (name) state parent group …, where the name may hold anything.
        let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let (state, in_group) = (fields.next(), fields.nth(1) == Some(&group.to_string()));
        if in_group && state != Some("Z") {
            lines += &format!("{name}) {}\n", state.unwrap_or("?"));
        }
    }
    lines
}

/// Calls `f` while as many threads as there are processors do nothing but keep them busy.
pub(crate) fn under_load<T>(f: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        // Also when `f` panics: the scope waits for the threads.
        let _stop = Stop(&stop);
        f()
    })
}
