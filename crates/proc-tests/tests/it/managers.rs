//! Objects in the process of a manager: all processes use them, nothing is left after the last
//! handle, and clients or the manager may die.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::ipc;
use proc_core::sync::{Dict, List, Managed, Manager, Value};
use proc_core::{Error, ErrorKind, Process, StartMethod};

use crate::support::{Arguments, SOON, procfs, run, settle, wait_until};

programs![
    share,
    kill_clients,
    kill_manager,
    kill_manager_without_fork_server,
    stop_manager,
    lack_descriptors,
    lack_room,
    leave,
    refuse
];

tests! {
    all_processes_use_the_same_objects: forkserver spawn fork;
    killed_clients_disturb_nobody: forkserver spawn fork;
    death_of_the_manager_is_an_error_for_all: forkserver spawn fork;
    death_of_the_manager_is_known_before_a_fork_server_tells_it: forkserver;
    calls_of_a_stopped_manager_time_out: forkserver;
    manager_without_descriptors_refuses_new_clients_and_goes_on: forkserver spawn fork;
    manager_without_room_for_a_result_says_so: forkserver;
    nothing_is_left_of_a_manager: forkserver spawn fork;
    what_a_manager_cannot_do_is_an_error: forkserver;
}

fn add(count: &mut Option<u64>, by: u64) -> u64 {
    *count.get_or_insert(0) += by;
    count.unwrap_or_default()
}

type Objects = (Dict<String, u64>, List<u32>, Managed<Vec<String>>);

/// Uses all objects, in a process that has received them.
fn use_objects((dict, list, words): Objects) -> Result<usize, Error> {
    for n in 0..100 {
        dict.update("n".to_owned(), add, 1)?;
        list.push(n)?;
        words.call(|words, word: String| words.push(word), n.to_string())?;
    }
    words.call(|words, ()| words.len(), ())
}

fn share(arguments: &Arguments) {
    let manager = Manager::new().expect("it starts");
    let objects: Objects = (
        manager.dict().expect("it lives"),
        manager.list().expect("it lives"),
        Managed::new(|()| Vec::new(), ()).expect("it starts"),
    );
    let start = |objects: &Objects| {
        let process = Process::new(use_objects, objects.clone());
        process.start_method(arguments.start_method).start().expect("it starts")
    };
    // Fork starts processes only while there is one thread.
    let children = [start(&objects), start(&objects)];
    use_objects(objects.clone()).expect("the managers live");
    for child in children {
        child.join().expect("it returns").expect("the managers live");
    }
    let pool = arguments.pool(2);
    let objects_of_pool = pool.with(objects.clone());
    let used = objects_of_pool.map(|objects, _: u32| use_objects(objects.clone()), 0..2);
    used.expect("no worker dies").into_iter().for_each(|used| {
        used.expect("the managers live");
    });
    // A task makes an object, which is still there when the task has returned.
    let make = |manager: Manager| manager.dict::<u8, u8>().and_then(|d| d.insert(1, 2).map(|_| d));
    let made = pool.apply(make, manager).expect("no worker dies").expect("the manager lives");
    let (dict, list, words) = objects;
    println!("{:?}", dict.snapshot().expect("it lives"));
    let mut listed = list.snapshot().expect("it lives");
    listed.sort_unstable();
    assert!(listed.into_iter().eq((0..100).flat_map(|n| [n; 5])));
    println!("{}", words.call(|words, ()| words.len(), ()).expect("it lives"));
    println!("{:?}", made.get(&1).expect("it lives"));
}

fn all_processes_use_the_same_objects(start_method: StartMethod) {
    let told = run(share, start_method, &[]);
    assert_eq!(told.succeeded(), "{\"n\": 500}\n500\nSome(2)\n");
}

/// Clients are killed at random moments while others use the same object.
fn kill_clients(arguments: &Arguments) {
    let mut rng = fastrand::Rng::new();
    let seed = rng.get_seed();
    let dict = Manager::new().and_then(|manager| manager.dict()).expect("it starts");
    let confirmed = Value::new(0_u64).expect("there is memory");
    let count = |(dict, confirmed): (Dict<String, u64>, Value<u64>)| -> () {
        loop {
            dict.update("n".to_owned(), add, 1).expect("the manager lives");
            confirmed.fetch_add(1);
        }
    };
    let rounds = 40;
    for _ in 0..rounds {
        let process = Process::new(count, (dict.clone(), confirmed.clone()));
        let start_method = arguments.start_method;
        let mut child = process.start_method(start_method).start().expect("it starts");
        let at = confirmed.get() + rng.u64(..200);
        wait_until(|| confirmed.get() >= at);
        child.kill().expect("it is our child");
        proc_core::wait(&[child.sentinel()], None);
        assert!(!child.is_alive());
        dict.insert("here".to_owned(), 1).expect("the manager lives");
    }
    let done = dict.get(&"n".to_owned()).expect("the manager lives").expect("they counted");
    let confirmed = confirmed.get();
    // Each client may have been killed between its call and its note.
    assert!((confirmed..=confirmed + rounds).contains(&done), "{done} {confirmed}, seed {seed}");
    println!("all counted");
}

fn killed_clients_disturb_nobody(start_method: StartMethod) {
    assert_eq!(run(kill_clients, start_method, &[]).succeeded(), "all counted\n");
}

fn pid_of(managed: &Managed<u32>) -> Pid {
    let pid = managed.call(|_, ()| std::process::id(), ()).expect("it lives");
    Pid::from_raw(pid as i32)
}

fn kill_manager(arguments: &Arguments) {
    let managed = Managed::new(|()| 5_u32, ()).expect("it starts");
    let pid = pid_of(&managed);
    let wait = |managed: Managed<u32>| {
        // The manager is killed during this call.
        managed.call(|_, ()| std::thread::sleep(Duration::from_secs(600)), ())
    };
    let process = Process::new(wait, managed.clone()).start_method(arguments.start_method);
    let child = process.start().expect("it starts");
    wait_until(|| {
        let short = Duration::from_millis(20);
        managed.call_timeout(|x, ()| *x, (), short).expect("it lives").is_none()
    });
    kill(pid, Signal::SIGKILL).expect("it lives");
    let errors = [
        child.join().expect("it returns").expect_err("the manager was killed"),
        managed.call(|x, ()| *x, ()).expect_err("the manager was killed"),
        managed.call_timeout(|x, ()| *x, (), SOON).expect_err("the manager was killed"),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.pid()), (ErrorKind::Closed, Some(pid.as_raw() as u32)));
        println!("{}", error.to_string().replace(&pid.to_string(), "PID"));
    }
}

fn death_of_the_manager_is_an_error_for_all(start_method: StartMethod) {
    let line = "the manager's process has ended, and its objects are lost (killed by signal 9, \
                SIGKILL) (pid PID)\n";
    assert_eq!(run(kill_manager, start_method, &[]).succeeded(), line.repeat(3));
}

/// The manager is killed while its fork server is stopped, which cannot tell of the death. One call
/// has a reply channel that the manager has received, one has a reply channel that the manager has
/// not received yet, and one call comes afterwards.
fn kill_manager_without_fork_server(_: &Arguments) {
    let managed = Managed::new(|()| 5_u32, ()).expect("it starts");
    let pid = pid_of(&managed);
    kill(pid, Signal::SIGSTOP).expect("it lives");
    let call = || managed.call(|x, ()| *x, ());
    std::thread::scope(|scope| {
        let descriptors = || std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count();
        let with_the_old_line = scope.spawn(call);
        let before = descriptors();
        let with_a_new_line = scope.spawn(call);
        wait_until(|| descriptors() > before);
        let fork_servers: Vec<Pid> =
            procfs::children().into_iter().map(|pid| Pid::from_raw(pid as i32)).collect();
        for fork_server in &fork_servers {
            kill(*fork_server, Signal::SIGSTOP).expect("it lives");
        }
        kill(pid, Signal::SIGKILL).expect("it lives");
        wait_until(|| !procfs::is_running(pid.as_raw() as u32));
        let errors = [call(), with_the_old_line.join().unwrap(), with_a_new_line.join().unwrap()];
        for error in errors {
            let error = error.expect_err("the manager was killed");
            assert_eq!((error.kind(), error.pid()), (ErrorKind::Closed, Some(pid.as_raw() as u32)));
        }
        for fork_server in &fork_servers {
            kill(*fork_server, Signal::SIGCONT).expect("it lives");
        }
    });
}

fn death_of_the_manager_is_known_before_a_fork_server_tells_it(start_method: StartMethod) {
    run(kill_manager_without_fork_server, start_method, &[]).succeeded();
}

fn stop_manager(_: &Arguments) {
    let managed = Managed::new(|()| 5_u32, ()).expect("it starts");
    let pid = pid_of(&managed);
    kill(pid, Signal::SIGSTOP).expect("it lives");
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count();
    let before = descriptors();
    // A manager receives nothing while it is stopped, so a message for each call would fill its
    // channel.
    for _ in 0..2000 {
        let called = managed.call_timeout(|x, ()| *x += 1, (), Duration::from_micros(100));
        assert_eq!(called.expect("it is stopped, not dead"), None);
    }
    assert_eq!(descriptors(), before);
    kill(pid, Signal::SIGCONT).expect("it lives");
    // The first four calls are made, and their late replies disturb no later call.
    println!("{}", managed.call(|x, ()| *x, ()).expect("it lives"));
}

fn calls_of_a_stopped_manager_time_out(start_method: StartMethod) {
    assert_eq!(run(stop_manager, start_method, &[]).succeeded(), "9\n");
}

/// Sets how many files the process may open: only those that are open now, or as many as usual.
fn limit_files(_: &mut u32, is_limited: bool) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the system has it");
    // The directory itself is open while it is read.
    let open = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count() as u64 - 1;
    let limit = if is_limited { open } else { hard.min(1024) };
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("it is below the hard limit");
}

/// The manager has no descriptor for the reply channel (the *line*) of another client.
fn lack_descriptors(arguments: &Arguments) {
    let managed = Managed::new(|()| 5_u32, ()).expect("it starts");
    let pid = pid_of(&managed).to_string();
    let ask = |managed: Managed<u32>| managed.call(|x, ()| *x, ());
    let ask_elsewhere = || {
        let process = Process::new(ask, managed.clone()).start_method(arguments.start_method);
        process.start().expect("it starts").join().expect("it returns")
    };
    managed.call(limit_files, true).expect("this client has a line");
    let error = ask_elsewhere().expect_err("there is no descriptor for its line");
    println!("{:?}: {}", error.kind(), error.to_string().replace(&pid, "PID"));
    managed.call(limit_files, false).expect("this client has a line");
    println!("{:?}", ask_elsewhere());
}

fn manager_without_descriptors_refuses_new_clients_and_goes_on(start_method: StartMethod) {
    assert_eq!(
        run(lack_descriptors, start_method, &[]).succeeded(),
        "Start: cannot make a connection to a manager: process PID has ended, or has no descriptor or \
         memory for another client\nOk(5)\n"
    );
}

/// The result does not fit into the memory of the line, which the client has made.
fn lack_room(_: &Arguments) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("the system has it");
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, hard).expect("it is below the hard limit");
    let managed = Managed::new(|()| 5_u32, ()).expect("it starts");
    let make = |_: &mut u32, len: usize| vec![7_u8; len];
    let error = managed.call(make, 4 << 20).expect_err("there is no room");
    println!("{:?}: {error}", error.kind());
    println!("{:?}", managed.call(make, 2));
}

fn manager_without_room_for_a_result_says_so(start_method: StartMethod) {
    assert_eq!(
        run(lack_room, start_method, &[]).succeeded(),
        "Encode: the result cannot be encoded: the manager has no memory for the result\n\
         Ok([7, 7])\n"
    );
}

fn leave(arguments: &Arguments) {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count();
    let use_once = |dict: Dict<u32, u32>| dict.insert(1, 1);
    let mut before = 0;
    for round in 0..30 {
        let dict = Manager::new().and_then(|manager| manager.dict()).expect("it starts");
        let process = Process::new(use_once, dict.clone()).start_method(arguments.start_method);
        process.start().and_then(proc_core::Child::join).expect("it returns").expect("it lives");
        drop(dict);
        if round == 5 {
            settle(arguments.start_method);
            before = descriptors();
        }
    }
    settle(arguments.start_method);
    assert_eq!(descriptors(), before);
    let managed = Managed::new(|()| 5_u32, ()).expect("it starts");
    let pid = pid_of(&managed).as_raw() as u32;
    drop(managed);
    wait_until(|| !procfs::is_running(pid));
    println!("nothing is left");
}

fn nothing_is_left_of_a_manager(start_method: StartMethod) {
    assert_eq!(run(leave, start_method, &[]).succeeded(), "nothing is left\n");
}

fn refuse(_: &Arguments) {
    let managed = Managed::new(|()| HashMap::from([(1, 1)]), ()).expect("it starts");
    let show = |error: Error| {
        println!("{:?}: {}", error.kind(), error.to_string().lines().next().unwrap_or_default());
    };
    let (sender, _receiver) = ipc::channel::<u32>().expect("there are descriptors");
    let dict = Manager::new().and_then(|manager| manager.dict::<String, ipc::IpcSender<u32>>());
    let dict = dict.expect("it starts");
    show(dict.insert("key".into(), sender.clone()).expect_err("refused"));
    show(managed.call(|_, sender: ipc::IpcSender<u32>| drop(sender), sender).expect_err("refused"));
    let send = |_: &mut HashMap<i32, i32>, ()| ipc::channel::<u32>().map(|(sender, _)| sender).ok();
    show(managed.call(send, ()).expect_err("refused"));
    let error = managed.call(|map, ()| map[&7], ()).expect_err("it panics");
    println!("{:?} {:?}", error.kind(), error.panic_message());
    let make = |x: u32| -> u32 { 12 / x };
    let error = Managed::new(make, 0).expect_err("it panics");
    println!("{:?} {:?}", error.kind(), error.panic_message());
    println!("{:?}", managed.call(|map, ()| map.len(), ()));
}

fn what_a_manager_cannot_do_is_an_error(start_method: StartMethod) {
    let told = run(refuse, start_method, &[]);
    assert_eq!(
        told.succeeded(),
        "Encode: the argument cannot be encoded: the argument of a manager's call cannot contain channel \
         ends, shared memory or shared state\n\
         Encode: the argument cannot be encoded: the argument of a manager's call cannot contain channel \
         ends, shared memory or shared state\n\
         Encode: the result cannot be encoded: the result of a manager's call cannot contain channel \
         ends, shared memory or shared state\n\
         Panic Some(\"no entry found for key\")\n\
         Panic Some(\"attempt to divide by zero\")\n\
         Ok(1)\n"
    );
}
