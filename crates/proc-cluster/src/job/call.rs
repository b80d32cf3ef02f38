//! What a call runs.

use std::sync::Arc;

use proc_core::remote::{CallOptions, Function};

use crate::bound_data::BoundData;

/// What a call runs, and with which settings.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) function: Function,
    /// The data that the function borrows.
    pub(crate) data: Option<Arc<BoundData>>,
    pub(crate) options: CallOptions,
}
