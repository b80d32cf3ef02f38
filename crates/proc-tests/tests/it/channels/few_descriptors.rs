//! Values with channel ends or shared memory, which need more descriptors than there are.

use std::sync::Arc;

use ipc_channel::ipc::{self, IpcReceiver, IpcSender, IpcSharedMemory};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proc_core::{Error, Pool, Shared, StartMethod};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{Arguments, Program, describe, run};

programs![
    send_many,
    return_many,
    #[without_init]
    send_many_limited_before_init
];

tests! {
    many_senders_cross_with_few_descriptors: forkserver spawn fork;
    many_receivers_cross_with_few_descriptors: forkserver spawn fork;
    much_memory_crosses_with_few_descriptors: forkserver spawn fork;
    many_shared_arrays_cross_with_few_descriptors: forkserver spawn fork;
    values_of_many_ends_cross_with_few_descriptors: forkserver spawn fork;
    limit_set_before_init_holds_too: forkserver spawn fork;
    many_results_with_ends_arrive_or_are_refused: forkserver spawn fork;
}

/// Shared memory whose copies here need no descriptor.
#[derive(Clone)]
struct Memory(Arc<IpcSharedMemory>);

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Memory, D::Error> {
        IpcSharedMemory::deserialize(deserializer).map(|memory| Memory(Arc::new(memory)))
    }
}

/// What each value holds.
#[derive(Serialize, Deserialize)]
enum End {
    /// The program itself had no descriptor left to make one.
    Absent,
    Sender(IpcSender<u32>),
    Receiver(IpcReceiver<u32>),
    Memory(Memory),
    Shared(Shared<u32>),
    Several([IpcSender<u32>; 3], Memory, Shared<u32>),
}

/// Makes channel ends of one kind, with as few descriptors as possible.
struct Maker {
    sender: IpcSender<u32>,
    _receiver: IpcReceiver<u32>,
    memory: Memory,
    shared: Shared<u32>,
}

impl Maker {
    fn new() -> Maker {
        let (sender, receiver) = ipc::channel().expect("a channel can be made");
        let memory = Memory(Arc::new(IpcSharedMemory::from_byte(7, 100)));
        let shared = Shared::from_slice(&[7; 100]).expect("there is memory");
        Maker { sender, _receiver: receiver, memory, shared }
    }

    fn make(&self, kind: &str) -> End {
        match kind {
            "sender" => End::Sender(self.sender.clone()),
            "receiver" => ipc::channel().map_or(End::Absent, |(_, end)| End::Receiver(end)),
            "memory" => End::Memory(self.memory.clone()),
            "shared" => End::Shared(self.shared.clone()),
            "several" => {
                let senders = [&self.sender; 3].map(Clone::clone);
                End::Several(senders, self.memory.clone(), self.shared.clone())
            }
            other => panic!("no such end: {other}"),
        }
    }
}

/// Returns the number, or `None` if there was no end.
fn take((number, end): (u32, End)) -> Option<u32> {
    match end {
        End::Absent => None,
        End::Memory(memory) | End::Several(_, memory, _) => {
            assert!(memory.0.iter().all(|byte| *byte == 7));
            Some(number)
        }
        End::Shared(shared) => Some(number + shared[0] - 7),
        End::Sender(_) | End::Receiver(_) => Some(number),
    }
}

fn limit_descriptors(count: u64) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NOFILE, count, most).expect("less is allowed");
}

/// How many inputs had a result, were refused, or could not be made.
#[derive(Default)]
struct Count {
    fine: usize,
    refused: usize,
    absent: usize,
}

impl Count {
    fn add(&mut self, result: Result<Option<()>, &Error>) {
        match result {
            Ok(Some(())) => self.fine += 1,
            Ok(None) => self.absent += 1,
            Err(error) => {
                check(error);
                self.refused += 1;
            }
        }
    }

    fn print(&self, way: &str) {
        println!("{way}: {} fine, {} refused, {} absent", self.fine, self.refused, self.absent);
    }
}

/// The error names the one reason for which a value may be refused, and says what to do.
fn check(error: &Error) {
    let text = error.to_string().to_lowercase();
    assert!(!error.is_panic(), "{}", describe(error));
    assert!(text.contains("too many open files"), "{}", describe(error));
    assert!(text.contains("ulimit -n"), "{}", describe(error));
}

fn send_many(arguments: &Arguments) {
    let [limit, kind, count] = &arguments.rest[..] else { panic!("three words") };
    limit_descriptors(limit.parse().expect("it is a number"));
    use_all(arguments, kind, count.parse().expect("it is a number"));
}

/// How many were fine, refused and absent in one way.
fn counts(told: &str) -> [usize; 3] {
    let numbers: Vec<usize> = told
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    numbers.try_into().expect("there are three numbers")
}

fn cross(program: Program, start_method: StartMethod, limit: usize, kind: &str, count: usize) {
    let words = [limit.to_string(), kind.into(), count.to_string()];
    let finished = run(program, start_method, &words.each_ref().map(String::as_str));
    finished.succeeded();
    for way in ["map", "try_map", "imap", "imap_unordered", "apply_async", "map_async"] {
        let told = finished.after(&format!("{way}: "));
        let [fine, refused, absent] = counts(told);
        assert_eq!(fine + refused + absent, count, "{limit} {kind} {way}: {told}");
        // With this limit there is room for all values that the library holds at a time.
        // `map_async` and `apply_async` may take all inputs before the first task is done.
        if limit == 1024 && ["map", "try_map", "imap", "imap_unordered"].contains(&way) {
            assert_eq!(fine, count, "{limit} {kind} {way}: {told}");
        }
    }
}

fn cross_all(start_method: StartMethod, kind: &str, count: usize) {
    // Each time, the values need more descriptors than there are.
    for (limit, count) in [(1024, count), (256, 400), (64, 100)] {
        cross(send_many, start_method, limit, kind, count);
    }
}

fn many_senders_cross_with_few_descriptors(start_method: StartMethod) {
    cross_all(start_method, "sender", 2000);
}

fn many_receivers_cross_with_few_descriptors(start_method: StartMethod) {
    cross_all(start_method, "receiver", 1500);
}

fn much_memory_crosses_with_few_descriptors(start_method: StartMethod) {
    cross_all(start_method, "memory", 1500);
}

fn many_shared_arrays_cross_with_few_descriptors(start_method: StartMethod) {
    cross_all(start_method, "shared", 1000);
}

fn values_of_many_ends_cross_with_few_descriptors(start_method: StartMethod) {
    cross_all(start_method, "several", 500);
}

fn send_many_limited_before_init(arguments: &Arguments) {
    let [limit, kind, count] = &arguments.rest[..] else { panic!("three words") };
    limit_descriptors(limit.parse().expect("it is a number"));
    proc_core::init();
    use_all(arguments, kind, count.parse().expect("it is a number"));
}

/// Makes the usual calls of a pool with `count` values.
fn use_all(arguments: &Arguments, kind: &str, count: u32) {
    let pool = arguments.pool(2);
    let maker = Maker::new();
    let inputs = || (0..count).map(|number| (number, maker.make(kind)));
    // Results come in the order of their inputs.
    let right = |(result, number): (Result<Option<u32>, Error>, u32)| {
        result.map(|value| value.map(|value| assert_eq!(value, number)))
    };
    let tell = |way: &str, results: &mut dyn Iterator<Item = Result<Option<()>, Error>>| {
        let mut told = Count::default();
        results.for_each(|result| told.add(result.as_ref().map(|value| *value)));
        told.print(way);
        works(&pool);
    };
    let whole = |results: Result<Vec<Option<u32>>, Error>| match results {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error); count as usize],
    };
    let results = whole(pool.map(take, inputs()));
    tell("map", &mut results.into_iter().zip(0..).map(right));
    let results = pool.try_map(take, inputs());
    tell("try_map", &mut results.into_iter().zip(0..).map(right));
    tell("imap", &mut pool.imap(take, inputs()).zip(0..).map(right));
    let unordered = pool.imap_unordered(take, inputs());
    tell("imap_unordered", &mut unordered.map(|result| result.map(|value| value.map(|_| ()))));
    let tasks: Vec<_> = inputs().map(|input| pool.apply_async(take, input)).collect();
    let results = tasks.into_iter().map(|task| task.and_then(|task| task.get()));
    tell("apply_async", &mut results.zip(0..).map(right));
    // `map_async` takes all its inputs at once.
    let results = whole(pool.map_async(take, inputs()).and_then(|task| task.get()));
    tell("map_async", &mut results.into_iter().zip(0..).map(right));
}

fn works<S>(pool: &Pool<S>) {
    let results = pool.map(|x: u32| x + 1, 0..3).expect("the pool goes on");
    assert_eq!(results, [1, 2, 3]);
}

fn limit_set_before_init_holds_too(start_method: StartMethod) {
    cross(send_many_limited_before_init, start_method, 1024, "sender", 2000);
    cross(send_many_limited_before_init, start_method, 256, "sender", 2000);
}

/// Results with channel ends: each result that is kept needs descriptors.
fn return_many(arguments: &Arguments) {
    const COUNT: u32 = 2000;
    let [limit, kind] = &arguments.rest[..] else { panic!("two words") };
    limit_descriptors(limit.parse().expect("it is a number"));
    let pool = arguments.pool(2);
    let make = |(number, kind): (u32, String)| (number, Maker::new().make(&kind));
    let inputs = || (0..COUNT).map(|number| (number, kind.clone()));
    let right = |(result, number): (Result<(u32, End), Error>, u32)| {
        result.map(|(value, end)| {
            assert_eq!(value, number);
            (!matches!(end, End::Absent)).then_some(())
        })
    };
    let mut told = Count::default();
    for result in pool.imap(make, inputs()).zip(0..).map(right) {
        told.add(result.as_ref().map(|value| *value));
    }
    told.print("imap");
    works(&pool);
    let mut told = Count::default();
    let results = pool.try_map(make, inputs());
    for result in results.into_iter().zip(0..).map(right) {
        told.add(result.as_ref().map(|value| *value));
    }
    told.print("try_map");
    works(&pool);
    let error = pool.map(make, inputs()).err();
    error.iter().for_each(check);
    println!("map: {}", if error.is_some() { "refused" } else { "fine" });
    works(&pool);
}

fn many_results_with_ends_arrive_or_are_refused(start_method: StartMethod) {
    for (limit, kind) in [(1024, "sender"), (256, "sender"), (256, "memory"), (64, "shared")] {
        let finished = run(return_many, start_method, &[&limit.to_string(), kind]);
        finished.succeeded();
        let told = finished.after("imap: ");
        let [fine, refused, absent] = counts(told);
        assert_eq!((fine + refused, absent), (2000, 0), "{limit} {kind}: {told}");
        // Each result is dropped at once, so only results that the library holds need descriptors.
        assert!(limit == 64 || refused == 0, "{limit} {kind}: {told}");
        // Each result that is kept needs a descriptor.
        let told = finished.after("try_map: ");
        let [fine, refused, absent] = counts(told);
        assert_eq!((fine + refused, absent), (2000, 0), "{limit} {kind}: {told}");
        assert!(0 < fine && fine < limit && refused > 0, "{limit} {kind}: {told}");
        assert_eq!(finished.after("map: "), "refused");
    }
}
