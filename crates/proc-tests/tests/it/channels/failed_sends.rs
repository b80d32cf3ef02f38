//! A user's own `send` that fails while it encodes leaves the channel ends of its value in a list
//! of ipc-channel. The next message of the library in that thread must not take them along.

use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use proc_core::{Child, Error, Process, StartMethod, Task};

use crate::support::descriptors::count_descriptors;
use crate::support::odd_value::{Odd, UNWRITABLE};
use crate::support::{Arguments, Program, procfs, run, wait_until};

programs![fail_in_the_program, fail_in_tasks, fail_in_children, fail_in_set_up];

tests! {
    failed_sends_of_the_program_disturb_no_call_and_no_start: forkserver spawn fork;
    failed_sends_of_tasks_disturb_no_later_task: forkserver spawn fork;
    failed_sends_of_children_disturb_no_result: forkserver spawn fork;
    failed_sends_of_initializers_disturb_no_task: forkserver spawn fork;
}

/// Sends a value whose first part is a channel end, and whose second part cannot be encoded.
fn fail_to_send() {
    let (to, _from) = ipc::channel::<(IpcSender<u32>, Odd)>().expect("there are descriptors");
    let (end, _other_end) = ipc::channel().expect("there are descriptors");
    to.send((end, Odd(UNWRITABLE))).expect_err("the second part cannot be encoded");
}

fn send_five(to: IpcSender<u32>) {
    to.send(5).expect("somebody receives it");
}

/// Returns a receiver of 7.
fn give_seven(_: ()) -> IpcReceiver<u32> {
    let (sender, receiver) = ipc::channel().expect("there are descriptors");
    sender.send(7).expect("the receiver is here");
    receiver
}

/// Calls `call` with a channel end after a failed send, and receives what the function sends.
fn expect_five(call: impl FnOnce(IpcSender<u32>) -> Result<(), Error>) {
    fail_to_send();
    let (sender, receiver) = ipc::channel().expect("there are descriptors");
    call(sender).expect("the value has its channel end");
    assert_eq!(receiver.recv().expect("the function has sent it"), 5);
}

/// Waits until few descriptors are open. The pool itself opens and closes a few descriptors now and
/// then. If a kind of call leaked an end, more would be open after the rounds of these tests.
fn expect_few_descriptors(at_most: usize) {
    wait_until(|| count_descriptors() < at_most);
}

/// Runs a program that must print `fine`, and nothing to stderr.
#[track_caller]
fn expect_fine(program: Program, start_method: StartMethod) {
    let finished = run(program, start_method, &[]);
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("fine\n", ""));
}

fn fail_in_the_program(arguments: &Arguments) {
    let process = |end| Process::new(send_five, end).start_method(arguments.start_method);
    expect_five(|end| process(end).start().and_then(Child::join));
    let fork_servers = procfs::children();
    for _ in 0..5 {
        expect_five(|end| process(end).start().and_then(Child::join));
        fail_to_send();
        let child = Process::new(|x: u32| x + 1, 1).start_method(arguments.start_method).start();
        assert_eq!(child.and_then(Child::join).expect("it returns"), 2);
    }
    if arguments.start_method != StartMethod::Fork {
        assert_eq!(procfs::children(), fork_servers, "the fork server goes on");
    }
    let pool = arguments.pool(1);
    pool.apply(|x: u32| x, 1).expect("nothing fails");
    wait_until(|| pool.worker_pids().len() == 1);
    let workers = pool.worker_pids();
    let call_all = || {
        expect_five(|end| pool.apply(send_five, end));
        expect_five(|end| pool.apply_async(send_five, end).and_then(Task::get));
        expect_five(|end| pool.map(send_five, [end]).map(drop));
        expect_five(|end| pool.try_map(send_five, [end]).remove(0));
        expect_five(|end| pool.imap(send_five, [end]).next().expect("one result"));
        expect_five(|end| pool.imap_unordered(send_five, [end]).next().expect("one result"));
        expect_five(|end| pool.map_async(send_five, [end]).and_then(Task::get).map(drop));
        // Values without channel ends. A message that wakes the worker is sent for them.
        fail_to_send();
        assert_eq!(pool.map(|x: u32| x + 1, [1, 2]).expect("nothing fails"), [2, 3]);
    };
    call_all();
    let before = count_descriptors();
    (0..10).for_each(|_| call_all());
    expect_few_descriptors(before + 8);
    assert_eq!(pool.worker_pids(), workers, "the worker goes on");
    println!("fine");
}

fn failed_sends_of_the_program_disturb_no_call_and_no_start(start_method: StartMethod) {
    expect_fine(fail_in_the_program, start_method);
}

fn fail_in_tasks(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let fail = |()| {
        fail_to_send();
        std::process::id()
    };
    let fail_all = || {
        let pid = pool.apply(fail, ()).expect("the task has caught it");
        let received = pool.apply(give_seven, ()).expect("the result has its channel end");
        assert_eq!(received.recv().expect("it was sent"), 7);
        pid
    };
    let worker = fail_all();
    let before = count_descriptors();
    assert!((0..30).all(|_| fail_all() == worker), "the worker goes on");
    expect_few_descriptors(before + 8);
    println!("fine");
}

fn failed_sends_of_tasks_disturb_no_later_task(start_method: StartMethod) {
    expect_fine(fail_in_tasks, start_method);
}

fn fail_in_children(arguments: &Arguments) {
    let give_and_fail = |()| {
        // The order matters: in the other order, the send in `give_seven` would take the ends.
        let receiver = give_seven(());
        fail_to_send();
        receiver
    };
    for _ in 0..5 {
        let child = Process::new(give_and_fail, ()).start_method(arguments.start_method).start();
        let received = child.and_then(Child::join).expect("the result has its channel end");
        assert_eq!(received.recv().expect("it was sent"), 7);
    }
    println!("fine");
}

fn failed_sends_of_children_disturb_no_result(start_method: StartMethod) {
    expect_fine(fail_in_children, start_method);
}

fn fail_in_set_up(arguments: &Arguments) {
    let fail = |()| fail_to_send();
    let builder = arguments.pool_builder(1).preload(fail, ()).initializer(fail, ()).state(fail, ());
    let pool = builder.build().expect("the functions have caught it");
    let received = pool.apply(give_seven, ()).expect("the result has its channel end");
    assert_eq!(received.recv().expect("it was sent"), 7);
    expect_five(|end| pool.apply(send_five, end));
    println!("fine");
}

fn failed_sends_of_initializers_disturb_no_task(start_method: StartMethod) {
    expect_fine(fail_in_set_up, start_method);
}
