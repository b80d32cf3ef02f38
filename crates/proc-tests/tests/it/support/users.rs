//! Other users, who are bound by limits that do not bind root.

use super::machine;
use std::os::unix::fs::PermissionsExt;

use nix::unistd::{self, Gid, Uid};

/// Becomes a user that has no other processes: limits for users do not bind root.
pub(crate) fn become_unused_user() {
    let user = 30_000 + std::process::id() % 20_000;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(std::env::temp_dir(), open).expect("it is ours");
    unistd::setgid(Gid::from_raw(user)).expect("root may");
    unistd::setuid(Uid::from_raw(user)).expect("root may");
}

/// Whether root runs this, who can become a user that has no other processes.
pub(crate) fn can_be_another_user() -> bool {
    machine::or_skip(machine::root()).is_some()
}
