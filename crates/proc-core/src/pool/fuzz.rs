//! Fuzz tests: a worker may leave any bytes in shared memory or send them, and its parent must read
//! them without harm.
//!
//! The tests damage valid results at random and read them as values of many types. Only a type's
//! own code may panic, and each task must get a result or an error. Reading may take a fixed number
//! of bytes of memory for each byte that is read, and a fixed amount in addition. For longer runs:
//!
//!     PROC_CORE_FUZZ_SECONDS=600 cargo test --release -p proc-core --lib pool::fuzz -- --nocapture

use std::collections::{BTreeMap, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::{CString, OsString};
use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime};

use allocation_counter::measure;
use ipc_channel::ipc;
use ipc_channel::ipc::{IpcReceiver, IpcSender, IpcSharedMemory};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize, Serializer};
use serde_bytes::ByteBuf;

use super::records;
use crate::call::Fault;
use crate::error::{Error, Exit, Origin};
use crate::forkserver::Report;
use crate::memory::Arena;
use crate::panics::{self, PanicReport};
use crate::pool::job::{Delivery, Results};
use crate::pool::worker::{FromWorker, LeaveReason};
use crate::wire::{self, Message, Payload, Sink};

/// How many bytes of memory reading may take for each byte read. The values of some types are much
/// larger than their bytes, and a collection that grows holds its old and its new memory at once.
const MAX_MEMORY_PER_BYTE: usize = 2048;

/// How many bytes of memory reading may take in addition to that.
const MAX_EXTRA_MEMORY: usize = 256 << 10;

/// How many elements without bytes the decoder accepts.
const MAX_EMPTY_ELEMENTS: usize = 1 << 16;

/// How many inputs are tried if no time is given.
const INPUTS: usize = 200;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f64),
    Line { from: (i64, i128), to: Option<(u16, char)> },
    Group(Vec<Shape>),
    Named(String, ByteBuf),
}

/// A type whose values fill memory but have no bytes when encoded.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Hollow {
    #[serde(skip)]
    #[expect(dead_code, reason = "only its size counts")]
    filler: [u64; 16],
}

/// Makes a list of the function `$do`, for each of the types.
macro_rules! for_each_type {
    ($do:ident: $($of:ty),* $(,)?) => { [$($do::<$of> as fn(&[u8], usize) -> usize),*] };
}

/// Reads `bytes` as the results of `count` tasks, once from a copy and once from shared memory.
/// Both must give the same outcomes. Returns the memory that reading took.
fn read_both<R: Message>(bytes: &[u8], count: usize) -> usize {
    static ARENA: LazyLock<Mutex<Arena>> = LazyLock::new(Mutex::default);
    let lent = || {
        let mut arena = ARENA.lock().expect("no test panics while it holds the lock");
        let block = arena.allocate(bytes.len()).expect("there is memory");
        let lease = arena.lease(block);
        assert!(lease.write(0, bytes));
        Results::Lent(lease.part(0, bytes.len()))
    };
    let (outcomes, spent) = read_as::<R>(bytes, bytes.to_vec().into(), count);
    let (outcomes_lent, spent_lent) = read_as::<R>(bytes, lent(), count);
    assert_eq!(outcomes, outcomes_lent, "{}", std::any::type_name::<R>());
    spent.max(spent_lent)
}

/// Reads results as values of type `R`. Returns the outcome of each task, and the memory that
/// reading took.
fn read_as<R: Message>(
    bytes: &[u8],
    results: Results,
    count: usize,
) -> (Vec<(usize, Option<String>)>, usize) {
    let name = std::any::type_name::<R>();
    let mut outcomes = Vec::new();
    let spent = measure(|| {
        let out_of_band = [(0, bytes), (3, &bytes[bytes.len() / 2..])];
        let out_of_band =
            out_of_band.map(|(task, bytes)| (task, Payload::new(bytes.to_vec(), None)));
        let delivery = Delivery::Results {
            first: 7,
            count,
            bytes: results,
            out_of_band: out_of_band
                .into_iter()
                .filter_map(|(n, payload)| Some((n, payload.ok()?)))
                .collect(),
            origin: Origin::default(),
        };
        // ipc-channel panics if channel ends are missing. `decode` catches the panic;
        // `catch_silently` keeps it from being printed.
        let _ = panics::catch_silently(|| {
            delivery.decode(|task, result: Result<R, Error>| {
                outcomes.push((task, result.err().map(|error| error.to_string())));
            });
        });
    });
    assert!(outcomes.iter().map(|(task, _)| *task).eq(7..7 + count), "{name}: {outcomes:?}");
    if !name.contains("ipc_channel") {
        let mut errors = outcomes.iter().filter_map(|(_, error)| error.as_ref());
        assert!(
            !errors.any(|error| error.contains("the type's Deserialize panicked")),
            "{name}: {outcomes:?}"
        );
    }
    (outcomes, usize::try_from(spent.bytes_max).expect("memory is smaller than that"))
}

/// Readers for types whose elements have at least one byte each.
fn dense() -> impl IntoIterator<Item = fn(&[u8], usize) -> usize> {
    for_each_type! { read_both:
        (), bool, char, u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, usize, f32, f64,
        String, ByteBuf, OsString, CString, std::path::PathBuf, IpAddr, Duration, SystemTime,
        std::num::NonZeroU64, Range<u64>, [u8; 32], [Shape; 3], (ByteBuf, String, ByteBuf),
        Option<Option<Box<u64>>>, Result<String, u32>, Result<Result<(), u8>, Option<()>>,
        Vec<u8>, Vec<u64>, Vec<i128>, Vec<String>, Vec<Vec<String>>, Vec<Vec<Vec<u8>>>,
        Vec<Option<()>>, Vec<(bool, char, f32)>, Vec<ByteBuf>, Shape, Vec<Shape>, VecDeque<Shape>,
        LinkedList<char>, HashSet<String>, BTreeMap<String, Vec<u32>>, BTreeMap<u8, BTreeMap<u8, u8>>,
        HashMap<u8, HashMap<Option<bool>, u16>>, HashMap<String, Shape>, serde_json::Value,
        IpcSender<u8>, IpcReceiver<u8>, IpcSharedMemory, Vec<IpcSender<u8>>,
        (u8, Option<IpcReceiver<String>>, IpcSharedMemory),
    }
}

/// Readers for types whose elements may have no bytes.
fn hollow() -> impl IntoIterator<Item = fn(&[u8], usize) -> usize> {
    for_each_type! { read_both:
        Vec<()>, Vec<Vec<()>>, HashMap<(), ()>, Vec<Hollow>, Vec<Vec<Hollow>>,
    }
}

/// The bytes of valid values, one of each kind.
fn valid_values() -> Vec<Vec<u8>> {
    fn encode<T: Message>(value: T) -> Vec<u8> {
        let mut out = Sink::default();
        wire::encode_into(&value, &mut out).expect("it is valid");
        out.into_bytes()
    }
    let shapes = vec![
        Shape::Point,
        Shape::Circle(f64::NAN),
        Shape::Line { from: (i64::MIN, i128::MAX), to: Some((9, '\u{10ffff}')) },
        Shape::Group(vec![Shape::Group(vec![Shape::Point; 3]); 2]),
        Shape::Named("name".into(), ByteBuf::from(vec![0, 255])),
    ];
    let map: BTreeMap<String, Vec<u32>> = (0..9).map(|n| (n.to_string(), vec![n; 3])).collect();
    vec![
        Vec::new(),
        encode((true, 'x', 1.5_f32)),
        encode(u128::MAX),
        encode("a text".to_owned()),
        encode(ByteBuf::from(vec![7; 300])),
        encode(vec![vec!["a".to_owned(); 5]; 5]),
        encode(vec![1_u64 << 40; 50]),
        encode(vec![(); 1000]),
        encode(vec![vec![(); 300]; 100]),
        encode(shapes.clone()),
        encode(HashMap::from([("key".to_owned(), shapes[4].clone())])),
        encode(map),
        encode((SystemTime::UNIX_EPOCH, IpAddr::from([1, 2, 3, 4]), Duration::from_secs(1))),
        encode(Some(Some(Box::new(5_u64)))),
    ]
}

fn report() -> PanicReport {
    let location = Some("src/main.rs:1:1".to_owned());
    PanicReport { message: "a message".into(), location, backtrace: None }
}

/// The bytes of whole chunks of valid results.
fn valid_chunks() -> Vec<Vec<u8>> {
    let mut chunk = Sink::default();
    for value in valid_values() {
        chunk.extend(result_of(&value));
        records::append_out_of_band(&mut chunk);
        let _ = records::append_result::<()>(&mut chunk, |_| Err(Fault::Panicked(report())));
    }
    vec![Vec::new(), chunk.into_bytes()]
}

/// The record of a result whose value has these bytes.
fn result_of(value: &[u8]) -> Vec<u8> {
    let mut out = Sink::default();
    let copied = records::append_result(&mut out, |out| {
        out.extend_from_slice(value);
        Ok(())
    });
    copied.expect("it is copied");
    out.into_bytes()
}

/// Damages bytes in one of several ways.
fn damage(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    const NUMBERS: [&[u8]; 7] = [
        &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1], // the largest number
        &[128, 128, 128, 128, 16],                         // 4 GiB
        &[255, 255, 3],                                    // 65,535
        &[128, 128, 4],                                    // 65,536
        &[255; 20],                                        // not a number
        &[255, 255, 255, 255],                             // "a long length follows"
        &[0; 9],
    ];
    let at = rng.usize(..=bytes.len());
    let most = 1 << rng.u32(..8);
    let end = at + rng.usize(..=(bytes.len() - at).min(most));
    match rng.u32(..8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => drop(bytes.splice(at..at, NUMBERS[rng.usize(..NUMBERS.len())].iter().copied())),
        3 => drop(bytes.splice(at..end, others[rng.usize(..others.len())].iter().copied())),
        4 => {
            let again = bytes[at..end].repeat(rng.usize(..6));
            bytes.splice(at..at, again);
        }
        5 => bytes[at..end].fill(rng.choice([0, 1, 2, 127, 128, 255]).expect("there are some")),
        _ => bytes[at..end].iter_mut().take(3).for_each(|byte| *byte = rng.u8(..)),
    }
}

/// Random bytes, often small numbers as in tags and lengths.
fn noise(rng: &mut fastrand::Rng) -> Vec<u8> {
    let most = rng.choice([2, 4, 16, 255]).expect("there are some");
    let most_bytes = 1 << rng.u32(..14);
    let len = rng.usize(..most_bytes);
    std::iter::repeat_with(|| rng.u8(..=most)).take(len).collect()
}

/// Calls `try_one` again and again with new random numbers: [`INPUTS`] times, or as long as the
/// environment says.
fn fuzz(mut try_one: impl FnMut(&mut fastrand::Rng)) {
    let seconds = std::env::var("PROC_CORE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut tried = 0;
    while end.map_or(tried < INPUTS, |end| Instant::now() < end) {
        let seed = fastrand::u64(..);
        let start = Instant::now();
        let print_seed = PrintSeed(seed);
        try_one(&mut fastrand::Rng::with_seed(seed));
        std::mem::forget(print_seed);
        assert!(start.elapsed() < Duration::from_secs(20), "seed {seed} takes too long");
        tried += 1;
    }
    println!("{tried} inputs");
}

/// Prints the seed when it is dropped. That happens only if `try_one` panics.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        eprintln!("seed {}", self.0);
    }
}

#[test]
fn damaged_results_do_no_harm() {
    let (values, chunks) = (valid_values(), valid_chunks());
    let (dense, hollow) = (Vec::from_iter(dense()), Vec::from_iter(hollow()));
    fuzz(|rng| {
        let kind = rng.u32(..3);
        let mut bytes = match kind {
            0 => noise(rng),
            1 => values[rng.usize(..values.len())].clone(),
            _ => chunks[rng.usize(..chunks.len())].clone(),
        };
        let others = if kind == 1 { &values } else { &chunks };
        for _ in 0..rng.u32(..6) {
            damage(rng, &mut bytes, others);
        }
        // As a whole result, the damaged bytes reach the code that decodes the value.
        if kind < 2 && rng.bool() {
            bytes = result_of(&bytes);
        }
        let count = rng.usize(1..40);
        for read in &dense {
            let spent = read(&bytes, count);
            let most = MAX_EXTRA_MEMORY + MAX_MEMORY_PER_BYTE * bytes.len();
            assert!(spent <= most, "{spent} bytes of memory for {}: {bytes:?}", bytes.len());
        }
        for read in &hollow {
            let spent = read(&bytes, count);
            let most = MAX_EXTRA_MEMORY
                + MAX_MEMORY_PER_BYTE * bytes.len()
                + 3 * size_of::<Hollow>() * MAX_EMPTY_ELEMENTS;
            assert!(spent <= most, "{spent} bytes of memory for {}: {bytes:?}", bytes.len());
        }
    });
}

/// Bytes that are sent as they are, whatever type the receiver expects.
struct Raw(Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}

#[test]
fn damaged_reports_do_no_harm() {
    let value = || Payload::new(vec![7; 300], None).expect("it is small");
    let of_a_process = [
        Report::Started { pid: 7 },
        Report::NotStarted { errno: 12 },
        Report::NotReady("no such directory".into()),
        Report::Said(Ok(value())),
        Report::Said(Err(value())),
        Report::Exited(Exit { status: Some(ExitStatus::from_raw(256)), ..Exit::default() }),
    ];
    fuzz_reports::<Result<Payload, Payload>>(&of_a_process, |said| said.err());
    let of_a_worker = [
        Report::Said(FromWorker::Ready),
        Report::Said(FromWorker::Leaves(LeaveReason::Idle)),
        Report::Said(FromWorker::Look),
        Report::Said(FromWorker::InitializerFailed(value())),
        Report::Said(FromWorker::NeedsHandles(3)),
        Report::Said(FromWorker::OutOfBand { ticket: 1, task: 2, value: value() }),
        Report::Said(FromWorker::NeedsData { wanted: Some(1), held: vec![2; 30] }),
        Report::Said(FromWorker::DataFailed { ticket: 1, fault: value() }),
    ];
    fuzz_reports(&of_a_worker, |message| match message {
        FromWorker::InitializerFailed(fault) | FromWorker::DataFailed { fault, .. } => Some(fault),
        _ => None,
    });
}

/// Damages valid reports and reads them. `fault` finds the encoded fault in a message that has one.
fn fuzz_reports<T: Message>(valid: &[Report<T>], fault: fn(T) -> Option<Payload>) {
    let encode = |report| postcard::to_stdvec(report).expect("it has no channel ends");
    let valid: Vec<Vec<u8>> = valid.iter().map(encode).collect();
    fuzz(|rng| {
        let mut bytes = match rng.u32(..8) {
            0 => noise(rng),
            _ => valid[rng.usize(..valid.len())].clone(),
        };
        for _ in 0..rng.u32(..6) {
            damage(rng, &mut bytes, &valid);
        }
        let (sender, receiver) = ipc::channel::<Raw>().expect("a channel can be made");
        let len = bytes.len();
        sender.send(Raw(bytes)).expect("the receiver is open");
        let receiver = receiver.to_opaque().to::<Report<T>>();
        let mut received = None;
        // A panic inside ipc-channel counts as an error, as it does for a supervisor.
        let receive = || receiver.try_recv().ok();
        let spent = measure(|| received = panics::catch_silently(receive).ok().flatten());
        let channel_buffer = 1 << 20;
        let most = MAX_EXTRA_MEMORY + MAX_MEMORY_PER_BYTE * len + channel_buffer;
        assert!(spent.bytes_max <= most as u64, "{} bytes of memory for {len}", spent.bytes_max);
        if let Some(Report::Said(said)) = received
            && let Some(fault) = fault(said)
        {
            assert!(!Error::from_fault_payload(fault).to_string().is_empty());
        }
    });
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Raw, D::Error> {
        Err(serde::de::Error::custom("only ever sent"))
    }
}
