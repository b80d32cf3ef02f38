//! A first program, in ten lines: `cargo run -p proc-core --example first`
use proc_core::{Error, Pool};

fn parse(text: String) -> Result<i32, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}
fn main() -> Result<(), Error> {
    proc_core::init(); // first line of main: prepares for processes
    let pool = Pool::new()?; // one worker for each processor
    println!("{:?}", pool.map(parse, ["7", "seven"].map(String::from))?);
    Ok(())
}
