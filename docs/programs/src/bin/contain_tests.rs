//! A function that uses a pool, and its tests.

use anyhow::Result;
use proc_core::{Error, Pool};

fn parse(text: String) -> i64 {
    text.parse().expect("a number")
}

/// The sum of the numbers, or the first error.
fn sum(texts: &[&str]) -> Result<i64, Error> {
    let pool = Pool::builder().processes(2).build()?;
    let texts = texts.iter().map(|text| text.to_string());
    Ok(pool.map(parse, texts)?.into_iter().sum())
}

fn main() -> Result<()> {
    proc_core::init();
    println!("{}", sum(&["1", "2"])?);
    Ok(())
}

// Once in each file of tests, outside of modules: what
// `init` is for `main`.
#[cfg(test)]
proc_core::init_tests!();

#[test]
fn numbers_are_added() -> Result<()> {
    assert_eq!(sum(&["3", "4"])?, 7);
    Ok(())
}

#[test]
fn a_word_is_an_error() {
    let error = sum(&["3", "x"]).expect_err("a panic");
    assert!(error.is_panic());
    assert_eq!(error.task(), Some(1));
    let message = error.panic_message();
    let begins = |text: &str| text.starts_with("a num");
    assert!(message.is_some_and(begins));
}
