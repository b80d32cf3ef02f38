//! Async code that waits for tasks of a pool.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use anyhow::Result;
use proc_core::Pool;

fn square(x: u64) -> u64 {
    x * x
}

async fn work(pool: &Pool) -> Result<u64> {
    // Each task runs from now on.
    let first = pool.apply_async(square, 3)?;
    let second = pool.apply_async(square, 4)?;
    Ok(first.await? + second.await?)
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(2).build()?;
    println!("{}", block_on(work(&pool))?);
    Ok(())
}

/// What a runtime does for one future.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let this = Arc::new(Awake(thread::current()));
    let waker = Waker::from(this);
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A thread that is to look at its future again.
struct Awake(Thread);

impl Wake for Awake {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
