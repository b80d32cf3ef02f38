//! Large values, alone and among small ones.

use std::time::Duration;

use proc_core::{Pool, PoolBuilder, StartMethod};
use serde::{Deserialize, Serialize, Serializer};
use serde_bytes::ByteBuf;

use crate::support::descriptors::leave_descriptors;
use crate::support::{Arguments, assert_snapshot, describe, run, start};

programs![
    large_result_of_known_size,
    large_values_of_many_types,
    large_among_small,
    large_and_failing,
    values_of_some_gib,
    values_of_64_mib
];

tests! {
    room_is_kept_for_results_of_known_size: forkserver spawn fork;
    large_values_come_whole: forkserver spawn fork;
    large_values_lie_among_small_ones: forkserver spawn fork;
    large_values_that_fail_disturb_no_other: forkserver spawn fork;
    #[ignore = "takes 16 GiB of memory"]
    huge_values_cross;
    large_values_cross: forkserver spawn fork;
}

fn build(builder: PoolBuilder) -> Pool {
    builder.build().expect("it can be built")
}

/// Bytes whose pattern repeats only every 251 bytes.
pub(super) fn bytes(len: usize) -> Vec<u8> {
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

/// Sends values there and back several times. At the end the pool knows how much room the results
/// need.
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

/// A worker without descriptors cannot send a large result by message. It can leave the result in
/// memory that was kept free for it.
fn large_result_of_known_size(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(1));
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

fn room_is_kept_for_results_of_known_size(start_method: StartMethod) {
    assert_snapshot(
        "large_again",
        1,
        run(large_result_of_known_size, start_method, &[]).succeeded(),
    );
}

fn large_values_of_many_types(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
    returns(&pool, bytes, "bytes");
    returns(&pool, |len| (0..len / 8).map(|i| i as f64).collect::<Vec<_>>(), "numbers");
    returns(&pool, |len| "ab".repeat(len / 2), "text");
    returns(&pool, |len| ByteBuf::from(bytes(len)), "a buffer");
    returns(&pool, |len| (len, "x".repeat(len), vec![1_u16; len / 2]), "a tuple");
    returns(&pool, mixed, "a struct");
    // The small part ends just before, at or just after the end of the block of the large part.
    let texts = (11_880..11_930).map(|len| ("a".repeat(70_000), "b".repeat(len)));
    let lengths = pool.map(|(a, b): (String, String)| a.len() + b.len(), texts);
    assert!(lengths.expect("nothing fails").into_iter().eq(81_880..81_930));
    println!("large values come whole");
}

fn large_values_come_whole(start_method: StartMethod) {
    assert_eq!(
        run(large_values_of_many_types, start_method, &[]).succeeded(),
        "large values come whole\n"
    );
}

/// One value in a thousand is large.
fn large_among_small(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
    let inputs = |i: usize| bytes(if i.is_multiple_of(1000) { 200_000 } else { i % 50 });
    let lengths = pool.map(|x: Vec<u8>| x.len(), (0..10_000).map(inputs)).expect("nothing fails");
    assert!(lengths.iter().enumerate().all(|(i, len)| *len == inputs(i).len()));
    let back = pool.map(|x: Vec<u8>| x, (0..10_000).map(inputs)).expect("nothing fails");
    assert!(back.iter().enumerate().all(|(i, value)| *value == inputs(i)));
    let lazy = pool.imap(|x: Vec<u8>| x, (0..3000).map(inputs));
    assert!(lazy.enumerate().all(|(i, value)| value.expect("nothing fails") == inputs(i)));
    println!("each in its place");
}

fn large_values_lie_among_small_ones(start_method: StartMethod) {
    assert_eq!(run(large_among_small, start_method, &[]).succeeded(), "each in its place\n");
}

/// A value whose encoding fails after a large piece, with an error or a panic.
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
    print_no_panics();
    let pool = build(arguments.pool_builder(2));
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

/// A panic in a `Serialize` of this program prints nothing.
fn print_no_panics() {
    std::panic::set_hook(Box::new(|_| ()));
}

fn large_values_that_fail_disturb_no_other(start_method: StartMethod) {
    assert_snapshot("large_and_failing", 2, run(large_and_failing, start_method, &[]).succeeded());
}

/// An argument, then a result, of a number of GiB and one byte.
fn values_of_some_gib(arguments: &Arguments) {
    let len = (arguments.number() << 30) + 1;
    let pool = arguments.pool(1);
    let ends = |bytes: ByteBuf| (bytes.len(), bytes.first().copied(), bytes.last().copied());
    let argument = pool.apply(ends, ByteBuf::from(vec![7; len])).expect("there is memory");
    assert_eq!(argument, (len, Some(7), Some(7)));
    let result = pool.apply(|len: usize| ByteBuf::from(vec![8; len]), len);
    assert_eq!(ends(result.expect("there is memory")), (len, Some(8), Some(8)));
    println!("huge");
}

/// `cargo test --release -p proc-tests --test it huge -- --ignored`
fn huge_values_cross() {
    // A virtual machine may get its memory from its host slowly, page by page.
    let program = start(values_of_some_gib, StartMethod::Forkserver, &["4"])
        .limited_to(Duration::from_secs(600));
    assert_eq!(program.finish().succeeded(), "huge\n");
}

/// Sends a value of 64 MiB there and back in a chunk with small ones, and values of 4 MiB one way.
fn values_of_64_mib(arguments: &Arguments) {
    const LARGE: usize = 64 << 20;
    let pool = arguments.pool(2);
    let echo = |bytes: ByteBuf| bytes;
    let sizes = [0, LARGE, 1, 0, 5000];
    let inputs = sizes.iter().zip(1..).map(|(len, byte)| ByteBuf::from(vec![byte; *len]));
    let results = pool.options().chunksize(3).map(echo, inputs).expect("nothing fails");
    for ((len, byte), result) in sizes.iter().zip(1_u8..).zip(results) {
        assert!(result == vec![byte; *len]);
    }
    // A large result of a small argument, and the other way round.
    let long = |len: usize| "y".repeat(len);
    let results = pool.map(long, [1, LARGE / 16, 2]).expect("nothing fails");
    assert!(results.iter().map(String::len).eq([1, LARGE / 16, 2]));
    let length = pool.apply(|text: String| text.len(), "x".repeat(LARGE / 16));
    assert_eq!(length.expect("it returns"), LARGE / 16);
    // A vector of numbers is copied as a whole.
    let numbers: Vec<u16> = (0..=u16::MAX).cycle().take(100_000).collect();
    assert!(
        pool.apply(|numbers: Vec<u16>| numbers, numbers.clone()).expect("it returns") == numbers
    );
    println!("large");
}

fn large_values_cross(start_method: StartMethod) {
    assert_eq!(run(values_of_64_mib, start_method, &[]).succeeded(), "large\n");
}
