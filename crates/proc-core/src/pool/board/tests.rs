//! Tests of the protocol, one step at a time.

use super::*;
use crate::call::Name;
use crate::pool::board::words::{Entry, TICKET_BITS};

fn chunk(count: u32) -> Chunk {
    let name = Name::from_words([1, 2, 3]);
    Chunk {
        grain: count,
        name,
        region: 4,
        offset: 5,
        arguments: 6,
        room: 7,
        count,
        needs_handles: true,
        timed: true,
        measured: true,
    }
}

fn board(workers: u32) -> Board {
    Board::new(Layout::for_workers(workers)).expect("there is memory")
}

#[test]
fn every_number_of_workers_has_a_layout() {
    for workers in (1..70).chain([4095, 4096]) {
        let board = board(workers);
        assert!(board.layout.workers >= (2 * workers).clamp(128, MAX_WORKERS));
        assert!(board.publish(board.layout.tickets - 1, &chunk(1), |_, _| ()));
        assert_eq!(board.claim(workers - 1), Some(board.layout.tickets - 1));
        assert_eq!(board.claims().collect::<Vec<_>>(), [(board.layout.tickets - 1, workers - 1)]);
    }
}

#[test]
fn entries_survive_packing() {
    for entry in [
        Entry::Empty,
        Entry::Ready { seq: u32::MAX, ticket: (1 << TICKET_BITS) - 1 },
        Entry::Taken { seq: 7, ticket: 0, slot_id: MAX_WORKERS - 1 },
    ] {
        assert_eq!(Entry::unpack(entry.pack()), entry);
    }
}

#[test]
fn a_ticket_goes_round() {
    let board = board(2);
    let position = board.position();
    assert!(board.publish(9, &chunk(3), |_, _| ()));
    assert_eq!(board.claim(1), Some(9));
    assert_eq!(board.claim(0), None);
    assert_eq!(board.chunk(9), chunk(3));
    assert_eq!(board.claimer(9, position), Some(1));
    assert!(!board.retract(9, position), "it is claimed");
    board.claimed(9, 42).begin(0, None);
    board.claimed(9, 42).end(0, 12);
    board.claimed(9, 42).begin(1, Some(5));
    let progress = Progress {
        begun: 2,
        done: 1,
        out_of_band: 0,
        pid: 42,
        results: 12,
        nanoseconds: 0,
        began_at: 5,
    };
    assert_eq!(board.progress(9), progress);
    assert!(board.finish(9, 1000), "a new board listens");
    assert!(!board.finish(8, 1000), "only once");
    assert_eq!(board.take_finished(), [9, 8]);
    board.forget_claim(9, position);
    assert_eq!(board.claims().count(), 0);
}

#[test]
fn the_ring_goes_round_beside_a_claim_that_does_not_end() {
    let board = board(1);
    let mut kept = Vec::new();
    for ticket in 0..3 * board.layout.tickets {
        let ticket = if ticket == 0 { 0 } else { 1 };
        assert!(board.publish(ticket, &chunk(1), |ticket, slot_id| kept.push((ticket, slot_id))));
        let position = board.position() - 1;
        assert_eq!(board.claim(0), Some(ticket));
        if ticket == 1 {
            board.forget_claim(1, position);
        }
    }
    assert_eq!(kept, [(0, 0)], "the parent was told of the claim that was overwritten");
}

#[test]
fn a_claimer_keeps_the_earlier_half_of_what_it_has_not_taken() {
    let board = board(2);
    assert!(board.publish(0, &Chunk { grain: 3, ..chunk(20) }, |_, _| ()));
    assert_eq!(board.claim(0), Some(0));
    let claim = board.claimed(0, 42);
    assert_eq!(claim.take(), Some(0..3));
    // Six grains are left. The last of them has two tasks.
    assert_eq!(board.untaken(0, 20), 17);
    assert_eq!(board.split(0, 20, 3), Some(12));
    assert_eq!(board.split(0, 20, 3), None, "that is not its length any more");
    assert_eq!(claim.take(), Some(3..6));
    assert_eq!(board.split(0, 12, 3), Some(9));
    assert_eq!(board.split(0, 9, 3), Some(6), "what is not begun can go to others");
    assert_eq!(claim.take(), None);
    assert_eq!(board.split(0, 6, 3), None);
}

#[test]
fn a_chunk_that_was_claimed_just_now_keeps_a_step() {
    let board = board(1);
    assert!(board.publish(0, &Chunk { grain: 2, ..chunk(3) }, |_, _| ()));
    assert_eq!(board.split(0, 3, 2), Some(2));
    assert_eq!(board.split(0, 2, 2), None);
}

#[test]
fn hunger_is_told_where_there_may_be_a_share() {
    let board = board(1);
    assert!(!board.report_starving() && !board.take_starving(), "there is nothing to share");
    board.set_stealable(true);
    assert!(board.report_starving(), "a new board listens");
    assert!(board.has_news() && !board.listen());
    assert!(board.take_starving() && !board.take_starving());
    assert!(!board.has_news());
}

#[test]
fn a_retracted_ticket_is_claimed_by_nobody() {
    let board = board(1);
    let position = board.position();
    assert!(board.publish(0, &chunk(1), |_, _| ()));
    assert!(board.publish(1, &chunk(1), |_, _| ()));
    assert!(board.retract(0, position));
    assert_eq!(board.claim(0), Some(1));
    assert_eq!(board.claim(0), None);
}

#[test]
fn sleepers_are_woken_once() {
    let board = board(3);
    assert!(board.announce_sleep(1));
    assert!(board.announce_sleep(2));
    assert_eq!(board.take_sleepers(0..3, 1), [1]);
    assert_eq!(board.take_sleepers(0..3, 9), [2]);
    assert!(board.publish(0, &chunk(1), |_, _| ()));
    assert!(!board.announce_sleep(0), "there is work");
    board.admit(0);
    assert_eq!(board.claim(0), Some(0));
    assert!(!board.announce_sleep(0), "it is closing");
}

#[test]
fn a_sleeper_that_gets_up_by_itself_knows_whether_it_was_picked() {
    let board = board(1);
    assert!(board.announce_sleep(0));
    assert!(board.cancel_sleep(0), "nobody has seen it");
    assert!(board.take_sleepers(0..1, 1).is_empty(), "it sleeps no more");
    assert!(board.announce_sleep(0));
    assert_eq!(board.take_sleepers(0..1, 1), [0]);
    assert!(!board.cancel_sleep(0), "a message is on its way");
}

#[test]
fn a_worker_is_dismissed_by_its_number() {
    let board = board(3);
    assert!((0..3).all(|slot_id| !board.is_dismissed(slot_id)));
    assert!(board.announce_sleep(2));
    board.admit(2);
    assert_eq!(board.take_sleepers(2..3, 9), [2], "it must be told");
    assert!(board.is_dismissed(2) && !board.is_dismissed(1));
    assert!(!board.announce_sleep(2), "it is to go");
    assert!(board.announce_sleep(1));
    board.admit(3);
    assert!(board.announce_sleep(2), "it may stay after all");
}
