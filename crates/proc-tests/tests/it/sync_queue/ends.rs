//! How a queue ends: it is closed, its items are done, or nobody else has it.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use proc_core::sync::{Event, Queue};
use proc_core::{Error, ErrorKind, Process, StartMethod};

use super::child;
use crate::support::{Arguments, SOON, describe, run, signal_self};

programs![
    close,
    lease,
    lease_most,
    return_of_the_dead,
    lose_others,
    poll_until_others_are_gone,
    keep_others,
];

tests! {
    closed_queue_takes_no_items: forkserver spawn fork;
    item_that_is_not_done_goes_to_the_front: forkserver spawn fork;
    only_512_items_can_be_leased;
    items_of_a_dead_process_come_back_before_others: forkserver spawn fork;
    queue_that_nobody_else_has_ends: forkserver spawn fork;
    look_without_waiting_learns_that_nobody_else_has_the_queue: forkserver spawn;
    queue_that_somebody_has_does_not_end: forkserver spawn fork;
}

const MOMENT: Duration = Duration::from_millis(50);

/// Longer than it takes until a process looks whether the others are alive.
const TWO_LOOKS: Duration = Duration::from_millis(1200);

#[track_caller]
fn expect_kind<T>(result: Result<T, Error>, kind: ErrorKind) -> Error {
    let error = result.map(drop).expect_err("it must fail");
    assert_eq!(error.kind(), kind, "{}", describe(&error));
    error
}

fn take_until_closed(queue: Queue<u32>) -> Vec<u32> {
    queue.iter().collect()
}

fn put_two(queue: Queue<u32>) -> Error {
    // The second one has no room until the queue is closed.
    queue.put(1).expect("there is room");
    queue.put(2).expect_err("the queue is closed meanwhile")
}

/// Closes queues that others wait for, and that hold items.
fn close(arguments: &Arguments) {
    let queue = Queue::<u32>::new().expect("there is memory");
    queue.put_all([1, 2, 3]).expect("the queue is open");
    assert!(!queue.is_empty() && queue.len() == 3);
    queue.close();
    expect_kind(queue.put(4), ErrorKind::Closed);
    expect_kind(queue.try_put(4), ErrorKind::Closed);
    expect_kind(queue.put_timeout(4, MOMENT), ErrorKind::Closed);
    expect_kind(queue.put_all([4]), ErrorKind::Closed);
    assert_eq!(queue.try_get().expect("an item is left"), Some(1));
    assert_eq!(queue.iter().collect::<Vec<u32>>(), [2, 3]);
    assert!(queue.is_empty());
    expect_kind(queue.get(), ErrorKind::Closed);
    expect_kind(queue.try_get(), ErrorKind::Closed);
    expect_kind(queue.get_timeout(MOMENT), ErrorKind::Closed);
    expect_kind(queue.get_many(5), ErrorKind::Closed);
    expect_kind(queue.lease(), ErrorKind::Closed);
    expect_kind(queue.lease_timeout(MOMENT), ErrorKind::Closed);
    queue.join().expect("nothing is left");
    // Those that wait in other processes are told. Each round makes them wait anew.
    for _ in 0..10 {
        let queue = Queue::new().expect("there is memory");
        let consumers = [(); 2].map(|()| child(arguments, take_until_closed, queue.clone()));
        queue.put(7).expect("the queue is open");
        assert!(queue.join_timeout(SOON).expect("it can wait"), "somebody takes it");
        queue.close();
        let taken = consumers.map(|consumer| consumer.join().expect("it returns"));
        assert_eq!(taken.concat(), [7]);
        let queue = Queue::bounded(1).expect("there is memory");
        let producer = child(arguments, put_two, queue.clone());
        while queue.is_empty() {
            std::thread::yield_now();
        }
        queue.close();
        assert_eq!(producer.join().expect("it returns").kind(), ErrorKind::Closed);
    }
    // Room and items that do not come in time.
    let queue = Queue::bounded(1).expect("there is memory");
    expect_kind(queue.get_timeout(MOMENT), ErrorKind::Closed); // nobody else could put one
    assert_eq!(queue.try_get().expect("it is open"), None);
    assert_eq!(queue.try_put("a".to_owned()).expect("it is open"), None);
    assert_eq!(queue.try_put("b".to_owned()).expect("it is open").as_deref(), Some("b"));
    let back = queue.put_timeout("c".to_owned(), MOMENT).expect("it is open");
    assert_eq!(back.as_deref(), Some("c"));
    assert!(!queue.join_timeout(MOMENT).expect("it can wait"));
    println!("closed");
}

fn closed_queue_takes_no_items(start_method: StartMethod) {
    assert_eq!(run(close, start_method, &[]).succeeded(), "closed\n");
}

/// Leases items, and gives them back in several ways.
fn lease(arguments: &Arguments) {
    let queue = Queue::<u32>::new().expect("there is memory");
    queue.put_all([1, 2, 3, 4]).expect("the queue is open");
    let first = queue.lease().expect("there are items");
    let second = queue.lease().expect("there are items");
    let third = queue.lease().expect("there are items");
    assert!(!first.was_returned());
    assert_eq!(queue.len(), 1);
    drop(second);
    drop(first);
    assert_eq!(queue.len(), 3);
    let again = queue.lease().expect("there are items");
    assert_eq!((*again, again.was_returned()), (1, true));
    assert_eq!(queue.get().expect("there are items"), 2);
    assert_eq!(queue.get().expect("there are items"), 4);
    assert!(queue.is_empty() && !queue.join_timeout(MOMENT).expect("it can wait"));
    drop(third);
    let other =
        child(arguments, |queue: Queue<u32>| *queue.lease().expect("one is back"), queue.clone());
    assert_eq!(other.join().expect("it returns"), 3);
    assert_eq!(queue.get().expect("it came back again"), 3);
    assert_eq!(again.done(), 1);
    assert!(queue.join_timeout(SOON).expect("it can wait"));
    println!("back");
}

fn item_that_is_not_done_goes_to_the_front(start_method: StartMethod) {
    assert_eq!(run(lease, start_method, &[]).succeeded(), "back\n");
}

fn lease_most(_: &Arguments) {
    let queue = Queue::<usize>::new().expect("there is memory");
    queue.put_all(0..600).expect("the queue is open");
    for round in 0..3 {
        let mut leased: Vec<_> =
            (0..512).map(|_| queue.lease().expect("there are items")).collect();
        assert!(leased.iter().map(|item| **item).eq(0..512), "round {round}");
        let error = expect_kind(queue.lease(), ErrorKind::Invalid);
        assert!(error.to_string().contains("512 items are leased"), "{error}");
        expect_kind(queue.lease_timeout(MOMENT), ErrorKind::Invalid);
        drop(leased.pop());
        assert_eq!(*queue.lease().expect("one is free"), 511);
        assert_eq!(queue.len(), 89);
    }
    assert!(queue.get_many(600).expect("there are items").into_iter().eq(0..600));
    assert!(queue.join_timeout(SOON).expect("it can wait"));
    println!("most");
}

fn only_512_items_can_be_leased() {
    assert_eq!(run(lease_most, StartMethod::Forkserver, &[]).succeeded(), "most\n");
}

fn die_with_leases((queue, how): (Queue<u32>, u32)) {
    let _leased = [queue.lease().expect("an item"), queue.lease().expect("an item")];
    match how {
        0 => signal_self(Signal::SIGKILL),
        _ => std::process::exit(3),
    }
}

/// Processes die with leases. A process that gets the queue only after that takes them first.
fn return_of_the_dead(arguments: &Arguments) {
    for how in [0, 1] {
        let queue = Queue::<u32>::new().expect("there is memory");
        queue.put_all(1..=5).expect("the queue is open");
        drop(child(arguments, die_with_leases, (queue.clone(), how)).join().expect_err("it dies"));
        let take = |queue: Queue<u32>| {
            let leased = queue.lease_timeout(SOON).expect("it is open").expect("one is back");
            let was_returned = leased.was_returned();
            (leased.done(), was_returned)
        };
        let taken = |()| child(arguments, take, queue.clone()).join().expect("it returns");
        assert_eq!([(), (), ()].map(taken), [(1, true), (2, true), (3, false)]);
        assert_eq!(queue.get_many(5).expect("two are left"), [4, 5]);
    }
    println!("back");
}

fn items_of_a_dead_process_come_back_before_others(start_method: StartMethod) {
    assert_eq!(run(return_of_the_dead, start_method, &[]).succeeded(), "back\n");
}

/// Takes one item, and waits for the next, which never comes.
fn take_to_the_end((queue, ready): (Queue<u32>, Event)) -> Result<u32, Error> {
    assert_eq!(queue.get().expect("there is one"), 1);
    ready.set();
    queue.get()
}

fn wait_for((_queue, event): (Queue<u32>, Event)) {
    event.wait();
}

/// All others that have a queue lose it, each time in another way.
fn lose_others(arguments: &Arguments) {
    for way in ["dropped", "ended", "killed", "lost"] {
        let queue = Queue::<u32>::new().expect("there is memory");
        let [ready, end] = [(), ()].map(|()| Event::new().expect("there is memory"));
        queue.put(1).expect("the queue is open");
        let consumer = child(arguments, take_to_the_end, (queue.clone(), ready.clone()));
        ready.wait();
        match way {
            "dropped" => drop(queue),
            "lost" => {
                // The process cannot be started, and the message that holds the queue is dropped.
                let process = Process::new(wait_for, (queue, end)).current_dir("/no/such/place");
                let started = process.start_method(arguments.start_method).start();
                assert!(started.and_then(proc_core::Child::join).is_err());
            }
            _ => {
                let other = child(arguments, wait_for, (queue, end.clone()));
                match way {
                    "ended" => {
                        end.set();
                        other.join().expect("it returns");
                    }
                    _ => {
                        other.kill().expect("it is a child");
                        drop(other.join().expect_err("it was killed"));
                    }
                }
            }
        }
        let error = expect_kind(consumer.join().expect("it returns"), ErrorKind::Closed);
        println!("{way}: {error}");
    }
}

fn queue_that_nobody_else_has_ends(start_method: StartMethod) {
    let finished = run(lose_others, start_method, &[]);
    let why = "the queue is empty, and nobody else has it any more who could put an item";
    let ways = ["dropped", "ended", "killed", "lost"].map(|way| format!("{way}: {why}\n"));
    assert_eq!(finished.succeeded(), ways.concat());
}

/// Drops the queue when `go` is set, sets `left`, and lives on.
fn drop_and_wait((queue, go, left, end): (Queue<u32>, Event, Event, Event)) {
    go.wait();
    drop(queue);
    left.set();
    end.wait();
}

/// Executes another program, which has nothing of the queue.
fn execute((_queue, go): (Queue<u32>, Event)) {
    go.wait();
    let error = std::process::Command::new("sleep").arg("1000").exec();
    panic!("sleep cannot be executed: {error}");
}

/// Looks for an item again and again, without waiting, until nobody else has the queue.
fn poll(queue: &Queue<u32>, way: &str) {
    loop {
        match queue.get_timeout(Duration::ZERO) {
            Ok(None) => std::thread::yield_now(),
            ended => {
                expect_kind(ended, ErrorKind::Closed);
                return println!("{way}");
            }
        }
    }
}

/// This process looks for items without waiting, while the last other one to have the queue loses
/// it, each time in another way.
fn poll_until_others_are_gone(arguments: &Arguments) {
    let queue = || Queue::<u32>::new().expect("there is memory");
    let event = || Event::new().expect("there is memory");
    let expect_nothing = |queue: &Queue<u32>| {
        let taken = queue.get_timeout(Duration::ZERO);
        assert_eq!(taken.expect("another one has the queue"), None);
    };
    let (given_up, go, left, end) = (queue(), event(), event(), event());
    let inputs = (given_up.clone(), go.clone(), left.clone(), end.clone());
    let other = child(arguments, drop_and_wait, inputs);
    expect_nothing(&given_up);
    go.set();
    left.wait();
    poll(&given_up, "dropped");
    end.set();
    other.join().expect("it returns");

    let lost = queue();
    let other = child(arguments, wait_for, (lost.clone(), event()));
    expect_nothing(&lost);
    other.kill().expect("it is a child");
    drop(other.join().expect_err("it was killed"));
    poll(&lost, "killed");

    let (forgotten, go) = (queue(), event());
    let other = child(arguments, execute, (forgotten.clone(), go.clone()));
    expect_nothing(&forgotten);
    go.set();
    poll(&forgotten, "executed");
    other.kill().expect("it is a child");
    drop(other.join().expect_err("it was killed"));

    let returned = queue();
    let other = child(arguments, |queue: Queue<u32>| queue, returned.clone());
    expect_nothing(&returned);
    drop(other.join().expect("it returns"));
    poll(&returned, "returned");

    let of_thread = queue();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let clone = of_thread.clone();
    let thread = std::thread::spawn(move || {
        let _ = stopped.recv();
        drop(clone);
    });
    expect_nothing(&of_thread);
    drop(stop);
    thread.join().expect("it does not panic");
    poll(&of_thread, "thread");
}

fn look_without_waiting_learns_that_nobody_else_has_the_queue(start_method: StartMethod) {
    let finished = run(poll_until_others_are_gone, start_method, &[]);
    assert_eq!(finished.succeeded(), "dropped\nkilled\nexecuted\nreturned\nthread\n");
}

fn take_in_vain((queue, go): (Queue<u32>, Event)) -> Result<Option<u32>, Error> {
    go.wait();
    queue.get_timeout(TWO_LOOKS)
}

fn take_in_vain_with_a_thread(queue: Queue<u32>) -> Result<Option<u32>, Error> {
    let other = queue.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ = stopped.recv();
        drop(other);
    });
    let taken = queue.get_timeout(TWO_LOOKS);
    drop(stop);
    thread.join().expect("it does not panic");
    taken
}

/// Somebody has the queue still: no error.
fn keep_others(arguments: &Arguments) {
    let event = || Event::new().expect("there is memory");
    let queue = || Queue::<u32>::new().expect("there is memory");
    let none = |taken: Result<Option<u32>, Error>, what: &str| match taken {
        Ok(None) => println!("{what}: open"),
        other => println!("{what}: {other:?}"),
    };
    // All processes start before there are threads, as StartMethod::Fork wants it.
    let end = event();
    let consumer = |queue: &Queue<u32>| {
        let go = event();
        (child(arguments, take_in_vain, (queue.clone(), go.clone())), go)
    };
    let queues = [queue(), queue(), queue()];
    let [by_process, by_data, by_task] = queues.each_ref().map(consumer);
    let by_thread = child(arguments, take_in_vain_with_a_thread, queue());
    let [process, data, task] = queues;
    let end_of = |(consumer, go): (proc_core::Child<_>, Event), what: &str| {
        go.set();
        none(consumer.join().expect("it returns"), what);
    };
    // A process that runs has the queue. This process has it no more.
    let holder = child(arguments, wait_for, (process, end.clone()));
    end_of(by_process, "a process");
    end.set();
    holder.join().expect("it returns");
    none(by_thread.join().expect("it returns"), "a thread");
    // The data of calls.
    let pool = arguments.pool(1);
    let with = pool.with(data);
    assert_eq!(with.apply(|queue, ()| queue.len(), ()).expect("nothing fails"), 0);
    end_of(by_data, "with");
    drop(with);
    // A task that has not begun.
    let end = event();
    let busy = pool.apply_async(|end: Event| end.wait(), end.clone()).expect("it is open");
    let waiting = pool.apply_async(|queue: Queue<u32>| queue.len(), task);
    end_of(by_task, "on its way");
    end.set();
    busy.get().expect("nothing fails");
    assert_eq!(waiting.and_then(proc_core::Task::get).expect("nothing fails"), 0);
}

fn queue_that_somebody_has_does_not_end(start_method: StartMethod) {
    let finished = run(keep_others, start_method, &[]);
    let expected = "a process: open\na thread: open\nwith: open\non its way: open\n";
    assert_eq!(finished.succeeded(), expected);
}
