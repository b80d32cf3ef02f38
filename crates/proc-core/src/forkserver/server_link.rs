//! Defines the link to a fork server: requests, and the notifier that announces them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ipc_channel::ipc::IpcSender;

use super::Request;
use crate::sys::Notifier;
use crate::wire;

/// Link to a fork server: requests, and the notifier that announces them.
#[derive(Debug)]
pub(crate) struct ServerLink {
    requests: Mutex<IpcSender<Request>>,
    notifier: Notifier,
}

impl ServerLink {
    pub(crate) fn new(requests: IpcSender<Request>, notifier: Notifier) -> Arc<ServerLink> {
        Arc::new(ServerLink { requests: Mutex::new(requests), notifier })
    }

    /// Orders the fork server to kill its children and to end. Waits until `deadline` if there is
    /// no room for the order.
    pub(crate) fn order_end(&self, deadline: Instant) -> io::Result<()> {
        self.notifier.order_end(deadline)
    }

    /// Returns the notifier, for descriptors and for last words, which a signal handler sends: it
    /// cannot use ipc-channel.
    pub(crate) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Sends a request, and notifies the fork server of it.
    pub(crate) fn send(&self, request: Request) -> io::Result<()> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        wire::send(&requests, request).map_err(wire::to_io_error)?;
        self.notifier.notify()
    }
}
