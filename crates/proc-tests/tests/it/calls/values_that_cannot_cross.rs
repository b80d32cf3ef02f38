//! Values that fail when they are written or read, and serde attributes that need a format which
//! describes itself.

use std::process;

use proc_core::{Child, Pool, Process, StartMethod};
use serde::{Deserialize, Serialize};

use crate::support::odd_value::{
    Odd, PANICS_WHEN_READ, PANICS_WHEN_WRITTEN, UNREADABLE, UNWRITABLE,
};
use crate::support::{Arguments, assert_snapshot, describe, print_result, print_results, run};

programs![send_odd_values, send_self_describing_values];

tests! {
    values_that_cannot_cross_cost_one_task: forkserver spawn fork;
    attributes_that_cannot_cross_are_named: forkserver spawn fork;
}

fn pid(_: u32) -> u32 {
    process::id()
}

/// Values that cannot cross, as arguments and as results, between values that can.
fn send_odd_values(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let chunksize = arguments.number();
    let mut pids = pool.map(pid, 0..50).expect("nothing fails");
    println!("arguments");
    print_results(pool.options().chunksize(chunksize).try_map(|odd: Odd| odd.0, (0..8).map(Odd)));
    println!("results");
    print_results(pool.options().chunksize(chunksize).try_map(Odd, 0..8));
    println!("imap of arguments");
    print_results(pool.options().chunksize(chunksize).imap(|odd: Odd| odd.0, (0..8).map(Odd)));
    println!("imap of results");
    print_results(pool.options().chunksize(chunksize).imap(Odd, 0..8));
    println!("initializer");
    let with = |odd| {
        let pool = Pool::builder().processes(1).initializer(|_: Odd| (), Odd(odd));
        // The first pool has threads, so `Fork` is not possible.
        let start_method = match arguments.start_method {
            proc_core::StartMethod::Fork => proc_core::StartMethod::Forkserver,
            other => other,
        };
        pool.start_method(start_method).build().and_then(|pool| pool.apply(pid, 0))
    };
    for odd in [UNWRITABLE, PANICS_WHEN_WRITTEN, UNREADABLE, PANICS_WHEN_READ] {
        println!("{}", describe(&with(odd).expect_err("it cannot cross")));
    }
    with(0).expect("it can cross");
    pids.extend(pool.map(pid, 0..50).expect("nothing fails"));
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() <= 2, "a worker was replaced: {pids:?}");
    println!("the workers live on");
}

fn values_that_cannot_cross_cost_one_task(start_method: StartMethod) {
    for chunksize in ["1", "3", "8"] {
        let finished = run(send_odd_values, start_method, &[chunksize]);
        assert!(finished.status.success(), "{}", finished.stderr);
        // A panic that becomes an error is not printed, in the caller's own process as in workers.
        assert_eq!(finished.stderr, "");
        assert_snapshot("values_that_cannot_cross", 2, &finished.stdout);
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged {
    A { x: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    A { x: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Inner {
    x: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flat {
    name: String,
    #[serde(flatten)]
    inner: Inner,
}

/// The attribute is deep inside a type that could cross without it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Around {
    values: Vec<Option<Tagged>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    A { x: u32 },
}

/// This one can cross.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Plain {
    A { x: u32 },
}

/// Values whose serde attributes need a format that describes itself.
fn send_self_describing_values(arguments: &Arguments) {
    macro_rules! cross {
        ($($name:literal $kind:ty: $value:expr;)*) => {
            $( {
                let take = |_: $kind| ();
                let child = Process::new(take, $value).start_method(arguments.start_method).start();
                print_result(concat!($name, " argument of a process"), child.and_then(Child::join));
                let make = |()| -> $kind { $value };
                let child = Process::new(make, ()).start_method(arguments.start_method).start();
                print_result(concat!($name, " result of a process"), child.and_then(Child::join));
            } )*
            let pool = arguments.pool(1);
            $( {
                let take = |_: $kind| ();
                print_result(concat!($name, " argument"), pool.apply(take, $value));
                let make = |()| -> $kind { $value };
                print_result(concat!($name, " result"), pool.apply(make, ()));
                for result in pool.try_map(take, [$value; 1]) {
                    print_result(concat!($name, " input"), result);
                }
            } )*
        };
    }
    cross! {
        "tagged" Tagged: Tagged::A { x: 1 };
        "untagged" Untagged: Untagged::A { x: 1 };
        "flat" Flat: Flat { name: "n".into(), inner: Inner { x: 1 } };
        "around" Around: Around { values: vec![None, Some(Tagged::A { x: 1 })] };
        "plain" Plain: Plain::A { x: 1 };
        "adjacent" Adjacent: Adjacent::A { x: 1 };
    }
}

fn attributes_that_cannot_cross_are_named(start_method: StartMethod) {
    let finished = run(send_self_describing_values, start_method, &[]);
    for line in finished.succeeded().lines() {
        let (what, came) = line.split_once(": ").expect("each line names a value");
        if what.starts_with("plain ") {
            assert_eq!(came, "fine", "{what}");
            continue;
        }
        let words: &[&str] = match what.starts_with("flat ") {
            // Encoding fails, because a flattened struct does not say how many fields it has.
            true => &["flatten", "Described"],
            false => &["self-describing", "tag", "untagged", "flatten", "Described"],
        };
        let is_letter = |c: char| c.is_alphanumeric() || c == '-';
        for word in words {
            let is_told = came.split(|c| !is_letter(c)).any(|told| told == *word);
            assert!(is_told, "no {word:?} in: {line}");
        }
        assert!(came.starts_with("encode") || came.starts_with("decode"), "{line}");
    }
}
