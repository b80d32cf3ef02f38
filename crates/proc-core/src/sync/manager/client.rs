//! Asks a manager's process for calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipc_channel::ipc::{self, OpaqueIpcSender};
use serde::{Deserialize, Serialize};

use super::server::{NewLine, Reply, Request, WHAT_CANNOT_CROSS, What, serve};
use crate::call::Name;
use crate::error::{Error, Origin, Peer};
use crate::memory::Family;
use crate::process::Process;
use crate::sync::queue::{Direction, Queue};
use crate::sync::raw_lock::Patience;
use crate::sys;
use crate::wire::{self, Message, Payload};

/// Number of replies that a line holds: one that a call waits for, and the late replies of calls
/// that have timed out.
const REPLIES: u32 = 4;

/// A manager's process, as its clients see it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Server {
    requests: Queue<Request>,
    new_lines: OpaqueIpcSender,
    pid: u32,
    #[serde(skip)]
    free_lines: Arc<FreeLines>,
}

/// Lines of this process that no call uses now.
#[derive(Debug, Default)]
struct FreeLines(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    /// Pid of the process that has the lines. A copy of the process begins without.
    pid: u32,
    free: Vec<Line>,
}

/// Place at which a call waits for its reply.
#[derive(Debug)]
struct Line {
    number: u64,
    /// Number of the last request.
    serial: u64,
    /// Number of the last request whose reply was received. Those after it may have late replies.
    replied: u64,
    replies: Direction,
}

/// An object of a manager.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Object {
    server: Server,
    number: u64,
}

/// Returns a number that no other process of the family has returned.
fn number() -> Result<u64, Error> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let own = Family::get().and_then(Family::own_id);
    let own = own.map_err(|error| Error::make("shared state", error))?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX);
    Ok(u64::from(own.get()) << 32 | serial)
}

/// Encodes the argument of a call. `may_have_handles` is false if it certainly contains no channel
/// ends.
fn encode<A: Message>(argument: &A, may_have_handles: bool) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let encoded = wire::encode_without_handles(argument, &mut bytes, may_have_handles);
    match encoded.map_err(Error::encode_argument)? {
        false => Ok(bytes),
        true => Err(Error::encode_argument(format!(
            "the argument of a manager's call cannot contain {WHAT_CANNOT_CROSS}"
        ))),
    }
}

impl Server {
    /// Starts the process.
    pub(super) fn start() -> Result<Server, Error> {
        let requests = Queue::new()?;
        let channel = ipc::channel().map_err(|error| Error::start("a manager", error))?;
        let (new_lines, arrived) = channel;
        let new_lines = new_lines.to_opaque();
        let process = Process::new(serve, (requests.clone(), arrived)).name("manager");
        let child = process.daemon(true).start()?;
        let pid = child.pid();
        drop(child); // it ends when nobody has the queue of requests any more
        Ok(Server { requests, new_lines, pid, free_lines: Arc::default() })
    }

    /// Makes the error of a call after the death of the process.
    fn died(&self) -> Error {
        let family = self.requests.family();
        let status = family.process_of(self.pid).and_then(|dead| family.obituary_soon(dead).1);
        let origin = Origin { pid: Some(self.pid), ..Origin::default() };
        Error::peer_died(Peer::Manager, status).with_origin(origin)
    }

    /// Makes the error of a call whose line the process has not taken.
    fn refused(&self) -> Error {
        let family = self.requests.family();
        match family.process_of(self.pid).is_some_and(|process| !family.is_alive(process)) {
            true => self.died(),
            false => Error::make(
                "a connection to a manager",
                std::io::Error::other(format!(
                    "process {} has ended, or has no descriptor or memory for another client",
                    self.pid
                )),
            ),
        }
    }

    /// Takes a line that no other call uses.
    fn line(&self) -> Result<Line, Error> {
        {
            let mut lines = self.free_lines.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.pid == sys::pid()
                && let Some(line) = lines.free.pop()
            {
                return Ok(line);
            }
        }
        let line =
            Line { number: number()?, serial: 0, replied: 0, replies: Direction::new(REPLIES)? };
        line.replies.note_receiver();
        let sent = line.replies.sent().map_err(Error::encode_argument)?;
        let new_line: NewLine = (line.number, sent);
        let payload = Payload::encode(&new_line).map_err(Error::encode_argument)?;
        match wire::send(&self.new_lines.clone().to(), payload).map_err(wire::send_error) {
            Ok(()) => Ok(line),
            Err(None) => Err(self.died()), // nobody is left to receive the message
            Err(Some(error)) => Err(Error::make("a connection to a manager", error)),
        }
    }

    fn keep(&self, line: Line) {
        let mut lines = self.free_lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.pid != sys::pid() {
            // These belong to the process that this one is a copy of.
            std::mem::forget(std::mem::take(&mut lines.free));
            lines.pid = sys::pid();
        }
        // A line without late replies is used first: `line` takes the last one.
        let place = if line.serial == line.replied { lines.free.len() } else { 0 };
        lines.free.insert(place, line);
    }

    /// Receives the next reply at a line. Returns `None` if `patience` is over before.
    fn next_reply(&self, line: &mut Line, patience: Patience) -> Result<Option<Reply>, Error> {
        loop {
            let received = line.replies.receive::<Reply>(patience).map_err(|error| {
                match (error.is_closed(), line.replies.has_sender()) {
                    (false, _) => error,
                    (true, true) => self.died(),
                    (true, false) => self.refused(),
                }
            });
            match received? {
                Some(reply) => {
                    line.replied = reply.serial;
                    return Ok(Some(reply));
                }
                None if patience.is_over() => return Ok(None),
                None => {}
            }
        }
    }

    /// Sends a request, and waits for its reply. Returns `None` if `patience` is over before.
    fn ask(
        &self,
        object: u64,
        what: What,
        name: Name,
        argument: Vec<u8>,
        patience: Patience,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut line = self.line()?;
        // A line must have room for the reply. Another line for each call that times out would be
        // one more that the process, which may be stopped, has to receive.
        while line.serial - line.replied >= u64::from(REPLIES) {
            if self.next_reply(&mut line, patience)?.is_none() {
                self.keep(line);
                return Ok(None);
            }
        }
        line.serial += 1;
        let Line { number, serial, .. } = line;
        let request = Request { line: number, serial, object, what, name, argument };
        self.requests.put_plain(&request)?;
        let reply = loop {
            match self.next_reply(&mut line, patience)? {
                Some(late) if late.serial != serial => {}
                reply => break reply,
            }
        };
        self.keep(line);
        let result = reply.map(|reply| reply.result).transpose().map_err(Error::from_fault);
        Ok(result?.map(|bytes| bytes.into_vec()))
    }
}

impl Object {
    /// Makes an object by the maker `name`.
    pub(super) fn make<A: Message>(
        server: &Server,
        name: Name,
        argument: &A,
    ) -> Result<Object, Error> {
        let object = Object { server: server.clone(), number: number()? };
        let argument = encode(argument, wire::may_have_handles::<A>())?;
        while server
            .ask(object.number, What::Make, name, argument.clone(), Patience::Endless)?
            .is_none()
        {}
        Ok(object)
    }

    /// Calls the function `name` with the object and an argument. `may_have_handles` is false if
    /// the argument certainly contains no channel ends.
    pub(super) fn call<A: Message, R: Message>(
        &self,
        name: Name,
        argument: &A,
        may_have_handles: bool,
        patience: Patience,
    ) -> Result<Option<R>, Error> {
        let argument = encode(argument, may_have_handles)?;
        let reply = self.server.ask(self.number, What::Call, name, argument, patience)?;
        let decode = |bytes: Vec<u8>| wire::decode(&bytes, None).map_err(Error::decode_result);
        reply.map(decode).transpose()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.pid != sys::pid() {
            std::mem::forget(std::mem::take(&mut self.free));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.replies.leave(false);
    }
}
