//! A program that ends before `init` if it has no arguments. An executed fork server has none.

use proc_core::{ErrorKind, Process, StartMethod};

fn main() {
    let Some(start_method) = std::env::args().nth(1) else { std::process::exit(3) };
    proc_core::init();
    let start_method = match start_method.as_str() {
        "spawn" => StartMethod::Spawn,
        _ => StartMethod::Forkserver,
    };
    match Process::new(|x: u32| x + 1, 41).start_method(start_method).start() {
        Ok(child) => println!("{:?}", child.join()),
        Err(error) => println!("{} | {error}", error.kind() == ErrorKind::Start),
    }
}
