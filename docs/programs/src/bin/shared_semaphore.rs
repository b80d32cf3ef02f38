//! Two of four processes at a time.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Barrier, Semaphore, Value};

type Count = Value<u32>;
type Args = (Semaphore, Barrier, Count, Count);

// `pair` makes sure that two of them meet inside.

fn work((room, pair, inside, most): Args) {
    let _permit = room.acquire().expect("a permit");
    most.fetch_max(inside.fetch_add(1) + 1);
    pair.wait().expect("the other one lives");
    inside.fetch_sub(1);
}

fn main() -> Result<()> {
    proc_core::init();
    let room = Semaphore::new(2)?;
    let pair = Barrier::new(2)?;
    let (inside, most) = (Value::new(0)?, Value::new(0)?);
    let args = (room, pair, inside, most.clone());
    let mut children = Vec::new();
    for _ in 0..4 {
        let child = Process::new(work, args.clone());
        children.push(child.start()?);
    }

    for child in children {
        child.join()?;
    }
    println!("{} at a time", most.get());
    Ok(())
}
