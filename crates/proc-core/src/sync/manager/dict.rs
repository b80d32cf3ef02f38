//! Defines [`Dict`], a dictionary in a manager.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::hash::Hash;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::client::Server;
use super::managed::Managed;
use crate::error::Error;
use crate::sys::zst_value;
use crate::wire::Message;

/// Dictionary in the process of a [`Manager`](super::Manager).
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
///     let counts = Manager::new()?.dict::<String, u32>()?;
///     for word in ["a", "b", "a"] {
///         // In one call: nobody else changes the value in between.
///         counts.update(word.to_owned(), |count, by| *count.get_or_insert(0) += by, 1)?;
///     }
///     assert_eq!(counts.get(&"a".to_owned())?, Some(2));
///     assert_eq!(counts.insert("a".to_owned(), 5)?, Some(2));
///     assert_eq!(counts.remove(&"b".to_owned())?, Some(1));
///     assert_eq!((counts.len()?, counts.contains_key(&"b".to_owned())?), (1, false));
///     assert_eq!(counts.snapshot()?, [("a".to_owned(), 5)].into());
///     counts.clear()?;
///     assert_eq!(counts.len()?, 0);
///     Ok(())
/// }
/// ```
pub struct Dict<K, V> {
    map: Managed<HashMap<K, V>>,
}

impl<K: Message + Eq + Hash, V: Message + Clone> Dict<K, V> {
    pub(super) fn new(server: &Server) -> Result<Dict<K, V>, Error> {
        Ok(Dict { map: Managed::within(server, |()| HashMap::new(), ())? })
    }

    /// Sets the value of a key. Returns the value before.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>, Error> {
        self.map.call_with_two(|map, (key, value)| map.insert(key, value), (key, value))
    }

    /// Returns a copy of the value of a key.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        self.map.call_with(|map, key: K| map.get(&key).cloned(), key)
    }

    /// Removes a key. Returns its value.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    pub fn remove(&self, key: &K) -> Result<Option<V>, Error> {
        self.map.call_with(|map, key: K| map.remove(&key), key)
    }

    /// Whether the dictionary has a key.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    pub fn contains_key(&self, key: &K) -> Result<bool, Error> {
        self.map.call_with(|map, key: K| map.contains_key(&key), key)
    }

    /// Calls a function in the manager with the value of a key, which is `None` if there is none.
    /// What the function leaves becomes the value; `None` removes the key. No other call comes in
    /// between. Returns what the function returns. If the function panics, the value stays as it
    /// was.
    ///
    /// The function is a `fn` item, or a closure that captures nothing.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    pub fn update<F, X, R>(&self, key: K, _: F, x: X) -> Result<R, Error>
    where
        F: Fn(&mut Option<V>, X) -> R + Copy + 'static,
        X: Message,
        R: Message,
    {
        crate::call::refuse_captures!(F);
        let update = |map: &mut HashMap<K, V>, (key, x): (K, X)| {
            let mut value = map.get(&key).cloned();
            let returned = zst_value::<F>()(&mut value, x);
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
            returned
        };
        self.map.call_with_two(update, (key, x))
    }

    /// Returns the number of keys.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    #[expect(clippy::len_without_is_empty, reason = "each question is a call of its own")]
    pub fn len(&self) -> Result<usize, Error> {
        self.map.call(|map, ()| map.len(), ())
    }

    /// Removes all keys.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    pub fn clear(&self) -> Result<(), Error> {
        self.map.call(|map, ()| map.clear(), ())
    }

    /// Returns a copy of the dictionary.
    ///
    /// # Errors
    ///
    /// As for [`Managed::call`].
    ///
    /// See the example of [`Dict`].
    #[doc(alias = "items")]
    pub fn snapshot(&self) -> Result<HashMap<K, V>, Error>
    where
        K: Clone,
    {
        self.map.call(|map, ()| map.clone(), ())
    }
}

impl<K, V> Clone for Dict<K, V> {
    fn clone(&self) -> Dict<K, V> {
        Dict { map: self.map.clone() }
    }
}

impl<K, V> Serialize for Dict<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.map.serialize(serializer)
    }
}

impl<'de, K, V> Deserialize<'de> for Dict<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dict<K, V>, D::Error> {
        Ok(Dict { map: Managed::deserialize(deserializer)? })
    }
}

impl<K, V> Debug for Dict<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dict").finish_non_exhaustive()
    }
}
