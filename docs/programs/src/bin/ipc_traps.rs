//! Traps of ipc-channel: each function shows one of them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use proc_core::Process;
use proc_core::ipc::{self, IpcReceiver, IpcSender};

/// Never ends: `send` waits for a receiver that is gone.
fn send_a_long_message(_: ()) {
    let (sender, receiver) = ipc::bytes_channel().unwrap();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        drop(receiver);
    });
    let _ = sender.send(&vec![0; 1 << 20]);
}

/// Never ends: `send` waits until a message is received.
/// `counts` gets the number of messages that were sent.
fn fill_a_channel(counts: IpcSender<u32>) {
    let (sender, _receiver) = ipc::channel().unwrap();
    for count in 1.. {
        sender.send(()).unwrap();
        counts.send(count).unwrap();
    }
}

/// Waits for a message until the deadline. `None`: the
/// time is over, a signal came, or receiving failed.
fn receive_until(
    receiver: &IpcReceiver<u32>,
    deadline: Instant,
) -> Option<u32> {
    // Timeouts are rounded down to milliseconds. One of
    // more than 24 days never ends.
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let rounded_up = left + Duration::from_micros(999);
    let max = Duration::from_secs(1 << 20);
    receiver.try_recv_timeout(rounded_up.min(max)).ok()
}

fn main() -> Result<()> {
    proc_core::init();

    let mut sending =
        Process::new(send_a_long_message, ()).start()?;
    let patience = Duration::from_millis(500);
    let ended = sending.join_timeout(patience)?.is_some();
    println!("the long message was sent: {ended}");
    sending.kill()?;
    let killed = sending.join().is_err();
    println!("its process was killed: {killed}");

    let (counts, received) = ipc::channel()?;
    let filling =
        Process::new(fill_a_channel, counts).start()?;
    let patience = Duration::from_secs(2);
    let mut last = received.recv()?;
    while let Ok(count) =
        received.try_recv_timeout(patience)
    {
        last = count;
    }
    let full = (100..=1000).contains(&last);
    println!("full after 100 to 1,000 messages: {full}");
    filling.kill()?;
    let killed = filling.join().is_err();
    println!("its process was killed: {killed}");

    let (_sender, receiver) = ipc::channel::<u32>()?;
    let deadline =
        Instant::now() + Duration::from_micros(1500);
    let nothing =
        receive_until(&receiver, deadline).is_none();
    let waited = nothing && Instant::now() >= deadline;
    println!("waited until the deadline: {waited}");
    Ok(())
}
