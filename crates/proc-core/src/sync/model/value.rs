//! The model check of a [`Value`] that is larger than a word.

use super::super::value::Value;
use super::*;

/// Adds 1 to both halves of a value.
fn add(value: &Value<[u64; 2]>) {
    value.update(|[first, second]| {
        *first += 1;
        *second += 1;
    });
}

/// Reads a value, whose halves must be equal. Returns one of them.
fn read(value: &Value<[u64; 2]>) -> u64 {
    let [first, second] = value.get();
    assert_eq!(first, second, "a reader never sees a mixture");
    first
}

fn start_writer(value: &Value<[u64; 2]>, id: u32, life: usize) -> JoinHandle<bool> {
    let value = value.clone();
    start(id, life, move || add(&value), ignore)
}

fn new_value() -> Value<[u64; 2]> {
    let value = Value::new([1; 2]).expect("there is memory");
    add(&value); // so that both copies were used
    assert_eq!(read(&value), 2);
    value
}

#[test]
fn reader_sees_a_whole_value_while_two_change_it() {
    check(2, || {
        begin(3);
        let value = new_value();
        let writers = [2, 3].map(|id| start_writer(&value, id, UNHARMED));
        let first = read(&value);
        assert!((first..=4).contains(&read(&value)), "a value never goes back");
        join_all(writers);
        assert_eq!(read(&value), 4);
    });
}

#[test]
fn reader_sees_a_whole_value_while_one_changes_it_again_and_again() {
    check(3, || {
        begin(2);
        let value = new_value();
        let writer = {
            let value = value.clone();
            start(2, UNHARMED, move || (0..3).for_each(|_| add(&value)), ignore)
        };
        read(&value);
        join_all([writer]);
        assert_eq!(read(&value), 5);
    });
}

#[test]
fn death_of_a_writer_at_any_operation_leaves_the_old_or_the_new_value() {
    check_killed(2, 10, |life| {
        begin(3);
        let value = new_value();
        let killed = start_writer(&value, 2, life);
        let reader = {
            let value = value.clone();
            start(3, UNHARMED, move || assert!(read(&value) <= 4), ignore)
        };
        add(&value);
        let is_alive = killed.join().expect("it does not panic");
        join_all([reader]);
        let at_end = read(&value);
        assert!(at_end == 4 || !is_alive && at_end == 3, "{at_end}");
        is_alive
    });
}
