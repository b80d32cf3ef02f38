//! A task that ends with the future that waits for it.

use std::pin::pin;
use std::task::{Context, Waker};
use std::thread;

use anyhow::Result;
use proc_core::Pool;

fn work(input: u32) -> u32 {
    match input {
        0 => loop {
            thread::park(); // forever
        },
        _ => input * input,
    }
}

/// A handler of requests.
async fn handle(pool: &Pool, input: u32) -> Result<u32> {
    let task = pool.apply_async(work, input)?;
    Ok(task.cancel_on_drop().await?)
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(1).build()?;
    {
        // What a runtime does when the client is gone:
        // it drops the handler at its `await`.
        let mut request = pin!(handle(&pool, 0));
        let waker = Waker::noop();
        let mut context = Context::from_waker(waker);
        let poll = request.as_mut().poll(&mut context);
        assert!(poll.is_pending());
    }
    // A new worker has taken the place of the only one.
    println!("{}", pool.apply(work, 4)?);
    Ok(())
}
