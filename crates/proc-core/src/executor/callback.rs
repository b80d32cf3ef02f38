//! Functions that are called with a result when it is there, in a thread that all of them share.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::panics;
use crate::sys::{self, PerProcess};

/// Calls `callback` with what `task` becomes.
pub(super) fn when_done<T>(task: T, callback: impl FnOnce(T::Output) + Send + 'static)
where
    T: Future + Send + Unpin + 'static,
{
    Arc::new(Callback(Mutex::new(Some((task, callback))))).wake();
}

/// A task and what to do with its result; being woken sends it to the callbacks' thread.
struct Callback<T, F>(Mutex<Option<(T, F)>>);

/// The way to the callbacks' thread.
type ToThread = Mutex<Sender<Arc<dyn Run>>>;

trait Run: Send + Sync {
    /// Looks whether the result is there, and if so hands it over.
    fn run(self: Arc<Self>);
}

impl<T, F> Run for Callback<T, F>
where
    T: Future + Send + Unpin + 'static,
    F: FnOnce(T::Output) + Send + 'static,
{
    fn run(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((mut task, callback)) = place.take() else { return };
        match Pin::new(&mut task).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => *place = Some((task, callback)),
            Poll::Ready(result) => {
                drop(place);
                // Its message is on stderr, and there is nobody else to tell.
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
        // A copy of this process has no copy of its threads.
        static THREAD: PerProcess<OnceLock<ToThread>> = PerProcess::new();
        let thread = THREAD.get().get_or_init(|| {
            let (sender, callbacks) = mpsc::channel::<Arc<dyn Run>>();
            let run = move || callbacks.into_iter().for_each(Run::run);
            // Where no thread can be had, callbacks are not called; the tasks are done all the
            // same.
            let _ = sys::spawn_thread("proc-core callbacks", sys::USUAL_STACK, run);
            Mutex::new(sender)
        });
        let _ = thread.lock().unwrap_or_else(PoisonError::into_inner).send(self);
    }
}
