//! The interface for an engine that carries calls to other machines. It is for `proc-cluster`, not
//! for users.
//!
//! Between machines, a call is a [`Function`] and bytes. A function is named by its position in the
//! image, so both machines must run the same build. The engine has to make sure of that: inode and
//! time, which tell files apart on one machine, do not do so between two machines. If a call of
//! another build arrives all the same, the checks of every call refuse a position without an entry,
//! and an entry with other types. They do not notice another version of the same function. The
//! engine sends the bytes.

mod attempt;

use std::collections::BTreeMap;
use std::sync::Arc;

use attempt::Argument;
pub use attempt::{Attempt, attempt};
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

use super::Pool;
use super::engine::{PoolArrived, PoolData, PoolJob};
use super::scheduler::Scheduler;
use crate::call::{Name, refuse_captures};
use crate::error::{Error, Origin};
use crate::executor::Task;
pub use crate::executor::engine::{Arrived, CallOptions, Engine, Job};
use crate::pool::job::{Delivery, Inbox};
use crate::pool::records::{self, Outcome};
use crate::pool::worker;
use crate::sys::image::Image;
use crate::wire::{self, Message, Sink, Unreadable};

/// A function, named so that the same build of the program finds it on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    offset: u64,
    types: u64,
}

impl Function {
    /// Returns the name of a function that captures nothing. While the function runs, `attempt`
    /// returns the attempt that it belongs to.
    ///
    /// # Errors
    ///
    /// The function's code lies outside the image that contains this crate.
    pub fn of<F, A, R>(function: F) -> Result<Function, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        refuse_captures!(F);
        Function::of_wrapper(move |argument: Argument<A>| argument.give_to(function))
    }

    fn of_wrapper<F, A, R>(_: F) -> Result<Function, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        let [_, offset, types] = worker::task::<F, A, R>().map_err(Error::invalid)?.to_words();
        Ok(Function { offset, types })
    }

    /// Like [`of`](Function::of), for a function that borrows data beside its argument.
    pub fn of_with_data<F, D, A, R>(function: F) -> Result<Function, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        D: Message,
        A: Message,
        R: Message,
    {
        refuse_captures!(F);
        Function::of_wrapper_with_data(move |data: &D, argument: Argument<A>| {
            argument.give_to(|argument| function(data, argument))
        })
    }

    fn of_wrapper_with_data<F, D, A, R>(_: F) -> Result<Function, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        D: Message,
        A: Message,
        R: Message,
    {
        let name = worker::task_with_data::<F, D, A, R>().map_err(Error::invalid)?;
        let [_, offset, types] = name.to_words();
        Ok(Function { offset, types })
    }

    /// Returns the function's name in this process.
    fn name_here(self) -> Name {
        Name::from_words([Image::get().identity(), self.offset, self.types])
    }
}

/// Appends one task's argument to `out`, as a record.
///
/// # Errors
///
/// The argument cannot be encoded, or it holds channel ends or shared memory. Nothing is appended
/// in either case.
pub fn encode_argument<A: Message>(argument: &A, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut sink = Sink::from(std::mem::take(out));
    let encoded = records::append(&mut sink, |out| encode_without_handles(argument, out));
    *out = sink.into_bytes();
    encoded.map_err(Error::encode_argument)
}

/// Why a value with channel ends or shared memory cannot go to another machine.
const ENDS_HERE: &str = "it holds channel ends or shared memory, which end at this machine";

fn encode_without_handles<T: Message>(value: &T, out: &mut Sink) -> Result<(), String> {
    match wire::encode_into(value, out)? {
        None => Ok(()),
        Some(_) => Err(ENDS_HERE.into()),
    }
}

/// Data that the functions of a pool's calls borrow. Workers drop them when the last clone is
/// dropped and the last chunk with them is done.
#[derive(Clone)]
pub struct Data(PoolData);

/// Encodes data that functions borrow, for [`bind_encoded`] on another machine.
///
/// # Errors
///
/// The data cannot be encoded, or they hold channel ends or shared memory.
pub fn encode_data<D: Message>(data: &D) -> Result<Vec<u8>, Error> {
    let mut out = Sink::default();
    encode_without_handles(data, &mut out).map_err(Error::encode_data)?;
    Ok(out.into_bytes())
}

/// Gives encoded data to a pool. Each worker decodes them when it first needs them.
///
/// The bytes may come from an untrusted machine. If a worker cannot decode them, the chunk ends
/// with one error ([`ErrorKind::Decode`](crate::ErrorKind::Decode)).
///
/// # Errors
///
/// There is no memory for the data, or workers have no room for them.
pub fn bind_encoded(pool: &Pool, bytes: Vec<u8>) -> Result<Data, Error> {
    Ok(Data(PoolData::new(pool.scheduler.bind_encoded(bytes)?, &pool.scheduler)))
}

/// The number of bytes of the first record of `bytes`, if there is a whole record.
pub fn record_len(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    records::take(&mut rest).map(|_| bytes.len() - rest.len())
}

/// Consecutive tasks of a call.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// The function to call.
    pub function: Function,
    /// The number of the call, for `attempt`.
    pub job: u128,
    /// How many times the tasks were handed out before, for `attempt`.
    pub number: u32,
    /// The number of the first task.
    pub first: usize,
    /// How many tasks there are.
    pub count: usize,
    /// The tasks' arguments, as [`encode_argument`] wrote them. They may come from an untrusted
    /// machine.
    pub arguments: &'a [u8],
    /// The data that the function borrows.
    pub data: Option<&'a Data>,
    /// The settings of the call. `chunksize` is how many of the tasks run one after another in one
    /// worker. `fail_fast` has no effect here.
    pub options: CallOptions,
}

/// A chunk that was submitted to a pool.
pub struct Submitted {
    /// Its result holds the encoded fates (results or errors) of all tasks, for [`decode_fates`].
    pub task: Task<Vec<u8>>,
    scheduler: Arc<Scheduler>,
    inbox: Arc<Inbox>,
    /// How many tasks the chunk has.
    count: usize,
}

impl Submitted {
    /// How many times a task of the chunk was tried again.
    pub fn retried(&self) -> usize {
        self.inbox.retried()
    }

    /// Cancels the chunk, if all its tasks still wait for their first try, and no worker has
    /// claimed any. Returns whether it did.
    ///
    /// A chunk that was divided among workers is not cancelled.
    pub fn withdraw(&self) -> bool {
        self.scheduler.cancel_unclaimed(&self.inbox, self.count)
    }
}

/// Submits a chunk to a pool.
///
/// # Errors
///
/// A setting is invalid, the arguments are not those of `count` tasks, or the pool is closed.
pub fn submit(pool: &Pool, chunk: Chunk<'_>) -> Result<Submitted, Error> {
    let Chunk { function, job, number, first, count, options, .. } = chunk;
    options.check()?;
    let data = chunk.data.map(|Data(data)| data.clone());
    let mut call = PoolJob::new(&pool.scheduler, function.name_here(), data, options, first);
    let mut rest = chunk.arguments;
    while let Some(argument) = records::take(&mut rest) {
        let attempt = Attempt { job, task: first.saturating_add(call.pushed()), number };
        let whole = postcard::to_stdvec(Bytes::new(&attempt.encode_with(argument)));
        call.push_encoded(&whole.map_err(|error| Error::encode_argument(error.to_string()))?);
    }
    if !rest.is_empty() || call.pushed() != count || count == 0 {
        return Err(Error::invalid("the chunk does not hold the arguments of its tasks"));
    }
    let mut unfinished = count;
    let mut fates = BTreeMap::new();
    let gather = move |PoolArrived(delivery)| {
        unfinished = unfinished.saturating_sub(delivery.count());
        let (first, bytes) = encode_fates(*delivery);
        fates.insert(first, bytes);
        (unfinished == 0).then(|| {
            let in_order: Vec<Vec<u8>> = std::mem::take(&mut fates).into_values().collect();
            Ok(in_order.concat())
        })
    };
    call.submit(0)?;
    let (scheduler, inbox) = (Arc::clone(&pool.scheduler), Arc::clone(call.inbox()));
    Ok(Submitted { task: Task::new(call, gather), scheduler, inbox, count })
}

const VALUE: u8 = 0;
const ERROR: u8 = 1;

/// Encodes the fates of a delivery's tasks. Returns the number of the first task, and the bytes.
fn encode_fates(delivery: Delivery) -> (usize, Vec<u8>) {
    let mut out = Sink::default();
    let (first, count, bytes, mut out_of_band, origin) = match delivery {
        Delivery::Results { first, count, bytes, out_of_band, origin } => {
            (first, count, bytes, out_of_band, origin)
        }
        Delivery::Failed { task, error } => {
            append_fate(&mut out, Err(error));
            return (task, out.into_bytes());
        }
    };
    let bytes = bytes.into_bytes();
    let mut rest = bytes.as_deref().unwrap_or_default();
    for index in 0..count {
        let payload;
        let fate = match records::take_result(&mut rest) {
            Some(Outcome::Value(value)) => Ok(value),
            Some(Outcome::Fault(fault)) => Err(Error::from_fault(fault)),
            Some(Outcome::OutOfBand) => match out_of_band.remove(&(index as u32)) {
                Some(mut whole) => {
                    let (_, handles) = whole.parts().unwrap_or_default();
                    payload = whole;
                    match (handles, records::take_result(&mut payload.bytes().unwrap_or_default()))
                    {
                        (None, Some(Outcome::Value(value))) => Ok(value),
                        (None, Some(Outcome::Fault(fault))) => Err(Error::from_fault(fault)),
                        (Some(_), _) => Err(Error::encode_result(ENDS_HERE)),
                        _ => Err(Error::decode_result(
                            "the worker sent bytes that are no result".into(),
                        )),
                    }
                }
                None => Err(Error::decode_result("it did not arrive".into())),
            },
            None if bytes.is_none() => Err(Error::decode_result(Unreadable::NoMemory.into())),
            None => Err(Error::decode_result("the worker wrote bytes that are no result".into())),
        };
        append_fate(&mut out, fate.map_err(|error| error.with_origin(origin.clone())));
    }
    (first, out.into_bytes())
}

/// Appends the fate of one task.
fn append_fate(out: &mut Sink, fate: Result<&[u8], Error>) {
    let text;
    let (tag, bytes) = match fate {
        Ok(value) => (VALUE, value),
        Err(error) => {
            text = error.to_bytes();
            (ERROR, &text[..])
        }
    };
    out.push(tag);
    records::append_bytes(out, bytes);
}

/// Decodes the fates that [`submit`] has encoded on another machine, which need not be trusted.
///
/// Calls `settle` exactly once for each task, in order.
pub fn decode_fates<R: Message>(
    fates: &[u8],
    first: usize,
    count: usize,
    host: &str,
    mut settle: impl FnMut(usize, Result<R, Error>),
) {
    let mut rest = fates;
    for task in first..first + count {
        let fate = match take_fate(&mut rest) {
            Some((VALUE, value)) => wire::decode(value, None).map_err(Error::decode_result),
            Some((ERROR, error)) => Err(Error::from_bytes(error)),
            _ => Err(Error::decode_result("the machine sent bytes that are no result".into())),
        };
        settle(task, fate.map_err(|error| add_origin(error, Some(task), Some(host))));
    }
}

/// How many of the fates that [`submit`] has encoded are errors.
pub fn count_errors(mut fates: &[u8]) -> u64 {
    let tags = std::iter::from_fn(|| take_fate(&mut fates).map(|(tag, _)| tag));
    tags.filter(|tag| *tag == ERROR).count() as u64
}

/// Takes the first fate off `bytes`. Returns its tag and its bytes.
fn take_fate<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, mut rest) = bytes.split_first()?;
    let record = records::take(&mut rest)?;
    *bytes = rest;
    Some((*tag, record))
}

/// Adds task and host to the origin of an error, unless the error has them already.
pub fn add_origin(error: Error, task: Option<usize>, host: Option<&str>) -> Error {
    error.with_origin(Origin { task, host: host.map(str::to_owned), ..Origin::default() })
}

/// Encodes an error as bytes, which [`error_from_bytes`] decodes on another machine.
pub fn error_to_bytes(error: &Error) -> Vec<u8> {
    error.to_bytes()
}

/// Decodes an error. Bytes that are no error become an error that says so.
pub fn error_from_bytes(bytes: &[u8]) -> Error {
    Error::from_bytes(bytes)
}

/// The error of a fleet that cannot run a call: it has no server, or no agent for the work.
pub fn fleet_error(why: impl Into<String>) -> Error {
    Error::fleet(why)
}

/// The error of a task that was tried on several machines, all of which were lost.
pub fn lost_error(why: impl Into<String>) -> Error {
    Error::lost(why)
}

/// The error of a number or a setting that is invalid.
pub fn invalid_error(why: impl Into<String>) -> Error {
    Error::invalid(why)
}

/// The error of a task that its caller cancelled.
pub fn cancelled_error() -> Error {
    Error::cancelled()
}
