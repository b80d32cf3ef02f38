//! The tasks of one call on their way out, and their results on their way in.

pub(crate) mod feed;
mod inbox;

pub(crate) use feed::{Cut, Feed, Parcel, WaitingHandles};
pub(crate) use inbox::{Delivery, Inbox, Results, Terms};
