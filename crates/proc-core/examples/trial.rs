//! trial
use proc_core::{Pool, Process};
use std::time::Instant;
fn square(x: i64) -> i64 {
    x * x
}
fn sometimes(x: u32) -> u32 {
    if x == 3 {
        let pid = std::process::id();
        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(5));
    }
    x
}
fn main() -> Result<(), proc_core::Error> {
    proc_core::init();
    let t = Instant::now();
    let pool = Pool::builder().processes(2).build()?;
    println!("build {:?}", t.elapsed());
    let t = Instant::now();
    println!("{:?}", pool.map(square, [3, 4, 5, 6, 6, 7, 87, 8, 8])?);
    println!("map {:?}", t.elapsed());
    for r in pool.try_map(sometimes, 0..8) {
        match r {
            Ok(v) => println!("{v}"),
            Err(e) => println!("{e}"),
        }
    }
    println!(
        "{:?}",
        pool.try_map(
            |x: u32| {
                if x == 2 {
                    panic!("no {x}")
                }
                x
            },
            0..4
        )
    );
    for n in [1_000_000u64] {
        let t = Instant::now();
        let v = pool.map(|x: u64| x + 1, 0..n)?;
        println!("{n} tasks {:?} {}", t.elapsed(), v.len());
        let t = Instant::now();
        let v = pool.options().chunksize(1).map(|x: u64| x + 1, 0..100_000)?;
        println!("1e5 at 1: {:?} {}", t.elapsed(), v.len());
    }
    let t = Instant::now();
    for i in 0..10000 {
        assert_eq!(pool.apply(|x: u64| x + 1, i)?, i + 1);
    }
    println!("round trip {:?}", t.elapsed() / 10000);
    let t = Instant::now();
    let s: u64 = pool.imap(|x: u64| x, 0..).take(10000).map(|r| r.unwrap()).sum();
    println!("imap {s} {:?}", t.elapsed());
    let big = pool.map(|v: Vec<u8>| v, (0..4).map(|_| vec![7u8; 3 << 20]))?;
    println!("big {}", big.iter().map(Vec::len).sum::<usize>());
    let t = Instant::now();
    drop(pool);
    println!("drop {:?}", t.elapsed());
    let t = Instant::now();
    for _ in 0..1000 {
        Process::new(|()| (), ()).start()?.join()?;
    }
    println!("start+join {:?}", t.elapsed() / 1000);
    let t = Instant::now();
    for _ in 0..200 {
        let p = Pool::builder().processes(2).build()?;
        p.map(square, [1, 2])?;
    }
    println!("pool {:?}", t.elapsed() / 200);
    Ok(())
}
