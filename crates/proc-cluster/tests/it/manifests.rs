//! Tests of the files in `docs/cluster`: each is read by the program that it is for, or by a parser
//! of the same format.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{self, machine};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cluster").join(name)
}

#[test]
fn kubernetes() {
    let text = fs::read_to_string(file("kubernetes.yaml")).expect("it is in the repository");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("it is YAML");
    let kinds: Vec<&str> = documents.iter().filter_map(|d| d["kind"].as_str()).collect();
    assert_eq!(kinds, ["Service", "StatefulSet", "Deployment"]);
    for document in &documents[1..] {
        let spec = &document["spec"];
        let labels = &spec["template"]["metadata"]["labels"];
        assert_eq!(&spec["selector"]["matchLabels"], labels, "it selects its own pods");
    }
    assert_eq!(documents[0]["spec"]["selector"]["app"], documents[1]["metadata"]["name"]);
    let agent = &documents[2]["spec"]["template"]["spec"];
    let address = agent["containers"][0]["env"][0]["value"].as_str().expect("an address");
    let server = documents[0]["metadata"]["name"].as_str().expect("a name");
    assert_eq!(address, format!("nats://{server}:4222"));
    let container = &agent["containers"][0];
    let workers = container["env"].as_array().expect("a list").iter();
    let workers = workers.filter(|v| v["name"] == "PROC_CLUSTER_WORKERS").map(|v| &v["value"]);
    assert_eq!(workers.collect::<Vec<_>>(), [&container["resources"]["requests"]["cpu"]]);
    assert!(agent["terminationGracePeriodSeconds"].as_u64() > Some(20), "agents need 20 seconds");
}

#[test]
fn systemd() {
    let text = fs::read_to_string(file("proc-agent.service")).expect("it is in the repository");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.starts_with('[') && line.ends_with(']') || line.contains('='), "{line}");
    }
    // The program in the file is the user's. A copy of the file names a program that exists here.
    let directory = tempfile::tempdir().expect("a directory can be made");
    let copy = directory.path().join("proc-agent.service");
    fs::write(&copy, text.replace("/usr/local/bin/program", "/bin/sh")).expect("it is ours");
    let Some(program) = machine::or_skip(machine::systemd_analyze()) else { return };
    let output = Command::new(program).arg("verify").arg(&copy).output().expect("it is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("proc-agent.service:"), "{said}");
}

#[test]
fn slurm() {
    let output = Command::new("bash").arg("-n").arg(file("fleet.sbatch")).output();
    let output = output.expect("bash is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let text = fs::read_to_string(file("fleet.sbatch")).expect("it is in the repository");
    let options = text.lines().filter(|line| line.starts_with("#SBATCH")).count();
    let head: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
    let in_head = head.iter().filter(|line| line.starts_with("#SBATCH")).count();
    assert!(
        options == 5 && options == in_head,
        "sbatch reads options up to the first command only"
    );
}

#[test]
fn the_server() {
    let Some(program) = support::server_program() else { return };
    let mut command = Command::new(program);
    command.arg("-t").arg("-c").arg(file("nats-server.conf"));
    command.env("DRIVER_PASSWORD", "d").env("AGENT_PASSWORD", "a");
    let output = command.output().expect("it is there");
    let said = String::from_utf8_lossy(&output.stderr);
    // The certificates are the user's. The server has read everything before them.
    assert!(output.status.success() || said.contains("server.pem"), "{said}");
}
