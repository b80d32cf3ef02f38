//! A program that ends at once when it has no arguments, as when it is executed again.

use proc_core::{Context, Process};

fn main() {
    let Some(way) = std::env::args().nth(1) else { std::process::exit(3) };
    proc_core::init();
    let context = match way.as_str() {
        "spawn" => Context::Spawn,
        _ => Context::Forkserver,
    };
    match Process::new(|x: u32| x + 1, 41).context(context).start() {
        Ok(child) => println!("{:?}", child.join()),
        Err(error) => println!("{} | {error}", error.is_start()),
    }
}
