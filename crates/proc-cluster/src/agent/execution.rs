//! The execution of one chunk on an agent: fetches arguments and data, lets the pool run the tasks,
//! renews the lease meanwhile, and sends the reply.

use std::sync::Arc;
use std::time::Instant;

use proc_core::{Error, ErrorKind, remote};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::data_cache::NoData;
use super::shared::{DeliveryInfo, MAX_CHUNKS_PER_WORKER, MAX_WAIT_AHEAD, Shared};
use crate::data::Unfetched;
use crate::lease;
use crate::message::{self, Outcome, Reply, Work};

/// How often the agent tries to store results. After that it sends no reply, so that the server
/// redelivers the chunk.
const STORE_TRIES: u32 = 5;

/// The execution of one chunk.
pub(super) struct Execution {
    pub(super) shared: Arc<Shared>,
    pub(super) work: Work,
    pub(super) delivery: DeliveryInfo,
    pub(super) wait: WorkerWait,
    pub(super) cancelled: oneshot::Receiver<Cancel>,
}

/// How long a chunk may wait for a worker of this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerWait {
    /// Any time: a worker was free when the chunk arrived.
    Unlimited,
    /// [`MAX_WAIT_AHEAD`]: all workers had work when the chunk arrived.
    Limited,
}

/// Why an execution is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    /// The driver has given up the job, or is gone.
    Unwanted,
    /// The agent ends, so another agent must run the chunk.
    Leaving,
}

/// Tells the agent that an execution has ended.
pub(super) struct Done {
    pub(super) sequence: u64,
    pub(super) summary: Summary,
    /// The reason, if the pool has ended.
    pub(super) pool_ended: Option<Error>,
}

/// Summary of an execution, for the agent's counts and for its estimate of the cost of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Summary {
    /// The tasks ran. `nanoseconds` is the worker time that they took, `errors` how many failed.
    Ran { nanoseconds: u64, errors: u64 },
    /// No worker was free in time.
    Busy,
    /// All tasks have the same error.
    Failed,
    /// This agent has no results. Another agent runs the chunk, or the chunk is not wanted any
    /// more.
    Abandoned,
}

/// How an execution ended, for the message that the agent must send, if any.
enum End {
    Reply(Outcome),
    /// A reply with the fates of all tasks, of which `errors` are errors.
    Done {
        outcome: Outcome,
        nanoseconds: u64,
        errors: u64,
    },
    /// The driver does not want the results; the server can drop the chunk.
    Unwanted,
    /// No message, so that the server redelivers the chunk.
    Nothing,
    /// The pool has ended, for this reason.
    PoolEnded(Error),
}

impl Execution {
    pub(super) async fn run(mut self) -> Done {
        let end = {
            let Execution { shared, work, delivery, wait, cancelled } = &mut self;
            let renewed = lease::renew(&shared.client, &delivery.acknowledge, work.lease);
            tokio::select! {
                end = execute(shared, work, delivery, *wait, cancelled) => end,
                never = renewed => match never {},
            }
        };
        let summary = match &end {
            &End::Done { nanoseconds, errors, .. } => Summary::Ran { nanoseconds, errors },
            End::Reply(Outcome::Busy) => Summary::Busy,
            End::Reply(Outcome::Failed(_) | Outcome::CallFailed(_)) => Summary::Failed,
            End::PoolEnded(error) if error.kind() == ErrorKind::Initializer => Summary::Failed,
            _ => Summary::Abandoned,
        };
        let mut pool_ended = None;
        match end {
            End::Reply(outcome) | End::Done { outcome, .. } => self.reply(outcome).await,
            End::Unwanted => self.shared.acknowledge(&self.delivery, "+TERM").await,
            End::Nothing => {}
            End::PoolEnded(error) => {
                self.reply(if error.kind() == ErrorKind::Initializer {
                    Outcome::Failed(remote::error_to_bytes(&error))
                } else {
                    Outcome::Returned
                })
                .await;
                pool_ended = Some(error);
            }
        }
        Done { sequence: self.delivery.sequence, summary, pool_ended }
    }

    /// Sends a reply to the driver. If the reply is lost, the server redelivers the chunk, until
    /// the driver has a reply.
    pub(super) async fn reply(&self, outcome: Outcome) {
        let Execution { shared, work, delivery, .. } = self;
        debug!(job = work.job, first = work.chunk.first, count = work.chunk.count, "reply");
        let reply = message::encode(&Reply {
            job: work.job,
            chunk: work.chunk,
            delivered: delivery.count,
            host: shared.host.clone(),
            acknowledge: delivery.acknowledge.clone(),
            outcome,
        });
        if let Ok(reply) = reply {
            let subject = shared.names.replies(work.driver);
            if let Err(error) = shared.client.publish(subject, reply.into()).await {
                warn!(%error, "a reply was not sent");
            }
        }
    }
}

/// Fetches arguments and data, runs the tasks and stores the results.
async fn execute(
    shared: &Shared,
    work: &mut Work,
    delivery: &DeliveryInfo,
    wait: WorkerWait,
    cancelled: &mut oneshot::Receiver<Cancel>,
) -> End {
    let subject = shared.names.arguments(work.driver, work.job, work.chunk);
    let body = std::mem::replace(&mut work.arguments, message::Body::Inline(Vec::new()));
    let arguments = tokio::select! {
        arguments = shared.store.get(body, &subject) => arguments,
        why = &mut *cancelled => return end_of_cancelled(why),
    };
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => {
            warn!(%error, "arguments were not fetched");
            return End::Reply(Outcome::Returned);
        }
    };
    let data = match work.data.take() {
        None => None,
        Some(data) => {
            let losses = data.losses;
            let from = (&shared.store, &shared.names);
            let data = shared.data.get(from, &shared.pool, work.driver, work.lease, data);
            let data = tokio::select! {
                data = data => data,
                why = &mut *cancelled => return end_of_cancelled(why),
            };
            match data {
                Ok(data) => Some(data),
                Err(why) => return End::Reply(without_data(why, losses)),
            }
        }
    };
    let data = data.as_ref().and_then(|data| data.get());
    let wanted = match work.chunk.must_be_alone() {
        true => shared.pool.processes() * MAX_CHUNKS_PER_WORKER,
        false => 1,
    };
    let permits = tokio::select! {
        permits = shared.permits.acquire_many(wanted as u32) => permits,
        why = &mut *cancelled => return end_of_cancelled(why),
    };
    let Ok(_permits) = permits else { return End::Nothing };
    let at_once = if work.chunk.must_be_alone() { 1 } else { shared.chunks_per_worker() };
    let start = Instant::now();
    let ran = run_in_pool(shared, work, &arguments, data, wait, cancelled).await;
    let (fates, retried) = match ran {
        Ok(ran) => ran,
        Err(end) => return end,
    };
    // The time includes the wait for other chunks of the same worker, so divide it by the number of
    // chunks that each worker has.
    let took = start.elapsed().as_nanos() / at_once as u128;
    let nanoseconds = u64::try_from(took).unwrap_or(u64::MAX);
    let errors = remote::count_errors(&fates);
    let subject = shared.names.fates(work.driver, work.job, work.chunk, delivery.count);
    for _ in 0..STORE_TRIES {
        match shared.store.put(&fates, &subject).await {
            Ok(fates) => {
                let outcome = Outcome::Done { fates, nanoseconds, retried };
                return End::Done { outcome, nanoseconds, errors };
            }
            Err(error) => warn!(%error, "results were not stored"),
        }
    }
    End::Nothing
}

/// The outcome of a chunk whose data the agent could not get. The server had lost them `losses`
/// times before.
fn without_data(why: NoData, losses: u32) -> Outcome {
    match why {
        NoData::Unfetched(Unfetched { error, is_lost }) => {
            warn!(%error, "data were not fetched");
            if is_lost { Outcome::DataLost { losses } } else { Outcome::Returned }
        }
        NoData::Refused(error) => Outcome::CallFailed(remote::error_to_bytes(&error)),
    }
}

/// Lets the pool run the tasks, and stops them if the execution is cancelled. Returns the encoded
/// fates, and how often a task was tried again; or how the execution ended without fates.
async fn run_in_pool(
    shared: &Shared,
    work: &Work,
    arguments: &[u8],
    data: Option<&remote::Data>,
    mut wait: WorkerWait,
    cancelled: &mut oneshot::Receiver<Cancel>,
) -> Result<(Vec<u8>, u64), End> {
    let chunk = remote::Chunk {
        function: work.function,
        job: u128::from(work.driver) << 64 | u128::from(work.job),
        number: work.chunk.attempt,
        first: work.chunk.first,
        count: work.chunk.count,
        arguments,
        data,
        options: work.options.of_chunk(work.chunk.count),
    };
    let mut submitted = match remote::submit(&shared.pool, chunk) {
        Ok(submitted) => submitted,
        Err(error) if error.kind() == ErrorKind::Invalid => {
            return Err(End::Reply(Outcome::Failed(remote::error_to_bytes(&error))));
        }
        Err(error) => return Err(End::PoolEnded(error)),
    };
    let mut limit = std::pin::pin!(tokio::time::sleep(MAX_WAIT_AHEAD));
    loop {
        tokio::select! {
            fates = &mut submitted.task => match fates {
                Ok(fates) => return Ok((fates, submitted.retried() as u64)),
                Err(error) if is_of_call(&error) => {
                    return Err(End::Reply(Outcome::CallFailed(remote::error_to_bytes(&error))));
                }
                Err(error) => return Err(End::PoolEnded(error)),
            },
            why = &mut *cancelled => {
                submitted.task.cancel();
                return Err(end_of_cancelled(why));
            }
            () = &mut limit, if wait == WorkerWait::Limited => {
                if submitted.withdraw() {
                    return Err(End::Reply(Outcome::Busy));
                }
                wait = WorkerWait::Unlimited; // a worker has begun the chunk
            }
        }
    }
}

/// Whether a chunk has ended because a worker cannot use the data of `with`: it cannot decode them,
/// or the function takes another type. A pool does not end with such an error.
fn is_of_call(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Decode | ErrorKind::Invalid)
}

fn end_of_cancelled(why: Result<Cancel, oneshot::error::RecvError>) -> End {
    match why {
        Ok(Cancel::Leaving) => End::Reply(Outcome::Returned),
        Ok(Cancel::Unwanted) => End::Unwanted,
        Err(_) => End::Nothing,
    }
}
