//! In how many of 20 trials the others go on when one process is killed.
//!
//! In each trial, the process says first that it is busy. The kill comes at a random moment of the
//! next three milliseconds. `shared_state.py` does the same in Python.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipc_channel::TryRecvError;
use proc_core::ipc::{self, IpcSender};
use proc_core::sync::{
    Barrier, Condition, Connection, Dict, Event, Leased, Lock, Manager, Mutex, Queue, Semaphore,
    Value, pipe,
};
use proc_core::{Child, ErrorKind, Message, Process};

use super::{ICEORYX2, PATIENCE, script};

const TRIALS: usize = 20;

/// The longest time from the moment when a process is busy to its kill.
const MAX_MOMENT: Duration = Duration::from_millis(3);

/// How long a process may take until it is busy, on the slowest machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `work` with `thing` in a process, and waits until that process says that it is busy.
fn start<T: Message, R: Message>(
    work: impl Fn((T, Event)) -> R + Copy + 'static,
    thing: T,
) -> Result<Child<R>> {
    let busy = Event::new()?;
    let child = Process::new(work, (thing, busy.clone())).start()?;
    ensure!(busy.wait_timeout(START_TIMEOUT), "process {} is not busy", child.pid());
    Ok(child)
}

/// Makes one step, says that the process is busy, and goes on until the process is killed.
fn forever(busy: &Event, mut step: impl FnMut()) {
    step();
    busy.set();
    loop {
        step();
    }
}

/// Kills a process that is busy, at a random moment. Until then, calls `meanwhile` with the time
/// that is left.
fn kill(child: Child<()>, mut meanwhile: impl FnMut(Duration) -> Result<()>) -> Result<()> {
    let moment = Instant::now() + MAX_MOMENT.mul_f64(fastrand::f64());
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        meanwhile(left)?;
    }
    child.kill()?;
    ensure!(child.join().is_err(), "the process ended before it was killed");
    Ok(())
}

fn sleep(left: Duration) -> Result<()> {
    thread::sleep(left);
    Ok(())
}

/// Counts the trials in which the others went on.
fn count(name: &str, trial: fn() -> Result<bool>) -> Result<usize> {
    let mut survived = 0;
    for number in 0..TRIALS {
        let goes_on = trial().with_context(|| format!("{name}, trial {number}"))?;
        if !goes_on {
            eprintln!("{name}: the others did not go on in trial {number}");
        }
        survived += usize::from(goes_on);
    }
    Ok(survived)
}

fn lock() -> Result<bool> {
    let lock = Lock::new()?;
    let hold = |(lock, busy): (Lock, Event)| forever(&busy, || drop(lock.lock()));
    kill(start(hold, lock.clone())?, sleep)?;
    Ok(lock.lock_timeout(PATIENCE)?.is_some())
}

fn mutex() -> Result<bool> {
    let mutex = Mutex::new(0_u64)?;
    let change = |(mutex, busy): (Mutex<u64>, Event)| {
        forever(&busy, || *mutex.lock().expect("nobody else dies") += 1);
    };
    kill(start(change, mutex.clone())?, sleep)?;
    match mutex.lock_timeout(PATIENCE) {
        Ok(guard) => Ok(guard.is_some()),
        Err(error) if error.kind() == ErrorKind::Abandoned => Ok(mutex.recover().is_ok()),
        Err(error) => Err(error.into()),
    }
}

fn value() -> Result<bool> {
    let value = Value::new([0_u64; 4])?;
    let change = |(value, busy): (Value<[u64; 4]>, Event)| {
        forever(&busy, || value.update(|words| words.iter_mut().for_each(|word| *word += 1)));
    };
    kill(start(change, value.clone())?, sleep)?;
    value.update(|words| words[0] += 0);
    let words = value.get();
    Ok(words.iter().all(|word| *word == words[0]))
}

fn semaphore() -> Result<bool> {
    let semaphore = Semaphore::new(1)?;
    let take = |(semaphore, busy): (Semaphore, Event)| forever(&busy, || drop(semaphore.acquire()));
    kill(start(take, semaphore.clone())?, sleep)?;
    Ok(semaphore.acquire_timeout(PATIENCE)?.is_some())
}

fn event() -> Result<bool> {
    let event = Event::new()?;
    let wait = |(event, busy): (Event, Event)| {
        busy.set();
        event.wait();
    };
    let mut waits = start(wait, event.clone())?;
    kill(start(wait, event.clone())?, sleep)?;
    event.set();
    Ok(waits.join_timeout(PATIENCE)?.is_some())
}

fn condition() -> Result<bool> {
    type Flag = (Lock, Condition, Value<u32>);
    let wait = |((lock, changed, flag), busy): (Flag, Event)| {
        let guard = lock.lock().expect("not taken twice");
        busy.set();
        drop(changed.wait_while(guard, |_| flag.get() == 0));
    };
    let (lock, changed, flag) = (Lock::new()?, Condition::new()?, Value::new(0)?);
    let all = || (lock.clone(), changed.clone(), flag.clone());
    let mut waits = start(wait, all())?;
    kill(start(wait, all())?, sleep)?;
    let Some(guard) = lock.lock_timeout(PATIENCE)? else { return Ok(false) };
    flag.set(1);
    drop(guard);
    changed.notify_one();
    Ok(waits.join_timeout(PATIENCE)?.is_some())
}

/// One of three parties is killed. This process is the third one, and never arrives.
fn barrier() -> Result<bool> {
    let barrier = Barrier::new(3)?;
    let wait = |(barrier, busy): (Barrier, Event)| {
        busy.set();
        barrier.wait().is_err_and(|error| error.kind() == ErrorKind::Abandoned)
    };
    let dies = |(barrier, busy): (Barrier, Event)| {
        busy.set();
        drop(barrier.wait());
    };
    let mut waits = start(wait, barrier.clone())?;
    kill(start(dies, barrier.clone())?, sleep)?;
    let told = waits.join_timeout(PATIENCE)?;
    if told.is_none() {
        waits.kill()?;
    }
    Ok(told == Some(true))
}

/// One of two busy producers is killed. This process consumes.
fn queue_of_producers() -> Result<bool> {
    let queue = Queue::bounded(100)?;
    let put = |(queue, busy): (Queue<u64>, Event)| -> () {
        busy.set(); // before the first step, since the queue may be full
        loop {
            queue.put(1).expect("it is open");
        }
    };
    let other = start(put, queue.clone())?;
    kill(start(put, queue.clone())?, |left| Ok(queue.get_timeout(left).map(drop)?))?;
    let mut goes_on = true;
    for _ in 0..1000 {
        goes_on &= queue.get_timeout(PATIENCE)?.is_some();
        if !goes_on {
            break;
        }
    }
    other.kill()?;
    Ok(goes_on)
}

/// One of two idle consumers is killed.
fn queue_of_consumers() -> Result<bool> {
    let (queue, got) = (Queue::new()?, Queue::new()?);
    type Queues = (Queue<u64>, Queue<u64>);
    let get = |((queue, got), busy): (Queues, Event)| -> () {
        busy.set();
        loop {
            got.put(queue.get().expect("it is open")).expect("it is open");
        }
    };
    let other = start(get, (queue.clone(), got.clone()))?;
    kill(start(get, (queue.clone(), got.clone()))?, sleep)?;
    queue.put(7)?;
    let goes_on = got.get_timeout(PATIENCE)? == Some(7);
    other.kill()?;
    Ok(goes_on)
}

fn leases() -> Result<bool> {
    let queue = Queue::new()?;
    queue.put(7_u64)?;
    let lease = |(queue, busy): (Queue<u64>, Event)| {
        forever(&busy, || drop(queue.lease().expect("there is an item, now or soon")));
    };
    kill(start(lease, queue.clone())?, sleep)?;
    Ok(queue.lease_timeout(PATIENCE)?.map(Leased::done) == Some(7))
}

fn connection() -> Result<bool> {
    let (here, there) = pipe::<u64, u64>()?;
    let send = |(there, busy): (Connection<u64, u64>, Event)| {
        forever(&busy, || there.send(1).expect("the other end is there"));
    };
    kill(start(send, there)?, |left| Ok(here.recv_timeout(left).map(drop)?))?;
    loop {
        match here.recv_timeout(PATIENCE) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(error) => return Ok(error.kind() == ErrorKind::Closed),
        }
    }
}

fn manager() -> Result<bool> {
    let dict = Manager::new()?.dict::<u32, u64>()?;
    let add = |(dict, busy): (Dict<u32, u64>, Event)| {
        forever(&busy, || drop(dict.insert(1, 1)));
    };
    kill(start(add, dict.clone())?, sleep)?;
    Ok(dict.get(&1).is_ok())
}

/// As [`queue_of_producers`], with a channel of ipc-channel.
fn channel_of_producers() -> Result<bool> {
    let (sender, receiver) = ipc::channel()?;
    let send = |(sender, busy): (IpcSender<u64>, Event)| {
        busy.set(); // before the first step, since the channel may be full
        while sender.send(1).is_ok() {}
    };
    let other = start(send, sender.clone())?;
    kill(start(send, sender)?, |left| {
        let _ = receiver.try_recv_timeout(left);
        Ok(())
    })?;
    let goes_on = (0..1000).all(|_| receiver.try_recv_timeout(PATIENCE).is_ok());
    other.kill()?;
    Ok(goes_on)
}

/// As [`connection`], with a channel of ipc-channel.
fn channel() -> Result<bool> {
    let (sender, receiver) = ipc::channel()?;
    let send = |(sender, busy): (IpcSender<u64>, Event)| {
        forever(&busy, || sender.send(1).expect("the other end is there"));
    };
    kill(start(send, sender)?, |left| {
        let _ = receiver.try_recv_timeout(left);
        Ok(())
    })?;
    loop {
        match receiver.try_recv_timeout(PATIENCE) {
            Ok(_) => {}
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::IpcError(_)) => return Ok(true),
        }
    }
}

/// Lets iceoryx2 count the trials in which a subscriber goes on to receive items of one publisher
/// after the other one was killed. Returns `None` if it was not built.
fn iceoryx2() -> Result<Option<usize>> {
    if !Path::new(ICEORYX2).exists() {
        eprintln!("without iceoryx2, which was not built: see --bin shared-state's source");
        return Ok(None);
    }
    let mut peer = Command::new(ICEORYX2);
    peer.arg("survival").arg(TRIALS.to_string()).stderr(Stdio::inherit());
    let output = peer.output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(Some(String::from_utf8(output.stdout)?.trim().parse()?))
}

type Trial = fn() -> Result<bool>;

pub(crate) fn show(python: &str) -> Result<()> {
    println!("\nTrials of {TRIALS} in which the others went on after a kill:\n");
    println!(
        "{:<30}{:>10}{:>12}{:>13}{:>12}",
        "", "proc-core", "CPython", "ipc-channel", "iceoryx2"
    );
    let output = Command::new(python)
        .args([script(), "survival", &TRIALS.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{python} cannot be executed"))?;
    ensure!(output.status.success(), "{python}: {}", output.status);
    let theirs: Vec<(String, usize)> = serde_json::from_slice(&output.stdout)?;
    let trials: [(&str, Trial); 12] = [
        ("lock", lock),
        ("mutex", mutex),
        ("value", value),
        ("semaphore", semaphore),
        ("event", event),
        ("condition", condition),
        ("barrier", barrier),
        ("queue, one of two producers", queue_of_producers),
        ("queue, one of two consumers", queue_of_consumers),
        ("leases of a queue", leases),
        ("pipe", connection),
        ("manager, a client", manager),
    ];
    let shown = |count: Option<usize>| count.map_or("not there".to_owned(), |n| n.to_string());
    for (name, trial) in trials {
        let ours = count(name, trial)?;
        let python = theirs.iter().find(|(other, _)| other == name).map(|(_, count)| *count);
        let (channel, iceoryx2) = match name {
            "queue, one of two producers" => {
                (Some(count("ipc-channel, producers", channel_of_producers)?), iceoryx2()?)
            }
            "pipe" => (Some(count("ipc-channel", channel)?), None),
            _ => (None, None),
        };
        let [python, channel, iceoryx2] = [python, channel, iceoryx2].map(shown);
        println!("{name:<30}{ours:>10}{python:>12}{channel:>13}{iceoryx2:>12}");
    }
    Ok(())
}
