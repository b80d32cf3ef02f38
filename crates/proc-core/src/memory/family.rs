//! What all processes of a program share: numbers for the processes, and a count of their deaths.
//!
//! All processes that a program starts with this library are its *family*. They map one small piece
//! of memory, which is made before the first fork server. A process that uses shared state takes a
//! number, which no other process of the family has had (numbers begin anew after 2^30), and holds
//! it until its end (`sys/liveness.rs`). So whoever finds the number of a process in a lock can ask
//! whether that process is alive.
//!
//! A fork server adds one to the count of deaths when one of its children has ended, and wakes
//! everybody who waits for that. Those look again at what they wait for. So a fork server need not
//! know what its children held. If no fork server tells of a death (because it was stopped or
//! killed, or because a user's `fork` has made the process), those that wait find out within
//! [`LOOK_INTERVAL`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::atomics::{AtomicU32, AtomicU64};
use super::futex::{now, wait_for_either, wake_all};
#[cfg(all(test, loom))]
use super::loom::{hold_byte, is_byte_held, own_word};
use super::{Region, shared_struct};
use crate::sys::{self, PerProcess};
#[cfg(not(all(test, loom)))]
use crate::sys::{hold_byte, is_byte_held, own_word};

/// How long a wait lasts before the waiting process looks whether the one that it waits for lives.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long [`obituary_soon`](Family::obituary_soon) waits until a fork server tells how a process
/// ended.
const TELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Number of processes about which the family keeps what it knows. The later processes replace the
/// earlier ones.
const RECORDS: usize = if cfg!(all(test, loom)) { 5 } else { 1 << 10 };

/// Number of bits of a process's number. No process has the number 0.
pub(crate) const PROCESS_ID_BITS: u32 = 30;
const MAX_PROCESS_ID: u32 = (1 << PROCESS_ID_BITS) - 1;

shared_struct! {
    /// The memory that the processes of a family share.
    struct FamilyWords {
        /// Random number of the program's run.
        run: AtomicU64,
        /// Number of deaths that fork servers have announced.
        deaths: AtomicU32,
        /// Number that was given to a process last.
        last_id: AtomicU32,
    }
}

shared_struct! {
    /// What is known of a process.
    #[derive(Debug)]
    struct Record {
        id: AtomicU32,
        pid: AtomicU32,
        /// How the process ended, as the kernel has it, plus 1; 0 if that is not known.
        status: AtomicU32,
    }
}

const RECORDS_OFFSET: usize = 64;
const LEN: usize = RECORDS_OFFSET + RECORDS * size_of::<Record>();

/// Family of this process.
#[derive(Debug)]
pub(crate) struct Family {
    region: Region,
    /// Descriptor of the memory, whose bytes the processes lock. See `sys/liveness.rs` for what may
    /// not be done with it.
    file: OwnedFd,
}

/// Number of a process in its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId(u32);

static FAMILY: OnceLock<Family> = OnceLock::new();

impl Family {
    /// Returns the family of this process. The first call in a program makes it.
    ///
    /// # Errors
    ///
    /// There is no descriptor or memory for it.
    pub(crate) fn get() -> io::Result<&'static Family> {
        if let Some(family) = Family::present() {
            return Ok(family);
        }
        let family = Family::new()?;
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(io::Error::other)?;
        family.words().run.store(u64::from_ne_bytes(run) | 1, Ordering::Relaxed);
        Ok(Family::set(family))
    }

    fn new() -> io::Result<Family> {
        let file = sys::memory::create(LEN)?;
        sys::memory::seal(&file, sys::memory::Access::Write)?;
        Family::map(file)
    }

    /// Returns the family, if there is one yet.
    #[cfg(not(all(test, loom)))]
    fn present() -> Option<&'static Family> {
        FAMILY.get()
    }

    /// In an executed copy of the program: joins the family of the process that executed it, whose
    /// descriptor was [passed on](Family::pass_on).
    pub(crate) fn join(number: i32) -> io::Result<()> {
        if number >= 0 {
            Family::set(Family::map(sys::take_over(number)?)?);
        }
        Ok(())
    }

    /// Lets the program that `command` executes [join](Family::join) this family. Returns the
    /// number of the descriptor, which that program must be told; -1 if there is no family.
    pub(crate) fn pass_on(command: &mut Command) -> i32 {
        Family::present().map_or(-1, |family| sys::pass_on_itself(&family.file, command))
    }

    fn map(file: OwnedFd) -> io::Result<Family> {
        let region = Region::map_borrowed(file.as_fd())?;
        if region.len() < LEN {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Family { region, file })
    }

    /// Keeps the family for good, unless another thread was faster.
    fn set(family: Family) -> &'static Family {
        FAMILY.get_or_init(|| family)
    }

    fn words(&self) -> &FamilyWords {
        let words = self.region.atomics(0, 1);
        words.and_then(|words| words.first()).expect("the length was checked")
    }

    fn records(&self) -> &[Record] {
        self.region.atomics(RECORDS_OFFSET, RECORDS).expect("the length was checked")
    }

    /// Returns the random number of the program's run, which is never 0.
    pub(crate) fn run(&self) -> u64 {
        self.words().run.load(Ordering::Relaxed)
    }

    /// Returns the number of this process. The first call in a process takes one.
    ///
    /// # Errors
    ///
    /// The kernel has no more record locks.
    #[inline]
    pub(crate) fn own_id(&self) -> io::Result<ProcessId> {
        // A copy of this process takes its own number.
        match own_word().load(Ordering::Relaxed) {
            0 => self.take_id(),
            id => Ok(ProcessId(id)),
        }
    }

    #[cold]
    fn take_id(&self) -> io::Result<ProcessId> {
        static TAKING: PerProcess<Mutex<()>> = PerProcess::new();
        let _taking = TAKING.get().lock().unwrap_or_else(PoisonError::into_inner);
        let own = own_word();
        if own.load(Ordering::Relaxed) != 0 {
            return Ok(ProcessId(own.load(Ordering::Relaxed)));
        }
        loop {
            let last = self.words().last_id.fetch_add(1, Ordering::Relaxed);
            let id = last.wrapping_add(1) & MAX_PROCESS_ID;
            if id != 0 && hold_byte(self.file.as_fd(), id)? {
                self.record(id, sys::pid());
                own.store(id, Ordering::Relaxed);
                return Ok(ProcessId(id));
            }
        }
    }

    fn record(&self, id: u32, pid: u32) {
        let record = &self.records()[id as usize % RECORDS];
        record.id.store(id, Ordering::Relaxed);
        record.status.store(0, Ordering::Relaxed);
        record.pid.store(pid, Ordering::Release);
    }

    /// Whether process `id` is alive. A process that executes another program is not alive any
    /// more.
    pub(crate) fn is_alive(&self, id: ProcessId) -> bool {
        let is_own = own_word().load(Ordering::Relaxed) == id.0;
        is_own || is_byte_held(self.file.as_fd(), id.0)
    }

    /// Tells what is known of a process that is not alive: its pid, and how it ended.
    pub(crate) fn obituary(&self, id: ProcessId) -> (Option<u32>, Option<ExitStatus>) {
        let record = &self.records()[id.0 as usize % RECORDS];
        let pid = record.pid.load(Ordering::Acquire);
        if record.id.load(Ordering::Relaxed) != id.0 {
            return (None, None);
        }
        let status = record.status.load(Ordering::Relaxed).checked_sub(1);
        (Some(pid), status.map(|status| ExitStatus::from_raw(status as i32)))
    }

    /// Like [`obituary`](Family::obituary), but waits a moment until a fork server has told how the
    /// process ended: it is seen to be dead before that.
    pub(crate) fn obituary_soon(&self, id: ProcessId) -> (Option<u32>, Option<ExitStatus>) {
        let deadline = Instant::now() + TELL_TIMEOUT;
        loop {
            let deaths = self.deaths();
            let known = self.obituary(id);
            if known.1.is_some() || Instant::now() >= deadline {
                return known;
            }
            self.wait(&self.words().deaths, deaths, deaths, Some(deadline));
        }
    }

    /// Returns the record of the process that had a pid last. Others may have had it before.
    fn last_record(&self, pid: u32) -> Option<&Record> {
        let last = self.words().last_id.load(Ordering::Relaxed);
        let age = |record: &&Record| {
            last.wrapping_sub(record.id.load(Ordering::Relaxed)) & MAX_PROCESS_ID
        };
        let is_it = |record: &&Record| record.pid.load(Ordering::Acquire) == pid;
        self.records().iter().filter(is_it).min_by_key(age)
    }

    /// Returns the process that had a pid last; `None` if later processes have replaced its record.
    pub(crate) fn process_of(&self, pid: u32) -> Option<ProcessId> {
        ProcessId::of(self.last_record(pid)?.id.load(Ordering::Relaxed))
    }

    /// In a fork server: tells the family that child `pid` has ended.
    pub(crate) fn announce_death(pid: u32, status: ExitStatus) {
        if let Some(family) = Family::present() {
            family.note_death(pid, status);
        }
    }

    fn note_death(&self, pid: u32, status: ExitStatus) {
        // If the record has a status already, it is that of an earlier process: this one took no
        // number.
        if let Some(record) = self.last_record(pid)
            && record.status.load(Ordering::Relaxed) == 0
        {
            record.status.store(status.into_raw() as u32 + 1, Ordering::Relaxed);
        }
        let deaths = &self.words().deaths;
        deaths.fetch_add(1, Ordering::Release);
        wake_all(deaths);
    }

    /// Returns the count of deaths, for [`wait`](Family::wait). Load it before you look at what you
    /// wait for.
    pub(crate) fn deaths(&self) -> u32 {
        self.words().deaths.load(Ordering::Acquire)
    }

    /// Sleeps while `word` has the value `expected` and no process of the family has ended since
    /// the count was `deaths`, until `deadline`. May also return earlier: look again.
    pub(crate) fn wait(
        &self,
        word: &AtomicU32,
        expected: u32,
        deaths: u32,
        deadline: Option<Instant>,
    ) {
        let left = |deadline: Instant| deadline.saturating_duration_since(now());
        let timeout = deadline.map_or(LOOK_INTERVAL, |deadline| left(deadline).min(LOOK_INTERVAL));
        wait_for_either([(word, expected), (&self.words().deaths, deaths)], timeout);
    }
}

#[cfg(all(test, loom))]
loom::lazy_static! {
    /// Family of the model that runs now.
    static ref MODEL_FAMILY: Family = Family::new().expect("there is memory");
}

#[cfg(all(test, loom))]
impl Family {
    fn present() -> Option<&'static Family> {
        Some(&MODEL_FAMILY)
    }

    /// In a model: begins process `id`, whose pid is `id` too.
    pub(crate) fn begin(&self, id: u32) {
        assert!(hold_byte(self.file.as_fd(), id).is_ok_and(|is_new| is_new), "it begins once");
        self.record(id, id);
        // Loom's atomics are made when they are first used. That must happen before there are
        // threads.
        assert_eq!(self.deaths(), 0);
    }
}

impl ProcessId {
    /// Returns the number as it lies in shared memory; never 0.
    #[inline]
    pub(crate) fn get(self) -> u32 {
        self.0
    }

    /// Returns the process with this number; `None` if the number is 0.
    pub(crate) fn of(number: u32) -> Option<ProcessId> {
        let number = number & MAX_PROCESS_ID;
        (number != 0).then_some(ProcessId(number))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_pid_is_that_of_the_last_process_that_had_it() {
        let family = Family::new().expect("there is memory");
        let begin = |id, pid| {
            family.words().last_id.store(id, Ordering::Relaxed);
            family.record(id & MAX_PROCESS_ID, pid);
        };
        let (one, two) = (ExitStatus::from_raw(1 << 8), ExitStatus::from_raw(2 << 8));
        let ended_as = |id: u32| family.obituary(ProcessId(id & MAX_PROCESS_ID)).1;
        let end_of = |pid| family.process_of(pid).and_then(|id| family.obituary(id).1);
        // Between the two processes, the places of the records begin anew in all cases but the
        // first, and the numbers in the last two.
        for first in [1, RECORDS as u32 - 1, MAX_PROCESS_ID - 1, MAX_PROCESS_ID] {
            begin(first, 42);
            family.note_death(42, one);
            assert_eq!(end_of(42), Some(one), "{first}");
            begin(first + 3, 42);
            assert_eq!(end_of(42), None, "the second process lives, after {first}");
            family.note_death(42, two);
            assert_eq!(end_of(42), Some(two), "{first}");
            assert_eq!((ended_as(first), ended_as(first + 3)), (Some(one), Some(two)), "{first}");
        }
        // Nobody has told how the third process ended.
        begin(7, 43);
        begin(9, 43);
        family.note_death(43, two);
        assert_eq!((ended_as(7), ended_as(9)), (None, Some(two)));
        assert_eq!(end_of(44), None);
    }
}
