//! The example of `docs/cluster.md`: the same work in a pool and on a fleet.

mod support;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Group, Server};

/// The example's program, built where this test was.
fn primes() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a file");
    let profile = test.ancestors().nth(2).expect("it is in `deps` of its profile");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "-p", "proc-cluster", "--example", "primes"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // Build scripts that look at these, as ring's, would run again in each build, and all that needs them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"CARGO_"))
    {
        build.env_remove(name);
    }
    build.arg("--target-dir").arg(profile.parent().expect("profiles have a directory"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().expect("there is a cargo").success(), "the example does not build");
    profile.join("examples/primes")
}

fn output(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("it was built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn a_fleet_counts_the_primes_that_a_pool_counts() {
    if support::server_program().is_none() {
        return;
    }
    let program = primes(); // may take longer than a test, which a server's clock is for
    let Some(server) = Server::start() else { return };
    assert_eq!(output(&program, &[]), "78498 primes below a million\n");
    let mut agent = Command::new(&program);
    agent.env("PROC_CLUSTER_AGENT", server.address()).env("PROC_CLUSTER_WORKERS", "2");
    let _agent = Group::start(&mut agent);
    assert_eq!(output(&program, &[&server.address()]), "78498 primes below a million\n");
}
