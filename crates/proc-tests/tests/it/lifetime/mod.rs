//! How long processes live: never longer than their program.

pub(crate) mod end_of_main;
pub(crate) mod exec_and_users;
pub(crate) mod fork_servers;
pub(crate) mod killed_program;
pub(crate) mod leaks;
pub(crate) mod real_time_signals;
pub(crate) mod signals;
