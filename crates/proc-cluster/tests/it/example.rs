//! The example of `docs/cluster.md`: the same work in a pool and on a fleet.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::support::{self, Group, Server};

/// Builds the example's program in the target directory of this test. Returns its path.
fn primes() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a file");
    let profile = test.ancestors().nth(2).expect("it is in `deps` of its profile");
    let mut build = without_cargo(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "-p", "proc-cluster", "--example", "primes"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.arg("--target-dir").arg(profile.parent().expect("profiles have a directory"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().expect("there is a cargo").success(), "the example does not build");
    profile.join("examples/primes")
}

/// A command without the variables by which cargo describes this package. Build scripts that read
/// these variables, such as ring's, would run again in each build, and all crates that depend on
/// them would be built again.
fn without_cargo(program: &str) -> Command {
    let mut command = Command::new(program);
    let is_cargos = |name: &OsString| {
        let name = name.as_bytes();
        name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_cargos(name)) {
        command.env_remove(name);
    }
    command
}

/// The commands of a page that make a fleet on one machine.
fn commands(page: &str) -> Vec<&str> {
    let block =
        page.split("```sh\n").find(|block| block.starts_with("nats-server -js -a 127.0.0.1"));
    let block = block.and_then(|block| block.split("```").next()).expect("the page has it");
    block.lines().map(|line| line.split(" #").next().unwrap_or(line).trim_end()).collect()
}

/// A command of a page, with the address of `server` in place of the example's address.
fn shell(line: &str, server: &Server) -> Command {
    const EXAMPLE: &str = "nats://127.0.0.1:4222";
    assert!(line.contains(EXAMPLE), "{line}");
    let mut command = without_cargo("sh");
    command.arg("-c").arg(line.replace(EXAMPLE, &server.address()));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    command
}

#[test]
fn a_pool_counts_primes() {
    let output = Command::new(primes()).output().expect("it was built");
    assert_eq!(stdout_of(output), "9592 primes below 100,000\n");
}

#[test]
fn three_commands_make_a_fleet() {
    let docs = commands(include_str!("../../../../docs/cluster.md"));
    let [server, agent, program] = docs[..] else { panic!("three: {docs:?}") };
    assert_eq!(server, "nats-server -js -a 127.0.0.1");
    if support::server_program().is_none() {
        return;
    }
    primes(); // builds before the server starts, since the test's time limit begins at its start
    let Some(server) = Server::start() else { return };
    let mut agent = Group::start(shell(agent, &server).stderr(Stdio::piped()));
    let output = shell(program, &server).output().expect("there is a shell");
    assert_eq!(stdout_of(output), "9592 primes below 100,000\n");

    // The agent logs its start and its end.
    agent.signal(Signal::SIGTERM);
    let log = agent.read_stderr();
    for said in ["INFO proc_cluster::agent: agent connected build=", "agent leaves"] {
        assert!(log.contains(said), "{said}:\n{log}");
    }
}

#[test]
fn the_program_of_a_slurm_job_works_on_its_fleet() {
    let script = include_str!("../../../../docs/cluster/fleet.sbatch");
    let last = script.lines().last().expect("it has lines");
    if support::server_program().is_none() {
        return;
    }
    let primes = primes();
    let Some(server) = Server::start() else { return };
    let _agent = Group::start(
        Command::new(&primes)
            .env("PROC_CLUSTER_AGENT", server.address())
            .env("PROC_CLUSTER_WORKERS", "2"),
    );
    let mut driver = Command::new("bash");
    driver.current_dir(primes.parent().expect("it is in a directory"));
    driver.env("address", server.address()).env("PROC_CLUSTER_AGENT", "nats://127.0.0.1:1");
    let output = driver.arg("-c").arg(last.replace("./program", "./primes")).output();
    let output = output.expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("1000 of 1000") && said.contains("in flight"), "{said}");
    assert_eq!(stdout_of(output), "9592 primes below 100,000\n");
}

fn stdout_of(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}
