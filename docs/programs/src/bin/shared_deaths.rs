//! What becomes of an object when its process is killed.

use std::thread;

use anyhow::{Result, ensure};
use proc_core::sync::{
    Array, Barrier, Condition, Event, Lock, Mutex, RLock,
    Semaphore, Value,
};
use proc_core::{Message, Process};

/// Says that it is ready, and waits to be killed.
fn stay(ready: &Event) {
    ready.set();
    loop {
        thread::park();
    }
}

/// Runs `victim` in a process, and kills it.
fn kill<T: Message + Clone>(
    victim: impl Fn((T, Event)) + Copy + 'static,
    thing: &T,
) -> Result<()> {
    let ready = Event::new()?;
    let args = (thing.clone(), ready.clone());
    let child = Process::new(victim, args).start()?;
    ready.wait();
    child.kill()?;
    ensure!(child.join().is_err(), "it was not killed");
    Ok(())
}

// After each death, the main process uses the object,
// without a time-out.

fn locks() -> Result<()> {
    let lock = Lock::new()?;
    kill(
        |(lock, ready)| {
            let _guard = lock.lock();
            stay(&ready);
        },
        &lock,
    )?;
    let abandoned = lock.lock()?.was_abandoned();
    println!("Lock.lock goes on, abandoned: {abandoned}");

    let lock = RLock::new()?;
    kill(
        |(lock, ready)| {
            let _guard = lock.lock();
            stay(&ready);
        },
        &lock,
    )?;
    let abandoned = lock.lock()?.was_abandoned();
    println!("RLock.lock goes on, abandoned: {abandoned}");

    let room = Semaphore::new(1)?;
    kill(
        |(room, ready)| {
            let _permit = room.acquire();
            stay(&ready);
        },
        &room,
    )?;
    let _permit = room.acquire()?;
    println!("Semaphore.acquire goes on");
    Ok(())
}

fn data() -> Result<()> {
    let pair = Value::new([5, 5])?;
    kill(
        |(pair, ready)| {
            pair.update(|pair: &mut [u64; 2]| {
                pair[0] = 6; // and never pair[1] = 6
                stay(&ready);
            });
        },
        &pair,
    )?;
    let old = pair.get();
    pair.set([7, 7]);
    println!("Value.set goes on, the old value: {old:?}");

    let array = Array::from_slice(&[5, 5])?;
    kill(
        |(array, ready)| {
            array.set(0, 6); // and never array.set(1, 6)
            stay(&ready);
        },
        &array,
    )?;
    let old = array.snapshot();
    array.write(.., &[7, 7]);
    println!("Array.write goes on, the array: {old:?}");

    let pair = Mutex::new([5, 5])?;
    kill(
        |(pair, ready)| {
            let mut pair = pair.lock().expect("it is new");
            pair[0] = 6; // and never pair[1] = 6
            stay(&ready);
        },
        &pair,
    )?;
    let kind = pair.lock().expect_err("it died").kind();
    println!("Mutex.lock is an error: {kind:?}");
    let old = *pair.recover()?;
    println!("Mutex.recover goes on, the data: {old:?}");
    drop(pair.lock()?);
    Ok(())
}

fn signals() -> Result<()> {
    let event = Event::new()?;
    kill(
        |(event, ready)| {
            ready.set();
            event.wait();
        },
        &event,
    )?;
    event.set();
    println!("Event.set goes on");

    let all =
        (Lock::new()?, Condition::new()?, Value::new(0)?);
    kill(
        |(all, ready)| {
            ready.set();
            wait_for_stock(all);
        },
        &all,
    )?;
    // Another process waits, and is woken.
    let other = Process::new(wait_for_stock, all.clone());
    let other = other.start()?;
    let (lock, changed, stock) = all;
    let guard = lock.lock()?;
    stock.set(1);
    drop(guard);
    changed.notify_one();
    other.join()?;
    println!("Condition.notify_one goes on");

    let barrier = Barrier::new(2)?;
    kill(|(_party, ready)| stay(&ready), &barrier)?;
    let kind = barrier.wait().expect_err("it died").kind();
    println!("Barrier.wait is an error: {kind:?}");
    Ok(())
}

fn wait_for_stock(
    (lock, changed, stock): (Lock, Condition, Value<u32>),
) {
    let guard = lock.lock().expect("not taken twice");
    let none = |_: &mut ()| stock.get() == 0;
    let guard = changed.wait_while(guard, none);
    drop(guard.expect("not taken twice"));
}

fn main() -> Result<()> {
    proc_core::init();
    locks()?;
    data()?;
    signals()
}
