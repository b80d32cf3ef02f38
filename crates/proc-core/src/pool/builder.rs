//! The settings of a pool.

use super::Pool;
use super::crew::{Crew, Initializer, Plan};
use crate::context::Context;
use crate::error::Error;
use crate::function::{Message, Name, refuse_captures};
use crate::limits::Limits;
use crate::queue::Layout;
use crate::sys;
use crate::wire::Payload;

/// The settings of a pool that is to be built; all have Python's defaults.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// static FACTOR: AtomicU32 = AtomicU32::new(1);
///
/// let pool = proc_core::Pool::builder()
///     .processes(2)
///     .initializer(|factor| FACTOR.store(factor, Ordering::Relaxed), 10)
///     .max_tasks_per_child(100)
///     .build()?;
/// assert_eq!(pool.map(|x: u32| x * FACTOR.load(Ordering::Relaxed), [1, 2])?, [10, 20]);
/// # Ok(())
/// # }
/// ```
#[must_use = "no worker is started before `build`"]
#[derive(Default)]
pub struct PoolBuilder {
    processes: Option<usize>,
    context: Context,
    name: Option<String>,
    initializer: Option<Initializer>,
    max_tasks: Option<u64>,
    limits: Limits,
}

impl PoolBuilder {
    /// How many workers; without it, as many as this process may use processors.
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = Some(processes);
        self
    }

    /// How workers come into being.
    pub fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// What workers are called in `ps`, before their number; 15 bytes are shown. `worker` without it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A function that each worker calls once, before its first task.
    ///
    /// Where it panics or ends its process, the worker is tried again two more times; then calls
    /// fail with its error ([`Error::is_initializer`]).
    #[doc(alias = "initargs")]
    pub fn initializer<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
    {
        refuse_captures!(F);
        let _ = function;
        self.initializer = Some(Box::new(move || {
            let name = Name::of::<F, A, ()>().map_err(Error::invalid)?;
            Ok((name, Payload::encode(&argument).map_err(Error::encode_argument)?))
        }));
        self
    }

    /// Replaces each worker after so many tasks, against leaks. Without it workers live on.
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(mut self, tasks: u64) -> Self {
        self.max_tasks = Some(tasks);
        self
    }

    /// Limits what each worker may use, the replacements included.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Starts the workers.
    ///
    /// Returns when they exist; their initializers are not waited for.
    ///
    /// # Errors
    ///
    /// A number makes no sense, the initializer's argument cannot be encoded, a worker cannot be
    /// started (what was started is ended), or [`init`](crate::init) is missing.
    pub fn build(self) -> Result<Pool, Error> {
        let most = Layout::MOST_WORKERS as usize;
        let processes = self.processes.unwrap_or_else(|| sys::available_processors().min(most));
        if processes == 0 {
            return Err(Error::invalid("a pool needs at least one process"));
        }
        if processes > most {
            let what = format!("a pool has at most {most} processes, not {processes}");
            return Err(Error::invalid(what));
        }
        if self.max_tasks == Some(0) {
            return Err(Error::invalid("a worker must do at least one task before it is replaced"));
        }
        let crew = Crew::build(Plan {
            processes: processes as u32,
            context: self.context,
            name: self.name.unwrap_or_else(|| "worker".into()),
            initializer: self.initializer,
            max_tasks: self.max_tasks,
            limits: self.limits,
        })?;
        Ok(Pool { crew })
    }
}

impl std::fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("processes", &self.processes)
            .field("context", &self.context)
            .field("max_tasks", &self.max_tasks)
            .finish_non_exhaustive()
    }
}
