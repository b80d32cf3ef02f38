//! Channel ends given to a pool's initializer, state or preload are gone when the pool has ended.

use std::time::Duration;

use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use ipc_channel::{IpcError, TryRecvError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::{Error, Pool, StartMethod};

use crate::support::{Arguments, run};

programs![set_up_with_a_channel];

tests! {
    channels_of_initializers_end_with_the_pool: forkserver spawn fork;
    channels_of_states_end_with_the_pool: forkserver spawn fork;
    channels_of_preloads_end_with_the_pool: forkserver spawn fork;
}

type Sender = IpcSender<u32>;

fn tell(sender: Sender) {
    sender.send(std::process::id()).expect("somebody listens");
    // It lives as long as its process.
    std::mem::forget(sender);
}

fn build(
    place: &str,
    arguments: &Arguments,
    sender: Sender,
) -> Result<Pool<Option<Sender>>, Error> {
    let builder = Pool::builder().processes(2).start_method(arguments.start_method);
    match place {
        "initializer" => builder.initializer(tell, sender).state(|()| None, ()).build(),
        "preload" => builder.preload(tell, sender).state(|()| None, ()).build(),
        "state" => {
            let keep = |sender: Sender| {
                sender.send(std::process::id()).expect("somebody listens");
                Some(sender)
            };
            builder.state(keep, sender).build()
        }
        other => panic!("no such place: {other}"),
    }
}

/// Asserts that nobody has the other end any more. This takes less than a second on a quiet
/// machine.
#[track_caller]
fn expect_end(receiver: &IpcReceiver<u32>) {
    loop {
        match receiver.try_recv_timeout(Duration::from_secs(5)) {
            Ok(_) => {}
            Err(TryRecvError::IpcError(IpcError::Disconnected)) => return,
            Err(other) => panic!("somebody has the sender still: {other:?}"),
        }
    }
}

/// Ends a pool in one way, and waits until no process has the sender any more. Except for `drop`,
/// the `Pool` itself is dropped only after that.
fn set_up_with_a_channel(arguments: &Arguments) {
    let [place, way] = &arguments.rest[..] else { panic!("a place and a way") };
    let (sender, receiver) = ipc::channel().expect("a channel can be made");
    let pool = build(place, arguments, sender).expect("it can be built");
    pool.map(|x: u32| x, 0..20).expect("nothing fails");
    let first = receiver.recv().expect("it was set up");
    if place != "preload" {
        // A worker that starts later gets the channel too.
        let before = pool.worker_pids();
        assert!(before.contains(&first));
        kill(Pid::from_raw(first as i32), Signal::SIGKILL).expect("it is alive");
        while before.contains(&receiver.recv().expect("its replacement is set up")) {}
    }
    pool.map(|x: u32| x, 0..20).expect("nothing fails");
    match way.as_str() {
        "join" => {
            pool.close();
            pool.join().expect("the workers end");
            expect_end(&receiver);
            drop(pool);
        }
        "terminate" => {
            pool.terminate();
            expect_end(&receiver);
            pool.join().expect("it was terminated");
        }
        "terminate-join" => {
            pool.terminate();
            pool.join().expect("it was terminated");
            expect_end(&receiver);
            drop(pool);
        }
        "drop" => {
            drop(pool);
            expect_end(&receiver);
        }
        other => panic!("no such way: {other}"),
    }
    println!("gone");
}

fn expect_release(start_method: StartMethod, place: &str) {
    for way in ["join", "terminate-join", "terminate", "drop"] {
        let finished = run(set_up_with_a_channel, start_method, &[place, way]);
        assert_eq!(finished.succeeded(), "gone\n", "{place} {way}");
    }
}

fn channels_of_initializers_end_with_the_pool(start_method: StartMethod) {
    expect_release(start_method, "initializer");
}

fn channels_of_states_end_with_the_pool(start_method: StartMethod) {
    expect_release(start_method, "state");
}

fn channels_of_preloads_end_with_the_pool(start_method: StartMethod) {
    expect_release(start_method, "preload");
}
