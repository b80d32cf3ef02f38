//! A function that takes an `Executor` runs on a pool and on a fleet.

use proc_cluster::ErrorKind::Encode;
use proc_cluster::{Cluster, Error, Executor, Progress};
use proc_core::{Deep, Described, Pool};
use serde::{Deserialize, Serialize, Serializer};

use crate::support::Server;

/// An argument that cannot be encoded.
#[derive(Deserialize)]
struct Odd;

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is odd"))
    }
}

fn take(_: Odd) {}

/// A value of a type that needs a self-describing format.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Setting {
    Number(f64),
    Names(Vec<String>),
}

/// A value that may be deep.
#[derive(Serialize, Deserialize)]
struct Nested(Option<Box<(u8, Nested)>>);

/// Makes each call. Returns the results as text.
fn all_calls(on: &impl Executor) -> Result<Vec<String>, Error> {
    let square = |x: i64| x * x;
    let quotient = |(a, b): (i64, i64)| a / b;
    let mut seen = Vec::new();
    seen.push(format!("{:?}", on.map(square, [3, 4, 5])?));
    let fates = on.try_map(quotient, [(12, 4), (1, 0)]);
    seen.push(format!("{:?}", fates.iter().map(|fate| fate.as_ref().ok()).collect::<Vec<_>>()));
    seen.push(format!("{:?}", on.imap(square, 1..).take(70).sum::<Result<i64, Error>>()?));
    let mut unordered: Vec<i64> = on.imap_unordered(square, 0..100).collect::<Result<_, _>>()?;
    unordered.sort_unstable();
    seen.push(format!("{:?}", unordered.last()));
    seen.push(format!("{:?}", on.apply(quotient, (12, 3))?));
    seen.push(format!("{:?}", on.apply_async(square, 9)?.get()?));
    seen.push(format!("{:?}", on.map_async(square, [1, 2])?.get()?));
    // The function that gets the progress may borrow mutably, without a lock.
    let mut told: Vec<Progress> = Vec::new();
    on.options().chunksize(3).progress(|progress| told.push(progress)).map(square, 0..20)?;
    seen.push(format!("{:?}", told.last().map(|progress| (progress.done, progress.all))));
    // Tasks whose arguments cannot be encoded count as done.
    told.clear();
    let fates = on.options().progress(|progress| told.push(progress)).try_map(take, [Odd, Odd]);
    let encodes = |fate: &Result<(), Error>| fate.as_ref().is_err_and(|e| e.kind() == Encode);
    let last = told.last().map(|progress| (progress.done, progress.all));
    seen.push(format!("{} {last:?}", fates.iter().all(encodes)));
    seen.push(format!("{:?}", on.map_async(square, [])?.get()?));
    let with = on.options().chunksize(2).with(vec![10, 20]);
    let pick = |from: &Vec<i64>, at: usize| from[at];
    seen.push(format!(
        "{:?} {:?}",
        with.map(pick, [1, 0, 1])?,
        on.with(4).apply(|a, b: i64| a + b, 5)?
    ));
    let indexed = with.imap_unordered(pick, [0, 1]).indexed().collect::<Result<Vec<_>, _>>();
    let mut indexed = indexed?;
    indexed.sort_unstable();
    seen.push(format!("{indexed:?}"));
    let settings = [Setting::Number(0.5), Setting::Names(vec!["name".to_owned()])];
    let same = |setting: Described<Setting>| setting;
    seen.push(format!("{:?}", on.map(same, settings.map(Described))?));
    let nested = (0..500).fold(Nested(None), |nested, n| Nested(Some(Box::new((n as u8, nested)))));
    let last = |Deep(nested): Deep<Nested>| Deep(nested.0.map(|last| *last));
    seen.push(format!("{:?}", on.apply(last, Deep(nested))?.0.map(|(n, _)| n)));
    // The first failure ends the call, although the inputs have no end.
    let inputs = (0..).map(|n| (1, i64::from(n < 100)));
    let mut results = on.options().fail_fast().imap_unordered(quotient, inputs);
    let ended = results.by_ref().find(Result::is_err).map(|fate| fate.map_err(|e| e.kind()));
    seen.push(format!("{ended:?} {:?}", results.next().map(drop)));
    let error = on.options().priority(101).map(square, [1]).expect_err("it is too high");
    seen.push(error.to_string());
    let error = on.apply(quotient, (1, 0)).expect_err("a division by zero panics");
    seen.push(format!("{:?} {}", error.kind(), error.panic_message().unwrap_or_default()));
    let error = on.options().chunksize(0).map(square, [1]).expect_err("no chunk is empty");
    seen.push(error.to_string());
    Ok(seen)
}

/// The results of [`all_calls`].
const EXPECTED: [&str; 18] = [
    "[9, 16, 25]",
    "[Some(3), None]",
    "116795",
    "Some(9801)",
    "4",
    "81",
    "[1, 4]",
    "Some((20, 20))",
    "true Some((2, 2))",
    "[]",
    "[20, 10, 20] 9",
    "[(0, 10), (1, 20)]",
    r#"[Described(Number(0.5)), Described(Names(["name"]))]"#,
    "Some(243)",
    "Some(Err(Panic)) None",
    "the priority of a call is a number from -100 to 100, not 101",
    "Panic attempt to divide by zero",
    "a chunksize of 0 makes no chunks: set 1 or more, or leave the chunksize out",
];

#[test]
fn a_pool_is_an_executor() {
    let pool = Pool::builder().processes(2).build().expect("there is room");
    assert_eq!(all_calls(&pool).expect("nothing else fails"), EXPECTED);
    pool.close();
    let nothing: [i64; 0] = [];
    assert_eq!(pool.map(|x: i64| x, nothing).expect("there is nothing to do"), nothing);
    let task = pool.map_async(|x: i64| x, nothing).expect("there is nothing to do");
    assert_eq!(task.get().expect("there is nothing to do"), nothing);
    assert!(pool.map_async(|x: i64| x, [1]).is_err_and(|error| error.is_closed()));
}

#[test]
fn a_fleet_is_an_executor() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents): (Cluster, _) = server.fleet(2);
    assert_eq!(all_calls(&cluster).expect("nothing else fails"), EXPECTED);
}
