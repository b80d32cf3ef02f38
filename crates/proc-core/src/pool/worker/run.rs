//! A claimed chunk being run: its tasks one after the other, each counted before and after.
//!
//! [`Run::each`] is compiled once for each function, with the function's own decoding and encoding
//! inside, so that a tiny task costs no call that is not its own. Claiming and handing over is
//! `worker`'s; the counts are the board's.

use std::cell::Cell;

use ipc_channel::ipc::IpcSender;

use super::mail::FromWorker;
use super::state::WorkerState;
use crate::call::{self, Callable, Code, Entry, Fault, Input, Name, Plain, Stage, State, Stateful};
use crate::forkserver::Report;
use crate::memory::Region;
use crate::pool::board::{Chunk, Claim, TicketId};
use crate::pool::records;
use crate::wire::{self, Handles, Message, Payload, Sink};
use crate::{panics, sys};

/// Runs the tasks of a chunk.
pub(crate) type RunFn = fn(&mut Run<'_>);

impl Code for RunFn {}

/// A way to run a chunk's tasks; each has an entry for each set of types.
trait Runnable: Callable {
    const RUN: &'static Entry<RunFn> = &Entry::new::<Self>(Self::run);

    fn run(run: &mut Run<'_>) {
        run.each(Self::task);
    }
}

impl<C: Callable> Runnable for C {}

/// The name of `F` as a task; an error where its code lies outside the image that holds this crate.
pub(crate) fn task<F, A, R>() -> Result<Name, String>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
{
    call::refuse_captures!(F);
    Name::of_entry::<F, _>(Plain::<F, A, R>::RUN)
}

/// The same of a function that is lent the worker's state.
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

/// A chunk on its way through a worker.
pub(crate) struct Run<'a> {
    pub(crate) claim: Claim<'a>,
    /// The worker's pid, by which a copy of it that a task has forked is told from it.
    pub(crate) pid: u32,
    pub(crate) ticket: TicketId,
    pub(crate) chunk: Chunk,
    pub(crate) region: &'a Region,
    /// What is left of the chunk's arguments.
    pub(crate) arguments: &'a [u8],
    /// Whether tasks take so little time that what they print may wait for the chunk's end.
    pub(crate) has_fast_tasks: bool,
    /// Channel ends of the next task's argument.
    pub(crate) handles: Option<Handles>,
    pub(crate) report: &'a IpcSender<Report<FromWorker>>,
    /// Ends a worker whose state cannot be made anew.
    pub(crate) give_up: fn(&IpcSender<Report<FromWorker>>, &Fault) -> !,
    pub(crate) state: &'a mut WorkerState,
    /// Tasks until the worker is to be replaced.
    pub(crate) left: &'a mut u64,
    /// Room for a result before it goes to shared memory.
    pub(crate) out: &'a mut Sink,
    /// The number of the next task.
    pub(crate) task: u32,
    /// The end of the tasks that are taken.
    pub(crate) taken: u32,
    /// Bytes of results so far.
    pub(crate) written: u64,
}

impl<'a> Run<'a> {
    /// Runs `task` for each of the chunk's tasks that is left, or until the worker's share is done.
    ///
    /// `task` decodes and calls; it says which of these it is at.
    #[inline]
    pub(crate) fn each<R: Message>(
        &mut self,
        mut task: impl FnMut(Input<'_>, &mut State, &Cell<Stage>) -> Result<R, Fault>,
    ) {
        let stage = Cell::new(Stage::Arguments);
        // A panic costs one task; the next is begun inside a new catch.
        while self.has_more() {
            let caught = panics::catch(|| {
                while self.has_more() {
                    let input = self.begin();
                    stage.set(Stage::Arguments);
                    let result = task(input, &mut self.state.current, &stage);
                    if !result.as_ref().is_ok_and(|value| self.end_number(value)) {
                        self.out.reset(self.written as usize);
                        let encode = |out: &mut Sink| call::write(result?, out, &stage);
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
                    // Between two tasks, so only the worker is lost; the next may have more luck.
                    (self.give_up)(self.report, &fault);
                }
            }
        }
    }

    /// Whether there is a task for this worker to begin.
    #[inline]
    fn has_more(&mut self) -> bool {
        *self.left > 0 && !self.is_done()
    }

    /// Whether all of the chunk is done that nobody else gets. If not, the next tasks are taken.
    #[inline]
    pub(crate) fn is_done(&mut self) -> bool {
        if self.task == self.taken
            && let Some(next) = self.claim.take()
        {
            self.taken = next.end;
        }
        self.task == self.taken
    }

    /// Begins the next task.
    #[inline]
    fn begin(&mut self) -> Input<'a> {
        let Some(bytes) = records::take(&mut self.arguments) else { sys::exit_now(1) };
        *self.left -= 1;
        self.claim.begin(self.task, self.chunk.timed.then(sys::monotonic));
        Input { bytes, handles: self.handles.take() }
    }

    /// Puts a result that is a number in its place, and counts the task as done; false if it is
    /// none, or does not fit.
    #[inline(always)]
    fn end_number<R: Message>(&mut self, result: &R) -> bool {
        let Some(bytes) = wire::number(result) else { return false };
        sys::end_copy_of(self.pid);
        let len = records::MIN_RESULT_BYTES + bytes.len();
        let is_placed = self.fits(len) && records::place_value(self.region, self.place(), bytes);
        if is_placed {
            self.count(len);
        }
        is_placed
    }

    /// Puts the result's record in its place, and counts the task as done.
    #[inline(always)]
    fn end(&mut self, handles: Option<Handles>) {
        sys::end_copy_of(self.pid);
        if handles.is_some() || self.out.has_placed() || !self.fits(self.out.len()) {
            return self.end_otherwise(handles);
        }
        if !records::place_result(self.region, self.place(), self.out) {
            sys::exit_now(1);
        }
        self.count(self.out.len());
    }

    /// The same for a result that is large, or holds channel ends.
    #[cold]
    fn end_otherwise(&mut self, handles: Option<Handles>) {
        if handles.is_some() || !self.fits(self.out.total()) {
            self.send_out_of_band(handles);
        }
        let len = self.out.total();
        let written = if self.out.has_placed() {
            self.out.finish().is_some()
        } else {
            self.region.write(self.place(), self.out)
        };
        if !written {
            sys::exit_now(1);
        }
        self.out.clear();
        self.count(len);
    }

    /// Whether there is room for a result so long: every later one needs at least its tag and
    /// length.
    #[inline]
    fn fits(&self, len: usize) -> bool {
        let spare = MIN_RESULT * u64::from(self.chunk.count - self.task - 1);
        self.written + len as u64 + spare <= self.chunk.room
    }

    /// Where in the region the next result goes.
    #[inline]
    fn place(&self) -> usize {
        (self.chunk.offset + self.chunk.arguments + self.written) as usize
    }

    #[inline]
    fn count(&mut self, len: usize) {
        if !self.has_fast_tasks {
            sys::flush_line();
        }
        self.written += len as u64;
        self.claim.end(self.task, self.written);
        self.task += 1;
    }

    /// Sends a result that is too large for the room, or holds channel ends; leaves a note of it.
    ///
    /// What goes is a whole record, so a fault that is too long for the room arrives as well.
    #[cold]
    fn send_out_of_band(&mut self, handles: Option<Handles>) {
        let gathered = self.out.inline_large();
        let refused = |why| {
            let mut record = Sink::default();
            records::append_fault(&mut record, &Fault::Result(why));
            Payload::new(record.into_bytes(), None).expect("a short text needs no shared memory")
        };
        let bytes = std::mem::take(&mut **self.out);
        let value = gathered.and_then(|()| Payload::new(bytes, handles)).unwrap_or_else(refused);
        let (ticket, task) = (self.ticket, self.task);
        let send =
            |value| self.report.send(Report::Said(FromWorker::OutOfBand { ticket, task, value }));
        let sent = send(value).or_else(|error| match wire::why_not_sent(error) {
            Some(why) => send(refused(why)).map_err(drop),
            None => Err(()),
        });
        if sent.is_err() {
            // The parent is gone, and the fork server is about to notice.
            sys::exit_now(1);
        }
        self.claim.went_out_of_band();
        records::append_out_of_band(self.out);
    }
}

const MIN_RESULT: u64 = records::MIN_RESULT_BYTES as u64;
