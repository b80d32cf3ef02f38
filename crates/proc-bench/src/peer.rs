//! A contender as seen by the run: a process that may fail, hang or be absent.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::contenders::Contender;
use crate::workload::{Answer, Request};

/// How long a contender may take to start.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a contender may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A contender, and its process while one is running.
pub(crate) struct Peer {
    contender: Contender,
    python: PathBuf,
    running: Option<Running>,
}

/// The process of a contender. It leads a process group of its own. The processes that it starts
/// are in this group too.
struct Running {
    child: Child,
    status: Option<ExitStatus>,
    requests: Option<ChildStdin>,
    answers: Receiver<Answer>,
}

impl Peer {
    pub(crate) fn new(contender: Contender, python: &Path) -> Peer {
        Peer { contender, python: python.into(), running: None }
    }

    pub(crate) fn name(&self) -> String {
        self.contender.name()
    }

    /// Starts the process. Returns the version, or why the contender is absent or has failed.
    pub(crate) fn start(&mut self) -> Answer {
        match Running::start(self.contender, &self.python) {
            Ok(mut running) => {
                let answer = running.answer(STARTUP_TIMEOUT);
                if let Answer::Version(_) = answer {
                    self.running = Some(running);
                }
                answer
            }
            Err(error) => Answer::Absent(format!("{error:#}")),
        }
    }

    /// Asks for one block of repetitions. Kills a contender that does not answer in time.
    pub(crate) fn ask(&mut self, request: &Request, timeout: Duration) -> Answer {
        if self.running.is_none()
            && let answer @ (Answer::Absent(_) | Answer::Failure(_)) = self.start()
        {
            return answer;
        }
        let Some(running) = &mut self.running else {
            return Answer::Failure("it does not start".into());
        };
        let answer = match running.ask(request) {
            Ok(()) => running.answer(timeout),
            Err(error) => Answer::Failure(format!("{error:#}")),
        };
        if let Answer::Failure(_) = answer {
            // The processes of a contender that has failed must not disturb the others.
            let _ = running.end();
            self.running = None;
        }
        answer
    }
}

impl Running {
    fn start(contender: Contender, python: &PathBuf) -> Result<Running> {
        let mut command = contender.command(python)?;
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| command.get_program().display().to_string())?;
        let requests = child.stdin.take();
        let (sender, answers) = channel();
        let stdout = child.stdout.take().context("a child with a piped output has none")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line);
                let failed = |error| Answer::Failure(format!("it says {line:?}: {error}"));
                if sender.send(answer.unwrap_or_else(failed)).is_err() {
                    break;
                }
            }
        });
        Ok(Running { child, status: None, requests, answers })
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        let requests = self.requests.as_mut().context("the contender was told to end")?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        Ok(requests.write_all(&line)?)
    }

    fn answer(&mut self, timeout: Duration) -> Answer {
        match self.answers.recv_timeout(timeout) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                Answer::Failure(format!("no answer in {} s: killed", timeout.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => Answer::Failure(match self.end() {
                Ok(status) => format!("it ended: {status}"),
                Err(error) => format!("it ended: {error}"),
            }),
        }
    }

    /// Kills the group, and returns how the contender has ended.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        // No other group can get this number before the child is waited for.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The end of its input tells the contender to end. Then the rest of its group is killed.
        self.requests = None;
        while self.answers.recv_timeout(END_TIMEOUT).is_ok() {}
        let _ = self.end();
    }
}
