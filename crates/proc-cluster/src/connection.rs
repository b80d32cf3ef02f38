//! Connects to the server: address, credentials and encryption. Refuses addresses that would need
//! plain text on a network, and servers that are too old.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, Subscriber};
use percent_encoding::percent_decode_str;
use proc_core::Error;
use proc_core::remote::{fleet_error, invalid_error};
use tracing::debug;

/// The oldest version of nats-server that is accepted. Older ones may lose work that they have
/// confirmed, or stall. Version 2.9 was seen to stall forever.
const MIN_SERVER_VERSION: (i64, i64, i64) = (2, 10, 27);

/// How often the client pings the server. A broken connection is noticed after three intervals.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait before another attempt to reach a server that does not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// How to reach the server, and with which identity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// `nats://host:port` or `tls://host:port`; several addresses are separated by commas.
    pub(crate) address: String,
    pub(crate) fleet: Option<String>,
    /// A file with the user's credentials or seed.
    pub(crate) credentials: Option<PathBuf>,
    /// A file with certificates to trust in addition to the system's.
    pub(crate) authority: Option<PathBuf>,
    /// Files with a client certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) plaintext: Plaintext,
}

/// Where messages may travel without encryption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plaintext {
    /// Only within this machine.
    #[default]
    Loopback,
    /// On any network: it is trusted, or encrypts all traffic itself.
    Anywhere,
}

impl Settings {
    /// The settings for the server at `address`, all others read from the environment.
    ///
    /// # Errors
    ///
    /// There is a key without its certificate, or a certificate without its key.
    pub(crate) fn from_env(address: &str) -> Result<Settings, Error> {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = |name: &str| text(name).map(PathBuf::from);
        let identity = match (file("PROC_CLUSTER_CERT"), file("PROC_CLUSTER_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                let what = "PROC_CLUSTER_CERT and PROC_CLUSTER_KEY go together: set both or none";
                return Err(invalid_error(what));
            }
        };
        Ok(Settings {
            address: address.to_owned(),
            fleet: text("PROC_CLUSTER_FLEET"),
            credentials: file("PROC_CLUSTER_CREDENTIALS"),
            authority: file("PROC_CLUSTER_CA"),
            identity,
            plaintext: match text("PROC_CLUSTER_PLAINTEXT").as_deref() {
                Some("anywhere") => Plaintext::Anywhere,
                _ => Plaintext::Loopback,
            },
        })
    }

    /// Connects, and passes all later events of the connection to `events`.
    ///
    /// A server that cannot be reached may be about to start. `connect` therefore tries again until
    /// `timeout` has passed.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, refuses the client, or is too old; or the connection would be
    /// in plain text where that is not allowed.
    pub(crate) async fn connect(
        &self,
        role: &str,
        timeout: Duration,
        events: impl Fn(Event) + Clone + Send + Sync + 'static,
    ) -> Result<Client, Error> {
        let addresses = self.addresses()?;
        let started = Instant::now();
        let client = loop {
            match self.options(role, &addresses, events.clone())?.connect(&addresses[..]).await {
                Ok(client) => break client,
                Err(error) if is_unreachable(error.kind()) && started.elapsed() < timeout => {
                    debug!(%error, "the server is not there yet");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => {
                    return Err(fleet_error(format!(
                        "cannot connect to the server at {}: {error}; is it running (nats-server \
                         -js), and do user and certificates match?",
                        self.shown_address()
                    )));
                }
            }
        };
        let (major, minor, patch) = MIN_SERVER_VERSION;
        if !client.is_server_compatible(major, minor, patch) {
            return Err(fleet_error(format!(
                "the server at {} is nats-server {}, which may stall or lose work: install \
                 {major}.{minor}.{patch} or newer",
                self.shown_address(),
                client.server_info().version
            )));
        }
        Ok(client)
    }

    fn options(
        &self,
        role: &str,
        addresses: &[ServerAddr],
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new()
            .name(format!("proc-cluster {role}"))
            .custom_inbox_prefix(format!("_INBOX.{role}"))
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(|attempt| Duration::from_millis(50 << attempt.min(5)))
            .event_callback(move |event| {
                events(event);
                async {}
            });
        // The first server tells the client the addresses of the other servers of its cluster. If
        // all given addresses use TLS, the client must use TLS with those servers as well.
        let encrypted = addresses.iter().all(ServerAddr::tls_required);
        options = options.require_tls(encrypted);
        // If plain text is allowed within this machine only, the client must not connect to the
        // addresses that the first server tells: they may be on other machines.
        if self.plaintext == Plaintext::Loopback && !encrypted {
            options = options.ignore_discovered_servers();
        }
        let plain = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let user =
            addresses.iter().find_map(|address| Some((address.username()?, address.password()?)));
        if let Some((user, password)) = user {
            options = options.user_and_password(plain(user), plain(password));
        }
        if let Some(file) = &self.credentials {
            options = with_credentials(options, file)?;
        }
        if let Some(file) = &self.authority {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.identity {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }

    fn addresses(&self) -> Result<Vec<ServerAddr>, Error> {
        let parse = |address: &str| {
            let parsed: ServerAddr = address.trim().parse().map_err(|error| {
                invalid_error(format!(
                    "the server's address is invalid ({error}): write nats://host:port or \
                     tls://host:port"
                ))
            })?;
            if !parsed.tls_required()
                && self.plaintext == Plaintext::Loopback
                && !is_loopback(parsed.host())
            {
                return Err(invalid_error(format!(
                    "arguments and results would travel to {} in plain text: use tls://, or say that \
                     the network is trusted (PROC_CLUSTER_PLAINTEXT=anywhere, or \
                     ClusterBuilder::plaintext_anywhere)",
                    parsed.host()
                )));
            }
            Ok(parsed)
        };
        self.address.split(',').map(parse).collect()
    }

    /// The address without user name and password, for error messages.
    fn shown_address(&self) -> String {
        let without = |address: &str| match address.rsplit_once('@') {
            Some((_, host)) => host.to_owned(),
            None => address.to_owned(),
        };
        self.address.split(',').map(without).collect::<Vec<_>>().join(",")
    }
}

pub(crate) async fn subscribe(client: &Client, subject: String) -> Result<Subscriber, Error> {
    let subscribed = client.subscribe(subject.clone()).await;
    subscribed.map_err(|error| fleet_error(format!("cannot subscribe to {subject}: {error}")))
}

/// Whether there is a connection. Without one, messages wait in the client, which keeps only a
/// limited number of them.
pub(crate) fn is_connected(client: &Client) -> bool {
    client.connection_state() == async_nats::connection::State::Connected
}

/// Whether the error means that no server answered, rather than that a server refused.
fn is_unreachable(kind: ConnectErrorKind) -> bool {
    use ConnectErrorKind::{Dns, Io, TimedOut};
    matches!(kind, Dns | Io | TimedOut)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Adds the credentials in `file`: what `nsc` writes (a token and a seed), or a seed alone.
fn with_credentials(options: ConnectOptions, file: &PathBuf) -> Result<ConnectOptions, Error> {
    let refused = |error: &dyn std::fmt::Display| {
        invalid_error(format!("the credentials in {} cannot be used: {error}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| refused(&error))?;
    if text.trim_start().starts_with("SU") {
        return Ok(options.nkey(text.trim().to_owned()));
    }
    options.credentials(&text).map_err(|error| refused(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(address: &str, plaintext: Plaintext) -> Result<Vec<ServerAddr>, Error> {
        Settings { address: address.into(), plaintext, ..Settings::default() }.addresses()
    }

    #[test]
    fn plain_text_to_other_machines_must_be_allowed() {
        for inside in ["nats://127.0.0.1:4222", "localhost", "nats://[::1]:1", "tls://example.org"]
        {
            assert!(addresses(inside, Plaintext::Loopback).is_ok(), "{inside}");
        }
        for outside in ["nats://10.0.0.1", "example.org:4222", "nats://127.0.0.1,nats://10.0.0.1"] {
            let refused = addresses(outside, Plaintext::Loopback).expect_err(outside);
            assert!(
                refused.kind() == crate::ErrorKind::Invalid
                    && refused.to_string().contains("plain text"),
                "{refused}"
            );
            assert!(addresses(outside, Plaintext::Anywhere).is_ok(), "{outside}");
        }
    }

    #[test]
    fn shown_address_has_no_password() {
        let address = "nats://me:secret@a:1,nats://b:2".to_owned();
        let settings = Settings { address, ..Settings::default() };
        assert_eq!(settings.shown_address(), "a:1,nats://b:2");
    }
}
