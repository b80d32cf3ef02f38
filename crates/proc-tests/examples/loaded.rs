//! A library that another program loads: in `tests/it/loaded_library.rs`, Python loads it.
#![allow(unsafe_code, reason = "a function that is found by its name")]

use proc_core::{Child, Error, ErrorKind, Pool, Process, StartMethod};

fn increment(x: u32) -> u32 {
    x + 1
}

fn use_both(start_method: StartMethod) -> Result<Vec<u32>, Error> {
    let (reader, writer) = std::io::pipe().expect("there are descriptors");
    let process = Process::new(increment, 41).start_method(start_method).stdout(writer);
    let child = process.start().and_then(Child::join)?;
    // A fork server that is a copy of this process must not keep the writing end.
    std::io::read_to_string(reader).expect("it is text");
    let pool = Pool::builder().processes(2).start_method(start_method).build()?;
    let mut results = pool.map(increment, [1, 2])?;
    results.push(child);
    Ok(results)
}

/// Prints the results of a process and a pool (with `Fork`, only of a process), or their error.
// SAFETY: no other function of the program has this name.
#[unsafe(no_mangle)]
pub extern "C" fn use_processes(start_method: i32, is_to_init: i32) {
    if is_to_init != 0 {
        proc_core::init();
    }
    let start_method = match start_method {
        0 => StartMethod::Forkserver,
        1 => StartMethod::Spawn,
        _ => StartMethod::Fork,
    };
    match start_method {
        StartMethod::Fork => {
            let child = Process::new(increment, 41)
                .start_method(start_method)
                .start()
                .and_then(Child::join);
            match child {
                Ok(result) => println!("result {result}"),
                Err(error) => println!("error {} {error}", kind(&error)),
            }
        }
        _ => match use_both(start_method) {
            Ok(results) => println!("results {results:?}"),
            Err(error) => println!("error {} {error}", kind(&error)),
        },
    }
}

fn kind(error: &Error) -> &'static str {
    match () {
        () if error.kind() == ErrorKind::Start => "start",
        () if error.kind() == ErrorKind::Invalid => "invalid",
        () => "other",
    }
}
