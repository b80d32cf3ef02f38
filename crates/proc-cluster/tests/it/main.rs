//! The tests of proc-cluster: fleets on this machine, with servers of their own.
//!
//! All tests are in one program, so that it is linked only once. The same program is also the
//! agents of nearly all tests, and the driver of some.

mod calls;
mod example;
mod executor;
mod faults;
mod guarantees;
mod hosts;
mod manifests;
mod replicas;
mod security;
mod seeds;
mod support;
mod suspects;
mod with;

proc_cluster::init_tests!();
