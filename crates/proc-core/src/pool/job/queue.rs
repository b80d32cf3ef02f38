//! The tasks of a call on their way to workers: the [`TaskQueue`], from which chunks are cut.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Inbox;
use super::data::too_large;
use crate::call::Name;
use crate::error::Error;
use crate::memory::Lease;
use crate::panics;
use crate::pool::board::SlotId;
use crate::pool::records;
use crate::sys::{self, PerProcess};
use crate::wire::{self, Handles, Lender, Message, Sink};

/// How many grains a chunk has if the call asks for no chunksize. A worker takes one grain at a
/// time, so that grains it has not taken can be given to another worker.
const GRAINS_PER_CHUNK: usize = 64;

/// The channel ends of an encoded argument that no worker has received yet. Each end takes a
/// descriptor.
#[derive(Debug)]
pub(crate) struct WaitingHandles(Option<Handles>);

/// How many arguments with [`WaitingHandles`] there are in this process.
static WAITING_HANDLES: PerProcess<AtomicUsize> = PerProcess::new();

/// The most arguments with [`WaitingHandles`], however high the limit of open files is.
const MAX_WAITING_HANDLES: usize = 64;

/// Whether so many arguments have [`WaitingHandles`] that calls should stop encoding for now, if
/// they can wait.
pub(crate) fn has_many_handles() -> bool {
    let waiting = WAITING_HANDLES.get().load(Ordering::Relaxed);
    waiting > 0 && waiting >= (sys::limit_of_open_files() / 8).clamp(2, MAX_WAITING_HANDLES)
}

impl WaitingHandles {
    fn new(handles: Handles) -> WaitingHandles {
        WAITING_HANDLES.get().fetch_add(1, Ordering::Relaxed);
        WaitingHandles(Some(handles))
    }

    /// Takes the channel ends. The argument does not count as waiting any more.
    pub(crate) fn take(mut self) -> Option<Handles> {
        self.0.take()
    }
}

impl Drop for WaitingHandles {
    fn drop(&mut self) {
        // A forked copy of the process that made the handles has not counted them.
        let waiting = WAITING_HANDLES.get();
        let _ = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
}

/// Encoded tasks of one call that are not cut into chunks yet. It is boxed, because it is moved
/// often.
#[derive(Debug)]
pub(crate) struct TaskQueue {
    pub(crate) name: Name,
    pub(crate) inbox: Arc<Inbox>,
    /// The number of the next task in its call.
    pub(crate) next: usize,
    /// How many tasks are left in the queue.
    pub(crate) left: usize,
    /// How many times these tasks were tried before.
    pub(crate) attempts: u32,
    /// How many tasks of this call follow in later queues, at least.
    pub(crate) more: usize,
    /// The slot whose worker must run the tasks, if only that one may.
    pub(crate) slot_id: Option<SlotId>,
    /// The encoded arguments, one record after another.
    bytes: Vec<u8>,
    /// Where in `bytes` the next task begins.
    at: usize,
    /// The length of each record, if all arguments are numbers.
    fixed_len: Option<usize>,
    /// The channel ends of arguments, by the number of the task.
    handles: VecDeque<(usize, WaitingHandles)>,
    /// Large arguments, which lie in shared memory already, by the number of the task.
    large_args: VecDeque<(usize, LargeArg)>,
    /// The total length of the large arguments.
    large_args_len: usize,
}

/// The record of one large argument, in a block that also has room for the result.
#[derive(Debug)]
pub(crate) struct LargeArg {
    pub(crate) lease: Lease,
    pub(crate) len: usize,
}

/// A chunk that was cut from a queue.
pub(crate) struct ChunkCut<'a> {
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// How many tasks the claimer takes at a time.
    pub(crate) grain: usize,
    pub(crate) bytes: &'a [u8],
    pub(crate) handles: Option<WaitingHandles>,
    /// The argument, if it is large. Then it is not in `bytes`.
    pub(crate) large_arg: Option<LargeArg>,
}

impl TaskQueue {
    /// Makes an empty queue whose first task will have the number `first`.
    pub(crate) fn new(name: Name, inbox: &Arc<Inbox>, first: usize) -> Box<TaskQueue> {
        Box::new(TaskQueue {
            name,
            inbox: Arc::clone(inbox),
            next: first,
            left: 0,
            attempts: 0,
            more: 0,
            slot_id: None,
            bytes: Vec::new(),
            at: 0,
            fixed_len: None,
            handles: VecDeque::new(),
            large_args: VecDeque::new(),
            large_args_len: 0,
        })
    }

    /// The chunksize that the call asks for, if any.
    fn chunksize(&self) -> Option<usize> {
        self.inbox.options.chunksize
    }

    /// Makes a queue whose tasks only the worker in a slot may run, if a slot is given.
    pub(crate) fn for_slot(mut self: Box<Self>, slot_id: Option<SlotId>) -> Box<TaskQueue> {
        self.slot_id = slot_id;
        self
    }

    /// Makes a queue of one task that is tried again. `argument` is the encoded argument.
    pub(crate) fn retry(
        name: Name,
        inbox: &Arc<Inbox>,
        task: usize,
        argument: &[u8],
        attempts: u32,
    ) -> Box<TaskQueue> {
        let mut queue = TaskQueue::new(name, inbox, task);
        queue.push_encoded(argument);
        inbox.count_retry();
        queue.attempts = attempts;
        queue
    }

    /// Makes a queue of the last tasks of a chunk. `arguments` are the encoded arguments of all its
    /// tasks. The first `skipped` of them are left out.
    ///
    /// # Errors
    ///
    /// `arguments` holds fewer than `skipped`: a worker has overwritten them.
    pub(crate) fn rest(
        name: Name,
        inbox: &Arc<Inbox>,
        tasks: Range<usize>,
        arguments: Vec<u8>,
        skipped: usize,
    ) -> Result<Box<TaskQueue>, Error> {
        let mut rest = &arguments[..];
        for _ in 0..skipped {
            records::take(&mut rest).ok_or_else(Error::overwritten)?;
        }
        let at = arguments.len() - rest.len();
        let mut queue = TaskQueue::new(name, inbox, tasks.start);
        (queue.left, queue.bytes, queue.at) = (tasks.len(), arguments, at);
        Ok(queue)
    }

    /// Appends tasks in whole chunks until they have `max_bytes` bytes, or hold many channel ends.
    /// Large arguments go to memory that `lender` gives.
    ///
    /// # Errors
    ///
    /// An argument cannot be encoded. The tasks before it are appended.
    pub(crate) fn push_all<A: Message>(
        &mut self,
        arguments: &[A],
        max_bytes: usize,
        lender: Arc<dyn Lender>,
    ) -> Result<(), Error> {
        if let Some(size) = wire::number_size::<A>() {
            self.push_numbers(arguments, records::short_record_len(size), max_bytes);
            return Ok(());
        }
        // Called once for all tasks of the queue: this takes longer than the encoding of a short
        // argument.
        if wire::may_have_handles::<A>() && self.left == 0 {
            wire::drop_collected_handles();
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut whole = bytes.len();
        let max_value = lender.max_value();
        // With a chunksize above 1, the tasks of a chunk lie side by side, so a large argument gets
        // no block of its own.
        let lender = self.chunksize().is_none_or(|size| size == 1).then_some(lender);
        let mut sink = Sink::with_lender(bytes, lender, self.inbox.result_size());
        // A call that bounds its bytes can wait for results. So it can also stop at many channel
        // ends, and go on when there are fewer.
        let (mut holds_many, can_wait) = (false, max_bytes < usize::MAX);
        let caught = panics::catch(|| {
            for argument in arguments {
                sink.begin(0);
                let (start, large) = (sink.len(), self.large_args_len);
                let encode = |out: &mut Sink| wire::encode_or_panic(argument, out);
                if let Some(handles) = records::append(&mut sink, encode)? {
                    let handles = WaitingHandles::new(handles);
                    self.handles.push_back((self.next + self.left, handles));
                    holds_many = has_many_handles();
                }
                if sink.has_large_pieces() {
                    self.push_large_arg(&mut sink)?;
                }
                let size = sink.len() - start + self.large_args_len - large;
                if size > max_value {
                    return Err(too_large(size, max_value));
                }
                whole = sink.len();
                self.left += 1;
                let whole_chunks =
                    || self.chunksize().is_none_or(|size| self.left.is_multiple_of(size));
                if (sink.len() + self.large_args_len >= max_bytes || (holds_many && can_wait))
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
            let failed = self.next + self.left;
            self.handles.retain(|(task, _)| *task < failed);
            self.large_args.retain(|(task, _)| *task < failed);
            self.large_args_len = self.large_args.iter().map(|(_, large_arg)| large_arg.len).sum();
        }
        self.bytes = sink.into_bytes();
        encoded.map_err(Error::encode_argument)
    }

    /// Like [`push_all`](TaskQueue::push_all), for numbers: each record has `len` bytes and is
    /// copied.
    #[inline]
    fn push_numbers<A: Message>(&mut self, arguments: &[A], len: usize, max_bytes: usize) {
        let unit = self.chunksize().unwrap_or(1).max(1);
        let enough = max_bytes.div_ceil(len).max(1).checked_next_multiple_of(unit);
        let count = arguments.len().min(enough.unwrap_or(usize::MAX));
        let start = self.bytes.len();
        self.bytes.resize(start + count * len, 0);
        for (place, number) in self.bytes[start..].chunks_exact_mut(len).zip(arguments) {
            records::write_short_record(place, wire::number(number).unwrap_or_default());
        }
        self.left += count;
        self.fixed_len = Some(len);
    }

    /// Notes the block of a large argument, and leaves an empty record among the other arguments.
    /// If there is no block, the argument goes among them itself.
    #[cold]
    fn push_large_arg(&mut self, sink: &mut Sink) -> Result<(), String> {
        let finished = sink.finish();
        match finished.and_then(|len| Some(LargeArg { lease: sink.take_block()?, len })) {
            Some(large_arg) => {
                self.large_args_len += large_arg.len;
                self.large_args.push_back((self.next + self.left, large_arg));
                sink.extend_from_slice(&[0; 4]);
                Ok(())
            }
            None => sink.inline_large(),
        }
    }

    /// The number of bytes of encoded arguments.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.large_args_len
    }

    /// The number of bytes of encoded arguments that are not cut yet, without large arguments.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Appends one task whose argument is already encoded.
    pub(crate) fn push_encoded(&mut self, argument: &[u8]) {
        let mut sink = Sink::from(std::mem::take(&mut self.bytes));
        records::append_bytes(&mut sink, argument);
        self.bytes = sink.into_bytes();
        self.left += 1;
    }

    /// How many bytes of shared memory the next task probably needs, for its argument and for a
    /// result of `result` bytes or of the argument's size; 0 if the argument lies there already.
    pub(crate) fn next_cost(&self, result: usize) -> usize {
        if self.large_args.front().is_some_and(|(task, _)| *task == self.next) {
            return 0;
        }
        records::take(&mut &self.bytes[self.at..]).map_or(0, |record| cost(record.len(), result))
    }

    /// Cuts off the next chunk, for a pool of `workers`. The chunk has one task, and more if
    /// together they need at most `max_bytes` of shared memory (see
    /// [`next_cost`](TaskQueue::next_cost)).
    ///
    /// Returns `None` if the encoded arguments are incomplete.
    pub(crate) fn cut(
        &mut self,
        workers: usize,
        max_bytes: usize,
        result: usize,
    ) -> Option<ChunkCut<'_>> {
        let wanted = self.chunk_size(workers);
        let grain =
            self.chunksize().unwrap_or_else(|| wanted.div_ceil(GRAINS_PER_CHUNK)).clamp(1, wanted);
        let (first, start) = (self.next, self.at);
        let (count, bytes, handles, large_arg) = match self.fixed_len {
            // There are no channel ends and no large arguments among numbers.
            Some(len) => {
                let count = (max_bytes / cost(len - records::short_record_len(0), result))
                    .clamp(1, wanted)
                    .min(self.left);
                (count, count * len, None, None)
            }
            None => self.walk(wanted, max_bytes, result),
        };
        if count == 0 {
            return None;
        }
        self.at += bytes;
        self.next += count;
        self.left -= count;
        let bytes = &self.bytes[start..self.at];
        Some(ChunkCut { first, count, grain, bytes, handles, large_arg })
    }

    /// Walks over the next tasks, as far as they form one chunk of at most `wanted` tasks. Returns
    /// their number, their bytes, and their channel ends or their large argument.
    fn walk(
        &mut self,
        wanted: usize,
        max_bytes: usize,
        result: usize,
    ) -> (usize, usize, Option<WaitingHandles>, Option<LargeArg>) {
        let first = self.next;
        let all = &self.bytes[self.at..];
        let mut rest = all;
        let mut count = 0;
        let (mut handles, mut large_arg) = (None, None);
        let mut costs = 0;
        while count < wanted {
            // A task with channel ends is a chunk of its own, and so is a task with a large
            // argument.
            if self.large_args.front().is_some_and(|(task, _)| *task == first + count) {
                if count > 0 {
                    break;
                }
                large_arg = self.large_args.pop_front().map(|(_, large_arg)| large_arg);
                self.large_args_len -= large_arg.as_ref().map_or(0, |large_arg| large_arg.len);
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
            if count > 0 && costs > max_bytes {
                rest = before;
                break;
            }
            count += 1;
            if handles.is_some() || large_arg.is_some() {
                break;
            }
        }
        (count, all.len() - rest.len(), handles, large_arg)
    }

    /// The number of tasks of the next chunk: as many as take about two milliseconds together, but
    /// never more than a fair share of the tasks left. With an explicit chunksize, the number is a
    /// multiple of the chunksize, and at least one chunksize (the last chunk may have fewer tasks).
    /// Workers still take one chunksize at a time.
    ///
    /// Chunks that become smaller with the number of tasks left are guided self-scheduling
    /// (Polychronopoulos and Kuck, 1987).
    fn chunk_size(&self, workers: usize) -> usize {
        let fair = self.left.saturating_add(self.more).div_ceil(2 * workers);
        let usual = self.inbox.tasks_per_chunk().min(fair);
        let unit = self.chunksize().unwrap_or(1);
        (usual / unit).max(1).saturating_mul(unit).clamp(1, self.left.max(1))
    }

    /// Whether the tasks left are a single chunk of explicit size. The size of such a chunk does
    /// not depend on measurements.
    pub(crate) fn is_one_chunk(&self) -> bool {
        self.chunksize().is_some_and(|size| self.left <= size)
    }
}

/// How many bytes of shared memory a task needs for an argument of `argument` bytes and a result of
/// `result` bytes or of the argument's size, whichever is larger, with a margin.
#[inline]
fn cost(argument: usize, result: usize) -> usize {
    argument + result.max(argument) + 64
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_bytes::ByteBuf;

    use super::*;
    use crate::executor::CallOptions;
    use crate::memory::Arena;
    use crate::pool::worker;
    use proptest::prelude::*;

    /// A lender that has no memory.
    struct NoMemory;

    impl Lender for NoMemory {
        fn lend(&self, _: usize, _: Option<usize>) -> Option<Lease> {
            None
        }

        fn spare(&self) -> usize {
            0
        }

        fn max_value(&self) -> usize {
            usize::MAX
        }
    }

    /// A lender that has memory, and refuses values of more than `MAX_VALUE` bytes.
    #[derive(Default)]
    struct Strict(Mutex<Arena>);

    const MAX_VALUE: usize = 100 << 10;

    impl Lender for Strict {
        fn lend(&self, len: usize, _: Option<usize>) -> Option<Lease> {
            let mut arena = self.0.lock().expect("no test panics while it holds the lock");
            let block = arena.allocate(len).ok()?;
            Some(arena.lease(block))
        }

        fn spare(&self) -> usize {
            0
        }

        fn max_value(&self) -> usize {
            MAX_VALUE
        }
    }

    #[test]
    fn nothing_is_left_of_an_argument_that_is_refused() {
        let inbox = Inbox::new(CallOptions::default(), None, None);
        let mut queue = TaskQueue::new(name(|x| x), &inbox, 0);
        let sender = ipc_channel::ipc::channel::<u8>().expect("a channel can be made").0;
        let argument = |len| (sender.clone(), ByteBuf::from(vec![7; len]));
        let lender = Arc::new(Strict::default());
        let pushed = queue.push_all(&[argument(1), argument(MAX_VALUE + 1)], 0, lender.clone());
        pushed.expect("the first is small, and as many bytes as are wanted");
        queue.push_all(&[argument(MAX_VALUE + 1)], 0, lender.clone()).expect_err("it is too large");
        assert_eq!((queue.left, queue.handles.len()), (1, 1));
        assert_eq!((queue.large_args.len(), queue.large_args_len), (0, 0));
        queue.push_all(&[argument(1)], 0, lender).expect("it is small");
        for task in 0..2 {
            let cut = queue.cut(3, usize::MAX, 8).expect("two tasks are left");
            assert!(cut.first == task && cut.handles.is_some() && cut.large_arg.is_none());
        }
    }

    fn name<F: Fn(u32) -> u32 + Copy + 'static>(_: F) -> Name {
        worker::task::<F, u32, u32>().expect("it is part of this program")
    }

    /// Cuts a queue into chunks. Returns the first task of each chunk, and its bytes.
    fn cuts(queue: &mut TaskQueue, max_bytes: usize) -> Vec<(usize, Vec<u8>)> {
        let cut = || queue.cut(3, max_bytes, 8).map(|cut| (cut.first, cut.bytes.to_vec()));
        std::iter::from_fn(cut).collect()
    }

    proptest! {
        #[test]
        fn numbers_are_cut_like_other_arguments(
            numbers in prop::collection::vec(any::<u32>(), 1..300),
            chunksize in prop::option::of(1_usize..50),
            bytes in 0_usize..2000,
            max_bytes in 0_usize..3000,
        ) {
            let options = CallOptions { chunksize, ..CallOptions::default() };
            let inbox = Inbox::new(options, None, None);
            let fill = || {
                let mut queue = TaskQueue::new(name(|x| x), &inbox, 7);
                queue.push_all(&numbers, bytes, Arc::new(NoMemory)).expect("numbers can be encoded");
                queue
            };
            let (mut fixed_len, mut walked) = (fill(), fill());
            walked.fixed_len = None;
            let pushed = fixed_len.left;
            let unit = chunksize.unwrap_or(1);
            prop_assert_eq!(pushed, numbers.len().min(bytes.div_ceil(8).max(1).next_multiple_of(unit)));
            let cuts_of_fixed_len = cuts(&mut fixed_len, max_bytes);
            prop_assert_eq!(&cuts_of_fixed_len, &cuts(&mut walked, max_bytes));
            let whole: Vec<u8> = cuts_of_fixed_len.into_iter().flat_map(|(_, bytes)| bytes).collect();
            let mut rest = &whole[..];
            for number in &numbers[..pushed] {
                let record = records::take(&mut rest).expect("a record for each");
                prop_assert_eq!(wire::decode::<u32>(record, None), Ok(*number));
            }
            prop_assert!(rest.is_empty());
        }
    }
}
