//! Chunks of a queue: they are begun, passed, and used again.

use super::*;

impl Shared {
    /// Checks that all chunks but one are free: more large items than there are chunks go through
    /// the queue, which is empty.
    fn check_chunks(&self) {
        for number in 100..104 {
            self.put_words(1, number, LARGE);
            assert_eq!(self.get(1), number);
        }
        self.put_words(1, 104, LARGE);
        self.put_words(1, 105, LARGE);
        assert_eq!((self.get(1), self.get(1)), (104, 105));
    }
}

#[test]
fn consumer_follows_the_producer_through_the_chunks() {
    check(2, || {
        begin(2);
        let shared = Shared::new(2);
        let producer = start_user(&shared, 2, UNHARMED, |shared, id| {
            (20..23).for_each(|number| shared.put_words(id, number, LARGE));
        });
        for number in 20..23 {
            assert_eq!(shared.get(1), number);
        }
        join_all([producer]);
        shared.check_taken(0);
        shared.check_chunks();
    });
}

#[test]
fn death_of_a_producer_that_begins_a_chunk_at_any_operation_loses_nothing() {
    check_killed(2, 40, |life| {
        begin(2);
        let shared = Shared::new(2);
        shared.put_words(1, 10, LARGE);
        let killed = start_user(&shared, 2, life, |shared, id| shared.put_words(id, 20, LARGE));
        assert_eq!(shared.get(1), 10);
        // There is room for this one in the chunk before.
        shared.put(1, 11);
        let is_alive = killed.join().expect("it does not panic");
        shared.get_rest();
        shared.check_taken(0);
        shared.check_chunks();
        is_alive
    });
}

#[test]
fn death_of_a_consumer_that_passes_a_chunk_at_any_operation_loses_its_item_only() {
    check_killed(2, 20, |life| {
        begin(2);
        let shared = Shared::new(2);
        shared.put_words(1, 10, LARGE);
        shared.put_words(1, 11, LARGE);
        shared.get(1);
        let killed = start_user(&shared, 2, life, get_one);
        shared.put_words(1, 12, LARGE);
        let (first, is_alive) = (shared.get(1), killed.join().expect("it does not panic"));
        let (_, taken) = shared.queue(1).counts();
        assert!(first == 11 || taken == 3);
        let lost = taken as usize - shared.truth().taken.len();
        assert!(lost == 0 || (lost == 1 && !is_alive));
        shared.get_rest();
        shared.check_taken(lost);
        shared.check_chunks();
        is_alive
    });
}

#[test]
fn death_of_a_process_that_ends_a_lease_at_any_operation_frees_the_chunk() {
    check_killed(2, 30, |life| {
        begin(2);
        let shared = Shared::new(2);
        shared.put_words(1, 10, LARGE);
        shared.put_words(1, 11, LARGE);
        let killed = start_user(&shared, 2, life, |shared, id| {
            shared.queue(id).lease().expect("there are two").done();
        });
        // If this is the second item, it passes the chunk of the first one, which is leased.
        shared.get(1);
        let is_alive = killed.join().expect("it does not panic");
        while let Some(left) = shared.queue(1).lease_timeout(Duration::ZERO).expect("it is open") {
            assert!(!is_alive);
            shared.note_taken(&left);
            left.done();
        }
        assert!(shared.queue(1).join_timeout(Duration::ZERO).expect("it has a number"));
        shared.check_chunks();
        is_alive
    });
}

/// A producer dies, and leaves an empty chunk in the chain perhaps, since the next item needs a
/// larger one. Then a consumer dies, and another one repairs the head.
#[test]
fn deaths_of_a_producer_and_a_consumer_leave_the_chain_whole() {
    const MOST: usize = 60;
    let mut killed = [0; 2];
    for lives in (0..MOST * MOST).map(|both| [both / MOST, both % MOST]) {
        let died = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let noted = Arc::clone(&died);
        check(0, move || {
            begin(3);
            let shared = Shared::new(3);
            shared.put(1, 10);
            let leased = shared.queue(1).lease().expect("there is one");
            shared.note_taken(&leased);
            let play = |id, life, process| {
                let end = start_user(&shared, id, life, process).join();
                noted[id as usize - 2].store(!end.expect("it does not panic"), Ordering::Relaxed);
            };
            play(2, lives[0], |shared, id| shared.put_words(id, 20, FULL));
            shared.put_words(1, 11, LARGER);
            play(3, lives[1], get_one);
            // This repairs the head, and takes nothing.
            leased.done();
            // There may be no chunk for it.
            if shared.queue(1).put(vec![12; FULL]).is_ok() {
                shared.truth().put.push(12);
            }
            shared.get_rest();
            shared.check_taken(1);
            shared.check_order(&[10, 20, 11, 12]);
        });
        for (killed, died) in killed.iter_mut().zip(&*died) {
            *killed += usize::from(died.load(Ordering::Relaxed));
        }
    }
    assert!(killed.iter().all(|killed| *killed > 10 * MOST), "{killed:?}");
}
