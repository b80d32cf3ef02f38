//! In how many of 20 trials the others go on when one process is killed.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proc_core::sync::{
    Barrier, Condition, Dict, Event, Lock, Manager, Mutex, Queue, Semaphore, Value, pipe,
};
use proc_core::{Child, ErrorKind, Process};

use super::{PATIENCE, script};

const TRIALS: usize = 20;

/// Kills a process after some time that differs from trial to trial.
fn kill(child: Child<()>, trial: usize) -> Result<()> {
    std::thread::sleep(Duration::from_micros(500 + 137 * trial as u64));
    child.kill()?;
    ensure!(child.join().is_err(), "it was killed");
    Ok(())
}

/// Counts the trials in which the others went on.
fn count(mut trial: impl FnMut(usize) -> Result<bool>) -> Result<usize> {
    let mut survived = 0;
    for number in 0..TRIALS {
        survived += usize::from(trial(number)?);
    }
    Ok(survived)
}

fn lock(trial: usize) -> Result<bool> {
    let lock = Lock::new()?;
    let hold = |lock: Lock| -> () {
        loop {
            drop(lock.lock());
        }
    };
    kill(Process::new(hold, lock.clone()).start()?, trial)?;
    Ok(lock.lock_timeout(PATIENCE)?.is_some())
}

fn mutex(trial: usize) -> Result<bool> {
    let mutex = Mutex::new(0_u64)?;
    let change = |mutex: Mutex<u64>| -> () {
        loop {
            *mutex.lock().expect("nobody else dies") += 1;
        }
    };
    kill(Process::new(change, mutex.clone()).start()?, trial)?;
    match mutex.lock_timeout(PATIENCE) {
        Ok(guard) => Ok(guard.is_some()),
        Err(error) if error.kind() == ErrorKind::Abandoned => Ok(mutex.recover().is_ok()),
        Err(error) => Err(error.into()),
    }
}

fn value(trial: usize) -> Result<bool> {
    let value = Value::new([0_u64; 4])?;
    let change = |value: Value<[u64; 4]>| -> () {
        loop {
            value.update(|words| words.iter_mut().for_each(|word| *word += 1));
        }
    };
    kill(Process::new(change, value.clone()).start()?, trial)?;
    value.update(|words| words[0] += 0);
    let words = value.get();
    Ok(words.iter().all(|word| *word == words[0]))
}

fn semaphore(trial: usize) -> Result<bool> {
    let semaphore = Semaphore::new(1)?;
    let take = |semaphore: Semaphore| -> () {
        loop {
            drop(semaphore.acquire());
        }
    };
    kill(Process::new(take, semaphore.clone()).start()?, trial)?;
    Ok(semaphore.acquire_timeout(PATIENCE)?.is_some())
}

fn event(trial: usize) -> Result<bool> {
    let event = Event::new()?;
    let wait = |event: Event| event.wait();
    let waits = Process::new(wait, event.clone()).start()?;
    kill(Process::new(wait, event.clone()).start()?, trial)?;
    event.set();
    let mut waits = waits;
    Ok(waits.join_timeout(PATIENCE)?.is_some())
}

fn condition(trial: usize) -> Result<bool> {
    let (flag, changed) = (Mutex::new(0_u32)?, Condition::new()?);
    let wait = |(flag, changed): (Mutex<u32>, Condition)| {
        let guard = flag.lock().expect("nobody dies with it");
        drop(changed.wait_while(guard, |flag| *flag == 0));
    };
    let mut waits = Process::new(wait, (flag.clone(), changed.clone())).start()?;
    kill(Process::new(wait, (flag.clone(), changed.clone())).start()?, trial)?;
    match flag.recover() {
        Ok(mut flag) => *flag = 1,
        Err(error) => return Err(error.into()),
    }
    changed.notify_one();
    Ok(waits.join_timeout(PATIENCE)?.is_some())
}

fn barrier(trial: usize) -> Result<bool> {
    let barrier = Barrier::new(3)?;
    let wait =
        |barrier: Barrier| barrier.wait().is_err_and(|error| error.kind() == ErrorKind::Abandoned);
    let mut waits = Process::new(wait, barrier.clone()).start()?;
    let dies = |barrier: Barrier| {
        let _ = barrier.wait();
    };
    kill(Process::new(dies, barrier.clone()).start()?, trial)?;
    // A process that was killed before it had the barrier has not broken it.
    let _ = barrier.wait_timeout(Duration::from_millis(20));
    let told = waits.join_timeout(PATIENCE)?;
    if told.is_none() {
        waits.kill()?;
    }
    Ok(told == Some(true))
}

/// One of two busy producers is killed.
fn queue_of_producers(trial: usize) -> Result<bool> {
    let queue = Queue::bounded(100)?;
    let put = |queue: Queue<u64>| -> () {
        loop {
            queue.put(1).expect("it is open");
        }
    };
    let other = Process::new(put, queue.clone()).start()?;
    kill(Process::new(put, queue.clone()).start()?, trial)?;
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
fn queue_of_consumers(trial: usize) -> Result<bool> {
    let (queue, got) = (Queue::new()?, Queue::new()?);
    let get = |(queue, got): (Queue<u64>, Queue<u64>)| -> () {
        loop {
            got.put(queue.get().expect("it is open")).expect("it is open");
        }
    };
    let other = Process::new(get, (queue.clone(), got.clone())).start()?;
    kill(Process::new(get, (queue.clone(), got.clone())).start()?, trial)?;
    queue.put(7)?;
    let goes_on = got.get_timeout(PATIENCE)? == Some(7);
    other.kill()?;
    Ok(goes_on)
}

fn leases(trial: usize) -> Result<bool> {
    let queue = Queue::new()?;
    queue.put(7_u64)?;
    let lease = |queue: Queue<u64>| -> () {
        loop {
            drop(queue.lease().expect("there is an item, now or soon"));
        }
    };
    kill(Process::new(lease, queue.clone()).start()?, trial)?;
    Ok(queue.lease_timeout(PATIENCE)?.map(proc_core::sync::Leased::done) == Some(7))
}

fn connection(trial: usize) -> Result<bool> {
    let (here, there) = pipe::<u64, u64>()?;
    let send = |there: proc_core::sync::Connection<u64, u64>| -> () {
        loop {
            there.send(1).expect("the other end is there");
        }
    };
    kill(Process::new(send, there).start()?, trial)?;
    loop {
        match here.recv_timeout(PATIENCE) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(error) => return Ok(error.kind() == ErrorKind::Closed),
        }
    }
}

fn manager(trial: usize) -> Result<bool> {
    let dict = Manager::new()?.dict::<u32, u64>()?;
    let add = |dict: Dict<u32, u64>| -> () {
        loop {
            dict.insert(1, 1).expect("the manager lives");
        }
    };
    kill(Process::new(add, dict.clone()).start()?, trial)?;
    Ok(dict.get(&1).is_ok())
}

pub(crate) fn show(python: &str) -> Result<()> {
    println!("\nTrials of {TRIALS} in which the others went on after a kill:\n");
    println!("| what | proc-core | CPython |\n|---|---|---|");
    let output = Command::new(python)
        .args([script(), "survival", &TRIALS.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{python} cannot be executed"))?;
    ensure!(output.status.success(), "{python}: {}", output.status);
    let theirs: Vec<(String, usize)> = serde_json::from_slice(&output.stdout)?;
    for (name, trial) in [
        ("lock", lock as fn(usize) -> Result<bool>),
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
    ] {
        let ours = count(trial)?;
        let theirs = theirs.iter().find(|(other, _)| other == name);
        let theirs = theirs.map_or("not there".to_owned(), |(_, count)| count.to_string());
        println!("| {name} | {ours} | {theirs} |");
    }
    Ok(())
}
