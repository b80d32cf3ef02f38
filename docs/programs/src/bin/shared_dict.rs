//! Two processes count words in one dictionary.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Dict, Manager};

fn add(count: &mut Option<u32>, by: u32) {
    *count.get_or_insert(0) += by;
}

fn count(counts: Dict<String, u32>) {
    for word in ["a", "b", "a"] {
        let word = word.to_owned();
        counts.update(word, add, 1).expect("it lives");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let counts = Manager::new()?.dict()?;
    let mut children = Vec::new();
    for _ in 0..2 {
        let process = Process::new(count, counts.clone());
        children.push(process.start()?);
    }

    for child in children {
        child.join()?;
    }
    let mut all: Vec<_> =
        counts.snapshot()?.into_iter().collect();
    all.sort();
    println!("{all:?}");
    Ok(())
}
