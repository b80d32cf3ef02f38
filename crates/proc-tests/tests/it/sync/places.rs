//! Where handles of shared state may be: in arguments, data, states, results, statics, and in
//! processes that were started by processes.

use std::collections::HashMap;
use std::sync::OnceLock;

use proc_core::ipc::{self, IpcSender};
use proc_core::sync::{Array, Lock, Value};
use proc_core::{Child, Pool, Process, StartMethod};

use crate::support::{Arguments, describe, procfs, run, wait_until};
use crate::sync::everything::Everything;
use crate::sync::storm::kill_now;

programs![
    send_as_arguments,
    send_inside_values,
    send_at_the_start,
    return_from_workers,
    share_statics,
    #[without_init]
    share_statics_set_before_init,
    share_with_threads,
    share_with_grandchildren,
];

tests! {
    handles_are_arguments: forkserver spawn fork;
    handles_are_inside_values: forkserver spawn fork;
    handles_are_data_and_state_and_in_initializers: forkserver spawn fork;
    handles_are_results_of_the_dead: forkserver spawn fork;
    handles_in_statics_are_copied_by_fork;
    handles_in_statics_are_copied_by_fork_servers;
    handles_are_used_by_many_threads: forkserver spawn fork;
    handles_reach_grandchildren: forkserver spawn fork;
}

/// The objects that this process has got otherwise than in an argument.
static HERE: OnceLock<Everything> = OnceLock::new();

fn use_once(all: Everything) {
    all.use_once();
}

fn use_those_here(_: u64) {
    HERE.get().expect("this process has them").use_once();
}

fn send_as_arguments(arguments: &Arguments) {
    let all = Everything::new();
    all.use_once();
    let process = Process::new(use_once, all.clone()).start_method(arguments.start_method);
    process.start().and_then(Child::join).expect("nothing fails");
    all.expect_used(2);
    let pool = arguments.pool(2);
    pool.apply(use_once, all.clone()).expect("nothing fails");
    pool.map(use_once, vec![all.clone(); 50]).expect("nothing fails");
    // Each worker keeps none of what it got.
    all.expect_used(53);
    let again = |all: Everything| {
        all.use_once();
        all
    };
    let back = pool.apply(again, all.clone()).expect("nothing fails");
    back.use_once();
    all.expect_used(55);
    back.expect_used(55);
    // A task that runs again in another worker finds the same objects, and the lock abandoned.
    let once_more = |(lock, runs): &(Lock, Value<u32>), ()| {
        let guard = lock.lock().expect("this thread does not have it");
        if runs.fetch_add(1) == 0 {
            std::process::abort();
        }
        guard.was_abandoned()
    };
    let data = (Lock::new().expect("memory"), Value::new(0).expect("memory"));
    let task = pool.options().retries(1).with(data).apply(once_more, ());
    assert!(task.unwrap_or_else(|error| panic!("{}", describe(&error))));
}

fn handles_are_arguments(start_method: StartMethod) {
    run(send_as_arguments, start_method, &[]).succeeded();
}

fn send_inside_values(arguments: &Arguments) {
    type Values = (Vec<Everything>, Option<Everything>, HashMap<String, Box<Everything>>, u8);
    let all = Everything::new();
    let use_each = |(list, option, map, seven): Values| {
        list.iter().for_each(Everything::use_once);
        option.iter().for_each(Everything::use_once);
        map.values().for_each(|all| all.use_once());
        assert_eq!((list.len(), map.len(), seven), (3, 2, 7));
    };
    let values = || -> Values {
        let map = ["a", "b"].map(|key| (key.to_owned(), Box::new(all.clone())));
        (vec![all.clone(); 3], Some(all.clone()), HashMap::from(map), 7)
    };
    let process = Process::new(use_each, values()).start_method(arguments.start_method);
    process.start().and_then(Child::join).expect("nothing fails");
    all.expect_used(6);
    let pool = arguments.pool(2);
    pool.map(use_each, [values(), values()]).expect("nothing fails");
    all.expect_used(18);
}

fn handles_are_inside_values(start_method: StartMethod) {
    run(send_inside_values, start_method, &[]).succeeded();
}

/// Workers get handles when they start, and with the data of a call. They are replaced now and
/// then.
fn send_at_the_start(arguments: &Arguments) {
    let [data, initial, state] = [(); 3].map(|()| Everything::new());
    let initialize = |all| HERE.set(all).expect("it is called once");
    let pool = Pool::builder()
        .processes(2)
        .start_method(arguments.start_method)
        .initializer(initialize, initial.clone())
        .state(|all: Everything| all, state.clone())
        .max_tasks_per_child(7)
        .build()
        .expect("it can be built");
    let with = pool.with(data.clone());
    with.map(|all, _: u64| all.use_once(), 0..50).expect("nothing fails");
    data.expect_used(50);
    pool.map(use_those_here, 0..50).expect("nothing fails");
    initial.expect_used(50);
    pool.with_state().map(|all: &mut Everything, _: u64| all.use_once(), 0..50).expect("it works");
    state.expect_used(50);
    let both = with.with_state();
    let use_both = |state: &mut Everything, data: &Everything, _: u64| {
        state.use_once();
        data.use_once();
    };
    both.map(use_both, 0..50).expect("nothing fails");
    data.expect_used(100);
    state.expect_used(100);
}

fn handles_are_data_and_state_and_in_initializers(start_method: StartMethod) {
    run(send_at_the_start, start_method, &[]).succeeded();
}

/// Workers make objects, and are dead before the program looks at them.
fn return_from_workers(arguments: &Arguments) {
    let make = |told: IpcSender<u32>| {
        let all = Everything::new();
        all.use_once();
        told.send(std::process::id()).expect("the program waits for it");
        all
    };
    let (told, pid) = ipc::channel().expect("a channel");
    let process = Process::new(make, told.clone()).start_method(arguments.start_method);
    let from_process = process.start().and_then(Child::join).expect("nothing fails");
    assert!(!procfs::is_running(pid.recv().expect("it was told")));
    let pool = arguments.pool_builder(1).max_tasks_per_child(1).build().expect("it is built");
    let tasks: Vec<_> = (0..3).map(|_| pool.apply_async(make, told.clone())).collect();
    let makers: Vec<u32> = tasks.iter().map(|_| pid.recv().expect("it was told")).collect();
    // Those that made the objects are gone before their results are taken.
    wait_until(|| makers.iter().all(|pid| !procfs::is_running(*pid)));
    let from_workers = tasks.into_iter().map(|task| task.and_then(|task| task.get()));
    let made: Vec<Everything> =
        from_workers.chain([Ok(from_process)]).collect::<Result<_, _>>().expect("nothing fails");
    for all in &made {
        all.expect_used(1);
        all.use_once();
        pool.apply(use_once, all.clone()).expect("nothing fails");
        all.expect_used(3);
    }
    // They are different objects.
    made[0].use_once();
    made[0].expect_used(4);
    made[1..].iter().for_each(|all| all.expect_used(3));
}

fn handles_are_results_of_the_dead(start_method: StartMethod) {
    run(return_from_workers, start_method, &[]).succeeded();
}

/// A static that is set before the processes start.
fn share_statics(arguments: &Arguments) {
    let all = HERE.get_or_init(Everything::new);
    for _ in 0..3 {
        let process = Process::new(use_those_here, 0).start_method(arguments.start_method);
        process.start().and_then(Child::join).expect("nothing fails");
    }
    all.expect_used(3);
    let pool = arguments.pool(2);
    // More often than a barrier has places for holders.
    pool.map(use_those_here, 0..300).expect("nothing fails");
    all.expect_used(303);
}

fn handles_in_statics_are_copied_by_fork() {
    run(share_statics, StartMethod::Fork, &[]).succeeded();
}

/// Objects that are made before `init` are in the fork server too.
fn share_statics_set_before_init(arguments: &Arguments) {
    HERE.set(Everything::new()).expect("it is set once");
    proc_core::init();
    share_statics(arguments);
    let all = HERE.get().expect("it was set");
    // The process that gets a copied object as argument knows it already.
    let same = |all: Everything| {
        all.use_once();
        use_those_here(0);
    };
    let process = Process::new(same, all.clone()).start_method(StartMethod::Forkserver);
    process.start().and_then(Child::join).expect("nothing fails");
    all.expect_used(305);
}

fn handles_in_statics_are_copied_by_fork_servers() {
    for start_method in [StartMethod::Forkserver, StartMethod::Fork] {
        run(share_statics_set_before_init, start_method, &[]).succeeded();
    }
}

/// Threads of several processes change a number in two steps.
fn share_with_threads(arguments: &Arguments) {
    const THREADS: u64 = 4;
    const TURNS: u64 = 300;
    let work = |(all, number, lock): (Everything, Array<u64>, Lock)| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for turn in 0..TURNS {
                        let guard = lock.lock().expect("this thread does not have it");
                        assert!(lock.try_lock().expect("there are locks").is_none());
                        number.set(0, number.get(0) + 1);
                        drop(guard);
                        if turn % 50 == 0 {
                            all.use_once();
                        }
                    }
                });
            }
        });
    };
    let (all, lock) = (Everything::new(), Lock::new().expect("memory"));
    let number = Array::zeroed(1).expect("memory");
    let argument = || (all.clone(), number.clone(), lock.clone());
    let start = |_| {
        let process = Process::new(work, argument()).start_method(arguments.start_method);
        process.start().expect("it can be started")
    };
    let children: Vec<Child<()>> = (0..3).map(start).collect();
    work(argument());
    children.into_iter().for_each(|child| child.join().expect("nothing fails"));
    assert_eq!(number.get(0), 4 * THREADS * TURNS);
    all.expect_used(4 * THREADS * TURNS / 50);
}

fn handles_are_used_by_many_threads(start_method: StartMethod) {
    run(share_with_threads, start_method, &[]).succeeded();
}

/// A start method does not cross between processes, so it is part of the function.
fn start_method<const START_METHOD: u8>() -> StartMethod {
    match START_METHOD {
        0 => StartMethod::Forkserver,
        1 => StartMethod::Spawn,
        _ => StartMethod::Fork,
    }
}

/// Takes the lock for good, and tells its pid.
fn hold_forever((lock, told): (Lock, IpcSender<u32>)) {
    let _guard = lock.lock().expect("nobody has it");
    told.send(std::process::id()).expect("somebody waits for it");
    crate::support::work_forever();
}

/// Uses the objects in a child and in a pool of its own. In between, another child dies with the
/// lock.
fn have_children<const START_METHOD: u8>((all, lock): (Everything, Lock)) {
    let start_method = start_method::<START_METHOD>();
    let process = Process::new(use_once, all.clone()).start_method(start_method);
    process.start().and_then(Child::join).expect("nothing fails");
    let (told, pid) = ipc::channel().expect("a channel");
    let process = Process::new(hold_forever, (lock.clone(), told)).start_method(start_method);
    let child = process.start().expect("it can be started");
    kill_now(pid.recv().expect("it is told"));
    child.join().expect_err("it was killed");
    // The thread of a pool comes after the last process that may need `Fork`.
    let pool = Pool::builder().processes(2).start_method(start_method).build();
    let pool = pool.expect("it can be built");
    pool.with(all).map(|all, _: u64| all.use_once(), 0..20).expect("nothing fails");
}

fn share_with_grandchildren(arguments: &Arguments) {
    let (all, lock) = (Everything::new(), Lock::new().expect("memory"));
    let argument = || (all.clone(), lock.clone());
    let started = match arguments.start_method {
        StartMethod::Forkserver => Process::new(have_children::<0>, argument()).start(),
        StartMethod::Spawn => {
            Process::new(have_children::<1>, argument()).start_method(StartMethod::Spawn).start()
        }
        StartMethod::Fork => {
            Process::new(have_children::<2>, argument()).start_method(StartMethod::Fork).start()
        }
    };
    started.and_then(Child::join).unwrap_or_else(|error| panic!("{}", describe(&error)));
    all.expect_used(21);
    assert!(lock.lock().expect("this thread does not have it").was_abandoned());
    all.use_once();
    all.expect_used(22);
}

fn handles_reach_grandchildren(start_method: StartMethod) {
    run(share_with_grandchildren, start_method, &[]).succeeded();
}
