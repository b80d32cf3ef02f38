//! Tests of the protocol, step by step.

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
        measured: true,
        first: 8,
        attempt: 9,
        data: u32::MAX,
        seed: Some(10),
        timeout: 11,
        stoppable: true,
    }
}

fn board(workers: u32) -> Board {
    Board::new(Layout::for_workers(workers)).expect("there is memory")
}

/// Takes all finished tickets, oldest first.
fn take_finished(board: &Board) -> Vec<TicketId> {
    let mut finished = Vec::new();
    board.take_finished(&mut finished);
    finished
}

#[test]
fn layout_fits_every_number_of_workers() {
    for workers in (1..70).chain([4095, 4096]) {
        let board = board(workers);
        assert!(board.layout.workers >= (2 * workers).clamp(128, MAX_WORKERS));
        assert!(board.publish(board.layout.tickets - 1, &chunk(1), |_, _| ()));
        assert_eq!(board.claim(workers - 1), Some(board.layout.tickets - 1));
        assert_eq!(board.claims().collect::<Vec<_>>(), [(board.layout.tickets - 1, workers - 1)]);
    }
}

#[test]
fn unpack_reverses_pack() {
    for entry in [
        Entry::Empty,
        Entry::Ready { seq: u32::MAX, ticket: (1 << TICKET_BITS) - 1 },
        Entry::Taken { seq: 7, ticket: 0, slot_id: MAX_WORKERS - 1 },
    ] {
        assert_eq!(Entry::unpack(entry.pack()), entry);
    }
}

#[test]
fn ticket_is_published_claimed_finished_and_collected() {
    let board = board(2);
    let position = board.next_position();
    assert!(board.publish(9, &chunk(3), |_, _| ()));
    assert_eq!(board.claim(1), Some(9));
    assert_eq!(board.claim(0), None);
    assert_eq!(board.chunk(9), chunk(3));
    assert_eq!(board.claimer(9, position), Some(1));
    assert!(!board.retract(9, position), "it is claimed");
    board.begin_claim(9, 42).begin(0, None);
    board.begin_claim(9, 42).end(0, 12);
    board.begin_claim(9, 42).begin(1, Some(5));
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
    assert!(board.finish(9, 1000), "the parent of a new board asks for a message");
    assert!(!board.finish(8, 1000), "only one message");
    assert_eq!(take_finished(&board), [9, 8]);
    board.forget_claim(9, position);
    assert_eq!(board.claims().count(), 0);
}

#[test]
fn ticket_is_assigned_and_taken_by_one_worker_or_taken_back() {
    let board = board(2);
    board.assign(9, &chunk(3), 1);
    assert_eq!((board.take_assigned(0), board.claim(0), board.claim(1)), (None, None, None));
    assert!(board.is_assigned(9, 1) && !board.is_assigned(9, 0) && !board.is_assigned(8, 1));
    assert!(!board.announce_sleep(1), "it has work");
    assert_eq!(board.take_assigned(1), Some(9));
    assert_eq!((board.take_assigned(1), board.chunk(9)), (None, chunk(3)));
    assert!(!board.unassign(9, 1), "it is taken");
    board.assign(9, &chunk(3), 1);
    assert!(!board.unassign(8, 1) && board.unassign(9, 1) && !board.unassign(9, 1));
    assert_eq!(board.take_assigned(1), None);
    assert!(board.announce_sleep(1));
}

#[test]
fn publish_reports_a_running_claim_that_it_overwrites() {
    let board = board(1);
    let mut kept = Vec::new();
    for ticket in 0..3 * board.layout.tickets {
        let ticket = if ticket == 0 { 0 } else { 1 };
        assert!(board.publish(ticket, &chunk(1), |ticket, slot_id| kept.push((ticket, slot_id))));
        let position = board.next_position() - 1;
        assert_eq!(board.claim(0), Some(ticket));
        if ticket == 1 {
            board.forget_claim(1, position);
        }
    }
    assert_eq!(kept, [(0, 0)], "the claim that was overwritten");
}

#[test]
fn split_takes_back_the_later_half_of_the_grains_not_taken() {
    let board = board(2);
    assert!(board.publish(0, &Chunk { grain: 3, ..chunk(20) }, |_, _| ()));
    assert_eq!(board.claim(0), Some(0));
    let claim = board.begin_claim(0, 42);
    assert_eq!(claim.take_grain(), Some(0..3));
    // Six grains are left. The last of them has two tasks.
    assert_eq!(board.untaken(0, 20), 17);
    assert_eq!(board.split(0, 20, 3), Some(12));
    assert_eq!(board.split(0, 20, 3), None, "the ticket has only 12 tasks now");
    assert_eq!(claim.take_grain(), Some(3..6));
    assert_eq!(board.split(0, 12, 3), Some(9));
    assert_eq!(board.split(0, 9, 3), Some(6), "the last grain can be taken back too");
    assert_eq!(claim.take_grain(), None);
    assert_eq!(board.split(0, 6, 3), None);
}

#[test]
fn split_leaves_the_first_grain_of_an_untouched_ticket() {
    let board = board(1);
    assert!(board.publish(0, &Chunk { grain: 2, ..chunk(3) }, |_, _| ()));
    assert_eq!(board.split(0, 3, 2), Some(2));
    assert_eq!(board.split(0, 2, 2), None);
}

#[test]
fn worker_reports_starving_only_if_tasks_can_be_stolen() {
    let board = board(1);
    assert!(!board.report_starving() && !board.take_starving(), "nothing can be stolen");
    board.set_stealable(true);
    assert!(board.report_starving(), "the parent of a new board asks for a message");
    assert!(board.has_news() && !board.request_message());
    assert!(board.take_starving() && !board.take_starving());
    assert!(!board.has_news());
}

#[test]
fn retracted_ticket_cannot_be_claimed() {
    let board = board(1);
    let position = board.next_position();
    assert!(board.publish(0, &chunk(1), |_, _| ()));
    assert!(board.publish(1, &chunk(1), |_, _| ()));
    assert!(board.retract(0, position));
    assert_eq!(board.claim(0), Some(1));
    assert_eq!(board.claim(0), None);
}

#[test]
fn each_sleeper_is_taken_once() {
    let board = board(3);
    assert!(board.announce_sleep(1));
    assert!(board.announce_sleep(2));
    assert_eq!(board.take_sleepers(0..3, 1), [1]);
    assert_eq!(board.take_sleepers(0..3, 9), [2]);
    assert!(board.publish(0, &chunk(1), |_, _| ()));
    assert!(!board.announce_sleep(0), "there is work");
    board.admit(0);
    assert_eq!(board.claim(0), Some(0));
    assert!(!board.announce_sleep(0), "the pool is closing");
}

#[test]
fn cancel_sleep_tells_whether_the_parent_took_the_sleeper() {
    let board = board(1);
    assert!(board.announce_sleep(0));
    assert!(board.cancel_sleep(0), "the parent has not taken it");
    assert!(board.take_sleepers(0..1, 1).is_empty(), "the worker does not sleep any more");
    assert!(board.announce_sleep(0));
    assert_eq!(board.take_sleepers(0..1, 1), [0]);
    assert!(!board.cancel_sleep(0), "a message is on its way");
}

#[test]
fn admit_dismisses_workers_in_higher_slots() {
    let board = board(3);
    assert!((0..3).all(|slot_id| !board.is_dismissed(slot_id)));
    assert!(board.announce_sleep(2));
    board.admit(2);
    assert_eq!(board.take_sleepers(2..3, 9), [2], "it needs a message");
    assert!(board.is_dismissed(2) && !board.is_dismissed(1));
    assert!(!board.announce_sleep(2), "it is dismissed");
    assert!(board.announce_sleep(1));
    board.admit(3);
    assert!(board.announce_sleep(2), "it is admitted again");
}
