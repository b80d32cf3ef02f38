//! Three servers that keep the work three times, and lose one of them.

mod support;

use std::net::TcpListener;

use proc_cluster::Cluster;
use support::{Group, LEASE, Server, wait_for_workers, wait_until};

proc_cluster::init_tests!();

/// Servers that know of each other.
fn three_servers() -> Option<Vec<Server>> {
    let free = |_| TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let held: Vec<TcpListener> = (0..3).map(free).collect();
    let route =
        |listener: &TcpListener| format!("nats://{}", listener.local_addr().expect("it listens"));
    let routes: Vec<String> = held.iter().map(route).collect();
    drop(held);
    let server = |number: usize| {
        let (name, own, all) = (format!("s{number}"), &routes[number], routes.join(","));
        let arguments = ["--jetstream", "--store_dir", "data", "--cluster_name", "three"];
        let names = ["--server_name", &name, "--cluster", own, "--routes", &all];
        Server::with(|_| arguments.into_iter().chain(names).map(str::to_owned).collect())
    };
    (0..3).map(server).collect()
}

#[test]
fn a_call_survives_the_loss_of_each_server_in_turn() {
    let Some(mut servers) = three_servers() else { return };
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
    for server in &mut servers {
        server.kill();
        take(500); // two servers are enough
        server.run();
        take(500);
    }
}
