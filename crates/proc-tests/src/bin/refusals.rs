//! Calls with functions that capture, and shared state of wrong types, which the compiler must
//! refuse. `--cfg refused=…` selects one. Without it, the program compiles.
//!
//! trybuild is of no use here: the compiler refuses when it generates code, the error is in the
//! sources of proc-core, and another target directory would build all dependencies again.

#![allow(unexpected_cfgs, reason = "the test passes them")]

use proc_core::{Pool, Process};

fn double(x: u32) -> u32 {
    2 * x
}

fn main() {
    proc_core::init();
    let factor = std::env::args().count() as u32;
    let pool = Pool::builder().processes(2).build().expect("it can be built");

    #[cfg(refused = "process")]
    let _ = Process::new(move |x: u32| x * factor, 1).start();
    #[cfg(refused = "pointer")]
    let _ = Process::new(double as fn(u32) -> u32, factor).start();
    #[cfg(refused = "map")]
    let _ = pool.map(move |x: u32| x * factor, [1]);
    #[cfg(refused = "try_map")]
    let _ = pool.try_map(move |x: u32| x * factor, [1]);
    #[cfg(refused = "imap")]
    let _ = pool.imap(move |x: u32| x * factor, [1]).next();
    #[cfg(refused = "imap_unordered")]
    let _ = pool.imap_unordered(move |x: u32| x * factor, [1]).next();
    #[cfg(refused = "apply")]
    let _ = pool.apply(move |x: u32| x * factor, 1);
    #[cfg(refused = "apply_async")]
    let _ = pool.apply_async(move |x: u32| x * factor, 1);
    #[cfg(refused = "map_async")]
    let _ = pool.map_async(move |x: u32| x * factor, [1]);
    #[cfg(refused = "preload")]
    let _ = Pool::builder().preload(move |x: u32| drop(x * factor), 1).build();
    #[cfg(refused = "options")]
    let _ = pool.options().chunksize(1).map(move |x: u32| x * factor, [1]);
    #[cfg(refused = "initializer")]
    let _ = Pool::builder().initializer(move |x: u32| drop(x * factor), 1).build();
    #[cfg(refused = "state")]
    let _ = Pool::builder().state(move |x: u32| x * factor, 1).build();
    #[cfg(refused = "worker_exit")]
    let _ = Pool::builder().worker_exit(move |()| drop(factor)).build();
    #[cfg(refused = "with_state")]
    let _ = pool.with_state().map(move |(): &mut (), x: u32| x * factor, [1]);
    #[cfg(refused = "connection")]
    let _ = pool.with(proc_core::sync::pipe::<u32, u32>().expect("there is memory").0);
    #[cfg(refused = "broadcast")]
    let _ = pool.broadcast(move |x: u32| x * factor, 1);

    #[cfg(refused = "value of a string")]
    let _ = proc_core::sync::Value::new(String::new());
    #[cfg(refused = "value of a reference")]
    let _ = proc_core::sync::Value::new("text");
    #[cfg(refused = "value of a bool")]
    let _ = proc_core::sync::Value::new(true);
    #[cfg(refused = "mutex of a vector")]
    let _ = proc_core::sync::Mutex::new(vec![1_u8]);
    #[cfg(refused = "array of options")]
    let _ = proc_core::sync::Array::from_slice(&[Some(1_u32)]);
    #[cfg(refused = "array of large elements")]
    let _ = proc_core::sync::Array::<[u64; 2]>::zeroed(4);
    #[cfg(refused = "value of nothing")]
    let _ = proc_core::sync::Value::new([0_u8; 0]);
    #[cfg(refused = "mutex of nothing")]
    let _ = proc_core::sync::Mutex::new([0_u8; 0]);

    let child = Process::new(double, factor).start().expect("it can be started");
    println!("{:?}", child.join().expect("it returns"));
    println!("{:?}", pool.map(|(x, factor): (u32, u32)| x * factor, [(3, 2)]).expect("it returns"));
}
