//! Channel ends and shared memory in arguments and results.

use ipc_channel::ipc::{self, IpcReceiver, IpcSender, IpcSharedMemory};
use proc_core::{Child, Process, StartMethod};
use serde::{Deserialize, Serialize};

use crate::support::descriptors::descriptors;
use crate::support::odd_value::{
    Odd, PANICS_WHEN_READ, PANICS_WHEN_WRITTEN, UNREADABLE, UNWRITABLE,
};
use crate::support::procfs::children;
use crate::support::{
    Arguments, assert_snapshot, describe, print_results, run, signal_self, wait_until,
};

programs![send_channels, send_too_many_channels, send_failing_values_with_channels];

tests! {
    channels_and_memory_cross: forkserver spawn fork;
    too_many_channels_are_refused: forkserver spawn fork;
    failing_values_leak_no_channel: forkserver spawn fork;
}

/// A value with channel ends and shared memory.
#[derive(Serialize, Deserialize)]
struct Parcel {
    number: u32,
    answers: IpcSender<u32>,
    questions: IpcReceiver<u32>,
    memory: IpcSharedMemory,
    name: String,
}

/// The other ends of a [`Parcel`].
struct Ends {
    answers: IpcReceiver<u32>,
    questions: IpcSender<u32>,
}

fn parcel(number: u32) -> (Parcel, Ends) {
    let (answer, answers) = ipc::channel().expect("a channel can be made");
    let (question, questions) = ipc::channel().expect("a channel can be made");
    let memory = IpcSharedMemory::from_bytes(&[number as u8; 5000]);
    let name = format!("parcel {number}");
    let parcel = Parcel { number, answers: answer, questions, memory, name };
    (parcel, Ends { answers, questions: question })
}

/// Answers one question, with the ends of a parcel.
fn answer(parcel: Parcel) -> u32 {
    assert!(*parcel.memory == [parcel.number as u8; 5000]);
    assert_eq!(parcel.name, format!("parcel {}", parcel.number));
    let question = parcel.questions.recv().expect("there is a question");
    parcel.answers.send(question + parcel.number).expect("somebody listens");
    parcel.number
}

/// Returns a parcel together with its other ends, so that its receiver can use it.
fn make(number: u32) -> (IpcSender<u32>, Parcel, IpcReceiver<u32>) {
    let (parcel, Ends { answers, questions }) = parcel(number);
    (questions, parcel, answers)
}

fn check((questions, parcel, answers): (IpcSender<u32>, Parcel, IpcReceiver<u32>)) {
    questions.send(1000).expect("the parcel is here");
    let number = answer(parcel);
    assert_eq!(answers.recv().expect("it was answered"), 1000 + number);
}

/// Channel ends and shared memory as arguments and results, of processes and of tasks.
fn send_channels(arguments: &Arguments) {
    let (parcel_1, ends) = parcel(1);
    let child = Process::new(answer, parcel_1).start_method(arguments.start_method).start();
    let child = child.expect("it can be started");
    ends.questions.send(100).expect("the child has the other end");
    assert_eq!(ends.answers.recv().expect("the child answers"), 101);
    assert_eq!(child.join().expect("it returns"), 1);
    // Nobody holds the child's ends any more, the fork server included. The fork server of a `Fork`
    // process is a copy of the caller with the caller's descriptors, and ends some time later.
    match arguments.start_method {
        StartMethod::Fork => wait_until(|| ends.questions.send(1).is_err()),
        _ => assert!(ends.questions.send(1).is_err()),
    }
    assert!(matches!(ends.answers.recv(), Err(ipc_channel::IpcError::Disconnected)));

    let child = Process::new(make, 2).start_method(arguments.start_method).start();
    check(child.and_then(Child::join).expect("it returns"));

    let pool = arguments.pool(2);
    let (parcels, ends): (Vec<_>, Vec<_>) = (0..100).map(parcel).unzip();
    for (ends, number) in ends.iter().zip(1000..) {
        ends.questions.send(number).expect("the parcel is here");
    }
    let numbers = pool.map(answer, parcels).expect("nothing fails");
    assert!(numbers.into_iter().eq(0..100));
    for (ends, number) in ends.into_iter().zip(0..) {
        assert_eq!(ends.answers.recv().expect("it was answered"), 1000 + 2 * number);
        assert!(matches!(ends.answers.recv(), Err(ipc_channel::IpcError::Disconnected)));
        assert!(ends.questions.send(1).is_err());
    }
    for chunksize in [1, 10] {
        for result in pool.options().chunksize(chunksize).imap(make, 0..50) {
            check(result.expect("nothing fails"));
        }
    }
    // Some values have channel ends, some have none.
    let maybe = |number: u32| number.is_multiple_of(3).then(|| make(number));
    let results = pool.options().chunksize(7).map(maybe, 0..50).expect("nothing fails");
    for (result, number) in results.into_iter().zip(0..50) {
        assert_eq!(result.is_some(), number % 3 == 0);
        result.into_iter().for_each(check);
    }
    let option = |sender: Option<IpcSender<u32>>| sender.is_some();
    let inputs = (0..50).map(|number| (number % 3 == 0).then(|| make(number).0));
    let results = pool.options().chunksize(7).map(option, inputs).expect("nothing fails");
    assert!(results.into_iter().eq((0..50).map(|number| number % 3 == 0)));
    println!("crossed");
}

fn channels_and_memory_cross(start_method: StartMethod) {
    assert_eq!(run(send_channels, start_method, &[]).succeeded(), "crossed\n");
}

/// Values with nearly as many channel ends as can cross, and with more than can cross.
fn send_too_many_channels(arguments: &Arguments) {
    let before = descriptors_without_a_pool(arguments);
    let pool = arguments.pool(1);
    let tell = |senders: Vec<IpcSender<usize>>| {
        for (number, sender) in senders.iter().enumerate() {
            sender.send(number).expect("somebody listens");
        }
        senders
    };
    for count in [1, 20, 50, 60] {
        let (senders, receivers) = senders(count);
        let back = pool.apply(tell, senders).expect("so many can cross");
        assert_eq!(back.len(), count);
        for (number, receiver) in receivers.iter().enumerate() {
            assert_eq!(receiver.recv().expect("it was told"), number);
        }
    }
    let make = |count: usize| senders(count).0;
    let in_worker = || pool.apply(|()| descriptors(), ()).expect("nothing fails");
    let mut of_worker = None;
    for round in 0..5 {
        for count in [65, 100, 300] {
            let errors = [
                pool.apply(tell, senders(count).0).expect_err("so many cannot cross"),
                pool.apply(make, count).expect_err("so many cannot cross"),
            ];
            if round == 0 {
                errors.iter().for_each(|error| println!("{}", describe(error)));
            }
        }
        // After one round the worker has all the memory for larger arguments, and its descriptors.
        assert_eq!(*of_worker.get_or_insert_with(in_worker), in_worker());
    }
    println!("{:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"));
    drop(pool);
    assert_eq!(descriptors(), before);
}

/// The descriptors that are open before there is a pool. The same must be open when the pool is
/// gone.
fn descriptors_without_a_pool(arguments: &Arguments) -> String {
    // If fork servers are executed, the first process makes one, which stays.
    let child = Process::new(|()| (), ()).start_method(arguments.start_method).start();
    child.and_then(Child::join).expect("it returns");
    // The fork server of a Fork process is collected when the next process is started.
    wait_until(|| {
        Process::new(|()| (), ()).start().and_then(Child::join).expect("it returns");
        arguments.start_method != StartMethod::Fork || children().len() == 1
    });
    descriptors()
}

fn senders(count: usize) -> (Vec<IpcSender<usize>>, Vec<IpcReceiver<usize>>) {
    (0..count).map(|_| ipc::channel().expect("a channel can be made")).unzip()
}

fn too_many_channels_are_refused(start_method: StartMethod) {
    let finished = run(send_too_many_channels, start_method, &[]);
    assert_snapshot("too_many_channels", 1, finished.succeeded());
}

/// A value with channel ends before and after a part that cannot be written or read.
#[derive(Serialize, Deserialize)]
struct Doomed {
    first: IpcSender<u32>,
    odd: Odd,
    last: (IpcReceiver<u32>, IpcSharedMemory),
}

fn doomed(odd: u32) -> Doomed {
    let ((first, _), (_, last)) = (
        ipc::channel().expect("a channel can be made"),
        ipc::channel().expect("a channel can be made"),
    );
    Doomed { first, odd: Odd(odd), last: (last, IpcSharedMemory::from_byte(1, 100)) }
}

fn send_failing_values_with_channels(arguments: &Arguments) {
    let before = descriptors_without_a_pool(arguments);
    let pool = arguments.pool(1);
    let in_worker = || pool.apply(|()| descriptors(), ()).expect("nothing fails");
    let take = |doomed: Doomed| {
        drop((doomed.first, doomed.last));
        doomed.odd.0
    };
    let kill = |doomed: Doomed| {
        if doomed.odd.0 == 0 {
            signal_self(nix::sys::signal::Signal::SIGKILL);
        }
    };
    let odd = [0, UNWRITABLE, UNREADABLE, PANICS_WHEN_WRITTEN, PANICS_WHEN_READ];
    let mut of_worker = None;
    for round in 0..20 {
        let taken = pool.try_map(take, odd.map(doomed));
        let made = pool.try_map(doomed, odd);
        let made = made.into_iter().map(|result| result.map(|doomed| doomed.odd.0));
        if round == 0 {
            print_results(taken);
            print_results(made);
        } else {
            assert_eq!(taken.iter().filter(|result| result.is_ok()).count(), 1);
            assert_eq!(made.filter(Result::is_ok).count(), 1);
        }
        assert_eq!(*of_worker.get_or_insert_with(in_worker), in_worker(), "round {round}");
        let killed = pool.try_map(kill, [0, 2, 0].map(doomed));
        assert_eq!(killed.iter().filter(|result| result.is_ok()).count(), 1);
    }
    drop(pool);
    assert_eq!(descriptors(), before);
    println!("flat");
}

fn failing_values_leak_no_channel(start_method: StartMethod) {
    let finished = run(send_failing_values_with_channels, start_method, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(!finished.stderr.contains("ipc-channel"), "{}", finished.stderr);
    assert_snapshot("channels_that_fail", 1, &finished.stdout);
}
