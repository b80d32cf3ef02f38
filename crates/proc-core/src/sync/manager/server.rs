//! The process of a manager: makes the calls that clients ask for.

use ipc_channel::ipc::IpcReceiver;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::call::{Fault, Input, Name, State};
use crate::panics::{self, PanicOutput};
use crate::sync::queue::{Direction, Queue, Sent};
use crate::sync::raw_lock::Patience;
use crate::wire::{self, Payload, Sink};

/// What cannot be part of an argument or a result, in words.
pub(super) const WHAT_CANNOT_CROSS: &str = "channel ends, shared memory or shared state";

/// What a client asks for.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    /// Line at which the client waits.
    pub(super) line: u64,
    /// Number of the request at its line.
    pub(super) serial: u64,
    pub(super) object: u64,
    pub(super) what: What,
    /// Name of the function.
    pub(super) name: Name,
    #[serde(with = "serde_bytes")]
    pub(super) argument: Vec<u8>,
}

/// What a client wants of an object.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum What {
    Make,
    Call,
}

/// Reply to the request with the same number.
#[derive(Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) serial: u64,
    pub(super) result: Result<serde_bytes::ByteBuf, Fault>,
}

/// A new line, with its number.
pub(super) type NewLine = (u64, Sent);

/// Inputs of the manager's process: the requests, and the new lines.
pub(super) type Inputs = (Queue<Request>, IpcReceiver<Payload>);

/// Serves requests until nobody has the manager any more, or there is no memory to receive one.
pub(super) fn serve((requests, new_lines): Inputs) {
    // The caller gets a panic as an error.
    panics::set_panic_output(PanicOutput::Unreported);
    let mut objects: FxHashMap<u64, State> = FxHashMap::default();
    let mut lines: FxHashMap<u64, Direction> = FxHashMap::default();
    let mut most_lines = 64;
    while let Ok(request) = requests.get() {
        if !lines.contains_key(&request.line) {
            // The client has sent its line before its first request, so the line is there now.
            lines.extend(arrived(&new_lines));
        }
        let Request { line: number, serial, object, what, name, argument } = request;
        // Without descriptor or address space for the line, there is no way to reply. The client
        // learns that nobody has its line.
        let Some(line) = lines.get(&number) else { continue };
        let state = match what {
            What::Make => objects.entry(object).or_insert_with(State::none),
            What::Call => match objects.get_mut(&object) {
                Some(state) => state,
                None => continue, // a handle exists only after its object was made
            },
        };
        let reply = Reply { serial, result: call(name, &argument, state) };
        // A client that has gone away gets no more replies.
        let is_sent = line.send_plain(&reply, Patience::None).or_else(|_| {
            let error = "the manager has no memory for the result".to_owned();
            line.send_plain(&Reply { serial, result: Err(Fault::Result(error)) }, Patience::None)
        });
        if !is_sent.unwrap_or(false) {
            lines.remove(&number);
        }
        if lines.len() > most_lines {
            lines.retain(|_, line| line.is_open());
            most_lines = 2 * lines.len() + 64;
        }
    }
}

/// Returns the lines that have arrived, with their numbers.
fn arrived(new_lines: &IpcReceiver<Payload>) -> Vec<(u64, Direction)> {
    let mut lines = Vec::new();
    loop {
        // ipc-channel panics if this process has no descriptor for what has arrived.
        let Ok(received) = panics::catch_silently(|| new_lines.try_recv()) else {
            wire::close_arrived(wire::MAX_HANDLES);
            continue;
        };
        let Ok(line) = received else { return lines };
        if let Ok((number, line)) = line.decode::<NewLine>()
            && let Ok(line) = Direction::arrive(line)
        {
            line.note_sender();
            lines.push((number, line));
        }
    }
}

fn call(name: Name, argument: &[u8], state: &mut State) -> Result<serde_bytes::ByteBuf, Fault> {
    let mut out = Sink::default();
    let handles = name.call(Input { bytes: argument, handles: None }, state, &mut out)?;
    match handles {
        None => Ok(serde_bytes::ByteBuf::from(out.into_bytes())),
        Some(_) => Err(Fault::Result(format!(
            "the result of a manager's call cannot contain {WHAT_CANNOT_CROSS}"
        ))),
    }
}
