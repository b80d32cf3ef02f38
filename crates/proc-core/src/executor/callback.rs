//! The thread that calls callbacks: functions that get a result when it has arrived. All calls
//! share the thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::panics;
use crate::sys::{self, PerProcess};

/// Calls `callback` with the output of `task` when `task` is done.
pub(super) fn when_done<T>(task: T, callback: impl FnOnce(T::Output) + Send + 'static)
where
    T: Future + Send + Unpin + 'static,
{
    Arc::new(Callback(Mutex::new(Some((task, callback))))).wake();
}

/// A task and its callback, until the callback is called. As a waker, a `Callback` sends itself to
/// the thread.
struct Callback<T, F>(Mutex<Option<(T, F)>>);

/// The channel to the thread.
type ToThread = Mutex<Sender<Arc<dyn Run>>>;

trait Run: Send + Sync {
    /// Polls the task. If it is done, calls the callback with its output.
    fn run(self: Arc<Self>);
}

impl<T, F> Run for Callback<T, F>
where
    T: Future + Send + Unpin + 'static,
    F: FnOnce(T::Output) + Send + 'static,
{
    fn run(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((mut task, callback)) = pending.take() else { return };
        match Pin::new(&mut task).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => *pending = Some((task, callback)),
            Poll::Ready(result) => {
                drop(pending);
                // The message of a panic is on stderr. No caller waits for it.
                let _ = panics::catch_and_print(|| callback(result));
            }
        }
    }
}

impl<T, F> Wake for Callback<T, F>
where
    T: Future + Send + Unpin + 'static,
    F: FnOnce(T::Output) + Send + 'static,
{
    fn wake(self: Arc<Self>) {
        // A copy that `fork` makes has none of the threads of this process.
        static THREAD: PerProcess<OnceLock<ToThread>> = PerProcess::new();
        let thread = THREAD.get().get_or_init(|| {
            let (sender, callbacks) = mpsc::channel::<Arc<dyn Run>>();
            let run = move || callbacks.into_iter().for_each(Run::run);
            // If the thread cannot be started, callbacks are not called. The tasks run anyway.
            let _ = sys::spawn_thread("proc-core callbacks", sys::USUAL_STACK, run);
            Mutex::new(sender)
        });
        let _ = thread.lock().unwrap_or_else(PoisonError::into_inner).send(self);
    }
}
