//! Defines [`List`], a list in a manager.

use std::fmt::{self, Debug};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::client::Server;
use super::managed::Managed;
use crate::error::Error;
use crate::sys::zst_value;
use crate::wire::Message;

/// List in the process of a [`Manager`](super::Manager).
///
/// Each method is a call of the manager, and has the errors of [`Managed::call`].
///
/// # Examples
///
/// ```
/// use proc_core::sync::Manager;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let list = Manager::new()?.list::<u32>()?;
///     list.push(1)?;
///     list.extend([2, 3])?;
///     assert_eq!(list.set(0, 10)?, Some(1));
///     assert_eq!(list.update(1, |x, by| *x *= by, 5)?, Some(()));
///     assert_eq!((list.get(1)?, list.get(3)?), (Some(10), None));
///     assert_eq!((list.pop()?, list.len()?), (Some(3), 2));
///     assert_eq!(list.snapshot()?, [10, 10]);
///     list.clear()?;
///     assert_eq!(list.len()?, 0);
///     Ok(())
/// }
/// ```
pub struct List<T> {
    items: Managed<Vec<T>>,
}

impl<T: Message + Clone> List<T> {
    pub(super) fn new(server: &Server) -> Result<List<T>, Error> {
        Ok(List { items: Managed::within(server, |()| Vec::new(), ())? })
    }

    /// Adds an item at the end.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    #[doc(alias = "append")]
    pub fn push(&self, item: T) -> Result<(), Error> {
        self.items.call(|items, item| items.push(item), item)
    }

    /// Adds items at the end, in one call.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    pub fn extend(&self, more: impl IntoIterator<Item = T>) -> Result<(), Error> {
        let more: Vec<T> = more.into_iter().collect();
        self.items.call(|items, more: Vec<T>| items.extend(more), more)
    }

    /// Removes the last item, and returns it.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    pub fn pop(&self) -> Result<Option<T>, Error> {
        self.items.call(|items, ()| items.pop(), ())
    }

    /// Returns a copy of item `index`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    pub fn get(&self, index: usize) -> Result<Option<T>, Error> {
        self.items.call(|items, index: usize| items.get(index).cloned(), index)
    }

    /// Replaces item `index`, and returns the old one; `None` if there is no such item, and then
    /// the list stays as it is.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    pub fn set(&self, index: usize, item: T) -> Result<Option<T>, Error> {
        let set = |items: &mut Vec<T>, (index, item): (usize, T)| {
            items.get_mut(index).map(|old| std::mem::replace(old, item))
        };
        self.items.call_with_two(set, (index, item))
    }

    /// Calls a function in the manager with item `index`, to change it. No other call comes in
    /// between. Returns what the function returns; `None` if there is no such item. If the function
    /// panics, the item stays as it was.
    ///
    /// The function is a `fn` item, or a closure that captures nothing.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    pub fn update<F, X, R>(&self, index: usize, _: F, x: X) -> Result<Option<R>, Error>
    where
        F: Fn(&mut T, X) -> R + Copy + 'static,
        X: Message,
        R: Message,
    {
        crate::call::refuse_captures!(F);
        let update = |items: &mut Vec<T>, (index, x): (usize, X)| {
            let item = items.get_mut(index)?;
            let mut changed = item.clone();
            let returned = zst_value::<F>()(&mut changed, x);
            *item = changed;
            Some(returned)
        };
        self.items.call_with_two(update, (index, x))
    }

    /// Returns the number of items.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    #[expect(clippy::len_without_is_empty, reason = "each question is a call of its own")]
    pub fn len(&self) -> Result<usize, Error> {
        self.items.call(|items, ()| items.len(), ())
    }

    /// Removes all items.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    pub fn clear(&self) -> Result<(), Error> {
        self.items.call(|items, ()| items.clear(), ())
    }

    /// Returns a copy of the list.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`List`].
    pub fn snapshot(&self) -> Result<Vec<T>, Error> {
        self.items.call(|items, ()| items.clone(), ())
    }
}

impl<T> Clone for List<T> {
    fn clone(&self) -> List<T> {
        List { items: self.items.clone() }
    }
}

impl<T> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.items.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        Ok(List { items: Managed::deserialize(deserializer)? })
    }
}

impl<T> Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").finish_non_exhaustive()
    }
}
