//! `proc_core::ipc` is ipc-channel, in the version whose channel ends cross.

use proc_core::ipc::{self, IpcReceiver, IpcSender, IpcSharedMemory};
use proc_core::{Pool, Process};

tests! {
    ends_of_the_library_cross;
    memory_of_the_library_crosses;
    ends_are_the_same_types;
}

fn answer((questions, answers): (IpcReceiver<u32>, IpcSender<u32>)) {
    while let Ok(question) = questions.recv() {
        answers.send(question + 1).expect("somebody listens");
    }
}

fn ends_of_the_library_cross() {
    let (ask, questions) = ipc::channel().expect("a channel can be made");
    let (answers, listen) = ipc::channel().expect("a channel can be made");
    let child = Process::new(answer, (questions, answers)).start().expect("it can be started");
    for number in 0..10 {
        ask.send(number).expect("the child listens");
        assert_eq!(listen.recv().expect("the child answers"), number + 1);
    }
    drop(ask);
    child.join().expect("it returns");
}

fn memory_of_the_library_crosses() {
    let pool = Pool::builder().processes(1).build().expect("it can be built");
    let sum = |memory: IpcSharedMemory| memory.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let sums = pool.map(sum, [IpcSharedMemory::from_bytes(&[1, 2, 3])]);
    assert_eq!(sums.expect("nothing fails"), [6]);
}

fn ends_are_the_same_types() {
    let (sender, receiver) = ipc::channel::<u32>().expect("a channel can be made");
    // A program that depends on the same version of ipc-channel has the same types.
    let sender: ipc_channel::ipc::IpcSender<u32> = sender;
    sender.send(7).expect("the other end is here");
    assert_eq!(receiver.recv().expect("it was sent"), 7);
}
