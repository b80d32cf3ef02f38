//! A process that owns a table, and others that use it.

use std::collections::HashMap;

use anyhow::Result;
use proc_core::Process;
use proc_core::ipc::{self, IpcReceiver, IpcSender};
use serde::{Deserialize, Serialize};

fn measure((owner, word): (IpcSender<Request>, String)) {
    let request = Request::Set(word.clone(), word.len());
    owner.send(request).expect("an owner");
}

fn main() -> Result<()> {
    proc_core::init();
    let (owner, requests) = ipc::channel()?;
    let table = Process::new(own, requests).start()?;
    let mut children = Vec::new();
    for word in ["one", "three"] {
        let args = (owner.clone(), word.to_owned());
        children.push(Process::new(measure, args).start()?);
    }
    for child in children {
        child.join()?;
    }

    for word in ["one", "two", "three"] {
        let (reply, answer) = ipc::channel()?;
        owner.send(Request::Get(word.to_owned(), reply))?;
        println!("{word} {}", answer.recv()?);
    }
    drop(owner); // the owner ends when all senders are gone
    table.join()?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
enum Request {
    Set(String, usize),
    Get(String, IpcSender<usize>),
}

fn own(requests: IpcReceiver<Request>) {
    let mut lengths = HashMap::new();
    while let Ok(request) = requests.recv() {
        match request {
            Request::Set(word, length) => {
                lengths.insert(word, length);
            }
            Request::Get(word, reply) => {
                let length = lengths.get(&word).copied();
                let length = length.unwrap_or(0);
                reply.send(length).expect("a receiver");
            }
        }
    }
}
