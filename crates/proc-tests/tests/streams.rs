//! Standard streams of processes that are not their parent's.

mod support;
use std::process::{Command, Stdio};

use support::{Finished, Running, assert_told, scenario};

in_contexts! {
    streams_are_redirected: forkserver spawn fork;
    text_arrives_however_a_process_ends: forkserver spawn fork;
    grandchildren_write_where_their_parent_does: forkserver spawn fork;
    each_stream_is_as_asked_for: forkserver spawn fork;
    workers_have_the_streams_of_their_pool: forkserver spawn fork;
    nobody_keeps_a_copy_of_a_stream: forkserver spawn fork;
    no_room_for_streams_is_an_error: fork;
}

fn streams_are_redirected(context: &str) {
    assert_told("redirected", 0, scenario("redirected", context, &[]).succeeded());
}

fn text_arrives_however_a_process_ends(context: &str) {
    assert_told("redirected_ends", 0, scenario("redirected-ends", context, &[]).succeeded());
}

fn grandchildren_write_where_their_parent_does(context: &str) {
    assert_told("redirected_below", 0, scenario("redirected-below", context, &[]).succeeded());
}

/// The scenario, with something to read.
fn with_input(name: &str, context: &str) -> Finished {
    let program = r#"printf "some input" | "$0" "$@""#;
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command.args(["-c", program, env!("CARGO_BIN_EXE_scenario"), name, context]);
    command.stdout(Stdio::piped());
    Running::start(command).finish()
}

fn each_stream_is_as_asked_for(context: &str) {
    assert_told("stdio", 0, with_input("stdio", context).succeeded());
}

fn workers_have_the_streams_of_their_pool(context: &str) {
    let finished = with_input("stdio-of-workers", context);
    assert_told("stdio_of_workers", 1, finished.succeeded());
}

fn nobody_keeps_a_copy_of_a_stream(context: &str) {
    assert_eq!(scenario("streams-are-closed", context, &[]).succeeded(), "flat\n");
}

fn no_room_for_streams_is_an_error(context: &str) {
    let told = |room: usize| {
        let finished = scenario("no-room-for-streams", context, &[&room.to_string()]);
        assert!(finished.status.success(), "{room}: {}", finished.stderr);
        finished.stdout
    };
    for room in [0, 1, 2, 4, 6, 8, 10, 11, 12, 13, 14, 16, 18, 20] {
        let told = told(room);
        assert!(["7\n7\n", "refused\n7\n"].contains(&told.as_str()), "{room}: {told}");
    }
    assert_eq!(told(0), "refused\n7\n");
    assert_eq!(told(40), "7\n7\n");
}
