//! The model check of each promise of the board alone, in the smallest setting in which it could be
//! broken.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use loom::thread;

use super::{Channel, board, check, chunk, take_finished};
use crate::memory::loom::AtomicU32;
use crate::pool::board::{Board, SlotId, TicketId};

/// Publishes a chunk of one task under `ticket`.
fn publish(board: &Board, ticket: TicketId) {
    let first = board.next_position() as usize;
    assert!(board.publish(ticket, &chunk(first, 1), |_, _| ()), "there is room");
}

/// Claims until no ticket is ready. Returns the tickets, with the numbers of their publications.
fn claim_all(board: &Board, slot_id: SlotId) -> Vec<(TicketId, u64)> {
    std::iter::from_fn(|| board.claim(slot_id))
        .map(|ticket| {
            let seen = board.chunk(ticket);
            assert_eq!(seen, chunk(seen.offset as usize, 1), "the claimer sees the whole chunk");
            (ticket, seen.offset)
        })
        .collect()
}

#[test]
fn each_chunk_is_claimed_once_by_the_slot_on_record() {
    check(3, || {
        let board = board(4, 3);
        publish(&board, 0);
        let claimers = [0, 1].map(|slot_id| {
            let board = Arc::clone(&board);
            thread::spawn(move || claim_all(&board, slot_id))
        });
        publish(&board, 1);
        publish(&board, 2);
        let mut claims = Vec::new();
        for (slot_id, claimer) in claimers.into_iter().enumerate() {
            let claimed = claimer.join().expect("it returns");
            claims.extend(claimed.into_iter().map(|(ticket, _)| (ticket, slot_id as SlotId)));
        }
        claims.extend(claim_all(&board, 2).into_iter().map(|(ticket, _)| (ticket, 2)));
        claims.sort_unstable();
        assert!(claims.iter().map(|(ticket, _)| *ticket).eq(0..3), "{claims:?}");
        assert!(board.claims().eq(claims));
    });
}

#[test]
fn slow_claimer_does_not_claim_a_later_chunk_in_the_same_place() {
    check(3, || {
        // Ticket 0 is published twice in the same place. Only the number of the publication
        // differs.
        let board = board(1, 2);
        publish(&board, 0);
        let claimer = {
            let board = Arc::clone(&board);
            thread::spawn(move || claim_all(&board, 0))
        };
        let mut ours = claim_all(&board, 1);
        if !ours.is_empty() {
            board.forget_claim(0, 0);
            publish(&board, 0);
            ours.extend(claim_all(&board, 1));
        }
        let published = board.next_position();
        let theirs = claimer.join().expect("it returns");
        ours.extend(claim_all(&board, 1));
        let mut numbers: Vec<u64> = theirs.iter().chain(&ours).map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..published), "{theirs:?} {ours:?}");
        let last = (0, published - 1);
        let slot_id = if theirs.contains(&last) { 0 } else { 1 };
        assert_eq!(board.claimer(last.0, last.1), Some(slot_id), "the last claim is on record");
    });
}

#[test]
fn publish_reports_the_claim_that_it_overwrites() {
    check(3, || {
        let board = board(2, 2);
        publish(&board, 0);
        let claimer = {
            let board = Arc::clone(&board);
            thread::spawn(move || board.claim(0))
        };
        publish(&board, 1);
        let claimed = board.claim(1);
        let mut kept = Vec::new();
        // The ticket that this thread has claimed stays in use. The other one is published again.
        let other = claimed.map_or(0, |ticket| 1 - ticket);
        let published = board.publish(other, &chunk(2, 1), |ticket, slot_id| {
            kept.push((ticket, slot_id));
        });
        assert_eq!(published, !kept.is_empty(), "the place held a ready ticket or a claim");
        let theirs = claimer.join().expect("it returns");
        for (ticket, slot_id) in kept {
            assert_eq!(ticket, 0, "ticket 0 was in this place");
            assert_eq!(if slot_id == 0 { theirs } else { claimed }, Some(0));
        }
    });
}

#[test]
fn chunk_is_either_retracted_or_claimed() {
    check(4, || {
        let board = board(2, 2);
        publish(&board, 0);
        let claimers = [0, 1].map(|slot_id| {
            let board = Arc::clone(&board);
            thread::spawn(move || board.claim(slot_id))
        });
        let taken_back = board.retract(0, 0);
        let claims = claimers.map(|claimer| claimer.join().expect("it returns"));
        let claimed = claims.iter().flatten().count();
        assert_eq!(usize::from(taken_back) + claimed, 1);
        assert_eq!(board.shows(0, 0), !taken_back);
        assert_eq!(board.claimer(0, 0).is_some(), !taken_back);
        assert!(!board.has_ready() || claimed == 0, "a claimer advances `head`");
    });
}

#[test]
fn task_is_either_taken_by_the_claimer_or_taken_back() {
    check(4, || {
        let board = board(2, 1);
        assert!(board.publish(0, &chunk(0, 4), |_, _| ()));
        let claimer = {
            let board = Arc::clone(&board);
            thread::spawn(move || {
                assert_eq!(board.claim(0), Some(0));
                let claim = board.begin_claim(0, 42);
                std::iter::from_fn(|| claim.take_grain()).flatten().collect::<Vec<_>>()
            })
        };
        let mut count = 4;
        while let Some(limit) = board.split(0, count, 1) {
            assert!(0 < limit && limit < count, "the claimer keeps at least one task");
            count = limit;
        }
        let taken = claimer.join().expect("it returns");
        assert!(taken.into_iter().eq(0..count));
        assert_eq!(board.untaken(0, count), 0);
    });
}

#[test]
fn parent_learns_of_a_starving_worker_and_finds_it_asleep() {
    check(4, || {
        let board = board(2, 1);
        board.set_stealable(true);
        board.decline_messages();
        let reports = Channel::new();
        let worker = {
            let (board, reports) = (Arc::clone(&board), Arc::clone(&reports));
            thread::spawn(move || {
                if board.announce_sleep(0) && board.report_starving() {
                    reports.send(());
                }
            })
        };
        while !board.take_starving() {
            if board.request_message() {
                reports.receive();
            }
        }
        assert_eq!(board.count_sleepers(0..1), 1);
        worker.join().expect("it returns");
    });
}

/// Starts worker 0, which reports the tickets that `take` returns, and sleeps when there is none.
fn sleeping_worker(
    board: &Arc<Board>,
    messages: &Arc<Channel<()>>,
    reports: &Arc<Channel<TicketId>>,
    take: fn(&Board) -> Option<TicketId>,
) -> thread::JoinHandle<()> {
    let (board, messages, reports) = (board.clone(), messages.clone(), reports.clone());
    thread::spawn(move || {
        while !board.is_dismissed(0) {
            if let Some(ticket) = take(&board) {
                reports.send(ticket);
            } else if board.announce_sleep(0) {
                messages.receive();
                board.cancel_sleep(0);
            }
        }
    })
}

#[test]
fn sleeper_is_woken_by_a_publication_and_by_the_end_of_the_pool() {
    check(4, || {
        let board = board(2, 1);
        let (messages, reports) = (Channel::new(), Channel::new());
        let worker = sleeping_worker(&board, &messages, &reports, |board| board.claim(0));
        let wake = || board.take_sleepers(0..1, usize::MAX).iter().for_each(|_| messages.send(()));
        for ticket in [0, 1] {
            publish(&board, ticket);
            wake();
        }
        assert_eq!([reports.receive(), reports.receive()], [0, 1]);
        board.admit(0);
        wake();
        worker.join().expect("it returns");
    });
}

#[test]
fn assigned_ticket_is_taken_by_a_woken_worker_or_taken_back() {
    check(4, || {
        let board = board(2, 1);
        let (messages, reports) = (Channel::new(), Channel::new());
        let worker = sleeping_worker(&board, &messages, &reports, |board| {
            let ticket = board.take_assigned(0);
            assert!(ticket.is_none_or(|it| board.chunk(it).offset == u64::from(it)), "seen whole");
            ticket
        });
        let wake = || board.take_sleepers(0..1, usize::MAX).iter().for_each(|_| messages.send(()));
        board.assign(0, &chunk(0, 1), 0);
        wake();
        assert_eq!(reports.receive(), 0);
        board.assign(1, &chunk(1, 1), 0);
        wake();
        if !board.unassign(1, 0) {
            assert_eq!(reports.receive(), 1);
        }
        board.admit(0);
        wake();
        worker.join().expect("it returns");
    });
}

#[test]
fn sleeper_either_leaves_or_is_taken_and_gets_a_message() {
    check(4, || {
        let board = board(2, 1);
        let messages = Channel::new();
        let worker = {
            let (board, messages) = (Arc::clone(&board), Arc::clone(&messages));
            thread::spawn(move || {
                let sleeps = board.announce_sleep(0);
                let leaves = sleeps && board.cancel_sleep(0);
                if sleeps && !leaves {
                    messages.receive();
                }
                leaves
            })
        };
        publish(&board, 0);
        let taken = board.take_sleepers(0..1, 1);
        taken.iter().for_each(|_| messages.send(()));
        let left = worker.join().expect("it returns");
        assert!(!left || taken.is_empty());
        assert!(board.take_sleepers(0..1, 1).is_empty(), "the worker is awake or has left");
    });
}

#[test]
fn parent_gets_each_finished_ticket_once_and_waits_only_for_a_message() {
    check(3, || {
        let board = board(2, 2);
        board.decline_messages();
        let (reports, results) = (Channel::new(), Arc::new([0, 1].map(AtomicU32::new)));
        let workers = [0, 1].map(|slot_id| {
            publish(&board, slot_id);
            assert_eq!(board.claim(slot_id), Some(slot_id));
            let (board, reports) = (Arc::clone(&board), Arc::clone(&reports));
            let results = Arc::clone(&results);
            thread::spawn(move || {
                let claim = board.begin_claim(slot_id, 42);
                claim.begin(0, Some(7));
                results[slot_id as usize].store(10 + slot_id, Relaxed);
                claim.end(0, 20);
                if board.finish(slot_id, 30) {
                    reports.send(());
                }
            })
        });
        let mut finished = Vec::new();
        while finished.len() < 2 {
            for ticket in take_finished(&board) {
                let progress = board.progress(ticket);
                assert_eq!((progress.begun, progress.done), (1, 1));
                assert_eq!((progress.results, progress.nanoseconds), (20, 30));
                assert_eq!(progress.began_at, 7);
                assert_eq!(results[ticket as usize].load(Relaxed), 10 + ticket);
                finished.push(ticket);
            }
            if finished.len() < 2 && board.request_message() {
                reports.receive();
            }
        }
        workers.into_iter().for_each(|worker| worker.join().expect("it returns"));
        finished.sort_unstable();
        assert_eq!(finished, [0, 1]);
        assert!(!board.has_news());
    });
}
