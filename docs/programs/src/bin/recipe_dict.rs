//! A dictionary that all tasks change.

use std::collections::BTreeMap;

use anyhow::Result;
use proc_core::Pool;
use proc_core::sync::{Dict, Manager};

fn count(counts: &Dict<char, u32>, letter: char) {
    let add = |n: &mut Option<u32>, ()| {
        *n = Some(n.unwrap_or(0) + 1);
    };
    counts.update(letter, add, ()).expect("it lives");
}

fn main() -> Result<()> {
    proc_core::init();
    let counts = Manager::new()?.dict()?;
    let pool = Pool::builder().processes(3).build()?;
    pool.with(counts.clone()).map(count, "sees".chars())?;
    let counts = BTreeMap::from_iter(counts.snapshot()?);
    println!("{counts:?}");
    Ok(())
}
