//! A function with data: one table for all tasks.

use std::collections::HashMap;

use anyhow::Result;
use proc_core::Pool;

type Prices = HashMap<String, u32>;

fn cost(prices: &Prices, order: (String, u32)) -> u32 {
    prices[&order.0] * order.1
}

fn main() -> Result<()> {
    proc_core::init();
    let prices = [("bread".into(), 4), ("tea".into(), 3)];
    let orders = [("tea".into(), 2), ("bread".into(), 1)];
    let pool = Pool::builder().processes(2).build()?;
    let shop = pool.with(Prices::from(prices));
    println!("{:?}", shop.map(cost, orders)?);
    Ok(())
}
