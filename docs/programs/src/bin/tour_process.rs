//! A function that runs in a process of its own.

use proc_core::{Error, Process};

fn greet(name: String) {
    println!("hello {name}");
}

fn main() -> Result<(), Error> {
    proc_core::init();
    let child = Process::new(greet, "bob".into()).start()?;
    child.join()
}
