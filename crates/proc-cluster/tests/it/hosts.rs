//! A fleet on several hosts, which are network namespaces that a bridge joins.
//!
//! The server, each agent and the driver have a host each. The test cuts and restores links, and
//! adds and removes hosts. It needs root and the program `ip`. Without them it is skipped, and
//! `PROC_CLUSTER_REQUIRE_NAMESPACES=1` makes that a failure.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_cluster::{AgentState, AgentStatus, Cluster};

use crate::support::machine::{self, ip};
use crate::support::{self, Group, LEASE, wait_until};

/// A network of hosts. Dropping it removes the hosts.
struct Network {
    name: String,
    hosts: Vec<String>,
}

impl Network {
    /// Makes a network of one host, which has the bridge and the address 10.77.0.1.
    fn new() -> Result<Network, String> {
        let name = format!("pc{}", std::process::id());
        let mut network = Network { name, hosts: Vec::new() };
        let server = network.namespace("server")?;
        ip(&format!("-n {server} link add bridge type bridge"))?;
        ip(&format!("-n {server} addr add 10.77.0.1/24 dev bridge"))?;
        ip(&format!("-n {server} link set bridge up"))?;
        Ok(network)
    }

    fn namespace(&mut self, host: &str) -> Result<String, String> {
        let namespace = format!("{}-{host}", self.name);
        ip(&format!("netns add {namespace}"))?;
        self.hosts.push(namespace.clone());
        ip(&format!("-n {namespace} link set lo up"))?;
        Ok(namespace)
    }

    /// Adds a host with a link to the bridge.
    fn host(&mut self, host: &str) -> Result<(), String> {
        let number = self.hosts.len() + 1;
        let (server, namespace) = (format!("{}-server", self.name), self.namespace(host)?);
        ip(&format!(
            "-n {server} link add name {host} type veth peer name eth0 netns {namespace}"
        ))?;
        ip(&format!("-n {server} link set dev {host} master bridge up"))?;
        ip(&format!("-n {namespace} addr add 10.77.0.{number}/24 dev eth0"))?;
        ip(&format!("-n {namespace} link set eth0 up"))
    }

    /// Cuts a host's link (`down`), or restores it (`up`). No connection is closed by that.
    fn set_link(&self, host: &str, state: &str) {
        let server = format!("{}-server", self.name);
        ip(&format!("-n {server} link set dev {host} {state}")).expect("the link is there");
    }

    /// The command that runs a program on a host.
    fn command(&self, host: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{host}", self.name)]).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = ip(&format!("netns del {host}")); // a link is removed with either of its ends
        }
    }
}

const SERVER: &str = "nats://10.77.0.1:4222";

fn this_program() -> PathBuf {
    std::env::current_exe().expect("a test has a file")
}

fn agent(network: &Network, host: &str) -> Group {
    let mut command = network.command(host, &this_program());
    command.env("PROC_CLUSTER_AGENT", SERVER).env("PROC_CLUSTER_WORKERS", "2").env("HOST", host);
    Group::start(command.env("PROC_CLUSTER_PLAINTEXT", "anywhere"))
}

/// Adds a byte to the file of the host that runs the task.
fn visit((directory, task): (String, u64)) -> u64 {
    let host = std::env::var("HOST").expect("agents are told");
    let file = fs::OpenOptions::new().create(true).append(true).open(format!("{directory}/{host}"));
    file.and_then(|mut file| file.write_all(b".")).expect("the directory is the test's");
    task
}

/// How many tasks have run on a host.
fn visits(directory: &Path, host: &str) -> u64 {
    fs::metadata(directory.join(host)).map_or(0, |file| file.len())
}

/// Waits until a host has run more tasks.
fn wait_for_visits(directory: &Path, host: &str) {
    let before = visits(directory, host);
    wait_until(&format!("{host} works"), || visits(directory, host) > before + 20);
}

#[test]
fn a_call_survives_cut_links_and_lost_hosts() {
    let Some(server) = support::server_program() else { return };
    let Some(()) = machine::or_skip(machine::network_namespaces()) else { return };
    let mut network = Network::new().expect("the machine has namespaces");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let marks = directory.path().join("marks");
    fs::create_dir(&marks).expect("the directory is ours");
    for host in ["a", "b", "driver"] {
        network.host(host).expect("the machine has namespaces");
    }
    let mut command = network.command("server", &server);
    command.args(["--jetstream", "--addr", "10.77.0.1", "--store_dir"]);
    let log = fs::File::create(directory.path().join("log")).expect("the directory is ours");
    let _server = Group::start(command.arg(directory.path().join("data")).stderr(log));
    let _a = agent(&network, "a");
    let b = agent(&network, "b");
    let mut command = network.command("driver", &this_program());
    command.args(["--exact", "hosts::a_driver_on_a_host", "--ignored", "--nocapture"]);
    let mut driver = Group::start(command.env("MARKS", &marks));
    wait_for_visits(&marks, "a");
    wait_for_visits(&marks, "b");

    network.set_link("a", "down");
    wait_for_visits(&marks, "b");
    wait_for_visits(&marks, "b");
    network.set_link("a", "up");
    wait_for_visits(&marks, "a");

    network.set_link("driver", "down");
    wait_until("the driver gets no heartbeats", || marks.join("silence").exists());
    network.set_link("driver", "up");
    wait_for_visits(&marks, "b");

    network.host("c").expect("the machine has namespaces");
    let _c = agent(&network, "c");
    wait_for_visits(&marks, "c");
    network.set_link("b", "down");
    b.kill();
    wait_for_visits(&marks, "a");
    wait_for_visits(&marks, "c");

    fs::write(marks.join("stop"), "").expect("the directory is ours");
    assert!(driver.wait().success(), "every result was there, each once and in order");
}

/// Makes an endless call until the file `stop` exists, and checks every result.
#[test]
#[ignore = "the program of the test before"]
fn a_driver_on_a_host() {
    let Ok(directory) = std::env::var("MARKS") else { return };
    let stop = PathBuf::from(&directory).join("stop");
    let builder = Cluster::builder(SERVER).plaintext_anywhere().lease(LEASE);
    let cluster = builder.connect().expect("the server is there");
    let inputs = (0..).map(|task| (directory.clone(), task));
    let results = (0..).zip(cluster.imap(visit, inputs));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let silent = |agent: &AgentStatus| agent.state == AgentState::Silent;
            wait_until("no agent sends heartbeats any more", || {
                let fleet = cluster.fleet();
                !fleet.agents().is_empty() && fleet.agents().iter().all(silent)
            });
            fs::write(PathBuf::from(&directory).join("silence"), "").expect("it is the test's");
        });
        for (expected, result) in results.take_while(|_| !stop.exists()) {
            assert_eq!(result.expect("no task fails"), expected);
        }
    });
}
