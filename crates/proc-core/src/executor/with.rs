//! `With`: the calls of functions that borrow data.

use std::marker::PhantomData;

use super::engine::Engine;
use super::options::{Options, Target, calls_with_options};
use crate::error::Error;
use crate::wire::Message;

/// The calls of a [`Pool`](crate::Pool) or a cluster (`E`), for functions that borrow data of type
/// `D` beside their argument; returned by [`with`](crate::Pool::with).
///
/// Each call does the same as the call of [`Pool`](crate::Pool) with that name.
///
/// # Examples
///
/// ```
/// use std::collections::HashMap;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = proc_core::Pool::builder().processes(2).build()?;
///     let prices = [("tea", 3), ("bread", 4)].map(|(what, n)| (what.to_string(), n));
///     let shop = pool.with(HashMap::from(prices)); // the map crosses once to each worker
///     let price = |prices: &HashMap<String, u32>, what: String| prices[&what];
///     assert_eq!(shop.map(price, ["tea", "bread"].map(String::from))?, [3, 4]);
///     assert_eq!(shop.apply(price, "tea".to_string())?, 3); // another call, the same data
///     Ok(())
/// }
/// ```
#[doc(alias = "partial")]
#[must_use = "it does nothing without a call"]
pub struct With<'a, E: Engine, D> {
    pub(crate) options: Options<'a, E>,
    /// The encoded data, or why they cannot be encoded.
    pub(crate) data: Result<E::Data, Error>,
    pub(crate) of: PhantomData<fn() -> D>,
}

impl<'a, E: Engine> Options<'a, E> {
    /// Returns the calls for functions that borrow `data` beside their argument, with the same
    /// settings.
    ///
    /// See [`Pool::with`](crate::Pool::with).
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let raised = pool.options().chunksize(2).with(3).map(|n, x: u64| x.pow(*n), [2, 10])?;
    ///     assert_eq!(raised, [8, 1000]);
    ///     Ok(())
    /// }
    /// ```
    pub fn with<D: Message + Send + Sync>(self, data: D) -> With<'a, E, D> {
        let data = self.engine.bind(data);
        With { options: self, data, of: PhantomData }
    }
}

impl<'a, E: Engine, D: Message> With<'a, E, D> {
    calls_with_options! { 'a E, fn(&D), |self| self.options }

    pub(crate) fn target<F, A, R>(&self, function: F) -> Result<Target<E>, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        let function = E::function_with_data(function)?;
        Ok(Target { function, data: Some(self.data.clone()?) })
    }
}

impl<E: Engine, D> Clone for With<'_, E, D> {
    fn clone(&self) -> Self {
        With { options: self.options.clone(), data: self.data.clone(), of: PhantomData }
    }
}

impl<E: Engine, D> std::fmt::Debug for With<'_, E, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("With").field("options", &self.options).finish_non_exhaustive()
    }
}
