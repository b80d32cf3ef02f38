//! Something that each worker makes once.

use std::collections::HashMap;

use anyhow::Result;
use proc_core::Pool;

type Table = HashMap<String, usize>;

fn load(words: Vec<String>) -> Table {
    let row = |word: String| (word.clone(), word.len());
    words.into_iter().map(row).collect()
}

fn look_up(table: &mut Table, word: String) -> usize {
    table[&word]
}

fn main() -> Result<()> {
    proc_core::init();
    let words = ["one", "two", "three"].map(String::from);
    let pool = Pool::builder().processes(2);
    let pool = pool.state(load, words.to_vec()).build()?;
    let lengths = pool.with_state().map(look_up, words)?;
    println!("{lengths:?}");
    Ok(())
}
