//! Large values, and a bound on the memory that they take.

use std::sync::atomic::{AtomicBool, Ordering};

use proc_core::{Pool, PoolBuilder};
use serde::{Deserialize, Serialize, Serializer};
use serde_bytes::ByteBuf;

use crate::hardships::leave_descriptors;
use crate::{Arguments, Scenario, describe};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("large", large),
    ("large-among-small", large_among_small),
    ("large-and-failing", large_and_failing),
    ("large-again", large_again),
    ("bound", bound),
    ("bound-and-slow", bound_and_slow),
    ("bound-and-two", bound_and_two),
    ("bound-and-retries", bound_and_retries),
];

fn builder(arguments: &Arguments) -> PoolBuilder {
    Pool::builder().processes(2).start_method(arguments.context)
}

fn build(builder: PoolBuilder) -> Pool {
    builder.build().expect("it can be built")
}

/// Bytes that are no two places alike for long.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// Several large pieces with small ones between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Mixed {
    before: u64,
    first: ByteBuf,
    text: String,
    between: Option<u8>,
    numbers: Vec<f64>,
    last: ByteBuf,
    after: String,
}

fn mixed(len: usize) -> Mixed {
    Mixed {
        before: 7,
        first: ByteBuf::from(bytes(len)),
        text: "é".repeat(len / 2),
        between: None,
        numbers: (0..len / 8).map(|i| i as f64 / 3.0).collect(),
        last: ByteBuf::from(bytes(3 * len)),
        after: "end".into(),
    }
}

/// There and back, several times, so that room for results is known at the end.
fn returns<T>(pool: &Pool, make: impl Fn(usize) -> T, what: &str)
where
    T: Serialize + serde::de::DeserializeOwned + PartialEq + Clone + 'static,
{
    for len in [0, 1, 65_535, 65_536, 65_537, 500_000] {
        let values = vec![make(len); 4];
        for chunksize in [None, Some(1), Some(2)] {
            let mut options = pool.options();
            if let Some(chunksize) = chunksize {
                options = options.chunksize(chunksize);
            }
            let back: Vec<T> = options.map(|x: T| x, values.clone()).expect("nothing fails");
            assert!(back == values, "{what} of {len}, chunksize {chunksize:?}");
        }
        assert!(pool.apply(|x: T| x, values[0].clone()).expect("nothing fails") == values[0]);
    }
}

/// A worker without descriptors cannot send a result by message, but can leave it where there is
/// room.
fn large_again(arguments: &Arguments) {
    let pool = build(builder(arguments).processes(1));
    let make = |alone: bool| {
        if alone {
            std::mem::forget(leave_descriptors(0));
        }
        bytes(1 << 20)
    };
    for alone in [false, true] {
        assert!(pool.apply(make, alone).expect("there is room, or a descriptor") == bytes(1 << 20));
    }
    let error =
        pool.apply(|len: usize| bytes(len), 1 << 20).expect_err("its size is not known yet");
    println!("{}", describe(&error));
}

fn large(arguments: &Arguments) {
    let pool = build(builder(arguments));
    returns(&pool, bytes, "bytes");
    returns(&pool, |len| (0..len / 8).map(|i| i as f64).collect::<Vec<_>>(), "numbers");
    returns(&pool, |len| "ab".repeat(len / 2), "text");
    returns(&pool, |len| ByteBuf::from(bytes(len)), "a buffer");
    returns(&pool, |len| (len, "x".repeat(len), vec![1_u16; len / 2]), "a tuple");
    returns(&pool, mixed, "a struct");
    // The small part ends just where the block does in which the large part lies.
    let texts = (11_880..11_930).map(|len| ("a".repeat(70_000), "b".repeat(len)));
    let lengths = pool.map(|(a, b): (String, String)| a.len() + b.len(), texts);
    assert!(lengths.expect("nothing fails").into_iter().eq(81_880..81_930));
    println!("large values come whole");
}

/// One large value in a thousand, and in the same call none at all that is large.
fn large_among_small(arguments: &Arguments) {
    let pool = build(builder(arguments));
    let inputs = |i: usize| bytes(if i.is_multiple_of(1000) { 200_000 } else { i % 50 });
    let lengths = pool.map(|x: Vec<u8>| x.len(), (0..10_000).map(inputs)).expect("nothing fails");
    assert!(lengths.iter().enumerate().all(|(i, len)| *len == inputs(i).len()));
    let back = pool.map(|x: Vec<u8>| x, (0..10_000).map(inputs)).expect("nothing fails");
    assert!(back.iter().enumerate().all(|(i, value)| *value == inputs(i)));
    let lazy = pool.imap(|x: Vec<u8>| x, (0..3000).map(inputs));
    assert!(lazy.enumerate().all(|(i, value)| value.expect("nothing fails") == inputs(i)));
    println!("each in its place");
}

/// Refuses to be encoded after a large piece, by an error or by a panic.
#[derive(Clone, Deserialize)]
struct Late(ByteBuf, u8);

impl Serialize for Late {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Trap(u8);
        impl Serialize for Trap {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    1 => Err(serde::ser::Error::custom("too late")),
                    2 => panic!("far too late"),
                    n => serializer.serialize_u8(n),
                }
            }
        }
        (&self.0, Trap(self.1)).serialize(serializer)
    }
}

fn large_and_failing(arguments: &Arguments) {
    proc_core_quiet();
    let pool = build(builder(arguments));
    let late = |kind| Late(ByteBuf::from(bytes(200_000)), kind);
    let there = pool.try_map(|late: Late| late.0.len(), [0, 1, 2, 0].map(late));
    let back = pool.try_map(
        |kind: u8| Late(ByteBuf::from(vec![kind; 200_000]), kind),
        [0, 1, 2, 0, 0, 1, 2, 0],
    );
    for fate in &there {
        println!("there: {}", fate.as_ref().map_or_else(describe, usize::to_string));
    }
    for fate in back {
        let told = fate.map(|late| late.0.len().to_string());
        println!("back: {}", told.unwrap_or_else(|error| describe(&error.clone())));
    }
    let die = |mut x: Vec<u8>| {
        if x[0] == 9 {
            std::process::abort();
        }
        x.push(1);
        x
    };
    let inputs = (0..20).map(|i| vec![if i == 7 { 9 } else { 1 }; 150_000]);
    let fates = pool.try_map(die, inputs);
    let dead = fates.iter().filter(|fate| fate.is_err()).count();
    let whole = fates.iter().flatten().filter(|x| x.len() == 150_001).count();
    println!("dead {dead}, whole {whole}");
}

/// What a panic in a Serialize of this program prints is not looked at.
fn proc_core_quiet() {
    std::panic::set_hook(Box::new(|_| ()));
}

/// The bytes of shared memory that this process has mapped for pools.
fn mapped() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
    let size = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let number = |hex| usize::from_str_radix(hex, 16).ok();
        Some(number(end)? - number(start)?)
    };
    maps.lines().filter(|line| line.contains("memfd:")).filter_map(size).sum()
}

/// Maps of far more than may be there at a time, in and out, also of values larger than the bound.
fn bound(arguments: &Arguments) {
    for bound in [1, 100_000, 4 << 20] {
        let pool = build(builder(arguments).memory_limit(bound));
        let sent = pool.map(|x: Vec<u8>| x.len(), (0..20).map(|_| bytes(1 << 20)));
        assert_eq!(sent.expect("nothing fails"), vec![1 << 20; 20]);
        let made = pool.map(|len: usize| vec![1_u8; len], vec![1 << 20; 20]);
        assert!(made.expect("nothing fails").iter().all(|x| x.len() == 1 << 20));
        let tiny: Vec<u64> = pool.map(|x: u64| x + 1, 0..2_000).expect("nothing fails");
        assert!(tiny.iter().copied().eq(1..=2_000));
        let chunks = pool.options().chunksize(100).map(|x: u64| x, 0..2_000);
        assert!(chunks.expect("nothing fails").into_iter().eq(0..2_000));
        let task = pool.map_async(|x: Vec<u8>| x, vec![bytes(500_000); 20]);
        assert_eq!(task.and_then(|task| task.get()).expect("nothing fails").len(), 20);
        // A region is at most as large as all before it together, and one more value.
        assert!(
            mapped() < 4 * bound + (8 << 20),
            "{} are mapped with a bound of {bound}",
            mapped()
        );
    }
    println!("within bounds");
}

/// An iterator whose consumer makes other calls meanwhile.
fn bound_and_slow(arguments: &Arguments) {
    for bound in [100, 300_000] {
        let pool = build(builder(arguments).memory_limit(bound));
        let mut seen = 0;
        for result in pool.imap(|x: Vec<u8>| x, (0..200).map(|_| bytes(100_000))) {
            assert_eq!(result.expect("nothing fails").len(), 100_000);
            seen += 1;
            if seen % 20 == 0 {
                let other = pool.map(|x: Vec<u8>| x, vec![bytes(90_000); 5]);
                assert_eq!(other.expect("nothing fails").len(), 5);
            }
        }
        assert_eq!(seen, 200);
        // One that is held while another call runs, and then dropped half-way.
        let mut held = pool.imap_unordered(|x: Vec<u8>| x, std::iter::repeat(bytes(100_000)));
        assert!(held.next().is_some());
        assert_eq!(pool.apply(|x: Vec<u8>| x.len(), bytes(200_000)).expect("it runs"), 200_000);
        drop(held);
        assert_eq!(pool.apply(|x: u8| x, 3).expect("it runs"), 3);
    }
    println!("nobody waits for ever");
}

fn bound_and_two(arguments: &Arguments) {
    let pool = build(builder(arguments).memory_limit(250_000));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for len in [1000, 100_000, 400_000] {
            let (pool, over) = (&pool, &over);
            scope.spawn(move || {
                for _ in 0..5 {
                    let back = pool.map(|x: Vec<u8>| x, vec![bytes(len); 30]);
                    assert!(back.is_ok_and(|back| back.iter().all(|x| x.len() == len)));
                }
                over.store(true, Ordering::Relaxed);
            });
        }
    });
    println!("over {}", over.load(Ordering::Relaxed));
}

fn bound_and_retries(arguments: &Arguments) {
    let pool = build(builder(arguments).memory_limit(150_000));
    let moody = |x: Vec<u8>| {
        static TIMES: AtomicBool = AtomicBool::new(false);
        assert!(x[0] != 0 || TIMES.swap(true, Ordering::Relaxed), "once in each worker");
        assert!(x[0] != 2, "always");
        x
    };
    let inputs = (0..30).map(|i| vec![if i == 29 { 2 } else { u8::from(i % 5 != 0) }; 100_000]);
    let fates = pool.options().retries(3).try_map(moody, inputs);
    println!("well {}", fates.iter().filter(|fate| fate.is_ok()).count());
}
