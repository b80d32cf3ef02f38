//! Tasks that wait for a signal.

use anyhow::Result;
use proc_core::Pool;
use proc_core::sync::Event;

fn work(go: &Event, x: u32) -> u32 {
    go.wait();
    x * x
}

fn main() -> Result<()> {
    proc_core::init();
    let event = Event::new()?;
    let pool = Pool::builder().processes(2).build()?;
    let late = pool.with(event.clone());
    let mut squares = late.map_async(work, 0..4)?;
    let done = squares.is_ready();
    println!("{}", if done { "done" } else { "waiting" });
    event.set();
    println!("{:?}", squares.get()?);
    Ok(())
}
