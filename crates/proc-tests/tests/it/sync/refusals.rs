//! A wrong use of shared state is an error that says why, and does no harm.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use proc_core::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use proc_core::sync::{Array, Barrier, Condition, Lock, Mutex, RLock, Semaphore, Value};
use proc_core::{Child, Error, ErrorKind, Process, StartMethod};
use serde::{Deserialize, Serialize};

use crate::support::{
    Arguments, assert_snapshot, own_arguments, own_file, print_result, run, signal_self, wait_until,
};
use crate::sync::everything::Everything;

programs![
    use_wrongly,
    abandon,
    abandon_in_tasks,
    update_inside_updates,
    send_to_another_run,
    be_another_run,
];

tests! {
    wrong_uses_are_refused;
    abandoned_objects_say_who_died: forkserver spawn fork;
    abandoned_mutex_names_the_task: forkserver spawn fork;
    updates_inside_updates_panic;
    handles_of_another_run_are_refused: forkserver spawn;
}

/// Prints the error of each wrong use. A line that ends with "fine" is wrong.
fn use_wrongly(_: &Arguments) {
    print_result("empty array", Array::<u64>::zeroed(0));
    print_result("empty slice", Array::<u8>::from_slice(&[]));
    print_result("endless array", Array::<u64>::zeroed(usize::MAX / 4));
    print_result("no parties", Barrier::new(0));
    print_result("many parties", Barrier::new(65_537));
    assert!(Barrier::new(65_536).is_ok() && Array::<u8>::zeroed(1).is_ok());
    let lock = Lock::new().expect("memory");
    let guard = lock.lock().expect("nobody has it");
    print_result("lock twice", lock.lock());
    print_result("lock twice for a while", lock.lock_timeout(Duration::from_secs(600)));
    print_result("lock twice by another handle", lock.clone().lock());
    assert!(lock.try_lock().expect("there are locks").is_none());
    // Another thread has to wait, which is no error.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| lock.lock_timeout(Duration::ZERO).map(|guard| guard.is_none()));
        assert!(other.join().expect("it does not panic").expect("it does not have it"));
    });
    drop(guard);
    drop(lock.lock().expect("nobody has it"));
    let mutex = Mutex::new(7).expect("memory");
    let guard = mutex.lock().expect("nobody has it");
    print_result("mutex twice", mutex.lock());
    print_result("mutex twice for a while", mutex.lock_timeout(Duration::from_secs(600)));
    print_result("recover what one has", mutex.recover());
    assert!(mutex.try_lock().expect("nobody died").is_none());
    assert_eq!(*guard, 7);
    drop(guard);
    drop(mutex.lock().expect("nobody has it"));
    let rlock = RLock::new().expect("memory");
    let guards: Vec<_> = (0..1000).map(|_| rlock.lock().expect("this thread has it")).collect();
    drop(guards);
    assert!(!rlock.lock().expect("nobody has it").was_abandoned());
    let semaphore = Semaphore::new(0).expect("memory");
    semaphore.add_permits(u32::MAX).expect("so many are allowed");
    print_result("too many permits", semaphore.add_permits(1));
    let lent: Vec<_> = (0..240).map(|_| semaphore.acquire().expect("there is room")).collect();
    print_result("too many lent", semaphore.acquire());
    print_result("too many lent", semaphore.try_acquire());
    drop(lent);
    drop(semaphore.acquire().expect("there is room again"));
    let many = Semaphore::new(1000).expect("memory");
    let lent: Vec<_> = (0..1000).map(|_| many.acquire().expect("there is room")).collect();
    assert!(many.try_acquire().expect("there is no permit").is_none());
    drop(lent);
    assert_eq!(many.available_permits().expect("there are locks"), 1000);
}

fn wrong_uses_are_refused() {
    let finished = run(use_wrongly, StartMethod::default(), &[]);
    let told = finished.succeeded();
    assert!(told.lines().all(|line| !line.ends_with(": fine")), "{told}");
    assert_snapshot("sync_wrong_uses", 0, told);
}

/// Locks the mutex, and ends in the way that the word says.
fn end_with((mutex, _barrier, how): (Mutex<u64>, Barrier, String)) {
    let _guard = mutex.lock().expect("nobody has it");
    match how.as_str() {
        "killed" => signal_self(Signal::SIGKILL),
        "aborts" => std::process::abort(),
        "exits" => std::process::exit(3),
        "exits in order" => std::process::exit(0),
        other => panic!("no such way: {other}"),
    }
}

fn abandon(arguments: &Arguments) {
    for how in ["killed", "aborts", "exits", "exits in order"] {
        let (mutex, barrier) = (Mutex::new(5).expect("memory"), Barrier::new(2).expect("memory"));
        let argument = (mutex.clone(), barrier.clone(), how.to_owned());
        let process = Process::new(end_with, argument).start_method(arguments.start_method);
        let child = process.start().expect("it can be started");
        let pid = child.pid();
        child.join().expect_err("it has no result");
        // Everybody is told, again and again.
        for _ in 0..2 {
            let error = mutex.lock().map(drop).expect_err("it was abandoned");
            assert_eq!((error.kind(), error.pid()), (ErrorKind::Abandoned, Some(pid)));
        }
        print_result(how, mutex.lock());
        print_result(how, mutex.try_lock());
        print_result(how, mutex.lock_timeout(Duration::from_secs(600)));
        let elsewhere = |mutex: Mutex<u64>| -> Result<(), Error> { mutex.lock().map(drop) };
        let process = Process::new(elsewhere, mutex.clone()).start_method(arguments.start_method);
        print_result(how, process.start().and_then(Child::join).expect("it returns an error"));
        let changed = Condition::new().expect("memory");
        let guard = mutex.recover().expect("nobody has it");
        // After the recovery, nobody gets that error any more, even while the guard lives.
        assert!(mutex.try_lock().expect("it is not abandoned any more").is_none());
        let (guard, _) = changed.wait_timeout(guard, Duration::ZERO).expect("it is as good as new");
        assert_eq!(*guard, 5);
        drop(guard);
        drop(mutex.lock().expect("it was recovered"));
        match how {
            "exits in order" => {
                let there = barrier.wait_timeout(Duration::from_millis(1));
                assert_eq!(there.expect("it has left, which breaks nothing"), None);
            }
            _ => print_result(how, barrier.wait()),
        }
    }
}

fn abandoned_objects_say_who_died(start_method: StartMethod) {
    let finished = run(abandon, start_method, &[]);
    let told = finished.succeeded();
    assert!(told.lines().all(|line| !line.ends_with(": fine")), "{told}");
    assert_snapshot("sync_abandoned", 0, told);
}

fn abandon_in_tasks(arguments: &Arguments) {
    let mutex = Mutex::new(0_u64).expect("memory");
    let pool = arguments.pool(1);
    let die = |mutex: &Mutex<u64>, x: u64| {
        let mut number = mutex.lock().expect("nobody died before");
        *number += 1;
        if x == 3 {
            std::process::abort();
        }
        x
    };
    let with = pool.options().chunksize(1).with(mutex.clone());
    let fates = with.try_map(die, 0..4);
    assert!(fates[3].as_ref().is_err_and(Error::is_death));
    print_result("mutex", mutex.lock());
    assert_eq!(*mutex.recover().expect("nobody has it"), 4);
}

fn abandoned_mutex_names_the_task(start_method: StartMethod) {
    let finished = run(abandon_in_tasks, start_method, &[]);
    assert_snapshot("sync_abandoned_by_a_task", 1, finished.succeeded());
}

fn update_inside_updates(_: &Arguments) {
    let value = Value::new([0_u64; 2]).expect("memory");
    value.update(|words| {
        words[0] = 1;
        assert_eq!(value.get(), [0, 0], "reading is allowed");
        value.set([2, 2]);
    });
}

fn updates_inside_updates_panic() {
    let finished = run(update_inside_updates, StartMethod::default(), &[]);
    assert_eq!(finished.status.code(), Some(101), "{}", finished.stderr);
    let why = "this thread is changing the value already, and would wait for itself";
    assert!(finished.stderr.contains(why), "{}", finished.stderr);
}

/// Channels to another run of the program, for one kind of handle each.
#[derive(Serialize, Deserialize)]
struct Channels {
    locks: IpcSender<Lock>,
    values: IpcSender<Value<u64>>,
    barriers: IpcSender<Barrier>,
}

/// Executes the program again, not by this library, and sends handles there.
fn send_to_another_run(arguments: &Arguments) {
    let all = Everything::new();
    let (server, name) = IpcOneShotServer::<Channels>::new().expect("there are descriptors");
    let mut command = Command::new(own_file());
    command.args(own_arguments(be_another_run, arguments.start_method)).arg(name);
    let mut other = command.spawn().expect("it can be executed");
    let (_, channels) = server.accept().expect("it connects");
    channels.locks.send(all.lock.clone()).expect("it waits for it");
    channels.values.send(all.small.clone()).expect("it waits for it");
    channels.barriers.send(all.barrier.clone()).expect("it waits for it");
    assert!(other.wait().expect("it is our child").success());
    all.expect_used(0);
    all.use_once();
    all.expect_used(1);
}

fn be_another_run(arguments: &Arguments) {
    fn expect_refused<T: for<'de> Deserialize<'de> + Serialize + std::fmt::Debug>(
        kind: &str,
        receiver: &IpcReceiver<T>,
    ) {
        println!("{kind}: {}", receiver.recv().expect_err("it is another run's"));
    }
    let own = Everything::new();
    let (locks, lock_receiver) = ipc::channel().expect("a channel");
    let (values, value_receiver) = ipc::channel().expect("a channel");
    let (barriers, barrier_receiver) = ipc::channel().expect("a channel");
    let channels = Channels { locks, values, barriers };
    let sender = IpcSender::connect(arguments.word().to_owned()).expect("somebody accepts");
    sender.send(channels).expect("somebody accepts");
    expect_refused("lock", &lock_receiver);
    expect_refused("value", &value_receiver);
    expect_refused("barrier", &barrier_receiver);
    // Its own objects go on.
    let process = Process::new(|all: Everything| all.use_once(), own.clone());
    let child = process.start_method(arguments.start_method).start();
    child.and_then(Child::join).expect("it is this run's");
    own.expect_used(1);
    // A handle of its own that comes back is what it was.
    let (sender, receiver) = ipc::channel().expect("a channel");
    sender.send(own.clone()).expect("it is received below");
    wait_until(|| own.event.is_set());
    receiver.recv().expect("it is this run's").expect_used(1);
}

fn handles_of_another_run_are_refused(start_method: StartMethod) {
    let finished = run(send_to_another_run, start_method, &[]);
    assert_snapshot("sync_of_another_run", 0, finished.succeeded());
}
