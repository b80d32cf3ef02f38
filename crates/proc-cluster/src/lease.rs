//! Work is somebody's as long as they say so to the server; then it is handed out again.

use std::convert::Infallible;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;

use crate::connection::is_connected;

/// Says that the work is at hand, as long as this is polled.
pub(crate) async fn renew(client: &Client, acknowledge: &str, lease: Duration) -> Infallible {
    let every = (lease / 3).max(Duration::from_millis(10));
    let mut tick = tokio::time::interval(every);
    tick.tick().await; // the first is at once
    loop {
        tick.tick().await;
        // Lost while the connection is: then the lease ends, as it should.
        if is_connected(client) {
            let kind = Bytes::from_static(b"+WPI");
            let _ = client.publish(acknowledge.to_owned(), kind).await;
        }
    }
}

/// Whether this is where work is acknowledged; drivers have the subject from an agent.
pub(crate) fn is_place(subject: &str) -> bool {
    subject.starts_with("$JS.ACK.") && !subject.contains(['*', '>', ' '])
}
