//! What the benchmark `shared-state` measures of iceoryx2, a peer for shared memory.
//!
//!     cargo build --release --manifest-path crates/proc-bench/iceoryx2/Cargo.toml
//!     crates/proc-bench/iceoryx2/target/release/iceoryx2-peer times ITEMS
//!     crates/proc-bench/iceoryx2/target/release/iceoryx2-peer survival TRIALS
//!
//! `times` prints the nanoseconds for an item from one process to another. Both processes look
//! for an item or for room again and again. (The publisher yields the processor meanwhile, and
//! sleeps only if it waits for very long.) The subscriber does not overflow, and the publisher waits
//! for room. Still some 17,000 of 300,000 items were lost in four of eight runs of version 0.10.0
//! (2026-11-26). `times` says on stderr how many are lost.
//!
//! `survival` prints in how many trials the subscriber went on to receive items of one publisher
//! after the other one was killed.

use std::env;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

type Service = PortFactory<ipc::Service, u64, ()>;

/// How long a trial waits for those that should go on.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    set_log_level(LogLevel::Error);
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |at: usize| -> Result<u64> { Ok(arguments.get(at).context("usage")?.parse()?) };
    match arguments.first().map(String::as_str) {
        Some("times") => println!("{}", time(number(1)?)?),
        Some("survival") => println!("{}", survivals(number(1)?)?),
        Some("publish") => publish(arguments.get(2).context("no name")?, number(1)?)?,
        _ => bail!("usage: iceoryx2-peer times ITEMS | survival TRIALS"),
    }
    Ok(())
}

fn open(node: &Node<ipc::Service>, name: &str) -> Result<Service> {
    Ok(node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<u64>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(1000)
        .open_or_create()?)
}

fn start_publisher(name: &str, items: u64) -> Result<Child> {
    let program = env::current_exe()?;
    Ok(Command::new(program).args(["publish", &items.to_string(), name]).spawn()?)
}

fn publish(name: &str, items: u64) -> Result<()> {
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let publisher = open(&node, name)?
        .publisher_builder()
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    for item in 0..items {
        publisher.send_copy(item)?;
    }
    Ok(())
}

/// Receives an item. Returns `None` if there is none for too long.
fn receive(subscriber: &Subscriber<ipc::Service, u64, ()>) -> Result<Option<u64>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for _ in 0..1000 {
            if let Some(sample) = subscriber.receive()? {
                return Ok(Some(*sample));
            }
            std::hint::spin_loop();
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
    }
}

fn time(items: u64) -> Result<f64> {
    let name = format!("proc-core/times/{}", std::process::id());
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let subscriber = open(&node, &name)?.subscriber_builder().create()?;
    let mut child = start_publisher(&name, items + 1)?;
    ensure!(receive(&subscriber)? == Some(0), "the first item that came is not the one that was sent first");
    let begin = Instant::now();
    let (mut last, mut lost) = (0, 0);
    while last < items {
        let item = receive(&subscriber)?.context("the last items are lost")?;
        lost += item - last - 1;
        last = item;
    }
    let time = begin.elapsed().as_nanos() as f64 / items as f64;
    if lost > 0 {
        eprintln!("iceoryx2: {lost} of {items} items are lost");
    }
    child.wait()?;
    Ok(time)
}

fn survivals(trials: u64) -> Result<u64> {
    let mut survived = 0;
    for trial in 0..trials {
        let name = format!("proc-core/survival/{}/{trial}", std::process::id());
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        let subscriber = open(&node, &name)?.subscriber_builder().create()?;
        let mut other = start_publisher(&name, u64::MAX)?;
        let mut killed = start_publisher(&name, u64::MAX)?;
        // Both publish the numbers from 0.
        let mut firsts = 0;
        while firsts < 2 {
            firsts += u64::from(receive(&subscriber)?.context("no publisher has begun")? == 0);
        }
        let until = Instant::now() + Duration::from_micros(137 * trial);
        while Instant::now() < until {
            receive(&subscriber)?;
        }
        killed.kill()?;
        killed.wait()?;
        // What the dead one has sent may come first: at most what the buffer holds.
        let mut received = 0;
        while received < 100_000 && receive(&subscriber)?.is_some() {
            received += 1;
        }
        survived += u64::from(received == 100_000);
        other.kill()?;
        other.wait()?;
    }
    Ok(survived)
}
