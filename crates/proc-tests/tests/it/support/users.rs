//! Changing the user of a process. Some limits hold for other users, but not for root.

use super::machine;
use std::os::unix::fs::PermissionsExt;

use nix::unistd::{self, Gid, Uid};

/// Changes the user of this process to one that has no other processes.
pub(crate) fn become_unused_user() {
    let user = 30_000 + std::process::id() % 20_000;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(std::env::temp_dir(), open).expect("the directory belongs to root");
    unistd::setgid(Gid::from_raw(user)).expect("root may");
    unistd::setuid(Uid::from_raw(user)).expect("root may");
}

/// Whether [`become_unused_user`] can work: the user is root.
pub(crate) fn can_be_another_user() -> bool {
    machine::or_skip(machine::root()).is_some()
}
