//! What becomes of an object when its process is killed.

use std::{process, thread};

use anyhow::{Result, ensure};
use proc_core::sync::{
    Array, Barrier, Condition, Connection, Dict, Event,
    Lock, Manager, Mutex, Queue, RLock, Semaphore, Value,
    pipe,
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
fn kill<T: Message>(
    victim: impl Fn((T, Event)) + Copy + 'static,
    thing: T,
) -> Result<()> {
    let ready = Event::new()?;
    let args = (thing, ready.clone());
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
        lock.clone(),
    )?;
    let abandoned = lock.lock()?.was_abandoned();
    println!("Lock.lock goes on, abandoned: {abandoned}");

    let lock = RLock::new()?;
    kill(
        |(lock, ready)| {
            let _guard = lock.lock();
            stay(&ready);
        },
        lock.clone(),
    )?;
    let abandoned = lock.lock()?.was_abandoned();
    println!("RLock.lock goes on, abandoned: {abandoned}");

    let room = Semaphore::new(1)?;
    kill(
        |(room, ready)| {
            let _permit = room.acquire();
            stay(&ready);
        },
        room.clone(),
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
        pair.clone(),
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
        array.clone(),
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
        pair.clone(),
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
        event.clone(),
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
        all.clone(),
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
    kill(|(_, ready)| stay(&ready), barrier.clone())?;
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

fn queues() -> Result<()> {
    let queue = Queue::new()?;
    kill(
        |(queue, ready): (Queue<u32>, Event)| {
            ready.set();
            drop(queue.get());
        },
        queue.clone(),
    )?;
    queue.put(1)?;
    let item = queue.get()?;
    println!("Queue.get goes on, the item: {item}");

    let queue = Queue::bounded(1)?;
    kill(
        |(queue, ready)| {
            queue.put(1).expect("there is room");
            ready.set();
            drop(queue.put(2)); // there is no room
        },
        queue.clone(),
    )?;
    let old = queue.get()?;
    queue.put(3)?;
    let new = queue.get()?;
    println!("Queue.put goes on, the items: {old}, {new}");

    let queue = Queue::new()?;
    queue.put_all([1, 2, 3])?;
    kill(
        |(queue, ready): (Queue<u32>, Event)| {
            let _lost = queue.get();
            let _comes_back = queue.lease();
            stay(&ready);
        },
        queue.clone(),
    )?;
    let left = queue.get_many(3)?;
    println!("Queue.get_many goes on, left: {left:?}");
    queue.join()?;
    println!("Queue.join goes on");
    Ok(())
}

fn pipes() -> Result<()> {
    let (here, there) = pipe::<u32, u32>()?;
    kill(
        |(there, ready): (Connection<u32, u32>, Event)| {
            there.send(5).expect("the other end lives");
            stay(&ready);
        },
        there,
    )?;
    let sent = here.recv()?;
    println!("Connection.recv goes on, sent: {sent}");
    let error = here.recv().expect_err("it died");
    assert!(error.pid().is_some()); // who it was
    let kind = error.kind();
    println!("Connection.recv is an error: {kind:?}");
    Ok(())
}

fn managers() -> Result<()> {
    let dict = Manager::new()?.dict()?;
    kill(
        |(dict, ready): (Dict<u32, u32>, Event)| {
            dict.insert(1, 5).expect("the manager lives");
            stay(&ready);
        },
        dict.clone(),
    )?;
    let value = dict.get(&1)?;
    println!("Dict.get goes on, the value: {value:?}");

    // The manager itself dies in the middle of a call.
    dict.update(2, die, ()).expect_err("it died");
    let kind = dict.get(&1).expect_err("it died").kind();
    println!("Dict.get is an error: {kind:?}");
    Ok(())
}

fn die(_: &mut Option<u32>, _: ()) {
    process::abort();
}

fn main() -> Result<()> {
    proc_core::init();
    locks()?;
    data()?;
    signals()?;
    queues()?;
    pipes()?;
    managers()
}
