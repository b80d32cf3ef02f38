//! Functions that workers call besides tasks: to prepare themselves, and at their end.

use std::marker::PhantomData;
use std::sync::Arc;

use super::PoolBuilder;
use crate::call::Name;
use crate::error::Error;
use crate::pool::scheduler::StartFunction;
use crate::wire::{Message, Payload};

/// Functions that workers call besides tasks.
impl<S> PoolBuilder<S> {
    /// Sets a function that is called once for the whole pool, in a fork server of its own. All
    /// workers are forked from that process. So they have the memory that the function leaves, such
    /// as a static; a page of it is copied only when a worker writes to it.
    ///
    /// Use this for data that is the same in all workers, and large or costly to make.
    /// [`build`](PoolBuilder::build) calls the function and waits for it. If the fork server dies,
    /// the function is called again in the next one. The fork server is a copy of the program: as
    /// it was in [`init`](crate::init); with [`StartMethod::Fork`](crate::StartMethod::Fork), as it
    /// is in `build`; with [`StartMethod::Spawn`](crate::StartMethod::Spawn), as it is before
    /// `main`. If the function panics, ends its process or leaves threads running, `build` fails
    /// ([`ErrorKind::Initializer`](crate::ErrorKind::Initializer)).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::OnceLock;
    ///
    /// use proc_core::Pool;
    ///
    /// static SQUARES: OnceLock<Vec<u64>> = OnceLock::new();
    ///
    /// fn make(n: u64) {
    ///     SQUARES.set((0..n).map(|x| x * x).collect()).expect("it is called once");
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).preload(make, 1000).build()?;
    ///     let look_up = |x: usize| SQUARES.get().map(|squares| squares[x]);
    ///     assert_eq!(pool.map(look_up, [3, 999])?, [Some(9), Some(998_001)]);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "set_forkserver_preload")]
    pub fn preload<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
    {
        let _ = function;
        self.settings.start_functions.preload =
            Some(start_function(Name::of::<F, A, ()>, argument));
        self
    }

    /// Sets a function that each worker calls once, before its first task.
    ///
    /// If it panics or ends its process, the next worker in the same place tries again. If three
    /// workers in a row have failed in each place of the pool, calls fail with the error of the
    /// function ([`ErrorKind::Initializer`](crate::ErrorKind::Initializer)).
    ///
    /// See the example of [`PoolBuilder`].
    #[doc(alias = "initargs")]
    pub fn initializer<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
    {
        let _ = function;
        self.settings.start_functions.initializer =
            Some(start_function(Name::of::<F, A, ()>, argument));
        self
    }

    /// Sets a function that makes the state of each worker, see
    /// [`Pool::with_state`](crate::Pool::with_state).
    ///
    /// Each worker calls it after the initializer and before the first task. A failure then counts
    /// like one of the initializer. The worker calls it again after a panic of a task that borrowed
    /// the state. (If `argument` holds channel ends or shared memory, a worker can use it only
    /// once. So after such a panic, the worker exits and is replaced.) The state may have any type,
    /// because it never crosses to another process. It is dropped when the worker exits, unless the
    /// worker is killed.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).state(|first: u32| first, 10).build()?;
    ///     let next = |counter: &mut u32, step: u32| {
    ///         *counter += step;
    ///         *counter
    ///     };
    ///     assert_eq!(pool.with_state().map(next, [1, 1, 5])?, [11, 12, 17]);
    ///     Ok(())
    /// }
    /// ```
    pub fn state<F, A, T>(self, make: F, argument: A) -> PoolBuilder<T>
    where
        F: Fn(A) -> T + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
        T: 'static,
    {
        let _ = make;
        let mut settings = self.settings;
        settings.start_functions.state = Some(start_function(Name::of_maker::<F, A, T>, argument));
        settings.worker_exit = settings.worker_exit.map(|_| {
            Err("worker_exit takes the state: call it after PoolBuilder::state, not before".into())
        });
        PoolBuilder { settings, state: PhantomData }
    }

    /// Sets a function that each worker calls last, with its state.
    ///
    /// A worker calls it when it exits normally: because the pool is closed, ended or made smaller,
    /// because the worker was idle (`idle_timeout`), because it has run as many tasks as it may
    /// (`max_tasks_per_child`), or because it has too much memory (`max_memory_per_child`). A
    /// worker that is killed does not call it, and neither does one whose task ends the process. If
    /// the function panics, the message goes to stderr, and nothing else happens. Without this
    /// setting, the state is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    /// use proc_core::ipc::{self, IpcSender};
    ///
    /// type State = (u32, IpcSender<u32>); // a sum, and where it goes
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     proc_core::init();
    ///     let (sender, receiver) = ipc::channel()?;
    ///     let pool = Pool::builder()
    ///         .processes(1)
    ///         .state(|to: IpcSender<u32>| (0, to), sender)
    ///         .worker_exit(|(sum, to): State| to.send(sum).expect("main receives"))
    ///         .build()?;
    ///     pool.with_state().map(|state: &mut State, x: u32| state.0 += x, [3, 4])?;
    ///     pool.close();
    ///     assert_eq!(receiver.recv()?, 7); // what the worker has added up
    ///     Ok(())
    /// }
    /// ```
    pub fn worker_exit<F>(mut self, function: F) -> Self
    where
        F: Fn(S) + Copy + 'static,
        S: 'static,
    {
        let _ = function;
        self.settings.worker_exit = Some(Name::of_taker::<F, S>());
        self
    }
}

/// Makes a start function from the name of the user's function and its argument.
fn start_function<A>(name: fn() -> Result<Name, String>, argument: A) -> StartFunction
where
    A: Message + Send + Sync,
{
    Arc::new(move || {
        let name = name().map_err(Error::invalid)?;
        Ok((name, Payload::encode(&argument).map_err(Error::encode_argument)?))
    })
}
