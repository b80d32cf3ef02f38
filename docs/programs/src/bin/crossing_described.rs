//! Values of two kinds in one list.

use anyhow::Result;
use proc_core::{Described, Pool};
use serde::{Deserialize, Serialize};

fn size(Described(setting): Described<Setting>) -> usize {
    match setting {
        Setting::Number(_) => 1,
        Setting::Names(names) => names.len(),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Setting {
    Number(f64),
    Names(Vec<String>),
}

fn main() -> Result<()> {
    proc_core::init();
    let names = ["red".into(), "green".into()];
    let settings = [
        Setting::Number(0.5),
        Setting::Names(names.into()),
    ];
    let pool = Pool::builder().processes(2).build()?;
    println!(
        "{:?}",
        pool.map(size, settings.map(Described))?
    );
    Ok(())
}
