//! Traps of ipc-channel: each function shows one of them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use proc_core::Process;
use proc_core::ipc::{self, IpcReceiver, IpcSender};

/// Never ends: `send` waits for a receiver that is gone.
fn send_a_long_message(_: ()) {
    let (sender, receiver) = ipc::bytes_channel().expect("a channel can be made");
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        drop(receiver);
    });
    let _ = sender.send(&vec![0; 1 << 20]);
}

/// Never ends: `send` waits until a message is received. `counts` gets the number of messages.
fn fill_a_channel(counts: IpcSender<u32>) {
    let (sender, _receiver) = ipc::channel::<()>().expect("a channel can be made");
    for count in 1.. {
        sender.send(()).expect("the channel has a receiver");
        counts.send(count).expect("main receives the counts");
    }
}

/// Waits for a message until the deadline, and not for less. `None`: the time is over, or the
/// channel is closed.
fn receive_until<T>(receiver: &IpcReceiver<T>, deadline: Instant) -> Option<T>
where
    T: for<'de> serde::Deserialize<'de> + serde::Serialize,
{
    // Timeouts are rounded down to milliseconds, and one of more than 24 days never ends.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    receiver.try_recv_timeout(left.min(Duration::from_secs(1 << 20))).ok()
}

fn main() -> Result<()> {
    proc_core::init();

    let mut sending = Process::new(send_a_long_message, ()).start()?;
    let ended = sending.join_timeout(Duration::from_millis(500))?;
    println!("the long message was sent: {}", ended.is_some());
    sending.kill()?;
    println!("its process was killed: {}", sending.join().is_err());

    let (counts, received) = ipc::channel()?;
    let filling = Process::new(fill_a_channel, counts).start()?;
    let mut last = received.recv()?;
    while let Ok(count) = received.try_recv_timeout(Duration::from_secs(2)) {
        last = count;
    }
    println!("the channel was full after 100 to 1,000 messages: {}", (100..=1000).contains(&last));
    filling.kill()?;
    println!("its process was killed: {}", filling.join().is_err());

    let (_sender, receiver) = ipc::channel::<u32>()?;
    let deadline = Instant::now() + Duration::from_micros(1500);
    let nothing = receive_until(&receiver, deadline).is_none();
    println!("nothing came before the deadline: {}", nothing && Instant::now() >= deadline);
    Ok(())
}
