//! Objects that come and go leave nothing: no descriptor, no memory, no file.

use proc_core::sync::{
    Array, Barrier, Condition, Event, Lock, Mutex, Queue, RLock, Semaphore, Value,
};
use proc_core::{Child, Process, StartMethod};

use crate::support::descriptors::count_descriptors;
use crate::support::{Arguments, run, settle};
use crate::sync::everything::Everything;

programs![make_many, make_many_at_a_time, use_few_elements, send_many, kill_many];

tests! {
    nothing_grows_with_objects;
    objects_that_lived_together_leave_nothing;
    array_takes_memory_for_elements_in_use;
    sent_objects_leave_nothing: forkserver spawn fork;
    objects_of_the_dead_leave_nothing: forkserver spawn fork;
}

/// How much more memory a process may have afterwards, in KiB. The allocator keeps some.
const MAX_GROWTH_KIB: u64 = 2 << 10;

/// What a process has.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Holdings {
    descriptors: usize,
    /// Pieces of shared memory in its address space.
    mapped: usize,
    /// In KiB: memory that it shares, memory of its own, and addresses.
    memory: [u64; 3],
}

impl Holdings {
    fn now() -> Holdings {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
        assert!(!maps.contains("/dev/shm"), "there would be files to remove: {maps}");
        let memory = ["RssShmem:", "RssAnon:", "VmSize:"].map(|field| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
            kib.expect("the kernel tells it in kB")
        });
        let mapped = maps.lines().filter(|line| line.contains("memfd:")).count();
        Holdings { descriptors: count_descriptors(), mapped, memory }
    }

    #[track_caller]
    fn expect_no_more_than(&self, before: &Holdings, what: &str) {
        // Objects may be made in another segment than before, but it is one segment all the same.
        let is_flat = (self.descriptors, self.mapped) == (before.descriptors, before.mapped);
        let is_small = self
            .memory
            .iter()
            .zip(before.memory)
            .all(|(now, before)| *now < before + MAX_GROWTH_KIB);
        assert!(is_flat && is_small, "{what}: {before:?} before, {self:?} after");
    }
}

/// Makes one object of a kind, and uses it a little.
type Make = fn() -> Box<dyn std::any::Any>;

const KINDS: [(&str, Make); 10] = [
    ("Lock", || {
        let lock = Lock::new().expect("memory");
        drop(lock.lock().expect("nobody has it"));
        Box::new(lock)
    }),
    ("RLock", || {
        let lock = RLock::new().expect("memory");
        drop(lock.lock().expect("nobody has it"));
        Box::new(lock)
    }),
    ("Mutex", || {
        let mutex = Mutex::new([1_u64; 4]).expect("memory");
        assert_eq!(*mutex.lock().expect("nobody has it"), [1; 4]);
        Box::new(mutex)
    }),
    ("small Value", || {
        let value = Value::new(3_u32).expect("memory");
        assert_eq!(value.fetch_add(1), 3);
        Box::new(value)
    }),
    ("large Value", || {
        let value = Value::new([3_u64; 9]).expect("memory");
        assert_eq!(value.get(), [3; 9]);
        Box::new(value)
    }),
    ("Array", || {
        let array = Array::<u64>::zeroed(20).expect("memory");
        assert_eq!(array.get(19), 0, "memory that is used again is empty");
        array.set(19, 1);
        Box::new(array)
    }),
    ("Semaphore", || {
        let semaphore = Semaphore::new(2).expect("memory");
        drop(semaphore.acquire().expect("nobody has one"));
        assert_eq!(semaphore.available_permits().expect("there are locks"), 2);
        Box::new(semaphore)
    }),
    ("Event", || {
        let event = Event::new().expect("memory");
        assert!(!event.is_set(), "memory that is used again is empty");
        event.set();
        Box::new(event)
    }),
    ("Condition", || {
        let condition = Condition::new().expect("memory");
        condition.notify_all();
        Box::new(condition)
    }),
    ("Barrier", || {
        let barrier = Barrier::new(1).expect("memory");
        assert_eq!(barrier.wait().expect("nobody dies"), 0);
        Box::new(barrier)
    }),
];

/// Makes objects of one kind, each of which is gone when the next one is made.
fn make_many(_: &Arguments) {
    for (kind, make) in KINDS {
        let make_and_drop = |count: u32| (0..count).for_each(|_| drop(make()));
        make_and_drop(3000);
        let before = Holdings::now();
        make_and_drop(100_000);
        Holdings::now().expect_no_more_than(&before, kind);
    }
    let make_and_drop = |count: u32| {
        for number in 0..count {
            let queue = Queue::new().expect("memory");
            queue.put(number).expect("it is open");
            assert_eq!(queue.get().expect("it was put"), number);
        }
    };
    make_and_drop(300);
    let before = Holdings::now();
    make_and_drop(20_000);
    Holdings::now().expect_no_more_than(&before, "Queue");
    // Larger than a segment of small objects.
    let make_and_drop = |count: u32| {
        for _ in 0..count {
            let array = Array::<u64>::zeroed(100_000).expect("memory");
            assert_eq!(array.get(99_999), 0);
            array.set(99_999, 1);
        }
    };
    make_and_drop(10);
    let before = Holdings::now();
    make_and_drop(1000);
    Holdings::now().expect_no_more_than(&before, "large Array");
}

fn nothing_grows_with_objects() {
    run(make_many, StartMethod::default(), &[]).succeeded();
}

/// Makes objects that live at the same time, more than fit in one segment.
fn make_many_at_a_time(_: &Arguments) {
    for (kind, make) in KINDS {
        let make_and_drop = |rounds: u32| {
            for _ in 0..rounds {
                let mut all: Vec<_> = (0..3000).map(|_| make()).collect();
                // The order in which they go does not matter.
                fastrand::Rng::with_seed(7).shuffle(&mut all);
                all.truncate(1000);
            }
        };
        make_and_drop(3);
        let before = Holdings::now();
        make_and_drop(5);
        Holdings::now().expect_no_more_than(&before, kind);
    }
}

fn objects_that_lived_together_leave_nothing() {
    run(make_many_at_a_time, StartMethod::default(), &[]).succeeded();
}

/// Makes an array of 256 MiB, and changes the elements in one MiB of it.
fn use_few_elements(_: &Arguments) {
    const MIB: usize = (1 << 20) / size_of::<u64>();
    let shared_kib = || Holdings::now().memory[0];
    let before = shared_kib();
    let array = Array::<u64>::zeroed(256 * MIB).expect("there is memory");
    assert!(shared_kib() < before + MAX_GROWTH_KIB);
    array.write(100 * MIB..101 * MIB, &[7; MIB]);
    let after = shared_kib();
    assert!((before + 1024..before + 1024 + MAX_GROWTH_KIB).contains(&after), "{after} KiB");
    assert_eq!((array.get(101 * MIB - 1), array.get(101 * MIB)), (7, 0));
}

fn array_takes_memory_for_elements_in_use() {
    run(use_few_elements, StartMethod::default(), &[]).succeeded();
}

fn use_and_drop(all: Everything) {
    all.use_once();
}

/// Sends objects to workers, which use and drop them, and gets other objects back.
fn send_many(arguments: &Arguments) {
    const COUNT: usize = 500;
    let pool = arguments.pool(1);
    let holdings = || {
        let in_worker = pool.apply(|()| Holdings::now(), ()).expect("nothing fails");
        [Holdings::now(), in_worker]
    };
    let make = |_: usize| {
        let all = Everything::new();
        all.use_once();
        all
    };
    let send = |count: usize| {
        for _ in 0..count / 50 {
            pool.map(use_and_drop, (0..50).map(make)).expect("nothing fails");
        }
        for x in 0..count / 10 {
            let all = pool.apply(make, x).expect("nothing fails");
            all.expect_used(1);
        }
        // A worker drops what it has got when it has nothing more to do.
        pool.apply(|x: usize| x, 1).expect("nothing fails");
    };
    send(COUNT);
    let before = holdings();
    send(COUNT);
    let after = holdings();
    for (who, (before, after)) in ["program", "worker"].iter().zip(before.iter().zip(&after)) {
        after.expect_no_more_than(before, who);
    }
}

fn sent_objects_leave_nothing(start_method: StartMethod) {
    run(send_many, start_method, &[]).succeeded();
}

/// Processes are killed while they have objects, and others before they have got them.
fn kill_many(arguments: &Arguments) {
    let hold = |(all, told): (Everything, Value<u32>)| {
        told.fetch_add(1);
        all.use_once();
        crate::support::work_forever();
    };
    let told = Value::new(0).expect("memory");
    let lose = |count: u32| {
        for number in 0..count {
            let process = Process::new(hold, (Everything::new(), told.clone()));
            let before = told.get();
            let child: Child<()> =
                process.start_method(arguments.start_method).start().expect("it can be started");
            while number % 2 == 0 && told.get() == before {
                std::thread::yield_now();
            }
            crate::sync::storm::kill_now(child.pid());
            child.join().expect_err("it was killed");
        }
    };
    lose(40); // more than fit in the segment that `told` keeps
    settle(arguments.start_method);
    let before = Holdings::now();
    lose(100);
    settle(arguments.start_method);
    Holdings::now().expect_no_more_than(&before, "program");
}

fn objects_of_the_dead_leave_nothing(start_method: StartMethod) {
    run(kill_many, start_method, &[]).succeeded();
}
