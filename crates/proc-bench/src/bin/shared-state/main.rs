//! What shared state costs, beside CPython's `multiprocessing` and the system's limits, and in how
//! many of 20 trials the other processes go on after one was killed (`kill -9`).
//!
//!     cargo build --release --manifest-path crates/proc-bench/iceoryx2/Cargo.toml
//!     cargo run --release -p proc-bench --bin shared-state [PYTHON]
//!
//! The first command builds the peer iceoryx2, a program of its own, since it needs 80 packages.
//! Without it, its row is missing.
//!
//! A round measures every row once, ours and the peers in turns, so that other load of the machine
//! hits all of them. A row shows the median over the rounds, and the middle half of them.
//!
//! `survival [PYTHON]` as arguments leaves the times out.

mod survival;
mod sys;

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proc_core::sync::{Connection, Lock, Manager, Mutex, Queue, Value, pipe};
use proc_core::{Process, ipc};
use sys::Sleep;

const ROUNDS: usize = 9;
/// Repetitions of an operation that takes nanoseconds.
const LOCKS: u32 = 1_000_000;
const ITEMS: u64 = 300_000;
const LARGE_ITEMS: u64 = 300;
const TRIPS: u64 = 10_000;
/// Trips with a pause before each.
const LATE_TRIPS: u64 = 500;
/// Time in which the other process has certainly gone to sleep.
const PAUSE: Duration = Duration::from_micros(500);
const BATCH: usize = 256;

/// A row of the table: what is measured, with its unit, and how.
type Row = (String, &'static str, Measure);

/// Measures once.
type Measure = Box<dyn Fn() -> Result<f64>>;

fn main() -> Result<()> {
    // All processes must have this memory at the same place.
    let words = sys::shared_words()?;
    proc_core::init();
    if std::env::args().nth(1).as_deref() == Some("survival") {
        return survival::show(&std::env::args().nth(2).unwrap_or_else(|| "python3".into()));
    }
    let python = std::env::args().nth(1).unwrap_or_else(|| "python3".into());
    let mut rows = rows(words)?;
    match Path::new(ICEORYX2).exists() {
        true => rows.push((
            "iceoryx2, 1 to 1, an item, without sleep".to_owned(),
            "ns",
            Box::new(iceoryx2),
        )),
        false => {
            eprintln!("without iceoryx2, which was not built: see --bin shared-state's source")
        }
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    let mut python_times: Vec<(String, Vec<f64>)> = Vec::new();
    for round in 0..=ROUNDS {
        for ((name, _, measure), times) in rows.iter().zip(&mut times) {
            let time = measure().with_context(|| format!("{name}, round {round}"))?;
            times.extend((round > 0).then_some(time));
        }
        for (number, (name, time)) in python_round(&python)?.into_iter().enumerate() {
            if python_times.len() == number {
                python_times.push((name, Vec::new()));
            }
            python_times[number].1.extend((round > 0).then_some(time));
        }
    }
    println!(
        "Time of one operation, {ROUNDS} rounds:\n\n{:<60}{:>12}{:>21}",
        "", "median", "middle half"
    );
    for ((name, unit, _), times) in rows.iter().zip(&times) {
        println!("{name:<60}{}", spread(times, unit));
    }
    for (name, times) in &python_times {
        println!("{:<60}{}", format!("CPython: {name}"), spread(times, "us"));
    }
    survival::show(&python)
}

fn nanos(begin: Instant, operations: u64) -> f64 {
    begin.elapsed().as_nanos() as f64 / operations as f64
}

/// Measures the nanoseconds of one operation, which is made again and again.
fn each(operation: impl Fn() -> Result<()> + 'static) -> Measure {
    Box::new(move || {
        let begin = Instant::now();
        for _ in 0..LOCKS {
            operation()?;
        }
        Ok(nanos(begin, LOCKS.into()))
    })
}

fn rows(words: &'static [sys::Words; 2]) -> Result<Vec<Row>> {
    let (lock, mutex) = (Lock::new()?, Mutex::new(0_u64)?);
    let (word, std_mutex) = (AtomicU32::new(0), std::sync::Mutex::new(0_u64));
    let (small, large) = (Value::new(0_u64)?, Value::new([0_u64; 4])?);
    let rows: Vec<(&str, &str, Measure)> = vec![
        (
            "lock and unlock, uncontended",
            "ns",
            each(move || {
                drop(black_box(lock.lock()?));
                Ok(())
            }),
        ),
        (
            "mutex: lock, add one, unlock",
            "ns",
            each(move || {
                *mutex.lock()? += 1;
                Ok(())
            }),
        ),
        (
            "two atomic operations on a word",
            "ns",
            each(move || {
                let free = word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
                ensure!(free.is_ok() && word.swap(0, Ordering::Release) == 1);
                Ok(())
            }),
        ),
        (
            "std's mutex between threads: lock, add one, unlock",
            "ns",
            each(move || {
                *black_box(&std_mutex).lock().expect("no thread panics") += 1;
                Ok(())
            }),
        ),
        (
            "value of 8 bytes: add one",
            "ns",
            each(move || {
                black_box(small.fetch_add(1));
                Ok(())
            }),
        ),
        (
            "value of 32 bytes: update",
            "ns",
            each(move || {
                large.update(|words| words[0] += 1);
                Ok(())
            }),
        ),
        ("queue, 1 to 1, an item", "ns", Box::new(|| queue(1, 1))),
        ("queue, 2 to 2, an item", "ns", Box::new(|| queue(2, 2))),
        ("queue, 1 to 1, in batches of 256, an item", "ns", Box::new(batches)),
        ("queue, 1 to 1, an item of 1 KiB", "ns", Box::new(|| bytes(1 << 10, ITEMS))),
        (
            "queue, 1 to 1, an item of 1 MiB",
            "us",
            Box::new(|| Ok(bytes(1 << 20, LARGE_ITEMS)? / 1e3)),
        ),
        ("ipc-channel, 1 to 1, an item", "ns", Box::new(channel)),
        ("std's channel between two threads, an item", "ns", Box::new(std_channel)),
        ("crossbeam's channel between two threads, an item", "ns", Box::new(crossbeam)),
    ];
    let rows = rows.into_iter().map(|(name, unit, measure)| (name.to_owned(), unit, measure));
    let in_a_row =
        trips(words, Pace::InARow).map(|(name, measure)| (name.to_owned(), "us", measure));
    let late = trips(words, Pace::AfterPause)
        .map(|(name, measure)| -> Row { (format!("{name}, both asleep before"), "us", measure) });
    let warm = trips(words, Pace::AfterOthers).map(|(name, measure)| -> Row {
        (format!("{name}, both asleep before, warm"), "us", measure)
    });
    let on_one = trips(words, Pace::InARow).map(|(name, measure)| -> Row {
        let measure = move || sys::on_one_processor(&measure);
        (format!("{name}, on one processor"), "us", Box::new(measure))
    });
    Ok(rows.chain(in_a_row).chain(late).chain(warm).chain(on_one).collect())
}

/// When a trip begins.
#[derive(Clone, Copy)]
enum Pace {
    /// At the end of the one before.
    InARow,
    /// After [`PAUSE`]. The processor has idled meanwhile.
    AfterPause,
    /// After [`PAUSE`], and right after a trip of this process with another one, which has run the
    /// same code.
    AfterOthers,
}

/// Two processes that wait for each other, as the one that begins sees them.
struct Pair {
    /// Makes a trip.
    trip: Box<dyn FnMut() -> Result<()>>,
    /// Ends the other process, after `trip` was dropped.
    end: Box<dyn FnOnce() -> Result<()>>,
}

impl Pair {
    /// Makes a pair. `trip` is called with the numbers 0, 1 and so on.
    fn new(
        trip: impl Fn(u64) -> Result<()> + 'static,
        end: impl FnOnce() -> Result<()> + 'static,
    ) -> Pair {
        let mut numbers = 0..;
        let trip = move || numbers.next().map_or(Ok(()), &trip);
        Pair { trip: Box::new(trip), end: Box::new(end) }
    }
}

impl Pace {
    /// Returns the time of a trip, in microseconds: the mean of trips in a row; for trips after
    /// pauses the median, because a few of these trips take milliseconds.
    fn measure(self, pair: impl Fn(usize) -> Result<Pair>) -> Result<f64> {
        let Pair { mut trip, end } = pair(0)?;
        let mut others = matches!(self, Pace::AfterOthers).then(|| pair(1)).transpose()?;
        trip()?;
        let time = match self {
            Pace::InARow => {
                let begin = Instant::now();
                (0..TRIPS).try_for_each(|_| trip())?;
                begin.elapsed().as_nanos() as f64 / 1e3 / TRIPS as f64
            }
            Pace::AfterPause | Pace::AfterOthers => {
                let mut times = Vec::new();
                for _ in 0..LATE_TRIPS {
                    std::thread::sleep(PAUSE);
                    if let Some(others) = &mut others {
                        (others.trip)()?;
                    }
                    let begin = Instant::now();
                    trip()?;
                    times.push(begin.elapsed());
                }
                times.sort_unstable();
                times[times.len() / 2].as_nanos() as f64 / 1e3
            }
        };
        drop(trip);
        end()?;
        if let Some(Pair { trip, end }) = others {
            drop(trip);
            end()?;
        }
        Ok(time)
    }
}

/// What two processes do there and back.
fn trips(words: &'static [sys::Words; 2], pace: Pace) -> [(&'static str, Measure); 6] {
    fn measure(pace: Pace, pair: impl Fn(usize) -> Result<Pair> + 'static) -> Measure {
        Box::new(move || pace.measure(&pair))
    }
    let futex = move |sleep| measure(pace, move |number| futex(&words[number], number, sleep));
    [
        ("futex, there and back", futex(Sleep::OneWord)),
        ("futex of two words, there and back", futex(Sleep::TwoWords)),
        ("queue, there and back", measure(pace, |_| queue_trips())),
        ("pipe, there and back", measure(pace, |_| pipe_trips())),
        ("manager's dictionary: insert", measure(pace, |_| manager_trips())),
        ("ipc-channel, there and back", measure(pace, |_| channel_trips())),
    ]
}

fn manager_trips() -> Result<Pair> {
    let dict = Manager::new()?.dict::<String, u64>()?;
    let trip = move |number| Ok(dict.insert("key".into(), number).map(drop)?);
    Ok(Pair::new(trip, || Ok(())))
}

/// Two processes wake each other by a futex.
fn futex(words: &'static sys::Words, number: usize, sleep: Sleep) -> Result<Pair> {
    words.reset();
    let answers = |(number, sleep): (usize, Sleep)| sys::words()[number].answer(sleep);
    let other = Process::new(answers, (number, sleep)).start()?;
    words.wait_for_start();
    let trip = move |number| {
        words.ask(number as u32, sleep);
        Ok(())
    };
    let end = move || {
        words.end();
        Ok(other.join()?)
    };
    Ok(Pair::new(trip, end))
}

fn produce((queue, start, items): (Queue<u64>, Queue<()>, u64)) {
    start.get().expect("the parent starts it");
    for item in 0..items {
        queue.put(item).expect("the queue is open");
    }
}

fn consume((queue, items): (Queue<u64>, u64)) {
    for _ in 0..items {
        queue.get().expect("there are producers");
    }
}

/// Nanoseconds for an item of a bounded queue.
fn queue(producers: u64, consumers: u64) -> Result<f64> {
    let (queue, start) = (Queue::bounded(1000)?, Queue::new()?);
    let each = ITEMS / producers;
    let mut children = Vec::new();
    for _ in 0..producers {
        children.push(Process::new(produce, (queue.clone(), start.clone(), each)).start()?);
    }
    for _ in 1..consumers {
        children.push(Process::new(consume, (queue.clone(), ITEMS / consumers)).start()?);
    }
    let begin = Instant::now();
    for _ in 0..producers {
        start.put(())?;
    }
    for _ in 0..ITEMS / consumers {
        queue.get()?;
    }
    for child in children {
        child.join()?;
    }
    Ok(nanos(begin, ITEMS))
}

fn batches() -> Result<f64> {
    let (queue, start) = (Queue::bounded(10 * BATCH)?, Queue::new()?);
    let produce = |(queue, start): (Queue<u64>, Queue<()>)| {
        start.get().expect("the parent starts it");
        for first in (0..ITEMS).step_by(BATCH) {
            queue.put_all(first..(first + BATCH as u64).min(ITEMS)).expect("the queue is open");
        }
    };
    let child = Process::new(produce, (queue.clone(), start.clone())).start()?;
    start.put(())?;
    let mut next = queue.get()? + 1;
    let begin = Instant::now();
    while next < ITEMS {
        for item in queue.get_many(BATCH)? {
            ensure!(item == next, "{item} came in place of {next}");
            next += 1;
        }
    }
    let time = nanos(begin, ITEMS);
    child.join()?;
    Ok(time)
}

fn bytes(len: usize, items: u64) -> Result<f64> {
    let queue = Queue::bounded(100)?;
    let produce = |(queue, len, items): (Queue<Vec<u8>>, usize, u64)| {
        for _ in 0..=items {
            queue.put(vec![7; len]).expect("the queue is open");
        }
    };
    let child = Process::new(produce, (queue.clone(), len, items)).start()?;
    queue.get()?;
    let begin = Instant::now();
    for _ in 0..items {
        ensure!(queue.get()?.len() == len);
    }
    let time = nanos(begin, items);
    child.join()?;
    Ok(time)
}

fn queue_trips() -> Result<Pair> {
    let (there, back) = (Queue::new()?, Queue::new()?);
    let answer = |(there, back): (Queue<u64>, Queue<u64>)| {
        there.iter().for_each(|item| back.put(item).expect("the queue is open"));
    };
    let child = Process::new(answer, (there.clone(), back.clone())).start()?;
    let closed = there.clone();
    let trip = move |item| {
        there.put(item)?;
        Ok(back.get().map(drop)?)
    };
    let end = move || {
        closed.close();
        Ok(child.join()?)
    };
    Ok(Pair::new(trip, end))
}

fn pipe_trips() -> Result<Pair> {
    let (here, there) = pipe::<u64, u64>()?;
    let answer = |parent: Connection<u64, u64>| {
        while let Ok(item) = parent.recv() {
            parent.send(item).expect("the parent waits for it");
        }
    };
    let child = Process::new(answer, there).start()?;
    let trip = move |item| {
        here.send(item)?;
        Ok(here.recv().map(drop)?)
    };
    Ok(Pair::new(trip, || Ok(child.join()?)))
}

fn channel() -> Result<f64> {
    let (sender, receiver) = ipc::channel::<u64>()?;
    let produce = |sender: ipc::IpcSender<u64>| {
        for item in 0..=ITEMS / 10 {
            sender.send(item).expect("the parent receives it");
        }
    };
    let child = Process::new(produce, sender).start()?;
    receiver.recv()?;
    let begin = Instant::now();
    for _ in 0..ITEMS / 10 {
        receiver.recv()?;
    }
    let time = nanos(begin, ITEMS / 10);
    child.join()?;
    Ok(time)
}

fn channel_trips() -> Result<Pair> {
    let ((there, arrived), (answer, back)) = (ipc::channel::<u64>()?, ipc::channel::<u64>()?);
    let answers = |(arrived, answer): (ipc::IpcReceiver<u64>, ipc::IpcSender<u64>)| {
        while let Ok(item) = arrived.recv() {
            answer.send(item).expect("the parent waits for it");
        }
    };
    let child = Process::new(answers, (arrived, answer)).start()?;
    let trip = move |item| {
        there.send(item)?;
        Ok(back.recv().map(drop)?)
    };
    Ok(Pair::new(trip, || Ok(child.join()?)))
}

fn std_channel() -> Result<f64> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1000);
    between_threads(move |item| Ok(sender.send(item)?), || Ok(receiver.recv()?))
}

fn crossbeam() -> Result<f64> {
    let (sender, receiver) = crossbeam_channel::bounded(1000);
    between_threads(move |item| Ok(sender.send(item)?), || Ok(receiver.recv()?))
}

/// Nanoseconds for an item from one thread to another.
fn between_threads(
    send: impl Fn(u64) -> Result<()> + Send + 'static,
    receive: impl Fn() -> Result<u64>,
) -> Result<f64> {
    let producer = std::thread::spawn(move || (0..=ITEMS).try_for_each(send));
    receive()?;
    let begin = Instant::now();
    for _ in 0..ITEMS {
        receive()?;
    }
    let time = nanos(begin, ITEMS);
    ensure!(producer.join().is_ok_and(|sent| sent.is_ok()), "the producer failed");
    Ok(time)
}

/// Lets iceoryx2 pass [`ITEMS`] items from one process to another. Both look again and again
/// while they wait.
fn iceoryx2() -> Result<f64> {
    let mut peer = Command::new(ICEORYX2);
    let output = peer.arg("times").arg(ITEMS.to_string()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The program of the peer iceoryx2, if it was built.
const ICEORYX2: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/iceoryx2/target/release/iceoryx2-peer");

/// Lets Python measure its rows once, in microseconds.
fn python_round(python: &str) -> Result<Vec<(String, f64)>> {
    let output = Command::new(python)
        .arg(script())
        .arg("times")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{python} cannot be executed: give the path of a Python"))?;
    ensure!(output.status.success(), "{python}: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The Python program of the peer.
fn script() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/python/shared_state.py")
}

/// The median, and the middle half.
fn spread(times: &[f64], unit: &str) -> String {
    let mut times = times.to_vec();
    times.sort_unstable_by(f64::total_cmp);
    let [low, median, high] = [1, 2, 3].map(|quarter| times[(times.len() - 1) * quarter / 4]);
    format!("{median:>9.2} {unit}{:>21}", format!("{low:.2} to {high:.2}"))
}

/// How long a trial waits for those that should go on.
const PATIENCE: Duration = Duration::from_secs(1);
