//! Mistakes that newcomers make first. `--cfg refused=…` selects one. Without it, the program
//! compiles. The table of the page `docs/tour.md` has a part of each message of the compiler.

#![allow(unexpected_cfgs, reason = "the test passes them")]

use anyhow::Result;
use proc_core::{Pool, Process};

fn increment(x: u64) -> u64 {
    x + 1
}

/// A type without serde's traits.
#[cfg(refused = "derive")]
struct Point(i64);

#[cfg(refused = "no result")]
fn without_a_result() {
    Pool::new()?;
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(2).build()?;
    let numbers = vec![1_u64, 2];

    #[cfg(refused = "captures")]
    {
        let factor = numbers[0];
        pool.map(|x: u64| x * factor, [1])?;
    }
    #[cfg(refused = "moves")]
    {
        let factor = numbers[0];
        pool.map(move |x: u64| x * factor, [1])?;
    }
    #[cfg(refused = "derive")]
    pool.map(|point: Point| point.0, [Point(1)])?;
    #[cfg(refused = "reference")]
    {
        fn greet(name: &str) {
            println!("hello {name}");
        }
        Process::new(greet, "bob").start()?.join()?;
    }
    #[cfg(refused = "anyhow")]
    pool.map(|x: u64| -> Result<u64> { Ok(x) }, [1])?;
    #[cfg(refused = "two arguments")]
    {
        fn add(a: i64, b: i64) -> i64 {
            a + b
        }
        pool.map(add, [(1, 2)])?;
    }
    #[cfg(refused = "no argument")]
    {
        fn hello() {
            println!("hello");
        }
        Process::new(hello, ()).start()?.join()?;
    }
    #[cfg(refused = "references")]
    pool.map(increment, &numbers)?;
    #[cfg(refused = "vector")]
    pool.map(|(x, k): (u64, u64)| x * k, numbers.map(|x| (x, 2)))?;
    #[cfg(refused = "not started")]
    Process::new(increment, 1).join()?;
    #[cfg(refused = "result")]
    for result in pool.imap(increment, numbers.clone()) {
        println!("{}", result + 1);
    }

    println!("{:?}", pool.map(increment, numbers)?);
    println!("{}", Process::new(increment, 1).start()?.join()?);
    Ok(())
}
