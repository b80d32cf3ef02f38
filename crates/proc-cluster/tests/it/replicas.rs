//! Three servers, each with a copy of the work. One of them at a time is lost.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use proc_cluster::Cluster;

use crate::support::{Group, LEASE, Server, wait_for_workers, wait_until};

/// Starts three servers that form a cluster. Returns them, and the ports at which they report their
/// health.
fn three_servers() -> Option<(Vec<Server>, Vec<u16>)> {
    let free = |_| TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let held: Vec<TcpListener> = (0..6).map(free).collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("it listens").port();
    let mut health: Vec<u16> = held.iter().map(port).collect();
    let routes: Vec<String> =
        health.drain(3..).map(|port| format!("nats://127.0.0.1:{port}")).collect();
    drop(held);
    let server = |number: usize| {
        let (name, own, all) = (format!("s{number}"), &routes[number], routes.join(","));
        let port = health[number].to_string();
        let arguments = ["--jetstream", "--store_dir", "data", "--cluster_name", "three"];
        let names = ["--server_name", &name, "--cluster", own, "--routes", &all];
        let names = names.into_iter().chain(["--http_port", &port]);
        Server::with(|_| arguments.into_iter().chain(names).map(str::to_owned).collect())
    };
    let servers = (0..3).map(server).collect::<Option<_>>()?;
    Some((servers, health))
}

/// Whether a server reports that it has all messages of the others.
fn has_caught_up(health: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", health))?;
        connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("200 OK"))
}

#[test]
fn a_call_survives_the_loss_of_each_server_in_turn() {
    let Some((mut servers, health)) = three_servers() else { return };
    let addresses: Vec<String> = servers.iter().map(Server::address).collect();
    let addresses = addresses.join(",");
    let connect = || Cluster::builder(&addresses).lease(LEASE).replicas(3).connect();
    let mut connected = None;
    wait_until("the servers have found each other", || {
        connected = connect().ok();
        connected.is_some()
    });
    let cluster = connected.expect("it was waited for");
    let agent = |server: &Server| {
        let mut command = server.agent_command(2);
        Group::start(command.env("PROC_CLUSTER_AGENT", &addresses))
    };
    let _agents: Vec<Group> = servers[..2].iter().map(agent).collect();
    wait_for_workers(&cluster, 4);
    let mut results = (0..).zip(cluster.imap(|x: u64| x * x, 0..));
    let mut take = |count| {
        for (x, result) in results.by_ref().take(count) {
            assert_eq!(result.expect("no task fails"), x * x);
        }
    };
    take(500);
    for (server, health) in servers.iter_mut().zip(health) {
        server.kill();
        take(500); // two servers are enough
        server.run();
        take(500);
        // Before that, the next server must not be killed: two servers must have all messages.
        wait_until("it has caught up", || has_caught_up(health));
    }
}
