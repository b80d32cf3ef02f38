//! Runs a program for a test: with a deadline, and with a check that nothing is left.
//!
//! A program gets its own process group, an empty directory for temporary files, and no stdin.
//! There is one deadline for all that a test waits for. After the deadline, the whole group is
//! killed, and the test fails with a list of the processes that were alive, with their stacks if
//! gdb is installed. One second after the end of the program, no process of its group and no
//! temporary file may be left.
//!
//! Test programs other than `it` use this file too, so it uses no other file.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long a program may run, on a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long processes of a program may outlive it.
pub(crate) const AFTERLIFE_TIMEOUT: Duration = Duration::from_secs(1);

/// A program that was started.
pub(crate) struct Running {
    // The leader is not reaped before the end, so that no other group can get this number.
    leader: Child,
    group: Pid,
    started: Instant,
    deadline: Instant,
    lines: Receiver<Vec<u8>>,
    stdout: Vec<u8>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    exited: Receiver<()>,
    directory: TempDir,
    what: String,
    finished: bool,
}

/// A program that has ended. It has left nothing.
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
    /// The time from the start to the end of the program.
    pub(crate) took: Duration,
}

/// A process of a program's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    pub(crate) comm: String,
    pub(crate) state: char,
    pub(crate) parent: i32,
}

impl Running {
    /// Starts `command`, whose stdout may be a pipe.
    pub(crate) fn start(command: Command) -> Running {
        Running::start_with_stderr(command, Stdio::piped(), None)
    }

    /// Starts `command` with this stderr. The test reads it from `reader`, if it is not a pipe.
    pub(crate) fn start_with_stderr(
        mut command: Command,
        stderr: Stdio,
        reader: Option<Box<dyn Read + Send>>,
    ) -> Running {
        let directory = tempfile::tempdir().expect("a directory can be made");
        // This is taken before the program starts, so that all of its run time counts.
        let started = Instant::now();
        let mut leader = command
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .expect("the program is there");
        drop(command); // it holds descriptors that only the program may keep open
        let group = Pid::from_raw(leader.id() as i32);
        let (send_line, lines) = mpsc::channel();
        if let Some(stdout) = leader.stdout.take() {
            std::thread::spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut line = Vec::new();
                while stdout.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let _ = send_line.send(std::mem::take(&mut line));
                }
            });
        }
        let pipe = || Box::new(leader.stderr.take().expect("it is a pipe")) as Box<dyn Read + Send>;
        let mut stderr = reader.unwrap_or_else(pipe);
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            // The end of a terminal is an error.
            let _ = stderr.read_to_end(&mut text);
            text
        });
        let (send_exit, exited) = mpsc::channel();
        std::thread::spawn(move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(group), flags) == Err(nix::errno::Errno::EINTR) {}
            let _ = send_exit.send(());
        });
        Running {
            leader,
            group,
            started,
            deadline: started + RUN_TIMEOUT,
            lines,
            stdout: Vec::new(),
            stderr: Some(stderr),
            exited,
            directory,
            what: format!("{:?}", std::thread::current().name().unwrap_or("a program")),
            finished: false,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.group.as_raw()
    }

    /// The directory in which the program makes its temporary files.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Waits for the next line of stdout, without its newline.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.stdout.extend_from_slice(&line);
                let line = String::from_utf8(line).expect("programs print text");
                line.strip_suffix('\n').map(str::to_owned).unwrap_or(line)
            }
            Err(RecvTimeoutError::Timeout) => self.fail("stdout has no further line"),
            Err(RecvTimeoutError::Disconnected) => self.fail("stdout ended before the line came"),
        }
    }

    /// Waits for lines of stdout that must all be equal.
    pub(crate) fn lines(&mut self, count: usize, text: &str) {
        for _ in 0..count {
            assert_eq!(self.line(), text);
        }
    }

    /// Sends a signal to the program's own process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.group, signal).expect("the leader is not reaped yet");
    }

    /// Sends a signal to the whole group, as a terminal does.
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(self.group, signal).expect("the leader is not reaped yet");
    }

    /// Sends a signal to one member.
    pub(crate) fn signal_member(&self, member: &Member, signal: Signal) {
        kill(Pid::from_raw(member.pid), signal).expect("it is alive");
    }

    /// The living processes of the group, by pid.
    pub(crate) fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = all_processes()
            .filter(|(group, _)| *group == self.group.as_raw())
            .map(|(_, member)| member)
            .filter(|member| !matches!(member.state, 'Z' | 'X'))
            .collect();
        members.sort_by_key(|member| member.pid);
        members
    }

    /// The names of the living processes, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.members().into_iter().map(|m| m.comm).collect();
        names.sort();
        names
    }

    /// Waits until `is_right` accepts the members of the group. If it never does, the test fails,
    /// and `what` says how the members should be.
    pub(crate) fn wait_for_members(&mut self, what: &str, is_right: impl Fn(&[Member]) -> bool) {
        while !is_right(&self.members()) {
            if Instant::now() > self.deadline {
                self.fail(what);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sets another time limit than [`RUN_TIMEOUT`], counted from the start of the program.
    pub(crate) fn limited_to(mut self, limit: Duration) -> Running {
        self.deadline = self.started + limit;
        self
    }

    /// Waits for the end of the program, and of all its processes.
    pub(crate) fn finish(mut self) -> Finished {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if self.exited.recv_timeout(left).is_err() {
            self.fail("the program does not end");
        }
        let ended = Instant::now();
        let took = ended - self.started;
        // Other processes of the group may end a moment after the program.
        let leader = self.group.as_raw();
        let mut left = self.members();
        while !left.is_empty() {
            if ended.elapsed() > AFTERLIFE_TIMEOUT {
                self.fail("processes outlive the program");
            }
            std::thread::sleep(POLL_INTERVAL);
            left = self.members();
            left.retain(|member| member.pid != leader);
        }
        while let Ok(line) = self.lines.recv_timeout(AFTERLIFE_TIMEOUT) {
            self.stdout.extend_from_slice(&line);
        }
        let stderr = self.stderr.take().expect("it is taken once").join().expect("it reads");
        let temporary: Vec<_> = std::fs::read_dir(self.directory.path())
            .expect("the directory is ours")
            .map(|entry| entry.expect("it can be read").path())
            .collect();
        assert!(temporary.is_empty(), "temporary files are left: {temporary:?}");
        let status = self.leader.wait().expect("it is our child");
        self.finished = true;
        let text = |bytes| String::from_utf8(bytes).expect("programs print text");
        let stdout = text(std::mem::take(&mut self.stdout));
        Finished { stdout, stderr: text(stderr), status, took }
    }

    /// Kills the group, and panics with a description of what happened and which processes were
    /// alive.
    fn fail(&mut self, why: &str) -> ! {
        let members = self.members();
        let mut text = String::new();
        let _ = writeln!(text, "{} after {:?}: {why}", self.what, self.started.elapsed());
        for Member { pid, comm, state, parent } in members {
            let waits = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            let _ = writeln!(text, "alive: {pid} {comm} {state}, child of {parent}, in {waits}");
            text.push_str(&stacks(pid));
        }
        self.end();
        while let Ok(line) = self.lines.recv_timeout(AFTERLIFE_TIMEOUT) {
            self.stdout.extend_from_slice(&line);
        }
        let _ = writeln!(text, "stdout:\n{}", String::from_utf8_lossy(&self.stdout));
        if let Some(stderr) = self.stderr.take().and_then(|reader| reader.join().ok()) {
            let _ = writeln!(text, "stderr:\n{}", String::from_utf8_lossy(&stderr));
        }
        panic!("{text}");
    }

    /// Kills the group, unless the program has finished.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            let _ = killpg(self.group, Signal::SIGKILL);
            let _ = self.leader.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Finished {
    /// Asserts that the program succeeded and wrote nothing to stderr. Returns its stdout.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &str {
        assert!(
            self.status.success() && self.stderr.is_empty(),
            "{}\nstdout:\n{}\nstderr:\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        &self.stdout
    }

    /// Asserts that a signal killed the program, and that it wrote nothing to stderr.
    #[track_caller]
    pub(crate) fn was_killed_by(&self, signal: Signal) {
        assert_eq!(self.status.signal(), Some(signal as i32), "{}\n{}", self.status, self.stderr);
        assert_eq!(self.stderr, "");
    }

    /// Returns the rest of the line that begins with `start`. There must be one such line.
    #[track_caller]
    pub(crate) fn after(&self, start: &str) -> &str {
        let mut found = self.stdout.lines().filter_map(|line| line.strip_prefix(start));
        match (found.next(), found.next()) {
            (Some(rest), None) => rest,
            _ => panic!(
                "there is not exactly one line that begins with {start:?} in:\n{}",
                self.stdout
            ),
        }
    }
}

/// How often the test polls `/proc` for processes that are not its children.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The stacks of all threads of a process, as gdb prints them. Empty without gdb.
fn stacks(pid: i32) -> String {
    // A minute is enough for gdb on a busy machine.
    let mut gdb = Command::new("timeout");
    gdb.args(["60", "gdb", "-nx", "-batch", "-ex", "thread apply all backtrace", "-p"]);
    let output = gdb.arg(pid.to_string()).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// All processes with their groups.
fn all_processes() -> impl Iterator<Item = (i32, Member)> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // pid (comm) state ppid pgrp …, where comm may hold anything.
        let (comm, rest) = (stat.find('(')? + 1, stat.rfind(')')?);
        let (comm, rest) = (stat[comm..rest].to_owned(), &stat[rest + 1..]);
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some((group, Member { pid, comm, state, parent }))
    })
}
