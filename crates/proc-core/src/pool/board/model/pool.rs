//! A whole pool: workers as in `worker.rs`, a parent as in `pool/scheduler`, reduced to what
//! touches the board, with workers that are killed before each of their operations in turn.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use loom::thread;
use loom::thread::JoinHandle;

use super::{Channel, board, check, chunk};
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
    /// When each worker sleeps, or was killed before.
    WhenAllSleep,
}

/// What a worker tells its parent, and in the end the kernel.
enum Report {
    /// In a model that starts when all sleep.
    Asleep,
    Look,
    Exited(SlotId),
}

/// What became of a task as it is seen from outside, which is not part of the model.
#[derive(Default)]
struct Seen {
    begun: AtomicBool,
    ran: AtomicUsize,
    ended: AtomicBool,
}

/// What everybody shares beside the board.
struct Shared {
    start: Start,
    board: Arc<Board>,
    reports: Arc<Channel<Report>>,
    /// The bytes of results.
    results: Vec<AtomicU32>,
    seen: Vec<Seen>,
}

fn result_of(task: usize) -> u32 {
    100 + task as u32
}

/// A worker's life; it ends when nothing more comes.
fn serve(shared: &Shared, slot_id: SlotId, mail: &Channel<()>) {
    let board = &shared.board;
    while !board.is_dismissed(slot_id) {
        if let Some(ticket) = board.claim(slot_id) {
            run(shared, ticket);
        } else if board.announce_sleep(slot_id) {
            if shared.start == Start::WhenAllSleep {
                shared.reports.send(Report::Asleep);
            }
            if board.report_starving() {
                atomics::step();
                shared.reports.send(Report::Look);
            }
            mail.receive();
            board.cancel_sleep(slot_id);
        }
    }
}

fn run(shared: &Shared, ticket: TicketId) {
    let board = &shared.board;
    let told = board.chunk(ticket);
    assert_eq!(told, chunk(told.offset as usize, told.count as usize));
    let claim = board.claimed(ticket, 42);
    while let Some(index) = claim.take().map(|grain| grain.start) {
        let task = told.offset as usize + index as usize;
        shared.seen[task].begun.store(true, Ordering::Relaxed);
        claim.begin(index, None);
        shared.seen[task].ran.fetch_add(1, Ordering::Relaxed);
        shared.results[task].store(result_of(task), Ordering::Relaxed);
        claim.end(index, 1);
        shared.seen[task].ended.store(true, Ordering::Relaxed);
    }
    if board.finish(ticket, 1) {
        atomics::step();
        shared.reports.send(Report::Look);
    }
}

/// A ticket in use.
struct Out {
    first: usize,
    count: usize,
    position: u64,
    claimer: Option<SlotId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Result,
    Death,
}

struct Parent {
    shared: Arc<Shared>,
    chunks: VecDeque<(usize, usize)>,
    again: VecDeque<TicketId>,
    free: Vec<TicketId>,
    out: HashMap<TicketId, Out>,
    fates: Vec<Fate>,
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
            seen: (0..tasks).map(|_| Seen::default()).collect(),
        });
        Parent {
            shared,
            chunks,
            again: VecDeque::new(),
            free: (0..config.tickets).rev().collect(),
            out: HashMap::new(),
            fates: vec![Fate::Open; tasks],
            slots: vec![None; config.workers as usize],
            threads: Vec::new(),
            deaths: 0,
        }
    }

    /// Starts a worker that may do so many operations.
    fn hire(&mut self, slot_id: SlotId, life: usize) {
        let (shared, mail) = (Arc::clone(&self.shared), Channel::new());
        self.slots[slot_id as usize] = Some(Arc::clone(&mail));
        self.threads.push(thread::spawn(move || {
            live(life, || serve(&shared, slot_id, &mail));
            shared.reports.send(Report::Exited(slot_id));
        }));
    }

    /// Runs all tasks to their fate, then ends the workers.
    fn run(&mut self) {
        if self.shared.start == Start::WhenAllSleep {
            let chunks = std::mem::take(&mut self.chunks);
            // Who sleeps cannot be killed, so each worker is heard of once.
            (0..self.slots.len()).for_each(|_| self.hear());
            self.chunks = chunks;
        }
        self.pump();
        self.listen();
        while self.fates.contains(&Fate::Open) {
            self.hear();
        }
        self.shared.board.admit(0);
        self.wake(usize::MAX);
        for thread in self.threads.drain(..) {
            thread.join().expect("a model's worker does not panic");
        }
        assert!(self.out.is_empty() && self.again.is_empty());
    }

    fn hear(&mut self) {
        match self.shared.reports.receive() {
            Report::Asleep => {}
            Report::Look => {
                self.collect();
                self.listen();
            }
            Report::Exited(slot_id) => {
                self.deaths += 1;
                self.bury(slot_id);
                // One that lives suffices, and keeps the model small.
                if self.slots.len() == 1 {
                    self.hire(slot_id, usize::MAX);
                }
            }
        }
    }

    fn pump(&mut self) {
        let starving = self.shared.board.take_starving();
        self.publish_all();
        if starving && self.share() {
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

    fn share(&mut self) -> bool {
        let board = &self.shared.board;
        let before = self.chunks.len();
        let mut sleepers = board.sleeping(0..self.slots.len() as SlotId);
        while sleepers > 0 {
            let untaken = |(ticket, out): (&TicketId, &Out)| {
                (board.untaken(*ticket, out.count as u32), *ticket)
            };
            let mut most: Vec<_> = self.out.iter().map(untaken).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            let shorter = |(_, ticket)| {
                let count = self.out[&ticket].count as u32;
                board.split(ticket, count, 1).map(|limit| (ticket, limit))
            };
            let Some((ticket, limit)) = most.into_iter().find_map(shorter) else { break };
            let out = self.out.get_mut(&ticket).expect("it is in use");
            let rest = out.count - limit as usize;
            out.count = limit as usize;
            self.chunks.push_back((out.first + out.count, rest));
            sleepers = sleepers.saturating_sub(rest);
        }
        self.chunks.len() > before
    }

    fn wake(&mut self, most: usize) {
        for slot_id in self.shared.board.take_sleepers(0..self.slots.len() as SlotId, most) {
            if let Some(mail) = &self.slots[slot_id as usize] {
                mail.send(());
            }
        }
    }

    fn publish_one(&mut self) -> Option<usize> {
        let ticket = match self.again.pop_front() {
            Some(ticket) => ticket,
            None if self.chunks.is_empty() => return None,
            None => {
                let ticket = self.free.pop()?;
                let (first, count) = self.chunks.pop_front().expect("one is left");
                self.out.insert(ticket, Out { first, count, position: 0, claimer: None });
                ticket
            }
        };
        let entry = self.out.get_mut(&ticket).expect("it is in use");
        entry.claimer = None;
        entry.position = self.shared.board.position();
        let chunk = chunk(entry.first, entry.count);
        // A lone worker has nobody to share with.
        if entry.count > 1 && self.slots.len() > 1 {
            self.shared.board.set_stealable(true);
        }
        let published = self.shared.board.publish(ticket, &chunk, |ticket, slot_id| {
            if let Some(other) = self.out.get_mut(&ticket) {
                other.claimer = Some(slot_id);
            }
        });
        if !published {
            self.again.push_front(ticket);
        }
        published.then_some(chunk.count as usize)
    }

    fn collect(&mut self) {
        self.collect_finished();
        self.pump();
    }

    fn collect_finished(&mut self) {
        for ticket in self.shared.board.take_finished() {
            let Some(out) = self.out.get(&ticket) else { panic!("ticket {ticket} finished twice") };
            assert_eq!(self.shared.board.progress(ticket).done as usize, out.count);
            let (first, count) = (out.first, out.count);
            self.deliver(first, count);
            self.retire(ticket);
        }
    }

    /// Reads results, which must be there.
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

    fn retire(&mut self, ticket: TicketId) {
        let out = self.out.remove(&ticket).expect("it is in use");
        self.shared.board.forget_claim(ticket, out.position);
        self.free.push(ticket);
    }

    fn listen(&mut self) {
        while !self.shared.board.listen() {
            self.collect();
        }
    }

    /// Settles what a dead worker left.
    fn bury(&mut self, slot_id: SlotId) {
        self.slots[slot_id as usize] = None;
        self.shared.board.bury(slot_id);
        self.collect_finished();
        let mut left: HashSet<TicketId> =
            self.shared.board.claimed_by(slot_id).into_iter().collect();
        left.retain(|ticket| self.out.get(ticket).is_some_and(|out| out.claimer.is_none()));
        left.extend(
            self.out.iter().filter(|(_, out)| out.claimer == Some(slot_id)).map(|(t, _)| *t),
        );
        assert!(left.len() <= 1, "a worker has one claim: {left:?}");
        for ticket in left {
            self.settle_claimed(ticket);
        }
        self.pump();
        if self.shared.board.has_ready() {
            self.wake(1);
        }
        self.listen();
    }

    fn settle_claimed(&mut self, ticket: TicketId) {
        let progress = self.shared.board.progress(ticket);
        let out = self.out.get_mut(&ticket).expect("it is in use");
        let (first, count) = (out.first, out.count);
        let (begun, done) = (progress.begun as usize, progress.done as usize);
        assert!(begun == done || begun == done + 1, "{progress:?}");
        assert!(begun <= count);
        if begun < count {
            out.first += begun;
            out.count -= begun;
            self.shared.board.forget_claim(ticket, out.position);
            self.again.push_back(ticket);
        } else {
            self.retire(ticket);
        }
        self.deliver(first, done);
        if begun > done {
            self.settle(first + done, Fate::Death);
        }
    }

    /// Compares each task's fate with what was seen of it.
    fn check(&self) {
        for (task, (fate, seen)) in self.fates.iter().zip(&self.shared.seen).enumerate() {
            let begun = seen.begun.load(Ordering::Relaxed);
            let ran = seen.ran.load(Ordering::Relaxed);
            let ended = seen.ended.load(Ordering::Relaxed);
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

/// Runs the config with nobody killed.
fn check_alive(interruptions: usize, config: PoolConfig) {
    check(interruptions, move || {
        let mut parent = Parent::new(config);
        (0..config.workers).for_each(|slot_id| parent.hire(slot_id, usize::MAX));
        parent.run();
        parent.check();
        assert_eq!(parent.deaths, 0);
    });
}

/// Runs the config again and again, with the first worker killed ever one operation later.
fn check_killed(interruptions: usize, config: PoolConfig) {
    let mut moments = 0;
    loop {
        let deaths = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&deaths);
        check(interruptions, move || {
            let mut parent = Parent::new(config);
            parent.hire(0, moments);
            (1..config.workers).for_each(|slot_id| parent.hire(slot_id, usize::MAX));
            parent.run();
            parent.check();
            count.fetch_add(parent.deaths, Ordering::Relaxed);
        });
        if deaths.load(Ordering::Relaxed) == 0 {
            break;
        }
        moments += 1;
    }
    // To claim, begin, end and finish one task alone are more operations than that.
    assert!(moments > 20, "killed at {moments} moments only");
}

#[test]
fn every_task_has_a_result() {
    let start = Start::AtOnce;
    check_alive(1, PoolConfig { tickets: 2, workers: 2, chunks: &[1, 1, 1], start });
}

#[test]
fn idle_worker_has_a_share_of_what_another_has_claimed() {
    let start = Start::AtOnce;
    check_alive(1, PoolConfig { tickets: 2, workers: 2, chunks: &[3], start });
}

#[test]
fn one_of_two_workers_that_share_killed_at_any_operation_costs_one_task() {
    let start = Start::AtOnce;
    check_killed(0, PoolConfig { tickets: 2, workers: 2, chunks: &[2], start });
}

#[test]
fn lone_worker_killed_at_any_operation_costs_one_task() {
    let start = Start::AtOnce;
    check_killed(2, PoolConfig { tickets: 2, workers: 1, chunks: &[2, 1], start });
}

#[test]
fn one_of_two_workers_killed_at_any_operation_costs_one_task() {
    let start = Start::AtOnce;
    check_killed(0, PoolConfig { tickets: 2, workers: 2, chunks: &[1, 1], start });
}

#[test]
fn one_of_two_sleepers_killed_before_or_after_it_is_woken_holds_up_nobody() {
    let start = Start::WhenAllSleep;
    // With one ticket, the second chunk is published when the first one is done.
    check_killed(0, PoolConfig { tickets: 1, workers: 2, chunks: &[1, 1], start });
}
