//! Results in any order, each with its input's index.

use anyhow::Result;
use proc_core::Pool;

fn length(word: String) -> usize {
    word.len()
}

fn main() -> Result<()> {
    proc_core::init();
    let words = ["one", "two", "three"].map(String::from);
    let pool = Pool::builder().processes(2).build()?;
    let results =
        pool.imap_unordered(length, words.clone());
    for result in results.indexed() {
        let (index, number) = result?;
        println!("{}: {number}", words[index]);
    }
    Ok(())
}
