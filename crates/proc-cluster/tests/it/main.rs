//! The tests of proc-cluster: fleets on this machine, with servers of their own.
//!
//! They are one program, which is linked once. The same program is each test's agent, and some
//! tests' driver on another host.

mod calls;
mod example;
mod executor;
mod faults;
mod guarantees;
mod hosts;
mod manifests;
mod replicas;
mod security;
mod support;

proc_cluster::init_tests!();
