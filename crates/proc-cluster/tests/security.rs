//! Encryption, and users that may do no more than they need, by the configuration in `docs/cluster`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use proc_cluster::Cluster;
use support::{Group, Server, wait_for_workers};

proc_cluster::init_tests!();

/// Makes a certificate for `localhost` in `directory`, as the configuration names it.
fn certify(directory: &Path) -> PathBuf {
    let names = ["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
    let file = directory.join("server.pem");
    fs::write(&file, made.cert.pem()).expect("the directory is ours");
    let key = made.signing_key.serialize_pem();
    fs::write(directory.join("server.key"), key).expect("the directory is ours");
    file
}

fn configuration() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cluster/nats-server.conf")
}

fn secure_server() -> Option<Server> {
    Server::with(|directory| {
        certify(directory);
        let file = configuration().canonicalize().expect("it is in the repository");
        vec!["--config".into(), file.to_str().expect("it is text").into()]
    })
}

fn address(server: &Server, user: &str) -> String {
    format!("tls://{user}:of-{user}@localhost:{}", server.port())
}

fn secure_agent(server: &Server) -> Group {
    let mut command = server.agent_command(1);
    command.env("PROC_CLUSTER_AGENT", address(server, "agent"));
    command.env("PROC_CLUSTER_CA", server.path().join("server.pem"));
    Group::start(&mut command)
}

fn connect(server: &Server, user: &str) -> Result<Cluster, proc_cluster::Error> {
    let authority = server.path().join("server.pem");
    Cluster::builder(&address(server, user)).authority(authority).connect()
}

fn sit(_: ()) {
    loop {
        std::thread::park();
    }
}

#[test]
fn a_fleet_works_with_least_rights_and_encrypted() {
    let Some(server) = secure_server() else { return };
    let _agent = secure_agent(&server);
    let cluster = connect(&server, "driver").unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    wait_for_workers(&cluster, 1);
    assert_eq!(cluster.map(|x: u32| x + 1, 0..100).expect("nothing fails").len(), 100);
    let large = serde_bytes::ByteBuf::from(vec![1; 3 << 20]);
    let back = cluster.apply(|bytes: serde_bytes::ByteBuf| bytes, large).expect("it fits");
    assert_eq!(back.len(), 3 << 20, "data may be stored and fetched by both");
    let forever = cluster.apply_async(sit, ()).expect("it is sent");
    assert!(forever.cancel());
    assert_eq!(cluster.apply(|x: u32| x, 7).expect("its worker is free again"), 7);
    let log = server.log();
    assert!(!log.contains("Permissions Violation"), "somebody has too few rights:\n{log}");
}

#[test]
fn an_agent_can_neither_submit_nor_remove() {
    let Some(server) = secure_server() else { return };
    let cluster = connect(&server, "driver").unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    let refused = connect(&server, "agent").expect_err("it may not submit");
    assert!(refused.is_fleet() && refused.to_string().contains("may this user"), "{refused}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = async_nats::ConnectOptions::new()
            .add_root_certificates(server.path().join("server.pem"))
            .user_and_password("agent".into(), "of-agent".into())
            .connect(address(&server, "agent"))
            .await
            .expect("agents may connect");
        for forbidden in [
            "proc.default.task.build.0.0",
            "proc.default.data.in.0.0.0.1.0.0",
            "proc.default.driver",
            "$JS.API.STREAM.DELETE.proc-default-tasks",
            "$JS.API.STREAM.PURGE.proc-default-tasks",
            "$JS.API.CONSUMER.CREATE.proc-default-tasks",
        ] {
            client.publish(forbidden, "{}".into()).await.expect("the client does not know");
        }
        client.flush().await.expect("it is connected");
    });
    // The server's log may lag behind its answers.
    let refused = || server.log().matches("Publish Violation").count();
    support::wait_until("each of six is refused", || refused() >= 6);
    drop(cluster);
}

#[test]
fn strangers_and_false_certificates_are_refused() {
    let Some(server) = secure_server() else { return };
    let authority = server.path().join("server.pem");
    let wrong = format!("tls://driver:guess@localhost:{}", server.port());
    let error =
        Cluster::builder(&wrong).authority(authority).connect().expect_err("a false password");
    assert!(error.is_fleet() && !error.to_string().contains("guess"), "{error}");
    let elsewhere = tempfile::tempdir().expect("a directory can be made");
    let other = certify(elsewhere.path());
    let unknown = Cluster::builder(&address(&server, "driver")).authority(other).connect();
    assert!(unknown.expect_err("a certificate that nobody vouches for").is_fleet());
}
