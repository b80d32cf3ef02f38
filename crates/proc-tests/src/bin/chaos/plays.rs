//! The calls: what is asked of a pool, at random, and whether what comes back can be right.

mod copies;
mod futures;
mod imaps;
mod maps;
mod pools;
mod sleepers;
mod verdicts;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proc_core::{Options, Pool, StartMethod};

use crate::choice::Fault;
use crate::ledger::{CALLS, FATES, FAULTS};
use crate::station::{Round, Station};
use crate::tasks::{Act, Copied, Spec};
use crate::watch::OnTheWay;

/// What a call allows that else would be a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terms {
    Plain,
    /// The call has a time limit for each task.
    Timed,
}

/// What kind of tasks a call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Calm,
    /// Some fail, some end their worker.
    Mixed,
    Large,
    /// Some never end by themselves.
    Hanging,
}

/// One thread that calls.
pub(crate) struct Caller<'a> {
    round: &'a Round<'a>,
    rng: fastrand::Rng,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(round: &'a Round<'a>, rng: fastrand::Rng) -> Caller<'a> {
        Caller { round, rng }
    }

    /// Calls until the round is over.
    pub(crate) fn run(&mut self, stations: &[Station]) {
        let has_time = |round: &Round<'_>| {
            Instant::now() < round.end && round.ledger.total(FATES) < round.tasks
        };
        while has_time(self.round) {
            let open: Vec<_> = stations.iter().filter(|station| !station.is_over()).collect();
            let Some(station) = self.rng.choice(open) else { return };
            match self.rng.u32(..100) {
                0..2 => self.terminate(station),
                2..8 if self.round.context != StartMethod::Fork => self.own_pool(),
                8..14 => self.process(),
                14..20
                    if self.round.context != StartMethod::Fork
                        && self.round.faults.has(Fault::Sleepers) =>
                {
                    self.sleepers();
                }
                20..27 if self.round.faults.has(Fault::Copies) => self.copies(station),
                _ => self.play(station),
            }
        }
    }

    /// A call of any kind.
    fn play(&mut self, station: &Station) {
        match self.rng.u32(..16) {
            0..3 => self.tiny(station),
            3..6 => self.try_map(station, Mood::Mixed, Terms::Plain),
            6 => self.try_map(station, Mood::Large, Terms::Plain),
            7 => self.try_map(station, Mood::Hanging, Terms::Timed),
            8 => self.map(station),
            9..11 => self.imap(station),
            11..14 => self.tasks(station),
            14 => self.channel(station),
            _ => self.map_async(station),
        }
    }

    fn begin(&mut self, what: &str) -> OnTheWay<'a> {
        self.begin_within(what, Duration::MAX)
    }

    /// As [`begin`](Caller::begin), where the call may take this long at most.
    fn begin_within(&mut self, what: &str, limit: Duration) -> OnTheWay<'a> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        self.round.ledger.add(CALLS, what, 1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        self.round.watch.begin_within(serial, what.to_owned(), limit)
    }

    /// Tasks whose numbers count on from the first one's.
    fn specs(&mut self, count: usize, mood: Mood) -> Vec<Spec> {
        let first = self.rng.u64(..);
        let spec = |index| self.spec(first.wrapping_add(index), mood);
        (0..count as u64).map(spec).collect()
    }

    fn spec(&mut self, number: u64, mood: Mood) -> Spec {
        let rng = &mut self.rng;
        let act = match (mood, rng.u32(..64)) {
            (Mood::Mixed, 0) => match rng.u32(..8) {
                0 => Act::OverflowStack,
                1 => Act::ExhaustMemory,
                2..4 => Act::Abort,
                _ => Act::Exit(rng.u8(..)),
            },
            (Mood::Mixed, 1..3) => Act::Panic,
            (Mood::Mixed, 3) => Act::PanicOddly,
            (Mood::Mixed, 4) => Act::UnwritableArgument,
            (Mood::Mixed, 5) => Act::UnreadableArgument,
            (Mood::Mixed, 6) => Act::UnwritableResult,
            (Mood::Mixed, 7) => Act::UnreadableResult,
            (Mood::Hanging, 0..8) => Act::Hang,
            (Mood::Mixed, 8..10) if self.round.faults.has(Fault::Forks) => {
                self.round.ledger.add(FAULTS, "task that forks", 1);
                match rng.u32(..4) {
                    0 => Act::Fork(Copied::Panics),
                    1 => Act::Fork(Copied::Lingers(rng.u32(..20_000))),
                    _ => Act::Fork(Copied::Returns),
                }
            }
            (_, 60..) => Act::Toil(rng.u32(..2000)),
            _ => Act::Work,
        };
        let is_accident = !matches!(act, Act::Work | Act::Toil(_) | Act::Fork(_) | Act::Hang);
        let act =
            if is_accident && !self.round.faults.has(Fault::Accidents) { Act::Work } else { act };
        let bits = if mood == Mood::Large { 23 } else { 10 };
        let mut size = || {
            let most = 1 << rng.u32(..bits);
            if rng.u32(..4) == 0 { rng.u32(..most) } else { 0 }
        };
        Spec { number, act, sizes: (size(), size()) }
    }

    fn options<'p>(&mut self, station: &'p Station) -> Options<'p, Pool> {
        let options = station.pool.options();
        let options = match self.rng.u32(..6) {
            0 => options.chunksize(1),
            1 => options.chunksize(self.rng.usize(1..100)),
            _ => options,
        };
        if self.rng.u32(..4) == 0 { options.retries(self.rng.u32(1..3)) } else { options }
    }
}
