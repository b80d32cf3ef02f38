//! Defines [`Managed`], an object that other processes use by calls.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::client::{Object, Server};
use crate::call::{Callable, Name, Stateful, refuse_captures};
use crate::error::Error;
use crate::sync::raw_lock::Patience;
use crate::wire::{self, Message};

/// Object of any type in a process of its own, which other processes use by calls.
///
/// A clone is the same object, and so is what another process receives. The process ends when
/// nobody has the object any more, or with the process that has made the object. (If a function of
/// the object has called `fork`, or has started a thread that still runs, the process ends only
/// with the process that has made the object.) As with a [`Manager`](super::Manager), the death of
/// the object's process is an error for all.
///
/// # Examples
///
/// ```
/// use proc_core::Process;
/// use proc_core::sync::Managed;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let names = Managed::new(|first: String| vec![first], "Ada".to_owned())?;
///     let add = |names: Managed<Vec<String>>| {
///         names.call(|names, name: String| names.push(name), "Grace".to_owned())
///     };
///     Process::new(add, names.clone()).start()?.join()??;
///     let all = names.call(|names, ()| names.join(" and "), ())?;
///     assert_eq!(all, "Ada and Grace");
///     Ok(())
/// }
/// ```
#[doc(alias = "BaseManager.register")]
pub struct Managed<S> {
    object: Object,
    kind: PhantomData<fn(S) -> S>,
}

impl<S: 'static> Managed<S> {
    /// Starts a process, and calls `make` with `argument` there to make the object.
    ///
    /// # Errors
    ///
    /// The process cannot be started, the argument cannot be sent, or `make` panicked.
    ///
    /// See the example of [`Managed`].
    pub fn new<F, A>(make: F, argument: A) -> Result<Managed<S>, Error>
    where
        F: Fn(A) -> S + Copy + 'static,
        A: Message,
    {
        Managed::within(&Server::start()?, make, argument)
    }

    /// Makes an object in the process of `server`.
    pub(super) fn within<F, A>(server: &Server, _: F, argument: A) -> Result<Managed<S>, Error>
    where
        F: Fn(A) -> S + Copy + 'static,
        A: Message,
    {
        let name = Name::of_maker::<F, A, S>().map_err(Error::invalid)?;
        let object = Object::make(server, name, &argument)?;
        Ok(Managed { object, kind: PhantomData })
    }

    /// Calls a function with the object and an argument, in the object's process, and returns what
    /// the function returns. One call is made after the other.
    ///
    /// The function is a `fn` item, or a closure that captures nothing. It must not call the same
    /// manager, which would wait for itself.
    ///
    /// # Errors
    ///
    /// - [`Closed`](crate::ErrorKind::Closed): the object's process has died. The error has its pid.
    /// - [`Panic`](crate::ErrorKind::Panic): the function panicked. The object stays as the
    ///   function left it.
    /// - [`Encode`](crate::ErrorKind::Encode), [`Decode`](crate::ErrorKind::Decode): the argument or
    ///   the result cannot be sent. Channel ends, shared memory and shared state cannot be part of
    ///   them.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory or descriptor for the channels of
    ///   this process to the object.
    ///
    /// See the example of [`Managed`].
    pub fn call<F, A, R>(&self, function: F, argument: A) -> Result<R, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.call_with(function, &argument)
    }

    /// Calls like [`call`](Managed::call), but waits for at most `timeout`. Returns `None` if there
    /// is no result by then. The call may still be made. But if four or more earlier calls of this
    /// process have timed out and have no reply yet, it may never be made.
    ///
    /// # Errors
    ///
    /// As for [`call`](Managed::call).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::Managed;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let busy = Managed::new(|()| (), ())?;
    ///     let sleep = |_: &mut (), d: Duration| std::thread::sleep(d);
    ///     let second = Duration::from_secs(1);
    ///     assert_eq!(busy.call_timeout(sleep, second, Duration::from_millis(1))?, None);
    ///     Ok(())
    /// }
    /// ```
    pub fn call_timeout<F, A, R>(
        &self,
        function: F,
        argument: A,
        timeout: Duration,
    ) -> Result<Option<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        let may_have_handles = wire::may_have_handles::<A>();
        self.call_by(function, &argument, may_have_handles, Patience::at_most(timeout))
    }

    /// Calls like [`call`](Managed::call), with an argument that the caller keeps.
    pub(super) fn call_with<F, A, R>(&self, function: F, argument: &A) -> Result<R, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.call_patiently(function, argument, wire::may_have_handles::<A>())
    }

    /// Calls like [`call`](Managed::call), with two values as the argument. If it is known of both
    /// types that they have no channel ends, nobody searches for them.
    pub(super) fn call_with_two<F, A, B, R>(&self, function: F, two: (A, B)) -> Result<R, Error>
    where
        F: Fn(&mut S, (A, B)) -> R + Copy + 'static,
        A: Message,
        B: Message,
        R: Message,
    {
        let may_have_handles = wire::may_have_handles::<A>() || wire::may_have_handles::<B>();
        self.call_patiently(function, &two, may_have_handles)
    }

    fn call_patiently<F, A, R>(
        &self,
        function: F,
        argument: &A,
        may_have_handles: bool,
    ) -> Result<R, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        loop {
            let result = self.call_by(function, argument, may_have_handles, Patience::Endless)?;
            if let Some(result) = result {
                return Ok(result);
            }
        }
    }

    fn call_by<F, A, R>(
        &self,
        _: F,
        argument: &A,
        may_have_handles: bool,
        patience: Patience,
    ) -> Result<Option<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        refuse_captures!(F);
        let entry = Stateful::<F, S, A, R>::CALL;
        let name = Name::of_entry::<F, _>(entry).map_err(Error::invalid)?;
        self.object.call(name, argument, may_have_handles, patience)
    }
}

impl<S> Clone for Managed<S> {
    fn clone(&self) -> Managed<S> {
        Managed { object: self.object.clone(), kind: PhantomData }
    }
}

impl<S> Serialize for Managed<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de, S> Deserialize<'de> for Managed<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Managed<S>, D::Error> {
        Ok(Managed { object: Object::deserialize(deserializer)?, kind: PhantomData })
    }
}

impl<S> Debug for Managed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Managed").finish_non_exhaustive()
    }
}
