//! Chunks that an engine for other machines gives to a pool.

#![cfg(feature = "remote")]

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use nix::sys::stat::Mode;
use proc_core::Pool;
use proc_core::remote::{self, CallOptions, Chunk, Function, Submitted};

proc_core::init_tests!();

/// Returns when the parent has closed its end of the named pipe.
fn wait(pipe: String) {
    fs::read(pipe).expect("the pipe is there");
}

/// Makes a named pipe. Returns its path.
fn make_pipe(directory: &Path, name: &str) -> String {
    let path = directory.join(name);
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a named pipe can be made");
    path.to_str().expect("UTF-8").to_owned()
}

/// Waits until a task waits at the named pipe. The task goes on when the returned end is dropped.
fn hold(pipe: &str) -> File {
    OpenOptions::new().write(true).open(pipe).expect("the pipe is there")
}

fn submit(pool: &Pool, function: Function, pipe: &str, count: usize) -> Submitted {
    let mut arguments = Vec::new();
    for _ in 0..count {
        remote::encode_argument(&pipe.to_owned(), &mut arguments).expect("a text");
    }
    let options = CallOptions { chunksize: Some(1), retries: 1, ..CallOptions::default() };
    let chunk = Chunk {
        function,
        job: 1,
        number: 0,
        first: 0,
        count,
        arguments: &arguments,
        data: None,
        options,
    };
    remote::submit(pool, chunk).expect("the pool is open")
}

#[test]
fn chunk_that_no_worker_has_claimed_is_withdrawn() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = make_pipe(directory.path(), "pipe");
    let pool = Pool::builder().processes(1).build().expect("a pool");
    for others in [1, 8] {
        let running = pool.map_async(wait, vec![pipe.clone(); others]).expect("the pool is open");
        let held = hold(&pipe);
        let submitted = submit(&pool, Function::of(wait).expect("a function"), &pipe, 1);
        assert!(submitted.withdraw(), "{others}");
        assert!(submitted.task.get().is_err_and(|error| error.is_cancelled()));
        assert!(running.cancel());
        drop(held);
    }
}

/// The rest of a chunk is not withdrawn. Otherwise all tasks would run again on another machine.
#[test]
fn chunk_of_which_a_task_has_run_is_not_withdrawn() {
    let fails = |pipe: String| -> () {
        wait(pipe);
        panic!("it fails");
    };
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = make_pipe(directory.path(), "pipe");
    let pipe_of_others = make_pipe(directory.path(), "others");
    let calls = [(Function::of(wait), 2), (Function::of(fails), 1), (Function::of(fails), 2)];
    for (function, count) in calls {
        let function = function.expect("a function");
        for others in [1, 8] {
            let pool = Pool::builder().processes(1).build().expect("a pool");
            let mut submitted = submit(&pool, function, &pipe, count);
            let held = hold(&pipe);
            // These tasks go before those of the chunk that the worker has not claimed.
            let options = pool.options().priority(1);
            let tasks = options.chunksize(1).map_async(wait, vec![pipe_of_others.clone(); others]);
            drop(held);
            let held = hold(&pipe_of_others);
            // The first task of the chunk has run. This takes in its result.
            assert!(!submitted.task.is_ready());
            assert!(!submitted.withdraw(), "{count} {others}");
            assert!(tasks.expect("the pool is open").cancel());
            drop(held);
        }
    }
}
