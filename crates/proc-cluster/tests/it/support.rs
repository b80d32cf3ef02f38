//! A fleet on this machine: each test has a server of its own, and nearly all agents are this test
//! program.
//!
//! Each program that is started here has a process group of its own, which is killed when the test
//! ends in any way. A test whose [`Server`] lives longer than [`LIMIT`] ends the whole run, and its
//! name is printed.

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

/// How often a test polls for an event of which it gets no message.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The lease in tests. It is short, so that lost work soon runs elsewhere.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// The server to test with. If there is none, returns `None` and prints a note to stderr.
pub(crate) fn server_program() -> Option<PathBuf> {
    machine::or_skip(machine::nats_server())
}

/// A program that was started here, with all processes that it starts. Dropping this kills them.
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
        killpg(self.pid(), signal).expect("it is not reaped yet");
    }

    /// Kills all processes of the group at once, as the loss of a machine does.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits until the program ends by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.leader.wait().expect("it is our child")
    }

    /// Reads stderr, which must be a pipe, until all processes of the group have ended. (The leader
    /// may be a shell.)
    pub(crate) fn read_stderr(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.leader.stderr.as_mut().expect("it was piped");
        stderr.read_to_string(&mut text).expect("it is text");
        text
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

/// The server of one test, with its data.
pub(crate) struct Server {
    program: PathBuf,
    group: Option<Group>,
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    _watch: Watch,
}

impl Server {
    /// Starts a server with the default arguments. Returns `None` if this machine has no server.
    pub(crate) fn start() -> Option<Server> {
        Server::with(|_| ["--jetstream", "--store_dir", "data"].map(str::to_owned).to_vec())
    }

    /// Starts a server with the arguments that `arguments` returns. That function gets the
    /// directory of the server, and may make files there. The arguments must put the data into
    /// `data` there.
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

    /// Starts the server: the first time on a free port, then on the same port again.
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
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Kills the server. Data that it has written to files are kept, unlike in a loss of power.
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

    /// How many messages the server holds: in the stream of work, and in the stream of data.
    pub(crate) fn count_messages(&self) -> (u64, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = async_nats::connect(self.address()).await.expect("it listens");
            let context = async_nats::jetstream::new(client);
            let mut counts = [0, 0];
            for (count, stream) in
                counts.iter_mut().zip(["proc-default-tasks", "proc-default-data"])
            {
                let stream = context.get_stream(stream).await.expect("a driver made it");
                *count = stream.cached_info().state.messages;
            }
            (counts[0], counts[1])
        })
    }

    pub(crate) fn wait_until_nothing_is_left(&self) {
        wait_until("nothing is left at the server", || self.count_messages() == (0, 0));
    }

    /// The command of an agent with this number of workers, in a clean environment.
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

    /// Starts this number of agents with two workers each, and waits for all of them.
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

/// Polls until `is_so` returns true.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: not after a minute");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Ends the run if a test takes too long.
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

/// Makes a file that shows that a task has begun. It holds the pid of the worker.
pub(crate) fn mark(directory: &str, name: &str) -> PathBuf {
    let file = PathBuf::from(directory).join(name);
    fs::write(&file, std::process::id().to_string()).expect("the directory is the test's");
    file
}

/// How many marks there are.
pub(crate) fn begun(directory: &str) -> usize {
    fs::read_dir(directory).expect("the directory is the test's").count()
}

/// Makes the directory of the marks.
pub(crate) fn marks(server: &Server) -> String {
    let directory = server.path().join("marks");
    fs::create_dir_all(&directory).expect("the directory is ours");
    directory.to_str().expect("it is text").to_owned()
}
