//! A process that owns a table, and others that use it.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Dict, Manager};

// The manager is a process that owns the dictionary.
type Lengths = Dict<String, usize>;

fn measure((lengths, word): (Lengths, String)) {
    let length = word.len();
    lengths.insert(word, length).expect("an owner");
}

fn main() -> Result<()> {
    proc_core::init();
    let lengths = Manager::new()?.dict()?;
    let mut children = Vec::new();
    for word in ["one", "three"] {
        let args = (lengths.clone(), word.to_owned());
        children.push(Process::new(measure, args).start()?);
    }
    for child in children {
        child.join()?;
    }

    for word in ["one", "two", "three"] {
        let length = lengths.get(&word.to_owned())?;
        println!("{word} {}", length.unwrap_or(0));
    }
    Ok(())
}
