//! The model check of a whole pool: workers as in `pool/worker`, and a parent as in
//! `pool/scheduler`, both reduced to their operations on the board. A worker is killed before each
//! of its operations in turn.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use loom::thread;
use loom::thread::JoinHandle;

use super::{Channel, board, check, chunk, take_finished};
use crate::memory::loom::{self as atomics, AtomicU32, live};
use crate::pool::board::{Board, SlotId, TicketId};

/// What a model runs.
#[derive(Clone, Copy)]
struct PoolConfig {
    tickets: u32,
    workers: u32,
    /// How many tasks each chunk has.
    chunks: &'static [usize],
    start: Start,
}

/// When the first chunk is published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    AtOnce,
    /// When there is a report for each worker: that it sleeps, or that it was killed.
    WhenAllSleep,
}

/// A report to the parent about a worker.
enum Report {
    /// The worker falls asleep. Only sent if the model begins when all workers sleep.
    Asleep(SlotId),
    /// The worker asks the parent to look at the board.
    Look,
    Exited(SlotId),
}

/// How far a task really has come. The checks at the end use this; the pool does not.
#[derive(Default)]
struct TrueProgress {
    begun: AtomicBool,
    ran: AtomicUsize,
    ended: AtomicBool,
}

/// What the parent and the workers share.
struct Shared {
    start: Start,
    board: Arc<Board>,
    reports: Arc<Channel<Report>>,
    /// The bytes of results.
    results: Vec<AtomicU32>,
    true_progress: Vec<TrueProgress>,
}

fn result_of(task: usize) -> u32 {
    100 + task as u32
}

/// Runs a worker until it is dismissed.
fn serve(shared: &Shared, slot_id: SlotId, messages: &Channel<()>) {
    let board = &shared.board;
    while !board.is_dismissed(slot_id) {
        if let Some(ticket) = board.claim(slot_id) {
            run(shared, ticket);
        } else if board.announce_sleep(slot_id) {
            if shared.start == Start::WhenAllSleep {
                shared.reports.send(Report::Asleep(slot_id));
            }
            if board.report_starving() {
                atomics::step();
                shared.reports.send(Report::Look);
            }
            messages.receive();
            board.cancel_sleep(slot_id);
        }
    }
}

/// Runs a claimed chunk.
fn run(shared: &Shared, ticket: TicketId) {
    let board = &shared.board;
    let claimed = board.chunk(ticket);
    assert_eq!(claimed, chunk(claimed.offset as usize, claimed.count as usize));
    let claim = board.begin_claim(ticket, 42);
    while let Some(index) = claim.take_grain().map(|grain| grain.start) {
        let task = claimed.offset as usize + index as usize;
        shared.true_progress[task].begun.store(true, Ordering::Relaxed);
        claim.begin(index, None);
        shared.true_progress[task].ran.fetch_add(1, Ordering::Relaxed);
        shared.results[task].store(result_of(task), Ordering::Relaxed);
        claim.end(index, 1);
        shared.true_progress[task].ended.store(true, Ordering::Relaxed);
    }
    if board.finish(ticket, 1) {
        atomics::step();
        shared.reports.send(Report::Look);
    }
}

/// A ticket in use.
struct InFlight {
    first: usize,
    count: usize,
    position: u64,
    claimer: Option<SlotId>,
}

/// What became of a task, as the parent knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Result,
    Death,
}

struct Parent {
    shared: Arc<Shared>,
    /// Chunks that are not published yet: the first task, and how many.
    chunks: VecDeque<(usize, usize)>,
    requeued: VecDeque<TicketId>,
    free: Vec<TicketId>,
    in_flight: HashMap<TicketId, InFlight>,
    fates: Vec<Fate>,
    /// The channel to the worker in each slot.
    slots: Vec<Option<Arc<Channel<()>>>>,
    threads: Vec<JoinHandle<()>>,
    deaths: usize,
}

impl Parent {
    fn new(config: PoolConfig) -> Parent {
        let mut tasks = 0;
        let mut chunks = VecDeque::new();
        for count in config.chunks {
            chunks.push_back((tasks, *count));
            tasks += count;
        }
        let shared = Arc::new(Shared {
            start: config.start,
            board: board(config.tickets, config.workers),
            reports: Channel::new(),
            results: (0..tasks).map(|_| AtomicU32::default()).collect(),
            true_progress: (0..tasks).map(|_| TrueProgress::default()).collect(),
        });
        Parent {
            shared,
            chunks,
            requeued: VecDeque::new(),
            free: (0..config.tickets).rev().collect(),
            in_flight: HashMap::new(),
            fates: vec![Fate::Open; tasks],
            slots: vec![None; config.workers as usize],
            threads: Vec::new(),
            deaths: 0,
        }
    }

    /// Starts a worker that is killed after `life` operations.
    fn start_worker(&mut self, slot_id: SlotId, life: usize) {
        let (shared, messages) = (Arc::clone(&self.shared), Channel::new());
        self.slots[slot_id as usize] = Some(Arc::clone(&messages));
        self.threads.push(thread::spawn(move || {
            live(life, || serve(&shared, slot_id, &messages));
            shared.reports.send(Report::Exited(slot_id));
        }));
    }

    /// Runs until each task has its fate, then ends the workers.
    fn run(&mut self) {
        if self.shared.start == Start::WhenAllSleep {
            let chunks = std::mem::take(&mut self.chunks);
            // A worker reports that it sleeps, or that it was killed. A worker that is killed just
            // after it has reported its sleep reports twice.
            let mut awake: HashSet<SlotId> = (0..self.slots.len() as SlotId).collect();
            while !awake.is_empty() {
                if let Some(slot_id) = self.handle_report() {
                    awake.remove(&slot_id);
                }
            }
            self.chunks = chunks;
        }
        self.dispatch();
        self.request_message();
        while self.fates.contains(&Fate::Open) {
            self.handle_report();
        }
        self.shared.board.admit(0);
        self.wake(usize::MAX);
        for thread in self.threads.drain(..) {
            thread.join().expect("a model's worker does not panic");
        }
        assert!(self.in_flight.is_empty() && self.requeued.is_empty());
    }

    /// Handles the next report. Returns the slot whose worker sleeps or was killed, if the report
    /// says so.
    fn handle_report(&mut self) -> Option<SlotId> {
        match self.shared.reports.receive() {
            Report::Asleep(slot_id) => Some(slot_id),
            Report::Look => {
                self.collect();
                self.request_message();
                None
            }
            Report::Exited(slot_id) => {
                self.deaths += 1;
                self.settle_dead_worker(slot_id);
                // If there is another worker, it does the rest alone. That keeps the model small.
                if self.slots.len() == 1 {
                    self.start_worker(slot_id, usize::MAX);
                }
                Some(slot_id)
            }
        }
    }

    fn dispatch(&mut self) {
        let starving = self.shared.board.take_starving();
        self.publish_all();
        if starving && self.steal_for_sleepers() {
            self.publish_all();
        }
    }

    fn publish_all(&mut self) {
        let mut grains = 0;
        while let Some(more) = self.publish_one() {
            grains += more;
        }
        if grains > 0 {
            self.wake(grains);
        }
    }

    fn steal_for_sleepers(&mut self) -> bool {
        let board = &self.shared.board;
        let before = self.chunks.len();
        let mut sleepers = board.count_sleepers(0..self.slots.len() as SlotId);
        while sleepers > 0 {
            let untaken = |(ticket, in_flight): (&TicketId, &InFlight)| {
                (board.untaken(*ticket, in_flight.count as u32), *ticket)
            };
            let mut most_first: Vec<_> = self.in_flight.iter().map(untaken).collect();
            most_first.sort_unstable_by(|a, b| b.cmp(a));
            let split = |(_, ticket)| {
                let count = self.in_flight[&ticket].count as u32;
                board.split(ticket, count, 1).map(|limit| (ticket, limit))
            };
            let Some((ticket, limit)) = most_first.into_iter().find_map(split) else { break };
            let in_flight = self.in_flight.get_mut(&ticket).expect("it is in use");
            let rest = in_flight.count - limit as usize;
            in_flight.count = limit as usize;
            self.chunks.push_back((in_flight.first + in_flight.count, rest));
            sleepers = sleepers.saturating_sub(rest);
        }
        self.chunks.len() > before
    }

    fn wake(&mut self, max: usize) {
        for slot_id in self.shared.board.take_sleepers(0..self.slots.len() as SlotId, max) {
            if let Some(messages) = &self.slots[slot_id as usize] {
                messages.send(());
            }
        }
    }

    fn publish_one(&mut self) -> Option<usize> {
        let ticket = match self.requeued.pop_front() {
            Some(ticket) => ticket,
            None if self.chunks.is_empty() => return None,
            None => {
                let ticket = self.free.pop()?;
                let (first, count) = self.chunks.pop_front().expect("one is left");
                self.in_flight
                    .insert(ticket, InFlight { first, count, position: 0, claimer: None });
                ticket
            }
        };
        let entry = self.in_flight.get_mut(&ticket).expect("it is in use");
        entry.claimer = None;
        entry.position = self.shared.board.next_position();
        let chunk = chunk(entry.first, entry.count);
        // If there is one worker, no other worker can steal from it.
        if entry.count > 1 && self.slots.len() > 1 {
            self.shared.board.set_stealable(true);
        }
        let published = self.shared.board.publish(ticket, &chunk, |ticket, slot_id| {
            if let Some(other) = self.in_flight.get_mut(&ticket) {
                other.claimer = Some(slot_id);
            }
        });
        if !published {
            self.requeued.push_front(ticket);
        }
        published.then_some(chunk.count as usize)
    }

    fn collect(&mut self) {
        self.collect_finished();
        self.dispatch();
    }

    fn collect_finished(&mut self) {
        for ticket in take_finished(&self.shared.board) {
            let Some(in_flight) = self.in_flight.get(&ticket) else {
                panic!("ticket {ticket} finished twice")
            };
            assert_eq!(self.shared.board.progress(ticket).done as usize, in_flight.count);
            let (first, count) = (in_flight.first, in_flight.count);
            self.deliver(first, count);
            self.free_ticket(ticket);
        }
    }

    /// Delivers results, which must be complete.
    fn deliver(&mut self, first: usize, count: usize) {
        for task in first..first + count {
            assert_eq!(self.shared.results[task].load(Ordering::Relaxed), result_of(task));
            self.settle(task, Fate::Result);
        }
    }

    fn settle(&mut self, task: usize, fate: Fate) {
        assert_eq!(self.fates[task], Fate::Open, "task {task} has two fates");
        self.fates[task] = fate;
    }

    fn free_ticket(&mut self, ticket: TicketId) {
        let in_flight = self.in_flight.remove(&ticket).expect("it is in use");
        self.shared.board.forget_claim(ticket, in_flight.position);
        self.free.push(ticket);
    }

    fn request_message(&mut self) {
        while !self.shared.board.request_message() {
            self.collect();
        }
    }

    /// Settles the tickets of a dead worker.
    fn settle_dead_worker(&mut self, slot_id: SlotId) {
        self.slots[slot_id as usize] = None;
        self.shared.board.withdraw_sleeper(slot_id);
        self.collect_finished();
        let mut left: HashSet<TicketId> =
            self.shared.board.claimed_by(slot_id).into_iter().collect();
        left.retain(|ticket| {
            self.in_flight.get(ticket).is_some_and(|in_flight| in_flight.claimer.is_none())
        });
        left.extend(
            self.in_flight
                .iter()
                .filter(|(_, in_flight)| in_flight.claimer == Some(slot_id))
                .map(|(t, _)| *t),
        );
        assert!(left.len() <= 1, "a worker has one claim: {left:?}");
        for ticket in left {
            self.settle_claimed(ticket);
        }
        self.dispatch();
        if self.shared.board.has_ready() {
            self.wake(1);
        }
        self.request_message();
    }

    fn settle_claimed(&mut self, ticket: TicketId) {
        let progress = self.shared.board.progress(ticket);
        let in_flight = self.in_flight.get_mut(&ticket).expect("it is in use");
        let (first, count) = (in_flight.first, in_flight.count);
        let (begun, done) = (progress.begun as usize, progress.done as usize);
        assert!(begun == done || begun == done + 1, "{progress:?}");
        assert!(begun <= count);
        if begun < count {
            in_flight.first += begun;
            in_flight.count -= begun;
            self.shared.board.forget_claim(ticket, in_flight.position);
            self.requeued.push_back(ticket);
        } else {
            self.free_ticket(ticket);
        }
        self.deliver(first, done);
        if begun > done {
            self.settle(first + done, Fate::Death);
        }
    }

    /// Compares each task's fate with how far it really came.
    fn check(&self) {
        for (task, (fate, progress)) in
            self.fates.iter().zip(&self.shared.true_progress).enumerate()
        {
            let begun = progress.begun.load(Ordering::Relaxed);
            let ran = progress.ran.load(Ordering::Relaxed);
            let ended = progress.ended.load(Ordering::Relaxed);
            match fate {
                Fate::Result => assert_eq!((begun, ran), (true, 1), "task {task}"),
                Fate::Death => assert!(begun && ran <= 1 && !ended, "task {task}: {ran} {ended}"),
                Fate::Open => panic!("task {task} is open"),
            }
        }
        let failed = self.fates.iter().filter(|fate| **fate == Fate::Death).count();
        assert!(failed <= self.deaths, "{failed} tasks failed of {} deaths", self.deaths);
    }
}

/// Checks a pool of which no worker is killed.
fn check_alive(interruptions: usize, config: PoolConfig) {
    check(interruptions, move || {
        let mut parent = Parent::new(config);
        (0..config.workers).for_each(|slot_id| parent.start_worker(slot_id, usize::MAX));
        parent.run();
        parent.check();
        assert_eq!(parent.deaths, 0);
    });
}

/// Checks a pool again and again. Each time the first worker is killed one operation later, until
/// it is not killed any more.
fn check_killed(interruptions: usize, config: PoolConfig) {
    let mut moments = 0;
    loop {
        let deaths = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&deaths);
        check(interruptions, move || {
            let mut parent = Parent::new(config);
            parent.start_worker(0, moments);
            (1..config.workers).for_each(|slot_id| parent.start_worker(slot_id, usize::MAX));
            parent.run();
            parent.check();
            count.fetch_add(parent.deaths, Ordering::Relaxed);
        });
        if deaths.load(Ordering::Relaxed) == 0 {
            break;
        }
        moments += 1;
    }
    // To claim a ticket, and to begin, end and finish one task takes more operations than that.
    assert!(moments > 20, "killed at {moments} moments only");
}

#[test]
fn every_task_has_a_result() {
    let start = Start::AtOnce;
    check_alive(1, PoolConfig { tickets: 2, workers: 2, chunks: &[1, 1, 1], start });
}

#[test]
fn every_task_of_a_shared_chunk_has_a_result() {
    let start = Start::AtOnce;
    check_alive(1, PoolConfig { tickets: 2, workers: 2, chunks: &[3], start });
}

#[test]
fn death_at_any_operation_beside_a_worker_that_steals_costs_one_task() {
    let start = Start::AtOnce;
    check_killed(0, PoolConfig { tickets: 2, workers: 2, chunks: &[2], start });
}

#[test]
fn death_of_a_lone_worker_at_any_operation_costs_one_task() {
    let start = Start::AtOnce;
    check_killed(2, PoolConfig { tickets: 2, workers: 1, chunks: &[2, 1], start });
}

#[test]
fn death_of_one_of_two_workers_at_any_operation_costs_one_task() {
    let start = Start::AtOnce;
    check_killed(0, PoolConfig { tickets: 2, workers: 2, chunks: &[1, 1], start });
}

#[test]
fn death_of_one_of_two_sleepers_at_any_operation_delays_no_task() {
    let start = Start::WhenAllSleep;
    // There is one ticket, so the second chunk is published when the first one is done.
    check_killed(0, PoolConfig { tickets: 1, workers: 2, chunks: &[1, 1], start });
}
