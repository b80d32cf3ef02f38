//! A value that nests 2,000 levels deep.

use anyhow::Result;
use proc_core::{Deep, Pool};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Chain(Option<Box<Chain>>);

fn depth(Deep(mut chain): Deep<Chain>) -> u32 {
    let mut levels = 0;
    while let Some(next) = chain.0 {
        chain = *next;
        levels += 1;
    }
    levels
}

fn main() -> Result<()> {
    proc_core::init();
    let add = |chain, _| Chain(Some(Box::new(chain)));
    let chain = (0..2000).fold(Chain(None), add);
    let pool = Pool::builder().processes(2).build()?;
    println!("{} levels", pool.apply(depth, Deep(chain))?);
    Ok(())
}
