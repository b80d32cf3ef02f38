//! A call's arguments going out: the [`Queue`], from which chunks are cut.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Inbox;
use crate::call::Name;
use crate::error::Error;
use crate::memory::Lease;
use crate::panics;
use crate::pool::records;
use crate::sys::{self, PerProcess};
use crate::wire::{self, Handles, Lender, Message, Sink};

/// In how many steps a worker takes a chunk's tasks, so that an idle one can have the rest of them.
const STEPS: usize = 8;

/// Channel ends of arguments that are encoded, and that no worker has yet. Each takes a descriptor.
#[derive(Debug)]
pub(crate) struct WaitingHandles(Option<Handles>);

/// How many of them there are in this process.
static WAITING_HANDLES: PerProcess<AtomicUsize> = PerProcess::new();

/// No more of them are made ahead, whatever the limit of open files.
const MAX_WAITING_HANDLES: usize = 64;

/// Whether so many descriptors are in use for arguments on their way that calls are to wait, if
/// they can.
pub(crate) fn has_many_handles() -> bool {
    let waiting = WAITING_HANDLES.get().load(Ordering::Relaxed);
    waiting > 0 && waiting >= (sys::limit_of_open_files() / 8).clamp(2, MAX_WAITING_HANDLES)
}

impl WaitingHandles {
    fn new(handles: Handles) -> WaitingHandles {
        WAITING_HANDLES.get().fetch_add(1, Ordering::Relaxed);
        WaitingHandles(Some(handles))
    }

    /// They wait no longer.
    pub(crate) fn take(mut self) -> Option<Handles> {
        self.0.take()
    }
}

impl Drop for WaitingHandles {
    fn drop(&mut self) {
        // In a copy of the process that has made it, it was not counted.
        let waiting = WAITING_HANDLES.get();
        let _ = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
}

/// Encoded tasks that wait to be published.
#[derive(Debug)]
pub(crate) struct TaskQueue {
    pub(crate) name: Name,
    pub(crate) inbox: Arc<Inbox>,
    /// The number of the next task in its call.
    pub(crate) next: usize,
    /// How many tasks are left.
    pub(crate) left: usize,
    /// How often these tasks were tried before.
    pub(crate) attempts: u32,
    /// How many tasks of the call are known to follow in queues of their own.
    pub(crate) more: usize,
    pub(crate) chunksize: Option<usize>,
    bytes: Vec<u8>,
    at: usize,
    /// The length of each record, where all are numbers.
    even: Option<usize>,
    handles: VecDeque<(usize, WaitingHandles)>,
    /// Tasks whose argument is large, and lies in shared memory already.
    parcels: VecDeque<(usize, LargeArg)>,
    /// The length of these in all.
    in_parcels: usize,
}

/// The record of one large argument, in a block with room for its result.
#[derive(Debug)]
pub(crate) struct LargeArg {
    pub(crate) lease: Lease,
    pub(crate) len: usize,
}

/// A piece cut from a queue.
pub(crate) struct ChunkCut<'a> {
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// How many tasks the worker takes at a time.
    pub(crate) grain: usize,
    pub(crate) bytes: &'a [u8],
    pub(crate) handles: Option<WaitingHandles>,
    /// Where the arguments are if not among the bytes.
    pub(crate) parcel: Option<LargeArg>,
}

impl TaskQueue {
    /// An empty queue whose tasks count from `first`.
    pub(crate) fn new(
        name: Name,
        inbox: &Arc<Inbox>,
        first: usize,
        chunksize: Option<usize>,
    ) -> TaskQueue {
        TaskQueue {
            name,
            inbox: Arc::clone(inbox),
            next: first,
            left: 0,
            attempts: 0,
            more: 0,
            chunksize,
            bytes: Vec::new(),
            at: 0,
            even: None,
            handles: VecDeque::new(),
            parcels: VecDeque::new(),
            in_parcels: 0,
        }
    }

    /// One task that is tried once more; `argument` is its record as it was sent.
    pub(crate) fn again(
        name: Name,
        inbox: &Arc<Inbox>,
        task: usize,
        argument: &[u8],
        attempts: u32,
    ) -> TaskQueue {
        let mut queue = TaskQueue::new(name, inbox, task, Some(1));
        queue.push_encoded(argument);
        TaskQueue { attempts, ..queue }
    }

    /// The rest of a chunk, to be shared out: what follows the first `skipped` of its arguments.
    ///
    /// `None` if there are not so many.
    pub(crate) fn rest(
        name: Name,
        inbox: &Arc<Inbox>,
        tasks: Range<usize>,
        arguments: Vec<u8>,
        skipped: usize,
    ) -> Option<TaskQueue> {
        let mut rest = &arguments[..];
        for _ in 0..skipped {
            records::take(&mut rest)?;
        }
        let at = arguments.len() - rest.len();
        let queue = TaskQueue::new(name, inbox, tasks.start, None);
        Some(TaskQueue { left: tasks.len(), bytes: arguments, at, ..queue })
    }

    /// Appends one task. One whose argument cannot be encoded leaves no trace.
    pub(crate) fn push<A: Message>(
        &mut self,
        argument: &A,
        lender: Arc<dyn Lender>,
    ) -> Result<(), Error> {
        self.push_all(std::slice::from_ref(argument), usize::MAX, lender)
    }

    /// Appends whole chunks until they have `most` bytes, or tasks up to the first whose argument
    /// cannot be encoded, which leaves no trace. Large ones go to memory of `lender`'s.
    pub(crate) fn push_all<A: Message>(
        &mut self,
        arguments: &[A],
        most: usize,
        lender: Arc<dyn Lender>,
    ) -> Result<(), Error> {
        if let Some(size) = wire::number_size::<A>() {
            self.push_numbers(arguments, records::short(size), most);
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut whole = bytes.len();
        // Where chunks have several tasks, these lie side by side.
        let lender = self.chunksize.is_none_or(|size| size == 1).then_some(lender);
        let mut sink = Sink::lent(bytes, lender, self.inbox.result_size());
        // A call that can wait for results goes on when there are fewer.
        let (mut holds_many, bounded) = (false, most < usize::MAX);
        let caught = panics::catch(|| {
            for argument in arguments {
                sink.begin(0);
                let encode = |out: &mut Sink| wire::encode_or_panic(argument, out);
                if let Some(handles) = records::append(&mut sink, encode)? {
                    let handles = WaitingHandles::new(handles);
                    self.handles.push_back((self.next + self.left, handles));
                    holds_many = has_many_handles();
                }
                if sink.has_placed() {
                    self.pack(&mut sink)?;
                }
                whole = sink.len();
                self.left += 1;
                let whole_chunks =
                    || self.chunksize.is_none_or(|size| self.left.is_multiple_of(size));
                if (sink.len() + self.in_parcels >= most || (holds_many && bounded))
                    && whole_chunks()
                {
                    break;
                }
            }
            Ok(())
        });
        let encoded = caught.unwrap_or_else(|panic| {
            wire::drop_collected_handles();
            Err(wire::serialize_panicked(&panic.message))
        });
        if encoded.is_err() {
            sink.truncate(whole);
        }
        self.bytes = sink.into_bytes();
        encoded.map_err(Error::encode_argument)
    }

    /// The same where each argument's record has `len` bytes and is but a copy.
    #[inline]
    fn push_numbers<A: Message>(&mut self, arguments: &[A], len: usize, most: usize) {
        let unit = self.chunksize.unwrap_or(1).max(1);
        let enough = most.div_ceil(len).max(1).checked_next_multiple_of(unit);
        let count = arguments.len().min(enough.unwrap_or(usize::MAX));
        let start = self.bytes.len();
        self.bytes.resize(start + count * len, 0);
        for (place, number) in self.bytes[start..].chunks_exact_mut(len).zip(arguments) {
            records::put_short(place, wire::number(number).unwrap_or_default());
        }
        self.left += count;
        self.even = Some(len);
    }

    /// Closes the block of a large argument; an empty record keeps its place.
    #[cold]
    fn pack(&mut self, sink: &mut Sink) -> Result<(), String> {
        let settled = sink.finish();
        match settled.and_then(|len| Some(LargeArg { lease: sink.take_block()?, len })) {
            Some(parcel) => {
                self.in_parcels += parcel.len;
                self.parcels.push_back((self.next + self.left, parcel));
                sink.extend_from_slice(&[0; 4]);
                Ok(())
            }
            None => sink.inline_large(),
        }
    }

    /// Bytes of encoded arguments.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.in_parcels
    }

    /// Bytes of encoded arguments that are not cut off yet and lie in memory of this process.
    pub(crate) fn waiting(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Appends one task whose argument is encoded already.
    pub(crate) fn push_encoded(&mut self, argument: &[u8]) {
        let mut sink = Sink::from(std::mem::take(&mut self.bytes));
        let copied = records::append(&mut sink, |out| {
            out.extend_from_slice(argument);
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(()) = copied;
        self.bytes = sink.into_bytes();
        self.left += 1;
    }

    /// The shared memory that the next task needs, if its result is as large as its argument, or
    /// has `result` bytes; large arguments are there already.
    pub(crate) fn next_cost(&self, result: usize) -> usize {
        if self.parcels.front().is_some_and(|(task, _)| *task == self.next) {
            return 0;
        }
        records::take(&mut &self.bytes[self.at..]).map_or(0, |record| cost(record.len(), result))
    }

    /// Cuts off the next chunk, for a pool of `workers`: one task, and as many more as cost `most`
    /// bytes of shared memory (as for [`next_cost`](Queue::next_cost)).
    pub(crate) fn cut(
        &mut self,
        workers: usize,
        most: usize,
        result: usize,
    ) -> Option<ChunkCut<'_>> {
        let wanted = self.chunk_size(workers);
        let grain = self.chunksize.unwrap_or_else(|| wanted.div_ceil(STEPS)).clamp(1, wanted);
        let (first, start) = (self.next, self.at);
        let (count, bytes, handles, parcel) = match self.even {
            // There is nothing that could lie between them.
            Some(len) => {
                let count =
                    (most / cost(len - records::short(0), result)).clamp(1, wanted).min(self.left);
                (count, count * len, None, None)
            }
            None => self.walk(wanted, most, result),
        };
        if count == 0 {
            return None;
        }
        self.at += bytes;
        self.next += count;
        self.left -= count;
        let bytes = &self.bytes[start..self.at];
        Some(ChunkCut { first, count, grain, bytes, handles, parcel })
    }

    /// Goes over the next tasks, as far as they are one chunk: how many, their bytes, and what goes
    /// beside.
    fn walk(
        &mut self,
        wanted: usize,
        most: usize,
        result: usize,
    ) -> (usize, usize, Option<WaitingHandles>, Option<LargeArg>) {
        let first = self.next;
        let all = &self.bytes[self.at..];
        let mut rest = all;
        let mut count = 0;
        let (mut handles, mut parcel) = (None, None);
        let mut costs = 0;
        while count < wanted {
            // A task with channel ends is a chunk of its own, and so is a large one.
            if self.parcels.front().is_some_and(|(task, _)| *task == first + count) {
                if count > 0 {
                    break;
                }
                parcel = self.parcels.pop_front().map(|(_, parcel)| parcel);
                self.in_parcels -= parcel.as_ref().map_or(0, |parcel| parcel.len);
            }
            if self.handles.front().is_some_and(|(task, _)| *task == first + count) {
                if count > 0 {
                    break;
                }
                handles = self.handles.pop_front().map(|(_, handles)| handles);
            }
            let before = rest;
            let Some(record) = records::take(&mut rest) else { break };
            costs += cost(record.len(), result);
            if count > 0 && costs > most {
                rest = before;
                break;
            }
            count += 1;
            if handles.is_some() || parcel.is_some() {
                break;
            }
        }
        (count, all.len() - rest.len(), handles, parcel)
    }

    /// About two milliseconds' worth, and never more than a fair share of the rest; where a chunk
    /// size is asked for, as many such chunks, of which a worker takes one after the other.
    ///
    /// Shrinking with the rest is guided self-scheduling (Polychronopoulos and Kuck, 1987).
    fn chunk_size(&self, workers: usize) -> usize {
        let fair = self.left.saturating_add(self.more).div_ceil(2 * workers);
        let timely = self.inbox.timely().min(fair);
        let unit = self.chunksize.unwrap_or(1);
        (timely / unit).max(1).saturating_mul(unit).clamp(1, self.left.max(1))
    }

    /// Whether it is a single chunk: its size does not depend on what is learned.
    pub(crate) fn is_one_chunk(&self) -> bool {
        self.chunksize.is_some_and(|size| self.left <= size)
    }
}

/// The shared memory that a task needs for an argument of so many bytes, and such a result or as
/// large a one.
#[inline]
fn cost(argument: usize, result: usize) -> usize {
    argument + result.max(argument) + 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::job::CallOptions;
    use crate::pool::worker;
    use proptest::prelude::*;

    /// Has no memory to lend.
    struct Nobody;

    impl Lender for Nobody {
        fn lend(&self, _: usize, _: Option<usize>) -> Option<Lease> {
            None
        }

        fn spare(&self) -> usize {
            0
        }
    }

    fn name<F: Fn(u32) -> u32 + Copy + 'static>(_: F) -> Name {
        worker::task::<F, u32, u32>().expect("it is part of this program")
    }

    /// The chunks that are cut: the first task of each, and its bytes.
    fn cuts(mut queue: TaskQueue, most: usize) -> Vec<(usize, Vec<u8>)> {
        let cut = || queue.cut(3, most, 8).map(|cut| (cut.first, cut.bytes.to_vec()));
        std::iter::from_fn(cut).collect()
    }

    proptest! {
        #[test]
        fn numbers_are_cut_as_anything_else(
            numbers in prop::collection::vec(any::<u32>(), 1..300),
            chunksize in prop::option::of(1_usize..50),
            bytes in 0_usize..2000,
            most in 0_usize..3000,
        ) {
            let inbox = Inbox::new(CallOptions::default());
            let fill = || {
                let mut queue = TaskQueue::new(name(|x| x), &inbox, 7, chunksize);
                queue.push_all(&numbers, bytes, Arc::new(Nobody)).expect("numbers can be encoded");
                queue
            };
            let (even, mut walked) = (fill(), fill());
            walked.even = None;
            let pushed = even.left;
            let unit = chunksize.unwrap_or(1);
            prop_assert_eq!(pushed, numbers.len().min(bytes.div_ceil(8).max(1).next_multiple_of(unit)));
            let cuts_of_even = cuts(even, most);
            prop_assert_eq!(&cuts_of_even, &cuts(walked, most));
            let whole: Vec<u8> = cuts_of_even.into_iter().flat_map(|(_, bytes)| bytes).collect();
            let mut rest = &whole[..];
            for number in &numbers[..pushed] {
                let record = records::take(&mut rest).expect("a record for each");
                prop_assert_eq!(wire::decode::<u32>(record, None), Ok(*number));
            }
            prop_assert!(rest.is_empty());
        }
    }
}
