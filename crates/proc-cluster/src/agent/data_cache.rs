//! The data of `with`s, as an agent holds them: fetched once, given to the pool, and kept as long
//! as their driver may use them.
//!
//! A driver's heartbeats name the data that it still has. If an agent holds too many data, it drops
//! those that were used least recently, and fetches them again when it needs them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proc_core::{Error, Pool, remote};
use tokio::sync::OnceCell;
use tracing::{info, warn};

use crate::data::{Store, Unfetched};
use crate::message::{Body, Data, Names, Numbers};

/// How many data an agent holds, and how many encoded bytes they have together. It drops data
/// beyond that, except those that a chunk uses, and those that were used last. A worker holds as
/// many.
const MAX_HELD: usize = 64;
const MAX_HELD_BYTES: u64 = 256 << 20;

/// How often an agent tries to fetch data. Another server of a cluster may not have them yet.
const FETCH_TRIES: u32 = 3;

/// How long to wait before another try.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Data on the agent's pool; empty until they are fetched. All chunks that need the data share
/// this.
pub(super) type SharedData = Arc<OnceCell<remote::Data>>;

/// Why there are no data for a chunk.
#[derive(Debug)]
pub(super) enum NoData {
    Unfetched(Unfetched),
    /// The pool cannot take them.
    Refused(Error),
}

/// All data that an agent holds.
#[derive(Default)]
pub(super) struct DataCache {
    /// The data that were used last come last.
    held: Mutex<Vec<Held>>,
}

struct Held {
    driver: u64,
    id: u64,
    /// The lease of the driver that has sent them.
    lease: Duration,
    /// The number of encoded bytes.
    bytes: u64,
    data: SharedData,
}

impl Held {
    /// Whether a chunk that is in hand uses the data.
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.data) > 1
    }

    /// The number of bytes that are held here.
    fn bytes_here(&self) -> u64 {
        if self.data.initialized() { self.bytes } else { 0 }
    }
}

impl DataCache {
    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns data for a chunk of this driver. Fetches them, and gives them to the pool, if that
    /// was not done before.
    ///
    /// # Errors
    ///
    /// The data cannot be fetched, or the pool cannot take them.
    pub(super) async fn get(
        &self,
        from: (&Store, &Names),
        pool: &Pool,
        driver: u64,
        lease: Duration,
        Data { id, body, .. }: Data,
    ) -> Result<SharedData, NoData> {
        let data = self.use_entry(driver, id, lease, body.len());
        let bind = async {
            let bytes = fetch(from, driver, id, body).await.map_err(NoData::Unfetched)?;
            remote::bind_encoded(pool, bytes).map_err(NoData::Refused)
        };
        data.get_or_try_init(|| bind).await?;
        self.trim();
        Ok(data)
    }

    /// Returns the entry of these data, as the one that was used last. Makes it if it is missing.
    fn use_entry(&self, driver: u64, id: u64, lease: Duration, bytes: u64) -> SharedData {
        let mut held = self.lock();
        let at = held.iter().position(|held| (held.driver, held.id) == (driver, id));
        let mut entry = match at {
            Some(at) => held.remove(at),
            None => Held { driver, id, lease, bytes, data: SharedData::default() },
        };
        entry.lease = lease;
        let data = Arc::clone(&entry.data);
        held.push(entry);
        data
    }

    /// If too many data are held, or too many bytes, drops those that were used least recently.
    /// Data that a chunk uses stay, and so do the data that were used last.
    pub(super) fn trim(&self) {
        let mut held = self.lock();
        let (mut count, mut bytes) = (held.len(), held.iter().map(Held::bytes_here).sum::<u64>());
        let mut dropped = Vec::new();
        let mut at = 0;
        while (count > MAX_HELD || bytes > MAX_HELD_BYTES) && at + 1 < held.len() {
            if held[at].is_in_use() {
                at += 1;
            } else {
                count -= 1;
                bytes -= held[at].bytes_here();
                dropped.push(held.remove(at));
            }
        }
        drop(held); // the pool drops its data without this lock
    }

    /// Drops the data that a driver has dropped.
    pub(super) fn drop_closed(&self, driver: u64, numbers: &Numbers) {
        self.drop_all(|held| held.driver == driver && numbers.is_over(held.id));
    }

    /// Drops the data of drivers that have fallen silent. `is_silent` gets a driver and its lease.
    pub(super) fn drop_silent(&self, is_silent: impl Fn(u64, Duration) -> bool) {
        self.drop_all(|held| is_silent(held.driver, held.lease));
    }

    fn drop_all(&self, is_over: impl Fn(&Held) -> bool) {
        let dropped: Vec<Held> = self.lock().extract_if(.., |held| is_over(held)).collect();
        drop(dropped); // the pool drops its data without the lock
    }
}

/// Fetches data. Tries it several times.
async fn fetch(
    (store, names): (&Store, &Names),
    driver: u64,
    id: u64,
    body: Body,
) -> Result<Vec<u8>, Unfetched> {
    let subject = names.bound_data(driver, id);
    let is_stored = matches!(body, Body::Stored { .. });
    let mut tries = 1;
    loop {
        match store.fetch(body.clone(), &subject).await {
            Ok(bytes) => {
                if is_stored {
                    info!(id, bytes = bytes.len(), "data fetched");
                }
                return Ok(bytes);
            }
            Err(unfetched) if tries == FETCH_TRIES => return Err(unfetched),
            Err(Unfetched { error, .. }) => warn!(%error, "data were not fetched"),
        }
        tries += 1;
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}
