//! The calls: what is asked of a pool, at random, and whether what comes back can be right.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ipc_channel::ipc::{self, IpcSender};
use proc_core::{Context, Error, Options, Process, Task};

use crate::ledger::{CALLS, FATES, Ledger};
use crate::station::{Round, Station};
use crate::tasks::{Act, Answer, Order, Spec, mix, obey, obey_quietly};
use crate::watch::{OnTheWay, broken};

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
                2..8 if self.round.context != Context::Fork => self.own_pool(),
                8..14 => self.process(),
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
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        self.round.ledger.add(CALLS, what, 1);
        self.round.watch.begin(SERIAL.fetch_add(1, Ordering::Relaxed), what.to_owned())
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
            (_, 60..) => Act::Toil(rng.u32(..2000)),
            _ => Act::Work,
        };
        let bits = if mood == Mood::Large { 23 } else { 10 };
        let mut size = || {
            let most = 1 << rng.u32(..bits);
            if rng.u32(..4) == 0 { rng.u32(..most) } else { 0 }
        };
        Spec { number, act, sizes: (size(), size()) }
    }

    fn options<'p>(&mut self, station: &'p Station) -> Options<'p> {
        let options = station.pool.options();
        let options = match self.rng.u32(..6) {
            0 => options.chunksize(1),
            1 => options.chunksize(self.rng.usize(1..100)),
            _ => options,
        };
        if self.rng.u32(..4) == 0 { options.retries(self.rng.u32(1..3)) } else { options }
    }

    /// Many tasks that do next to nothing.
    fn tiny(&mut self, station: &Station) {
        let _on_the_way = self.begin("try_map of tiny tasks");
        let count = if station.is_slow { self.rng.u64(..50) } else { self.rng.u64(..100_000) };
        let first = self.rng.u64(..);
        let number = |index: u64| first.wrapping_add(index);
        let results = self.options(station).try_map(mix, (0..count).map(number));
        if results.len() as u64 != count {
            broken(&format!("{} results for {count} tasks", results.len()));
        }
        let mut tally = Tally::default();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(value) if value == mix(number(index as u64)) => tally.add("result"),
                Ok(value) => broken(&format!("tiny task {index} of {count} gives {value}")),
                Err(error) => {
                    self.excuse(station, Terms::Plain, index, &error, &mut tally);
                }
            }
        }
        tally.book(self.round.ledger);
    }

    fn try_map(&mut self, station: &Station, mood: Mood, terms: Terms) {
        let _on_the_way = self.begin(&format!("try_map, {mood:?}, {terms:?}"));
        let most = if mood == Mood::Mixed && !station.is_slow { 300 } else { 12 };
        let count = self.rng.usize(..most);
        let specs = self.specs(count, mood);
        let mut options = self.options(station);
        if terms == Terms::Timed {
            options = options.timeout(Duration::from_millis(self.rng.u64(5..100)));
        }
        let results = options.try_map(obey, specs.iter().map(Spec::order));
        if results.len() != specs.len() {
            broken(&format!("{} results for {} tasks", results.len(), specs.len()));
        }
        let mut tally = Tally::default();
        for (index, (spec, result)) in specs.iter().zip(results).enumerate() {
            self.judge(station, terms, index, spec, &result, &mut tally);
        }
        tally.book(self.round.ledger);
    }

    fn map(&mut self, station: &Station) {
        let _on_the_way = self.begin("map");
        let mood = if self.rng.bool() { Mood::Mixed } else { Mood::Calm };
        let count = self.rng.usize(..30);
        let specs = self.specs(count, mood);
        let result = self.options(station).map(obey, specs.iter().map(Spec::order));
        self.judge_map(station, &specs, result);
    }

    fn map_async(&mut self, station: &Station) {
        let _on_the_way = self.begin("map_async");
        let mood = if self.rng.bool() { Mood::Mixed } else { Mood::Calm };
        let count = self.rng.usize(..30);
        let specs = self.specs(count, mood);
        let orders: Vec<Order> = specs.iter().map(Spec::order).collect();
        match self.options(station).map_async(obey, orders) {
            Ok(task) => match self.rng.u32(..4) {
                0 => {
                    let was_open = task.cancel();
                    match (was_open, task.get()) {
                        (true, Err(error)) if error.is_cancelled() => {
                            let mut tally = Tally::default();
                            specs.iter().for_each(|_| tally.add("cancelled"));
                            tally.book(self.round.ledger);
                        }
                        (true, Ok(_)) => broken("a call was cancelled, and has a result"),
                        (_, result) => self.judge_map(station, &specs, result),
                    }
                }
                1 => drop(task),
                2 => self.judge_map(station, &specs, pollster::block_on(task)),
                _ => self.judge_map(station, &specs, task.get()),
            },
            // An argument that cannot be encoded is told at once, before anything runs.
            Err(error) => {
                let task = error.task().and_then(|task| specs.get(task));
                match task.filter(|spec| spec.act == Act::UnwritableArgument && spec.makes(&error))
                {
                    Some(_) => self.round.ledger.add(FATES, kind(&error), specs.len() as u64),
                    None => self.judge_map(station, &specs, Err(error)),
                }
            }
        }
    }

    /// All results, or the error of the first task that failed.
    fn judge_map(&self, station: &Station, specs: &[Spec], result: Result<Vec<Answer>, Error>) {
        let mut tally = Tally::default();
        match result {
            Ok(answers) => {
                if answers.len() != specs.len() {
                    broken(&format!("{} results for {} tasks", answers.len(), specs.len()));
                }
                for (index, (spec, answer)) in specs.iter().zip(answers).enumerate() {
                    self.judge(station, Terms::Plain, index, spec, &Ok(answer), &mut tally);
                }
            }
            Err(error) => {
                let first_bad = specs.iter().position(Spec::is_bad);
                // An error without a number is the pool's.
                let index = error.task().unwrap_or(0);
                if first_bad.is_some_and(|first| first < index) {
                    broken(&format!("task {first_bad:?} must fail, and is not told: {error}"));
                }
                match specs.get(index) {
                    Some(spec) => {
                        self.judge(station, Terms::Plain, index, spec, &Err(error), &mut tally);
                    }
                    None => self.excuse(station, Terms::Plain, index, &error, &mut tally),
                }
            }
        }
        tally.book(self.round.ledger);
    }

    /// Results one by one, in order or not, to the end or not.
    fn imap(&mut self, station: &Station) {
        let is_ordered = self.rng.bool();
        let _on_the_way = self.begin(if is_ordered { "imap" } else { "imap_unordered" });
        let count = if station.is_slow { self.rng.usize(..40) } else { self.rng.usize(..400) };
        let input = match self.rng.u32(..3) {
            0 => usize::MAX, // endless
            _ => count,
        };
        let first = self.rng.u64(..);
        let taken = RefCell::new(Vec::new());
        let mut inner = Caller::new(self.round, self.rng.fork());
        let take = || {
            let number = first.wrapping_add(taken.borrow().len() as u64);
            let spec = inner.spec(number, Mood::Mixed);
            taken.borrow_mut().push(spec);
            spec.order()
        };
        let inputs = std::iter::repeat_with(take).take(input);
        let options = self.options(station);
        let mut results: Box<dyn Iterator<Item = Result<Answer, Error>>> = if is_ordered {
            Box::new(options.imap(obey, inputs))
        } else {
            Box::new(options.imap_unordered(obey, inputs))
        };
        let window = (16 * station.workers).max(64).max(200);
        let mut tally = Tally::default();
        let mut seen = HashSet::new();
        let mut last = None;
        let mut is_cut_short = false;
        let mut wanted = count;
        while seen.len() < wanted {
            let Some(result) = results.next() else {
                let is_complete = seen.len() == taken.borrow().len() && input != usize::MAX;
                if !is_complete && !is_cut_short {
                    broken(&format!("imap ends after {} of {count} results", seen.len()));
                }
                break;
            };
            let index = match &result {
                Ok(answer) => answer.number.wrapping_sub(first) as usize,
                Err(error) => match error.task() {
                    Some(task) => task,
                    None => {
                        is_cut_short = true;
                        self.excuse(station, Terms::Plain, 0, error, &mut tally);
                        continue;
                    }
                },
            };
            let spec = taken.borrow().get(index).copied();
            let Some(spec) = spec else { broken(&format!("nobody asked for task {index}")) };
            if !seen.insert(index) {
                broken(&format!("task {index} has two results: {result:?}"));
            }
            if is_ordered && last.is_some_and(|last| index <= last) {
                broken(&format!("imap gives task {index} after {last:?}"));
            }
            if is_ordered && index != last.map_or(0, |last| last + 1) {
                // What is missing is told by an error, which comes last.
                wanted = usize::MAX;
            }
            last = Some(index);
            self.judge(station, Terms::Plain, index, &spec, &result, &mut tally);
            let ahead = taken.borrow().len() - seen.len();
            if ahead > window {
                broken(&format!("imap takes {ahead} inputs ahead"));
            }
        }
        drop(results);
        tally.book(self.round.ledger);
    }

    /// Several tasks at once, waited for, looked at, cancelled or forgotten in any order.
    fn tasks(&mut self, station: &Station) {
        let _on_the_way = self.begin("apply_async");
        let mood = if self.rng.bool() { Mood::Mixed } else { Mood::Hanging };
        let count = self.rng.usize(1..12);
        let mut open = Vec::new();
        let mut tally = Tally::default();
        for spec in self.specs(count, mood) {
            match self.options(station).apply_async(obey, spec.order()) {
                Ok(task) => open.push((spec, task)),
                Err(error) => {
                    self.judge(station, Terms::Plain, 0, &spec, &Err(error), &mut tally);
                }
            }
        }
        self.rng.shuffle(&mut open);
        // What hangs goes first: what waits for its worker would wait for ever.
        open.sort_by_key(|(spec, _)| spec.act != Act::Hang);
        for (spec, mut task) in open {
            let way = if spec.act == Act::Hang { 0 } else { self.rng.u32(..8) };
            let result = match way {
                0 | 1 => {
                    std::thread::park_timeout(Duration::from_micros(self.rng.u64(..3000)));
                    let was_open = task.cancel();
                    match (was_open, task.get()) {
                        (true, Err(error)) if error.is_cancelled() => {
                            tally.add("cancelled");
                            continue;
                        }
                        (true, Ok(_)) => broken("a task was cancelled, and has a result"),
                        (_, result) => result,
                    }
                }
                2 => loop {
                    match task.get_timeout(Duration::from_micros(self.rng.u64(..5000))) {
                        Ok(result) => break result,
                        Err(same) => task = same,
                    }
                },
                3 => {
                    while !task.is_ready() {
                        std::thread::yield_now();
                    }
                    task.get()
                }
                4 => pollster::block_on(task),
                // A thread for callbacks would be in the way of forking.
                5 if station.context != Context::Fork => {
                    let (sender, result) = mpsc::channel();
                    task.on_done(move |result| drop(sender.send(result)));
                    match result.recv() {
                        Ok(result) => result,
                        Err(_) => broken("a callback was dropped without being called"),
                    }
                }
                6 => continue,
                _ => task.get(),
            };
            self.judge(station, Terms::Plain, 0, &spec, &result, &mut tally);
        }
        tally.book(self.round.ledger);
    }

    /// An argument with a channel end, through which the result comes as well.
    fn channel(&mut self, station: &Station) {
        let _on_the_way = self.begin("apply with a channel end");
        let relay = |(number, sender): (u64, IpcSender<u64>)| {
            sender.send(mix(number)).map_or(0, |()| mix(number))
        };
        let mut tally = Tally::default();
        for number in self.rng.clone().choose_multiple(0..1000_u64, 3) {
            let (sender, receiver) = match ipc::channel() {
                Ok(pair) => pair,
                Err(error) => broken(&format!("no channel can be made: {error}")),
            };
            match station.pool.apply(relay, (number, sender)) {
                Ok(value) if value == mix(number) && receiver.recv().ok() == Some(value) => {
                    tally.add("result");
                }
                Ok(value) => broken(&format!("channel task {number} gives {value}")),
                Err(error) => self.excuse(station, Terms::Plain, 0, &error, &mut tally),
            }
        }
        tally.book(self.round.ledger);
    }

    fn process(&mut self) {
        let _on_the_way = self.begin("process");
        let spec = self.specs(1, Mood::Mixed)[0];
        // There are threads.
        let context = match self.round.context {
            Context::Fork => Context::Forkserver,
            other => other,
        };
        let killed = self.round.faults.templates_killed();
        let started = Process::new(obey_quietly, spec.order()).context(context).start();
        let mut tally = Tally::default();
        let result = match started {
            Ok(child) => match self.rng.u32(..4) {
                0 => {
                    self.round.faults.note(child.pid());
                    let killed = if self.rng.bool() { child.kill() } else { child.terminate() };
                    killed.and_then(|()| child.join())
                }
                1 => return drop(child),
                _ => child.join(),
            },
            Err(error) if error.is_start() && killed < self.round.faults.templates_killed() => {
                tally.add("start, while the template was killed");
                return tally.book(self.round.ledger);
            }
            Err(error) => Err(error),
        };
        match &result {
            Ok(answer) if spec.is_answer(answer) => tally.add("result"),
            Err(error) if spec.makes(error) => tally.add(kind(error)),
            Err(error) if error.is_death() => match self.round.faults.explain(error) {
                Ok(()) => tally.add("death, by a fault from outside"),
                Err(why) => broken(&format!("{spec:?} in a process: {error}, but {why}")),
            },
            other => broken(&format!("{spec:?} in a process gives {other:?}")),
        }
        tally.book(self.round.ledger);
    }

    /// A pool that is made for a call or two, and dropped, perhaps in the middle of one.
    fn own_pool(&mut self) {
        let on_the_way = self.begin("pool of one's own");
        let station = Station::build(self.round, &mut self.rng);
        drop(on_the_way);
        let Some(station) = station else { return };
        for _ in 0..self.rng.u32(..3) {
            self.play(&station);
        }
        let _on_the_way = self.begin("end of a pool of one's own");
        let count = self.rng.usize(..200);
        let specs = self.specs(count, Mood::Hanging);
        let orders: Vec<Order> = specs.iter().map(Spec::order).collect();
        let task = station.pool.map_async(obey, orders);
        std::thread::park_timeout(Duration::from_micros(self.rng.u64(..3000)));
        station.end();
        let result = match self.rng.u32(..2) {
            0 => {
                station.pool.terminate();
                task.and_then(Task::get)
            }
            _ => std::thread::scope(|scope| {
                let waiting = scope.spawn(|| task.and_then(Task::get));
                station.pool.terminate();
                waiting.join().unwrap_or_else(|_| broken("waiting for a result panics"))
            }),
        };
        self.judge_map(&station, &specs, result);
        if self.rng.bool() {
            station.pool.close();
            // It is over, with or without a reason.
            let _ = station.pool.join();
        }
    }

    /// Ends a pool that others use.
    fn terminate(&mut self, station: &Station) {
        let _on_the_way = self.begin("terminate");
        station.end();
        station.pool.terminate();
    }

    fn judge(
        &self,
        station: &Station,
        terms: Terms,
        index: usize,
        spec: &Spec,
        result: &Result<Answer, Error>,
        tally: &mut Tally,
    ) {
        match result {
            Ok(answer) if spec.is_answer(answer) => tally.add("result"),
            Ok(answer) => broken(&format!("task {index}, {spec:?}, gives {answer:?}")),
            Err(error) if spec.makes(error) && error.task().is_none_or(|task| task == index) => {
                tally.add(kind(error));
            }
            Err(error) => self.excuse(station, terms, index, error, tally),
        }
    }

    /// An error that the task itself does not explain must be explained by something else.
    fn excuse(
        &self,
        station: &Station,
        terms: Terms,
        index: usize,
        error: &Error,
        tally: &mut Tally,
    ) {
        let faults = &self.round.faults;
        let excuse = if error.is_death() {
            faults.explain(error).map(|()| "death, by a fault from outside")
        } else if error.is_timeout() && terms == Terms::Timed {
            Ok(kind(error))
        } else {
            station.is_spent.store(true, Ordering::SeqCst);
            let is_forked = station.context == Context::Fork;
            let explained = (error.is_closed() && station.is_ended.load(Ordering::SeqCst))
                || (error.is_initializer() && station.is_flaky)
                || (error.is_start() && is_forked && faults.templates_killed() > 0);
            if explained { Ok(kind(error)) } else { Err("nothing explains it".to_owned()) }
        };
        match excuse {
            Ok(name) if error.task().is_none_or(|task| task == index) => tally.add(name),
            Ok(_) => broken(&format!("task {index} is told the error of another: {error}")),
            Err(why) => broken(&format!("task {index} ({terms:?}): {error}, but {why}")),
        }
    }
}

/// An error in the words of the table.
fn kind(error: &Error) -> &'static str {
    let kinds = [
        (error.is_panic(), "panic"),
        (error.is_death(), "death, of its own doing"),
        (error.is_timeout(), "timeout"),
        (error.is_cancelled(), "cancelled"),
        (error.is_encode(), "not encoded"),
        (error.is_decode(), "not decoded"),
        (error.is_start(), "start, of a pool without its template"),
        (error.is_initializer(), "initializer"),
        (error.is_closed(), "closed"),
    ];
    kinds.iter().find(|(is, _)| *is).map_or("other", |(_, name)| name)
}

/// The fates of one call's tasks.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    fn book(self, ledger: &Ledger) {
        self.0.into_iter().for_each(|(name, count)| ledger.add(FATES, name, count));
    }
}
