//! JSON of any shape, as arguments and results.

use anyhow::Result;
use proc_core::{Described, Pool};
use serde_json::Value;

fn pay(mut order: Described<Value>) -> Described<Value> {
    order["paid"] = true.into();
    order
}

fn main() -> Result<()> {
    proc_core::init();
    let text = r#"[{"tea": 2}, {"cup": {"size": 3}}]"#;
    let orders: Vec<_> = serde_json::from_str(text)?;
    let pool = Pool::builder().processes(2).build()?;
    for Described(order) in pool.map(pay, orders)? {
        println!("{order}");
    }
    Ok(())
}
