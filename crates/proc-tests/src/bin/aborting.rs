//! A program whose panics abort the process: the tests build it with `-C panic=abort`.

use proc_core::{Child, Error, Pool, Process, StartMethod};

fn main() {
    proc_core::init();
    let start_method = match std::env::args().nth(1).as_deref() {
        Some("forkserver") => StartMethod::Forkserver,
        Some("spawn") => StartMethod::Spawn,
        Some("fork") => StartMethod::Fork,
        other => panic!("no start method: {other:?}"),
    };
    if !cfg!(panic = "abort") {
        println!("this program was not built with -C panic=abort");
        return;
    }
    let task = |x: u32| match x {
        3 => panic!("boom {x}"),
        4 => std::process::abort(),
        _ => x,
    };
    let print_result = |what: &str, result: Result<u32, Error>| match result {
        Ok(value) => println!("{what}: {value}"),
        Err(error) => {
            use std::os::unix::process::ExitStatusExt;
            let signal = error.exit_status().and_then(|status| status.signal());
            let place = error.panic_location().map(|place| {
                let (file, line) = place.split_once(':').unwrap_or((place, ""));
                assert!(line.starts_with(|c: char| c.is_ascii_digit()), "{place}");
                file.rsplit('/').next().unwrap_or(file)
            });
            let message = error.panic_message();
            let is_in_text = message.is_none_or(|message| error.to_string().contains(message));
            println!("{what}: {} {signal:?} {message:?} {place:?} {is_in_text}", error.is_death());
        }
    };
    for x in [3, 4] {
        let child = Process::new(task, x).start_method(start_method).start();
        print_result("process", child.and_then(Child::join));
    }
    let pool =
        Pool::builder().processes(2).start_method(start_method).build().expect("it can be built");
    for result in pool.options().chunksize(2).try_map(task, 0..6) {
        print_result("task", result);
    }
    println!("{:?}", pool.map(task, 0..3).expect("the pool goes on"));
}
