//! Runs the tasks of a claimed chunk one after another, and counts each when it begins and when it
//! is done.
//!
//! [`Run::each`] is compiled once for each function, with the function's own decoding and encoding
//! inlined, so that a tiny task costs no other call than its own. `worker/mod.rs` claims chunks,
//! runs each by a call of `Run::each`, and hands the finished ones over. The board has the counters
//! (see [`Claim`]).

use std::cell::Cell;
use std::marker::PhantomData;

use ipc_channel::ipc::IpcSender;

use super::data::HeldData;
use super::memory_limit::MemoryLimit;
use super::messages::FromWorker;
use super::state::WorkerState;
use crate::call::{self, Callable, Code, Entry, Fault, Input, Name, Plain, Stage, State, Stateful};
use crate::forkserver::Report;
use crate::memory::Region;
use crate::pool::board::{Chunk, Claim, TicketId};
use crate::pool::records;
use crate::wire::{self, Handles, Message, Payload, Sink};
use crate::{panics, sys};

/// A function that runs the tasks of a chunk.
pub(crate) type RunFn = fn(&mut Run<'_>);

impl Code for RunFn {}

/// A kind of function that can run the tasks of a chunk. Each set of types has its own entry.
trait Runnable: Sized + 'static {
    const RUN: &'static Entry<RunFn> = &Entry::new::<Self>(Self::run);

    fn run(run: &mut Run<'_>);
}

impl<C: Callable> Runnable for C {
    fn run(run: &mut Run<'_>) {
        run.each(Self::task);
    }
}

/// Function of borrowed data and its argument.
struct WithData<F, D, A, R>(PhantomData<fn(F, D, A) -> R>);

impl<F, D, A, R> Runnable for WithData<F, D, A, R>
where
    F: Fn(&D, A) -> R + Copy + 'static,
    D: Message,
    A: Message,
    R: Message,
{
    fn run(run: &mut Run<'_>) {
        let Some(data) = run.take_data::<D>() else { return };
        run.each(|input, _, stage| {
            let argument = call::read_argument(input, stage)?;
            Ok(sys::zst_value::<F>()(data, argument))
        });
    }
}

/// Function of the worker's state, borrowed data and its argument.
struct StatefulWithData<F, S, D, A, R>(PhantomData<(F, S, D, A, R)>);

impl<F, S, D, A, R> Runnable for StatefulWithData<F, S, D, A, R>
where
    F: Fn(&mut S, &D, A) -> R + Copy + 'static,
    S: 'static,
    D: Message,
    A: Message,
    R: Message,
{
    fn run(run: &mut Run<'_>) {
        let Some(data) = run.take_data::<D>() else { return };
        run.each(|input, state, stage| {
            let argument = call::read_argument(input, stage)?;
            let result = sys::zst_value::<F>()(state.lend()?, data, argument);
            state.take_back();
            Ok(result)
        });
    }
}

/// Returns the name by which a worker finds `F` as a task. Fails if the code of `F` lies outside
/// the image that contains this crate.
pub(crate) fn task<F, A, R>() -> Result<Name, String>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
{
    call::refuse_captures!(F);
    Name::of_entry::<F, _>(Plain::<F, A, R>::RUN)
}

/// Like [`task`], for a function that borrows the worker's state.
pub(crate) fn stateful_task<F, S, A, R>() -> Result<Name, String>
where
    F: Fn(&mut S, A) -> R + Copy + 'static,
    S: 'static,
    A: Message,
    R: Message,
{
    call::refuse_captures!(F);
    Name::of_entry::<F, _>(Stateful::<F, S, A, R>::RUN)
}

/// Like [`task`], for a function that borrows data.
pub(crate) fn task_with_data<F, D, A, R>() -> Result<Name, String>
where
    F: Fn(&D, A) -> R + Copy + 'static,
    D: Message,
    A: Message,
    R: Message,
{
    call::refuse_captures!(F);
    Name::of_entry::<F, _>(WithData::<F, D, A, R>::RUN)
}

/// Like [`task`], for a function that borrows the worker's state and data.
pub(crate) fn stateful_task_with_data<F, S, D, A, R>() -> Result<Name, String>
where
    F: Fn(&mut S, &D, A) -> R + Copy + 'static,
    S: 'static,
    D: Message,
    A: Message,
    R: Message,
{
    call::refuse_captures!(F);
    Name::of_entry::<F, _>(StatefulWithData::<F, S, D, A, R>::RUN)
}

/// A chunk that a worker is running.
pub(crate) struct Run<'a> {
    pub(crate) claim: Claim<'a>,
    /// The worker's pid. A copy of the worker, which a task has forked, has another pid.
    pub(crate) pid: u32,
    pub(crate) ticket: TicketId,
    pub(crate) chunk: Chunk,
    pub(crate) region: &'a Region,
    /// The arguments of the tasks that have not begun.
    pub(crate) arguments: &'a [u8],
    /// Whether tasks are so fast that stdout is flushed only at the end of the chunk.
    pub(crate) has_fast_tasks: bool,
    /// The channel ends of the next task's argument.
    pub(crate) handles: Option<Handles>,
    /// The data that the function borrows, if it borrows any.
    pub(crate) data: Result<Option<&'a mut HeldData>, Fault>,
    pub(crate) report: &'a IpcSender<Report<FromWorker>>,
    /// Ends a worker whose state cannot be made again.
    pub(crate) exit_with_fault: fn(&IpcSender<Report<FromWorker>>, &Fault) -> !,
    pub(crate) state: &'a mut WorkerState,
    /// How many more tasks the worker may run.
    pub(crate) tasks_left: &'a mut u64,
    pub(super) memory_limit: Option<&'a mut MemoryLimit>,
    /// Holds a result until it is copied to shared memory.
    pub(crate) out: &'a mut Sink,
    /// The index of the next task in the chunk.
    pub(crate) task: u32,
    /// How many of the chunk's tasks this worker has taken.
    pub(crate) taken: u32,
    /// How many bytes of results are written so far.
    pub(crate) written: u64,
    /// Whether the worker gives the chunk up: the parent ends the call.
    pub(crate) is_given_up: bool,
}

impl<'a> Run<'a> {
    /// Calls `task` for each task of the chunk, until no tasks are left or the worker has reached
    /// its limit of tasks.
    ///
    /// `task` decodes the argument and calls the function. It sets the stage before each of its
    /// steps. The stage tells where a panic came from.
    #[inline]
    pub(crate) fn each<R: Message>(
        &mut self,
        mut task: impl FnMut(Input<'_>, &mut State, &Cell<Stage>) -> Result<R, Fault>,
    ) {
        // Called once for the whole chunk: for each task, this would cost more than most tasks do.
        if wire::may_have_handles::<R>() {
            wire::drop_collected_handles();
        }
        let stage = Cell::new(Stage::Arguments);
        // A panic ends one task. A new catch begins with the next task.
        while self.has_more() {
            let caught = panics::catch(|| {
                while self.has_more() {
                    let input = self.begin();
                    stage.set(Stage::Arguments);
                    let result = task(input, &mut self.state.current, &stage);
                    if !result.as_ref().is_ok_and(|value| self.end_number(value)) {
                        self.out.reset(self.written as usize);
                        let encode = |out: &mut Sink| call::write_result(result?, out, &stage);
                        let done = records::append_result(self.out, encode);
                        self.end(done.unwrap_or(None));
                    }
                }
            });
            if let Err(panic) = caught {
                self.out.clear();
                records::append_fault(self.out, &stage.get().fault(panic));
                self.end(None);
                if self.state.current.is_spoilt()
                    && let Err(fault) = self.state.renew()
                {
                    // No task is running now, so only the worker is lost. The next worker may
                    // succeed.
                    (self.exit_with_fault)(self.report, &fault);
                }
            }
        }
    }

    /// Returns the data that the function borrows. If there are none, gives up the chunk, and tells
    /// the parent why.
    fn take_data<D: Message>(&mut self) -> Option<&'a D> {
        let value = match std::mem::replace(&mut self.data, Ok(None)) {
            Ok(Some(data)) => data.value::<D>(),
            Ok(None) => Err(Fault::Data("the program sent none".into())),
            Err(fault) => Err(fault),
        };
        sys::exit_if_copy_of(self.pid);
        value.map_err(|fault| self.give_up(&fault)).ok()
    }

    /// Gives up the chunk because of a fault of the data.
    #[cold]
    fn give_up(&mut self, fault: &Fault) {
        let fault = Payload::encode(fault).expect("a fault is text");
        let message = FromWorker::DataFailed { ticket: self.ticket, fault };
        if wire::send(self.report, Report::Said(message)).is_err() {
            // The parent is gone, and the fork server would soon kill this worker anyway.
            sys::exit_now(1);
        }
        self.is_given_up = true;
    }

    /// Whether there is another task for this worker to begin.
    #[inline]
    fn has_more(&mut self) -> bool {
        *self.tasks_left > 0 && !self.is_done()
    }

    /// Whether no tasks are left for this worker. If all taken tasks are done, takes the next grain
    /// first.
    #[inline]
    pub(crate) fn is_done(&mut self) -> bool {
        if self.task == self.taken
            && let Some(next) = self.claim.take_grain()
        {
            self.taken = next.end;
        }
        self.task == self.taken
    }

    /// Begins the next task.
    #[inline]
    fn begin(&mut self) -> Input<'a> {
        let Some(bytes) = records::take(&mut self.arguments) else { sys::exit_now(1) };
        *self.tasks_left -= 1;
        self.claim.begin(self.task, (self.chunk.timeout > 0).then(sys::monotonic));
        Input { bytes, handles: self.handles.take() }
    }

    /// Writes a result that is a number to its place, and counts the task as done. Returns false if
    /// the result is no number or does not fit.
    #[inline(always)]
    fn end_number<R: Message>(&mut self, result: &R) -> bool {
        let Some(bytes) = wire::number(result) else { return false };
        sys::exit_if_copy_of(self.pid);
        let len = records::MIN_RESULT_BYTES + bytes.len();
        let is_placed = self.fits(len) && records::place_value(self.region, self.place(), bytes);
        if is_placed {
            self.count_done(len);
        }
        is_placed
    }

    /// Writes the record of a result to its place, and counts the task as done.
    #[inline(always)]
    fn end(&mut self, handles: Option<Handles>) {
        sys::exit_if_copy_of(self.pid);
        if handles.is_some() || self.out.has_large_pieces() || !self.fits(self.out.len()) {
            return self.end_large(handles);
        }
        if !records::place_result(self.region, self.place(), self.out) {
            sys::exit_now(1);
        }
        self.count_done(self.out.len());
    }

    /// Like [`end`](Run::end), for a result that is large or holds channel ends.
    #[cold]
    fn end_large(&mut self, handles: Option<Handles>) {
        if handles.is_some() || !self.fits(self.out.total()) {
            self.send_out_of_band(handles);
        }
        let len = self.out.total();
        let written = if self.out.has_large_pieces() {
            self.out.finish().is_some()
        } else {
            self.region.write(self.place(), self.out)
        };
        if !written {
            sys::exit_now(1);
        }
        self.out.clear();
        self.count_done(len);
    }

    /// Whether there is room for `len` more bytes of results, beside a tag and a length for each
    /// later result.
    #[inline]
    fn fits(&self, len: usize) -> bool {
        let later = u64::from(self.chunk.count - self.task - 1);
        let spare = records::MIN_RESULT_BYTES as u64 * later;
        self.written + len as u64 + spare <= self.chunk.room
    }

    /// The offset of the next result in the region.
    #[inline]
    fn place(&self) -> usize {
        (self.chunk.offset + self.chunk.arguments + self.written) as usize
    }

    /// Counts the task as done, with `len` bytes of results.
    #[inline]
    fn count_done(&mut self, len: usize) {
        if !self.has_fast_tasks {
            sys::try_flush_stdout();
        }
        self.written += len as u64;
        self.claim.end(self.task, self.written);
        self.task += 1;
        if let Some(limit) = &mut self.memory_limit {
            limit.measure_if_due();
            if limit.is_exceeded {
                *self.tasks_left = 0;
            }
        }
    }

    /// Sends a result out of band, because it is too large for the room or holds channel ends.
    /// Leaves a note in its place.
    ///
    /// The message holds a whole record, so that it can also hold a fault that is too long for the
    /// room.
    #[cold]
    fn send_out_of_band(&mut self, handles: Option<Handles>) {
        let inlined = self.out.inline_large();
        let refused = |why| {
            let mut record = Sink::default();
            records::append_fault(&mut record, &Fault::Result(why));
            Payload::new(record.into_bytes(), None).expect("a short text needs no shared memory")
        };
        let bytes = std::mem::take(&mut **self.out);
        let value = inlined.and_then(|()| Payload::new(bytes, handles)).unwrap_or_else(refused);
        let (ticket, task) = (self.ticket, self.task);
        let send = |value| {
            wire::send(self.report, Report::Said(FromWorker::OutOfBand { ticket, task, value }))
        };
        let sent = send(value).or_else(|error| match wire::why_not_sent(error) {
            Some(why) => send(refused(why)).map_err(drop),
            None => Err(()),
        });
        if sent.is_err() {
            // The parent is gone, and the fork server would soon kill this worker anyway.
            sys::exit_now(1);
        }
        self.claim.count_out_of_band();
        records::append_out_of_band(self.out);
    }
}
