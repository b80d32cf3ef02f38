//! Rounds under limits: for some calls the program may use little address space, few descriptors or
//! small files.
//!
//! One thread makes the calls. Inputs are made before, and the heap keeps room for small values, so
//! only the library meets the limit. A call under a limit may fail with a typed error. After the
//! limit is lifted, calls must work again.

use std::backtrace::Backtrace;
use std::fmt::{self, Display, Formatter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipc_channel::ipc::{self, IpcSender};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proc_core::{Error, ErrorKind, Pool, Process, StartMethod, Task};

use crate::choice::{Choice, Fault};
use crate::faults::{Faults, ForkServers};
use crate::ledger::{CALLS, FATES, FAULTS, Ledger};
use crate::life::Plan;
use crate::procfs;
use crate::tasks::{Act, Answer, Order, Spec, mix, obey, obey_quietly};
use crate::test_pool::{Round, TestPool};
use crate::watch::{Watch, fail};

/// Whether a limit is in force.
static LIMIT_IN_FORCE: AtomicBool = AtomicBool::new(false);

/// The resources that can be limited.
const KINDS: [(Fault, Resource); 3] = [
    (Fault::AddressSpace, Resource::RLIMIT_AS),
    (Fault::Descriptors, Resource::RLIMIT_NOFILE),
    (Fault::FileSizes, Resource::RLIMIT_FSIZE),
];

/// Whether rounds under limits are chosen.
pub(crate) fn is_chosen(choice: Choice) -> bool {
    KINDS.iter().any(|(fault, _)| choice.has(*fault))
}

/// A resource, and its limit.
#[derive(Clone, Copy, Debug)]
struct Limit {
    resource: Resource,
    /// The limit. Address space and descriptors that are already in use do not count.
    spare: u64,
}

impl Limit {
    /// Returns a random limit of a kind that is chosen, if one is.
    fn random(choice: Choice, rng: &mut fastrand::Rng) -> Option<Limit> {
        // From less than a page to enough for most calls.
        let random_size = |rng: &mut fastrand::Rng, bits| {
            let most = 1 << rng.u32(bits);
            rng.u64(..most)
        };
        let kinds = KINDS.into_iter().filter(|(fault, _)| choice.has(*fault));
        let (_, resource) = rng.choice(kinds.collect::<Vec<_>>())?;
        let spare = match resource {
            Resource::RLIMIT_AS => random_size(rng, 12..27),
            Resource::RLIMIT_NOFILE => rng.u64(..32),
            _ => random_size(rng, 1..22),
        };
        Some(Limit { resource, spare })
    }

    fn name(self) -> &'static str {
        match self.resource {
            Resource::RLIMIT_AS => "limit of address space",
            Resource::RLIMIT_NOFILE => "limit of descriptors",
            _ => "limit of file sizes",
        }
    }

    /// Runs `act` under the limit.
    fn during<R>(self, act: impl FnOnce() -> R) -> R {
        // A thread that is just starting allocates memory, and Rust aborts if it gets none.
        while !procfs::other_threads_sleep() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (before, hard) = getrlimit(self.resource).expect("every process may ask");
        let set = |soft| setrlimit(self.resource, soft, hard).expect("up to the hard limit");
        let used = match self.resource {
            Resource::RLIMIT_AS => procfs::address_space(),
            Resource::RLIMIT_NOFILE => procfs::count("/proc/self/fd") as u64,
            _ => 0,
        };
        set((used + self.spare).min(hard));
        LIMIT_IN_FORCE.store(true, Ordering::SeqCst);
        let result = act();
        LIMIT_IN_FORCE.store(false, Ordering::SeqCst);
        set(before);
        result
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "a {} that leaves {}", self.name(), self.spare)
    }
}

/// Lifts all limits, so that a defect can be reported.
pub(crate) fn lift() {
    for (_, resource) in KINDS {
        if let Ok((_, hard)) = getrlimit(resource) {
            let _ = setrlimit(resource, hard, hard);
        }
    }
}

/// Sets a panic hook: a panic of this program while a limit is in force ends the program.
///
/// Children that are forked from this program have the hook too. Their panics are printed.
pub(crate) fn forbid_panics() {
    let program = std::process::id();
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if LIMIT_IN_FORCE.load(Ordering::SeqCst) && std::process::id() == program {
            lift();
            let backtrace = Backtrace::force_capture();
            fail(&format!("under a limit of the program: {info}\n{backtrace}"));
        }
        previous(info);
    }));
}

/// Free memory in the heap, which the allocator cannot give back: small allocations then succeed
/// under a limit. It lies in pieces with used memory between them, so that no large allocation
/// takes it.
struct Cushion {
    _between: Vec<Vec<u8>>,
}

impl Cushion {
    fn new() -> Cushion {
        const PIECE: usize = 64 << 10;
        // A pin is too large for the cache of a thread, which would keep it after it is dropped.
        const PIN: usize = 2 << 10;
        let pairs = (0..64).map(|_| (vec![1; PIECE], vec![1; PIN]));
        let (pieces, between): (Vec<Vec<u8>>, Vec<Vec<u8>>) = pairs.unzip();
        drop(pieces);
        Cushion { _between: between }
    }
}

/// Runs a round: calls under a limit, and after each of them a call without one.
pub(crate) fn round(plan: &Plan, rng: &mut fastrand::Rng, ledger: &Ledger) {
    let watch = Watch::new(plan.limit);
    let round = Round {
        watch: &watch,
        ledger,
        faults: Faults::new(ledger, Duration::MAX, Choice::NONE, ForkServers::Spared),
        start_method: plan.start_method,
        workers: plan.workers,
        end: Instant::now(),
        tasks: plan.tasks,
    };
    let Some(test_pool) = TestPool::build(&round, rng) else { return };
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch.run());
        for number in 0..rng.u64(2..8) {
            let Some(limit) = Limit::random(plan.faults, rng) else { break };
            let way = WAYS[rng.usize(..WAYS.len())];
            ledger.add(FAULTS, limit.name(), 1);
            ledger.add(CALLS, "call under a limit", 1);
            let what = format!("{way:?} under {limit}");
            let open_call = watch.begin(number, what.clone());
            let fates = catch_unwind(AssertUnwindSafe(|| call(way, limit, &test_pool, rng)));
            let fates = fates.unwrap_or_else(|_| fail(&format!("{what}: the call panics")));
            fates.into_iter().for_each(|fate| {
                let name = fate.unwrap_or_else(|why| fail(&format!("{what}: {why}")));
                ledger.add(FATES, name, 1);
            });
            let afterwards = test_pool.pool.map(mix, 0..100_u64);
            if !matches!(&afterwards, Ok(values) if values.iter().copied().eq((0..100).map(mix))) {
                fail(&format!("a call after {what} gives {afterwards:?}"));
            }
            drop(open_call);
        }
        let open_call = watch.begin(u64::MAX, "end of a pool after limits".to_owned());
        drop(test_pool);
        drop(open_call);
        watch.finish();
        watching.thread().unpark();
    });
}

/// The kinds of calls.
#[derive(Clone, Copy, Debug)]
enum Way {
    TryMap,
    Imap,
    ApplyAsync,
    ChannelEnds,
    NewPool,
    Process,
}

const WAYS: [Way; 6] =
    [Way::TryMap, Way::Imap, Way::ApplyAsync, Way::ChannelEnds, Way::NewPool, Way::Process];

/// The fate of a task, as the table names it; an error says why it is wrong.
type Fate = Result<&'static str, String>;

fn call(way: Way, limit: Limit, test_pool: &TestPool, rng: &mut fastrand::Rng) -> Vec<Fate> {
    let _cushion = Cushion::new();
    let pool = &test_pool.pool;
    // This process has threads, so `Fork` is not possible.
    let start_method = match test_pool.start_method {
        StartMethod::Fork => StartMethod::Forkserver,
        other => other,
    };
    let first = rng.u64(..);
    let specs: Vec<Spec> = (0..rng.u64(1..10))
        .map(|index| {
            // Values up to 4 MiB, half of them small.
            let mut size = || {
                let most = if rng.bool() { 4 << 20 } else { 256 };
                rng.u32(..most)
            };
            let sizes = (size(), size());
            Spec { number: first.wrapping_add(index), act: Act::Work, sizes }
        })
        .collect();
    let orders: Vec<Order> = specs.iter().map(Spec::order).collect();
    match way {
        Way::TryMap => judge(&specs, limit.during(|| pool.try_map(obey, orders))),
        Way::Imap => judge(&specs, limit.during(|| pool.imap(obey, orders).collect())),
        Way::ApplyAsync => {
            let results = limit.during(|| {
                let start = |order| pool.apply_async(obey, order);
                let tasks: Vec<Result<Task<Answer>, Error>> =
                    orders.into_iter().map(start).collect();
                tasks.into_iter().map(|task| task.and_then(Task::get)).collect()
            });
            judge(&specs, results)
        }
        Way::ChannelEnds => {
            let hold = |(number, _sender): (u64, IpcSender<u64>)| mix(number);
            let count = rng.u64(1..400);
            let (sender, receiver) = match ipc::channel() {
                Ok(pair) => pair,
                Err(error) => fail(&format!("no channel can be made: {error}")),
            };
            let results = limit
                .during(|| pool.try_map(hold, (0..count).map(|number| (number, sender.clone()))));
            drop(receiver);
            judge_tiny(results)
        }
        Way::NewPool => judge_tiny(limit.during(|| {
            match Pool::builder().processes(2).start_method(start_method).build() {
                Ok(pool) => pool.try_map(mix, 0..20),
                Err(error) => vec![Err(error)],
            }
        })),
        Way::Process => {
            let results = limit.during(|| {
                let start =
                    |order| Process::new(obey_quietly, order).start_method(start_method).start();
                orders
                    .into_iter()
                    .map(|order| start(order).and_then(|child| child.join()))
                    .collect()
            });
            judge(&specs, results)
        }
    }
}

/// Judges results in the order of their tasks.
///
/// If an iterator has lost results with its pool, its last item is an error without a task.
fn judge(specs: &[Spec], results: Vec<Result<Answer, Error>>) -> Vec<Fate> {
    let is_cut_short = matches!(results.last(), Some(Err(error)) if error.task().is_none());
    if results.len() != specs.len() && !is_cut_short {
        return vec![Err(format!("{} results for {} tasks", results.len(), specs.len()))];
    }
    let seen: Vec<String> = results
        .iter()
        .map(|result| match result {
            Ok(answer) => format!("{:+}", answer.number.wrapping_sub(specs[0].number)),
            Err(error) => error.to_string(),
        })
        .collect();
    let mut left = specs.iter();
    let mut fate = |result| match result {
        Ok(answer) => {
            let is_next = if is_cut_short {
                left.any(|spec| spec.is_answer(&answer))
            } else {
                left.next().is_some_and(|spec| spec.is_answer(&answer))
            };
            let wrong = || format!("{} tasks give {seen:?}, or something spoilt", specs.len());
            is_next.then_some("result, under a limit").ok_or_else(wrong)
        }
        Err(error) => {
            if !is_cut_short {
                left.next();
            }
            excuse(&error)
        }
    };
    results.into_iter().map(&mut fate).collect()
}

/// Judges the results of [`mix`] for 0, 1 and so on.
fn judge_tiny(results: Vec<Result<u64, Error>>) -> Vec<Fate> {
    let fate = |(number, result): (u64, Result<u64, Error>)| match result {
        Ok(value) if value == mix(number) => Ok("result, under a limit"),
        Ok(value) => Err(format!("task {number} gives {value}")),
        Err(error) => excuse(&error),
    };
    (0..).zip(results).map(fate).collect()
}

/// Judges an error: its kind must be an expected one, and it must not say that code has panicked.
fn excuse(error: &Error) -> Fate {
    if error.is_panic() || error.to_string().contains("panicked") {
        return Err(format!("nothing panics here: {error}"));
    }
    let kinds = [
        (error.kind() == ErrorKind::Start, "start, under a limit"),
        (error.kind() == ErrorKind::Encode, "not encoded, under a limit"),
        (error.kind() == ErrorKind::Decode, "not decoded, under a limit"),
        (error.is_death(), "death, under a limit"),
        (error.is_closed(), "closed, under a limit"),
    ];
    let kind = kinds.iter().find(|(is, _)| *is).map(|(_, name)| *name);
    kind.ok_or_else(|| format!("the error has an unexpected kind: {error}"))
}
