//! Leases: work belongs to an agent while the agent keeps renewing it. When renewals stop, the
//! server redelivers the work.

use std::convert::Infallible;
use std::time::Duration;

use async_nats::Client;

use crate::connection::is_connected;

/// Renews the lease of one chunk, three times during each `lease`, for as long as this future is
/// polled.
///
/// `acknowledge` is the subject on which the server expects acknowledgements of the chunk.
pub(crate) async fn renew(client: &Client, acknowledge: &str, lease: Duration) -> Infallible {
    let interval = (lease / 3).max(Duration::from_millis(10));
    let mut tick = tokio::time::interval(interval);
    tick.tick().await; // the first tick is immediate
    loop {
        tick.tick().await;
        // `+WPI`, "work in progress", renews the lease. Without a connection no renewal is sent,
        // and the lease expires, as it should.
        if is_connected(client) {
            let _ = client.publish(acknowledge.to_owned(), "+WPI".into()).await;
        }
    }
}

/// Whether `subject` is one on which the server expects acknowledgements of work. Drivers receive
/// the subject from an agent, so they check it.
pub(crate) fn is_acknowledge_subject(subject: &str) -> bool {
    subject.starts_with("$JS.ACK.") && !subject.contains(['*', '>', ' '])
}
