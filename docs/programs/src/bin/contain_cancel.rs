//! A task that ends with the future that waits for it.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::thread;

use anyhow::Result;
use proc_core::{Error, Pool, Task};

/// Cancels the task if nobody waits for it any more.
struct Bound<T>(Task<T>);

impl<T> Future for Bound<T> {
    type Output = Result<T, Error>;

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Bound<T> {
    fn drop(&mut self) {
        // After the result has come, it does nothing.
        self.0.cancel();
    }
}

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
    Ok(Bound(task).await?)
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
    // The only worker is free again.
    println!("{}", pool.apply(work, 4)?);
    Ok(())
}
