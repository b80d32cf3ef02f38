//! Standard streams of processes that are not their parent's.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    streams_are_redirected: forkserver spawn fork;
    text_arrives_however_a_process_ends: forkserver spawn fork;
    grandchildren_write_where_their_parent_does: forkserver spawn fork;
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
