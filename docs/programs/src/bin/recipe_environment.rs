//! Environment, directory and stderr of the workers.

use std::{env, path::PathBuf};

use anyhow::Result;
use proc_core::{Pool, Stdio};

fn look(name: String) -> (String, PathBuf) {
    eprintln!("a warning that nobody reads");
    let value = env::var(name).expect("it is set");
    (value, env::current_dir().expect("a directory"))
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder()
        .processes(2)
        .env("STAGE", "test")
        .current_dir("/")
        .stderr(Stdio::null())
        .build()?;
    let (value, at) = pool.apply(look, "STAGE".into())?;
    println!("STAGE is {value}, in {}", at.display());
    Ok(())
}
