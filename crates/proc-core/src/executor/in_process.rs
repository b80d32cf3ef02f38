//! `InProcess`: an executor that runs tasks in the caller, for debuggers and tests.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use super::engine::{Arrived, CallOptions, Engine, Job};
use super::options::Options;
use super::with::With;
use super::{Executor, executor_calls};
use crate::call::current::{self, TaskFacts};
use crate::call::{self, Callable, Called, Fault, Input, Plain, Stage, State};
use crate::error::{Error, Origin};
use crate::wire::{self, Handles, Message, Payload, Sink};
use crate::{panics, sys};

/// Runs functions in the calling process, one task after another, as a pool with one worker does in
/// another process.
///
/// Use it where a pool stands in the way: to follow a task in a debugger, or in a test of code that
/// takes an [`Executor`]. Arguments and results are encoded and decoded as for a pool, so a value
/// that cannot cross is found here too. Panics become errors, and tasks are tried again as in a
/// pool.
///
/// Nothing contains a task here: one that crashes or hangs takes the program with it. A time limit
/// does not end a task; the task fails when it returns too late. `apply_async` and `map_async` run
/// their tasks before they return.
///
/// # Examples
///
/// ```
/// use proc_core::{Error, Executor, InProcess, Pool};
///
/// fn sum_of_squares(on: &impl Executor, numbers: Vec<u64>) -> Result<u64, Error> {
///     Ok(on.map(|x: u64| x * x, numbers)?.into_iter().sum())
/// }
///
/// fn main() -> Result<(), Error> {
///     proc_core::init();
///     if std::env::args().any(|arg| arg == "--debug") {
///         println!("{}", sum_of_squares(&InProcess::new(), vec![1, 2, 3])?);
///     } else {
///         println!("{}", sum_of_squares(&Pool::new()?, vec![1, 2, 3])?);
///     }
///     Ok(())
/// }
/// ```
#[doc(alias = "sync")]
#[derive(Debug, Default)]
pub struct InProcess(());

impl InProcess {
    /// Returns an executor that runs tasks in the caller.
    ///
    /// See the example of [`InProcess`].
    pub fn new() -> InProcess {
        InProcess(())
    }

    /// Returns an [`Options`]: the same calls, with settings such as the number of retries.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let here = proc_core::InProcess::new();
    ///     let fails_once = |x: u32| {
    ///         assert!(proc_core::current().attempt() > 0, "the first try fails");
    ///         x + 1
    ///     };
    ///     assert_eq!(here.options().retries(1).apply(fails_once, 41)?, 42);
    ///     Ok(())
    /// }
    /// ```
    pub fn options(&self) -> Options<'_, InProcess> {
        Options::new(self)
    }

    /// Returns a [`With`]: the same calls, for functions that borrow `data` beside their argument.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let here = proc_core::InProcess::new();
    ///     assert_eq!(here.with(3).map(|factor, x: i64| factor * x, [1, 2])?, [3, 6]);
    ///     Ok(())
    /// }
    /// ```
    pub fn with<D: Message + Send + Sync>(&self, data: D) -> With<'_, InProcess, D> {
        self.options().with(data)
    }

    executor_calls! {
        [pub]
        ///
        /// See the example of [`InProcess`].
        map
        ///
        /// See the example of [`Pool::try_map`](crate::Pool::try_map).
        try_map
        ///
        /// See the example of [`Pool::imap`](crate::Pool::imap).
        imap
        ///
        /// See the example of [`Pool::imap_unordered`](crate::Pool::imap_unordered).
        imap_unordered
        ///
        /// See the example of [`Pool::apply`](crate::Pool::apply).
        apply
        ///
        /// See the example of [`Pool::apply_async`](crate::Pool::apply_async).
        apply_async
        ///
        /// See the example of [`Pool::map_async`](crate::Pool::map_async).
        map_async
    }
}

/// Calls a function with an encoded argument, and appends the encoded result.
type LocalFn = fn(Input<'_>, Option<&LocalData>, &mut Sink) -> Called;

type LocalData = dyn Any + Send + Sync;

/// A function that runs in the caller.
#[derive(Clone, Copy)]
pub struct LocalFunction(LocalFn);

fn plain<F, A, R>(input: Input<'_>, _: Option<&LocalData>, out: &mut Sink) -> Called
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
{
    Plain::<F, A, R>::call(input, &mut State::none(), out)
}

fn with_data<F, D, A, R>(input: Input<'_>, data: Option<&LocalData>, out: &mut Sink) -> Called
where
    F: Fn(&D, A) -> R + Copy + 'static,
    D: Message,
    A: Message,
    R: Message,
{
    let stage = Cell::new(Stage::Arguments);
    let run = || {
        let data = data.and_then(|data| data.downcast_ref::<D>());
        let data = data.ok_or_else(|| Fault::Invalid("the data have another type".into()))?;
        let argument = call::read_argument(input, &stage)?;
        let result = sys::zst_value::<F>()(data, argument);
        if wire::may_have_handles::<R>() {
            wire::drop_collected_handles();
        }
        call::write_result(result, out, &stage)
    };
    panics::catch(run).unwrap_or_else(|panic| Err(stage.get().fault(panic)))
}

impl Executor for InProcess {}

impl Engine for InProcess {
    type Function = LocalFunction;
    type Data = Arc<LocalData>;
    type Job = LocalJob;

    fn function<F, A, R>(_: F) -> Result<LocalFunction, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        call::refuse_captures!(F);
        Ok(LocalFunction(plain::<F, A, R>))
    }

    fn function_with_data<F, D, A, R>(_: F) -> Result<LocalFunction, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        D: Message,
        A: Message,
        R: Message,
    {
        call::refuse_captures!(F);
        Ok(LocalFunction(with_data::<F, D, A, R>))
    }

    fn bind<D: Message + Send + Sync>(&self, data: D) -> Result<Arc<LocalData>, Error> {
        panics::install_hook();
        let encoded = Payload::encode(&data).map_err(Error::encode_data)?;
        let decoded: D = encoded.decode().map_err(|why| Error::from_fault(Fault::Data(why)))?;
        Ok(Arc::new(decoded))
    }

    fn begin(
        &self,
        function: LocalFunction,
        data: Option<Arc<LocalData>>,
        options: CallOptions,
    ) -> Result<LocalJob, Error> {
        panics::install_hook();
        Ok(LocalJob { function, data, options, ..LocalJob::default() })
    }
}

impl Default for LocalFunction {
    fn default() -> LocalFunction {
        LocalFunction(|_, _, _| Err(Fault::Invalid("there is no function".into())))
    }
}

/// An encoded argument, and its task's number.
struct LocalTask {
    number: usize,
    argument: Vec<u8>,
    handles: Option<Handles>,
}

/// A call whose tasks run in the caller.
#[derive(Default)]
pub struct LocalJob {
    function: LocalFunction,
    data: Option<Arc<LocalData>>,
    options: CallOptions,
    /// The tasks that are pushed and not submitted.
    pushed: Vec<LocalTask>,
    /// The number of the next task.
    next: usize,
    /// Results that the caller has not taken.
    results: Mutex<VecDeque<LocalArrived>>,
    retried: AtomicUsize,
}

/// The result of a task that has run in the caller.
pub struct LocalArrived {
    task: usize,
    result: Result<(Sink, Option<Handles>), Error>,
}

impl LocalJob {
    fn results(&self) -> MutexGuard<'_, VecDeque<LocalArrived>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task, again and again if it fails and may be tried again.
    fn run(&self, mut task: LocalTask) -> Result<(Sink, Option<Handles>), Error> {
        let can_repeat = task.handles.is_none();
        let mut attempt = 0;
        loop {
            let result = self.run_once(&task.argument, task.handles.take(), task.number, attempt);
            let failed = result.as_ref().is_err_and(|error| error.is_panic() || error.is_timeout());
            if !failed || !can_repeat || attempt >= self.options.retries {
                let origin = Origin { pid: Some(sys::pid()), ..Origin::of_task(task.number) };
                return result.map_err(|error| error.with_origin(origin));
            }
            attempt += 1;
            self.retried.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run_once(
        &self,
        argument: &[u8],
        handles: Option<Handles>,
        number: usize,
        attempt: u32,
    ) -> Result<(Sink, Option<Handles>), Error> {
        let CallOptions { timeout, grace, seed, .. } = self.options;
        let begun = Instant::now();
        let deadline = timeout.and_then(|timeout| begun.checked_add(timeout));
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let seed = seed.unwrap_or_else(|| current::unpredictable(run));
        let is_late = move || deadline.is_some_and(|deadline| deadline <= Instant::now());
        let facts = TaskFacts {
            index: number,
            attempt,
            seed: current::mix(seed, number as u64),
            deadline,
            stop_requested: Arc::new(move || grace.is_some() && is_late()),
        };
        let mut out = Sink::default();
        let input = Input { bytes: argument, handles };
        let call = || (self.function.0)(input, self.data.as_deref(), &mut out);
        let handles = current::in_process(facts, call).map_err(Error::from_fault)?;
        match timeout {
            Some(timeout)
                if begun.elapsed() >= timeout.saturating_add(grace.unwrap_or_default()) =>
            {
                Err(Error::timeout(timeout))
            }
            _ => Ok((out, handles)),
        }
    }
}

impl Job for LocalJob {
    type Arrived = LocalArrived;
    type Collecting = ();

    fn push<A: Message>(&mut self, arguments: &[A], max_bytes: usize) -> Result<(), Error> {
        for argument in arguments {
            let number = self.next;
            self.next += 1;
            let mut bytes = Sink::default();
            let handles =
                wire::encode_into(argument, &mut bytes).map_err(Error::encode_argument)?;
            bytes.inline_large().map_err(Error::encode_argument)?;
            self.pushed.push(LocalTask { number, argument: bytes.into_bytes(), handles });
            if self.pushed_bytes() >= max_bytes {
                break;
            }
        }
        Ok(())
    }

    fn pushed(&self) -> usize {
        self.pushed.len()
    }

    fn pushed_bytes(&self) -> usize {
        self.pushed.iter().map(|task| task.argument.len()).sum()
    }

    fn submit(&mut self, _more: usize) -> Result<(), Error> {
        for task in std::mem::take(&mut self.pushed) {
            let number = task.number;
            let result = self.run(task);
            let ends_call = self.options.fail_fast && result.is_err();
            self.results().push_back(LocalArrived { task: number, result });
            if ends_call {
                break;
            }
        }
        Ok(())
    }

    fn end(&mut self) {}

    fn workers(&self) -> usize {
        1
    }

    /// True if results wait for the caller: it takes them before it pushes more tasks.
    fn is_full(&self, in_flight: usize) -> bool {
        in_flight > 0
    }

    fn check_process(&self) -> Result<(), Error> {
        Ok(())
    }

    fn collecting(&self) {}

    fn poll(&self) -> Option<Result<LocalArrived, Error>> {
        self.results().pop_front().map(Ok)
    }

    fn poll_or_wake(&self, _: &Waker) -> Option<Result<LocalArrived, Error>> {
        self.poll()
    }

    fn wait(&self, _: usize, _: Option<Instant>) -> Option<Result<LocalArrived, Error>> {
        self.poll()
    }

    fn retried(&self) -> usize {
        self.retried.load(Ordering::Relaxed)
    }

    /// Always false: tasks run before anybody can cancel them.
    fn cancel(&self) -> bool {
        false
    }

    fn abandon(&mut self) {
        self.results().clear();
    }
}

impl Arrived for LocalArrived {
    fn count(&self) -> usize {
        1
    }

    fn decode<R: Message>(self, mut settle: impl FnMut(usize, Result<R, Error>)) {
        let LocalArrived { task, result } = self;
        let decoded = result.and_then(|(mut bytes, handles)| {
            let decoded = bytes.inline_large().and_then(|()| wire::decode(&bytes, handles));
            decoded.map_err(|why| Error::decode_result(why).with_origin(Origin::of_task(task)))
        });
        settle(task, decoded);
    }
}
