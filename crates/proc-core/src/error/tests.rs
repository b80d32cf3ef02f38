//! Tests of the texts and causes of errors.

use std::os::unix::process::ExitStatusExt;

use super::*;

#[test]
fn display_has_no_causes_and_debug_has_all() {
    let status = Some(ExitStatus::from_raw(3 << 8));
    let died = Error::died(Exit { status, ..Exit::default() }, None);
    let worker = Origin { worker: Some(1), pid: Some(42), ..Origin::default() };
    let failed = Error::initializer(died.with_origin(worker));
    assert_eq!(failed.to_string(), "the pool's initializer, state or preload function failed");
    assert_eq!(
        format!("{failed:?}"),
        "the pool's initializer, state or preload function failed\n\
         caused by: the process exited with code 3 before it had a result (worker 1, pid 42)"
    );
    assert_eq!(failed.kind(), ErrorKind::Initializer);
    assert_eq!(failed.exit_status().and_then(|status| status.code()), Some(3));
    let alone = Error::start("a worker", io::Error::from_raw_os_error(nix::libc::EAGAIN));
    assert_eq!(format!("{alone:?}"), alone.to_string(), "the text tells what the system said");
    assert!(std::error::Error::source(&alone).is_none());
}

#[test]
fn limit_that_ended_the_last_worker_is_told_by_the_error_of_the_pool() {
    let died = |exceeded: Option<&str>| Error::died(Exit::default(), exceeded.map(String::from));
    for (exceeded, is_limit) in [(Some("limited to 1 s"), true), (None, false)] {
        assert_eq!(Error::initializer(died(exceeded)).is_limit(), is_limit);
        let ended = Error::restarts(3, Duration::from_secs(1), died(exceeded));
        assert_eq!(ended.is_limit(), is_limit);
    }
}
