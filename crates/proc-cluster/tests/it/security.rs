//! Encryption, and users with no more rights than they need, as the configuration in `docs/cluster`
//! has them.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use proc_cluster::Cluster;

use crate::support::{self, Group, Server, wait_for_workers};
use proc_cluster::ErrorKind;

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

/// Runs tasks on a fleet of one agent. Agent and driver use these credentials and this address.
fn run_tasks(server: &Server, credentials: Option<&Path>, address: &str) {
    let mut agent = server.agent_command(1);
    agent.env("PROC_CLUSTER_AGENT", address);
    let mut builder = Cluster::builder(address);
    if let Some(file) = credentials {
        agent.env("PROC_CLUSTER_CREDENTIALS", file);
        builder = builder.credentials(file);
    }
    let _agent = Group::start(&mut agent);
    let cluster = builder.connect().unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    wait_for_workers(&cluster, 1);
    assert_eq!(cluster.map(|x: u32| x + 1, [1, 2]).expect("nothing fails"), [2, 3]);
}

/// Starts a server with this configuration.
fn configured(configuration: &str) -> Option<Server> {
    Server::with(|directory| {
        let text = format!("jetstream {{ store_dir: data }}\n{configuration}");
        fs::write(directory.join("own.conf"), text).expect("the directory is ours");
        ["--config", "own.conf"].map(str::to_owned).to_vec()
    })
}

fn strangers_are_refused(server: &Server) {
    let refused =
        Cluster::builder(&server.address()).connect().expect_err("there are no credentials");
    assert!(refused.kind() == ErrorKind::Fleet, "{refused}");
}

#[test]
fn a_seed_is_accepted() {
    let key = KeyPair::new_user();
    let users = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", key.public_key());
    let Some(server) = configured(&users) else { return };
    strangers_are_refused(&server);
    let file = server.path().join("user.seed");
    fs::write(&file, key.seed().expect("it is ours")).expect("the directory is ours");
    run_tasks(&server, Some(&file), &server.address());
}

/// A signed token in which an operator describes an account, or an account a user.
fn token(issuer: &KeyPair, subject: &KeyPair, says: serde_json::Value) -> String {
    let claims = serde_json::json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "name": "test",
        "iss": issuer.public_key(), "sub": subject.public_key(), "nats": says,
    });
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let head = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).expect("the key can sign");
    format!("{signed}.{}", encode(&signature))
}

#[test]
fn credentials_as_nsc_writes_them_are_accepted() {
    let [operator, account, system, user] = [
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    ];
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let mut plain = limits.clone();
    for storage in ["mem_storage", "disk_storage"] {
        plain[storage] = 0.into(); // the system's own account may have none
    }
    let of_account =
        |limits| serde_json::json!({"type": "account", "version": 2, "limits": limits});
    let says = serde_json::json!({"type": "operator", "version": 2});
    let configuration = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n{}: {}\n{}: {}\n}}",
        token(&operator, &operator, says),
        system.public_key(),
        system.public_key(),
        token(&operator, &system, of_account(plain)),
        account.public_key(),
        token(&operator, &account, of_account(limits)),
    );
    let Some(server) = configured(&configuration) else { return };
    strangers_are_refused(&server);
    let says = serde_json::json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {},
    });
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        token(&account, &user, says),
        user.seed().expect("it is ours"),
    );
    let file = server.path().join("user.creds");
    fs::write(&file, text).expect("the directory is ours");
    run_tasks(&server, Some(&file), &server.address());
}

#[test]
fn a_password_may_have_any_characters() {
    let Some(server) = configured(r#"authorization { user: "me@home", password: "p:/%@ß" }"#)
    else {
        return;
    };
    let port = server.port();
    run_tasks(&server, None, &format!("nats://me%40home:p%3A%2F%25%40%C3%9F@127.0.0.1:{port}"));
}

fn park(_: ()) {
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
    let with = cluster.with(serde_bytes::ByteBuf::from(vec![1; 3 << 20]));
    let at = with.apply(|data, at: usize| data[at], 7).expect("an agent may fetch data");
    assert_eq!(at, 1);
    drop(with);
    let forever = cluster.apply_async(park, ()).expect("it is sent");
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
    assert!(
        refused.kind() == ErrorKind::Fleet && refused.to_string().contains("may this user"),
        "{refused}"
    );
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
            client.publish(forbidden, "{}".into()).await.expect("only the server checks rights");
        }
        // An agent may store data. The server must not send the stored data as work, to a subject
        // to which the agent may not send.
        let stored = "proc.default.data.out.0.0.0.1.0.0.0";
        client.publish(stored, "work".into()).await.expect("an agent may store data");
        let fetch = format!("$JS.API.DIRECT.GET.proc-default-data.{stored}");
        let work = "proc.default.task.build.0.0";
        client
            .publish_with_reply(fetch, work, "".into())
            .await
            .expect("only the server checks rights");
        client.flush().await.expect("it is connected");
    });
    // The server's log may lag behind its answers.
    let refused = || server.log().matches("Publish Violation").count();
    support::wait_until("each of seven is refused", || refused() >= 7);
    drop(cluster);
}

#[test]
fn strangers_and_false_certificates_are_refused() {
    let Some(server) = secure_server() else { return };
    let authority = server.path().join("server.pem");
    let wrong = format!("tls://driver:guess@localhost:{}", server.port());
    let error =
        Cluster::builder(&wrong).authority(authority).connect().expect_err("a false password");
    assert!(error.kind() == ErrorKind::Fleet && !error.to_string().contains("guess"), "{error}");
    let elsewhere = tempfile::tempdir().expect("a directory can be made");
    let other = certify(elsewhere.path());
    let unknown = Cluster::builder(&address(&server, "driver")).authority(other).connect();
    assert!(unknown.expect_err("a certificate of an unknown authority").kind() == ErrorKind::Fleet);
}
