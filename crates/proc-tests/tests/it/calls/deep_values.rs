//! Values that nest deeper than 256 levels cross inside `Deep`, and overflow no stack.

use std::thread;

use proc_core::ipc::{self, IpcSender};
use proc_core::{Deep, Described, Error, InProcess, Pool, StartMethod};
use serde::{Deserialize, Serialize};

use crate::support::{Arguments, print_result, run};

programs![cross_deep];

tests! {
    deep_values_cross: forkserver spawn fork;
}

/// List of numbers from 0 on. Each part is two levels: a struct and a `Some`.
#[derive(Serialize, Deserialize)]
struct List {
    number: u32,
    next: Option<Box<List>>,
}

// Otherwise, dropping a list would overflow the stack.
impl Drop for List {
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut list) = next {
            next = list.next.take();
        }
    }
}

impl List {
    fn new(len: u32) -> List {
        let last = List { number: len - 1, next: None };
        let longer = |list, number| List { number, next: Some(Box::new(list)) };
        (0..len - 1).rev().fold(last, longer)
    }

    fn len(&self) -> u32 {
        let parts = std::iter::successors(Some(self), |list| list.next.as_deref());
        parts.zip(0..).map(|(list, number)| assert_eq!(list.number, number)).count() as u32
    }
}

/// Sends lists of several lengths to a worker, and back.
fn cross_deep(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let pids = pool.worker_pids();
    cross_deep_in_this_thread(&pool);
    // The main thread has 8 MiB of stack, other threads have less.
    thread::scope(|scope| {
        let small = thread::Builder::new().stack_size(128 << 10);
        small.spawn_scoped(scope, || cross_deep_in_this_thread(&pool)).expect("there are threads");
    });
    let (sender, receiver) = ipc::channel::<u32>().expect("there are descriptors");
    let count =
        |Deep((sender, list)): Deep<(IpcSender<u32>, List)>| sender.send(list.len()).is_ok();
    let with_sender = pool.apply(count, Deep((sender, List::new(500))));
    print_result("500 with a sender", with_sender);
    assert_eq!(receiver.recv().ok(), Some(500));
    assert_eq!(pool.worker_pids(), pids, "a worker was replaced");
}

fn cross_deep_in_this_thread(pool: &Pool) {
    fn tell(what: &str, len: u32, came: Result<List, Error>) {
        print_result(&format!("{len} {what}"), came.map(|list| assert_eq!(list.len(), len)));
    }
    let (plain, deep) = (|list: List| list, |list: Deep<List>| list);
    let (make, make_deep) = (|len| List::new(len), |len| Deep(List::new(len)));
    for len in [128, 129] {
        tell("plain", len, pool.apply(plain, List::new(len)));
        tell("plain result", len, pool.apply(make, len));
    }
    for len in [129, 10_000, 50_000, 50_001, 1_000_000] {
        tell("deep", len, pool.apply(deep, Deep(List::new(len))).map(|Deep(list)| list));
    }
    for len in [50_000, 50_001] {
        tell("deep result", len, pool.apply(make_deep, len).map(|Deep(list)| list));
    }
    // A `Deep` does not change the limit of a `Described`.
    let described = |list: Described<Deep<List>>| list;
    for len in [256, 257] {
        let came = pool.apply(described, Described(Deep(List::new(len))));
        tell("described", len, came.map(|Described(Deep(list))| list));
    }
    let with = pool.with(Deep(List::new(10_000)));
    let are_same = |held: &Deep<List>, Deep(list): Deep<List>| held.len() == list.len();
    assert!(with.apply(are_same, Deep(List::new(10_000))).expect("both cross"));
    tell("in process", 129, InProcess::new().apply(deep, Deep(List::new(129))).map(|Deep(l)| l));
}

fn deep_values_cross(start_method: StartMethod) {
    let finished = run(cross_deep, start_method, &[]);
    for line in finished.succeeded().lines() {
        let (what, came) = line.split_once(": ").expect("each line names a value");
        let (len, kind) = what.split_once(' ').expect("each value has a length");
        let (most, advice) = match kind {
            "plain" | "plain result" => (128, "wrap the deep part in proc_core::Deep"),
            "described" => (256, "256 levels that a Described carries"),
            _ => (50_000, "send a Vec, with indices in place of boxes"),
        };
        match len.parse::<u32>() {
            Ok(len) if len <= most => assert_eq!(came, "fine", "{line}"),
            _ => assert!(came.starts_with("decode") && came.contains(advice), "{line}"),
        }
    }
    assert_eq!(finished.stdout.lines().count(), 2 * 14 + 1);
}
