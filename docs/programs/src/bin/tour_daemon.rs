//! A process that ends with the program.

use std::{thread, time::Duration};

use anyhow::Result;
use proc_core::Process;
use proc_core::ipc::{self, IpcSender};

fn tick(ready: IpcSender<()>) {
    println!("the daemon ticks");
    ready.send(()).expect("a receiver");
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let (ready, is_ready) = ipc::channel()?;
    let child = Process::new(tick, ready).daemon(true);
    let _child = child.start()?;
    is_ready.recv()?;
    println!("the program ends");
    Ok(())
}
