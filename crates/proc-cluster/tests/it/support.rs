//! A fleet on this machine: a server of its own for each test, and agents that are this test
//! program.
//!
//! Everything started here has a process group of its own and ends with the test, however that
//! ends. A test that takes longer than [`LIMIT`] ends the whole run, saying what was going on.

#[path = "../../../../tests/support/machine.rs"]
pub(crate) mod machine;

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proc_cluster::{Cluster, ClusterBuilder};
use tempfile::TempDir;

/// How long a test may take in all, on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(150);

/// How often a look is taken where nothing tells that something has come about.
const GLANCE: Duration = Duration::from_millis(10);

/// The lease of tests: short, so that what is lost runs elsewhere soon.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// The server to test with; `None`, and a note on stderr, where there is none.
pub(crate) fn server_program() -> Option<PathBuf> {
    machine::or_skip(machine::nats_server())
}

/// Started here, with all that it starts; ended with it.
pub(crate) struct Group {
    leader: Child,
}

impl Group {
    pub(crate) fn start(command: &mut Command) -> Group {
        let leader = command.stdin(Stdio::null()).process_group(0).spawn();
        Group { leader: leader.expect("the program is there") }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.leader.id() as i32)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        killpg(self.pid(), signal).expect("it is not collected yet");
    }

    /// Kills all of it, as a machine's loss does.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits for its end by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.leader.wait().expect("it is our child")
    }

    /// What it says on stderr, which is a pipe, until all of it has ended: the leader may be a
    /// shell.
    pub(crate) fn last_words(&mut self) -> String {
        let mut words = String::new();
        let stderr = self.leader.stderr.as_mut().expect("it was piped");
        stderr.read_to_string(&mut words).expect("it is text");
        words
    }

    fn end(&mut self) {
        let _ = killpg(self.pid(), Signal::SIGKILL); // it may have ended
        let _ = self.leader.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// A server with its data, which agents and drivers of one test share.
pub(crate) struct Server {
    program: PathBuf,
    group: Option<Group>,
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    _watch: Watch,
}

impl Server {
    /// A server without further ado; `None` where there is none to be had.
    pub(crate) fn start() -> Option<Server> {
        Server::with(|_| ["--jetstream", "--store_dir", "data"].map(str::to_owned).to_vec())
    }

    /// A server with these arguments, for which files can be made in its directory; its data are to
    /// lie in `data` there.
    pub(crate) fn with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<Server> {
        let program = server_program()?;
        let directory = tempfile::tempdir().expect("a directory can be made");
        let arguments = arguments(directory.path());
        let watch = Watch::start();
        let mut server =
            Server { program, group: None, port: 0, arguments, directory, _watch: watch };
        server.run();
        Some(server)
    }

    /// Starts it on its port; on any that is free, the first time.
    pub(crate) fn run(&mut self) {
        let ports = self.directory.path().join("ports");
        fs::create_dir_all(&ports).expect("the directory is ours");
        let port = if self.port == 0 { "-1".to_owned() } else { self.port.to_string() };
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file());
        let mut command = Command::new(&self.program);
        command.args(["--addr", "127.0.0.1", "--port", &port, "--ports_file_dir"]).arg(&ports);
        command.args(&self.arguments).stderr(log.expect("the directory is ours"));
        command.env("DRIVER_PASSWORD", "of-driver").env("AGENT_PASSWORD", "of-agent");
        command.current_dir(self.directory.path());
        let group = Group::start(&mut command);
        let file = ports.join(format!("nats-server_{}.ports", group.pid()));
        self.group = Some(group);
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let address = json["nats"][0].as_str().and_then(|url| url.rsplit(':').next());
            if let Some(port) = address.and_then(|port| port.parse().ok()) {
                self.port = port;
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return;
                }
            }
            assert!(started.elapsed() < Duration::from_secs(30), "no server:\n{}", self.log());
            std::thread::sleep(GLANCE);
        }
    }

    /// Ends it at once, as a loss of power does, but for what the system had taken over.
    pub(crate) fn kill(&mut self) {
        self.group.take().expect("it runs").kill();
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn address(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// An agent's command, with so many workers, in a clean environment.
    pub(crate) fn agent_command(&self, workers: usize) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("a test has a file"));
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
        command.env("PROC_CLUSTER_AGENT", self.address());
        command.env("PROC_CLUSTER_WORKERS", workers.to_string());
        command
    }

    pub(crate) fn agent(&self, workers: usize) -> Group {
        Group::start(&mut self.agent_command(workers))
    }

    pub(crate) fn builder(&self) -> ClusterBuilder {
        Cluster::builder(&self.address()).lease(LEASE)
    }

    pub(crate) fn cluster(&self) -> Cluster {
        self.builder().connect().unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// A cluster of so many agents with two workers each, all there.
    pub(crate) fn fleet(&self, agents: usize) -> (Cluster, Vec<Group>) {
        let groups = (0..agents).map(|_| self.agent(2)).collect();
        let cluster = self.cluster();
        wait_for_workers(&cluster, 2 * agents);
        (cluster, groups)
    }
}

pub(crate) fn wait_for_workers(cluster: &Cluster, workers: usize) {
    let waited = cluster.wait_for_workers(workers, LIMIT);
    waited.unwrap_or_else(|error| panic!("{error}\n{}", cluster.fleet()));
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: not after a minute");
        std::thread::sleep(GLANCE);
    }
}

/// Ends the run if a test takes too long, and says so.
struct Watch {
    _end: Sender<()>,
}

impl Watch {
    fn start() -> Watch {
        let (end, ended) = mpsc::channel::<()>();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test} takes longer than {LIMIT:?}");
                std::process::abort();
            }
        });
        Watch { _end: end }
    }
}
