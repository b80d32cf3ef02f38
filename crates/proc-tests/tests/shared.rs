//! Data that workers share.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    shared_data_have_one_place_in_each_worker: forkserver spawn fork;
    shared_data_are_state: forkserver spawn fork;
    shared_data_are_let_go: forkserver spawn fork;
    shared_data_outlive_a_worker: forkserver spawn fork;
    shared_data_may_be_large: forkserver spawn fork;
    shared_data_are_read_only: forkserver spawn fork;
}

fn shared_data_have_one_place_in_each_worker(context: &str) {
    let expected = "process 42\none place for each worker: true\nempty 0\n\
        back [[1, 2, 3], [4, 5, 6]]\nmade there 1000 true\ntwo (1, 2)\n";
    assert_eq!(scenario("shared", context, &[]).succeeded(), expected);
}

fn shared_data_are_state(context: &str) {
    assert_eq!(scenario("shared-state", context, &[]).succeeded(), "{6}\n");
}

fn shared_data_are_let_go(context: &str) {
    assert_eq!(scenario("shared-many", context, &[]).succeeded(), "nothing is left\n");
}

fn shared_data_outlive_a_worker(context: &str) {
    assert_told("shared_death", 1, scenario("shared-death", context, &[]).succeeded());
}

fn shared_data_may_be_large(context: &str) {
    let expected = "{(210000000, 3)}\n";
    assert_eq!(scenario("shared-large", context, &[]).succeeded(), expected);
}

fn shared_data_are_read_only(context: &str) {
    assert_eq!(scenario("shared-write", context, &[]).succeeded(), "Some(false) Some(false)\n");
}
