//! What may be sent to another thread, or shared with one: part of the interface, and easily lost.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::iter::FusedIterator;
use std::rc::Rc;

use proc_core::{
    Child, Error, ErrorKind, Imap, ImapUnordered, Limits, Options, Pool, PoolBuilder, Process,
    Sentinel, Shared, StartMethod, Stdio, Task, WithState,
};

/// A state and a result that stay in one thread.
type Local = Rc<()>;

type Inputs = std::vec::IntoIter<u32>;

fn is_send<T: Send>() {}
fn is_sync<T: Sync>() {}
fn is_debug<T: Debug>() {}
fn is_static<T: 'static>() {}
fn is_unpin<T: Unpin>() {}
fn is_fused<T: FusedIterator>() {}

#[test]
fn threads_may_share_what_is_to_be_shared() {
    // The state of a pool stays in its workers.
    is_send::<Pool<Local>>();
    is_sync::<Pool<Local>>();
    is_send::<PoolBuilder<Local>>();
    is_send::<Child<Local>>();
    is_sync::<Child<Local>>();
    is_send::<Task<u32>>();
    is_send::<Options<'_, Pool<Local>>>();
    is_send::<WithState<'_, Local>>();
    is_send::<Imap<'_, Pool<Local>, u32, Inputs>>();
    is_send::<ImapUnordered<'_, Pool<Local>, u32, Inputs>>();
    is_send::<Shared<u64>>();
    is_sync::<Shared<u64>>();
    is_send::<Sentinel>();
    is_sync::<Sentinel>();
    is_send::<Stdio>();
    is_sync::<Stdio>();
    is_send::<Error>();
    is_sync::<Error>();
}

#[test]
fn types_are_what_their_users_need() {
    fn is_error<T: StdError + Clone + Send + Sync + 'static>() {}
    fn is_word<T: Copy + Eq + std::hash::Hash + Debug>() {}
    is_error::<Error>();
    is_word::<ErrorKind>();
    is_word::<StartMethod>();
    is_static::<Task<u32>>();
    is_unpin::<Task<u32>>();
    is_fused::<Imap<'_, Pool<Local>, u32, Inputs>>();
    is_fused::<ImapUnordered<'_, Pool<Local>, u32, Inputs>>();
    is_debug::<Pool<Local>>();
    is_debug::<PoolBuilder<Local>>();
    is_debug::<Process<fn(Local), Local>>();
    is_debug::<Child<Local>>();
    is_debug::<Task<Local>>();
    is_debug::<Limits>();
}
