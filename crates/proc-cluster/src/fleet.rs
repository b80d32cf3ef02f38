//! The fleet as a driver sees it: its agents, their builds and their states.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::message::AgentHeartbeat;

/// An agent without a heartbeat for this long is silent. Agents send a heartbeat twice a second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// If work is redelivered, an agent without a heartbeat for this long counts as lost. It is three
/// times the interval of heartbeats.
const LOSS_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long an agent without heartbeats is still shown.
const FORGET_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a count of workers is valid while no agent comes or goes.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(100);

/// The most workers of an agent, and the most agents of a fleet. Heartbeats beyond these limits are
/// ignored: no machine and no fleet is so large.
const MAX_WORKERS: usize = 1 << 16;
const MAX_AGENTS: usize = 1 << 16;

/// The agents of a fleet at one moment; returned by [`Cluster::fleet`](crate::Cluster::fleet).
///
/// `Display` prints a table. serde turns a fleet into a list of agents, for example in JSON.
///
/// # Examples
///
/// ```no_run
/// use proc_cluster::{AgentState, Cluster};
///
/// fn main() -> Result<(), proc_cluster::Error> {
///     proc_cluster::init();
///     let cluster = Cluster::connect("nats://127.0.0.1:4222")?;
///     let fleet = cluster.fleet();
///     println!("{fleet}\n{} workers", fleet.workers());
///     for agent in fleet.agents().iter().filter(|agent| agent.state == AgentState::Silent) {
///         eprintln!("no heartbeat from {} (pid {})", agent.host, agent.pid);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Fleet {
    agents: Vec<AgentStatus>,
}

/// One agent, according to its last heartbeat. The counts are of tasks.
///
/// See the example of [`Fleet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AgentStatus {
    /// The name of the agent's machine.
    pub host: String,
    /// The pid of the agent's process.
    pub pid: u32,
    /// The build of the program that the agent runs: the first 16 digits of the file's SHA-256.
    pub build: String,
    /// Whether the agent has the build of the driver that asks. Only then does it get the driver's
    /// work.
    pub same_build: bool,
    /// Whether the agent takes work: `up`, `leaving` or `silent`.
    pub state: AgentState,
    /// How many worker processes the agent has.
    pub workers: usize,
    /// Tasks that the agent has received and not finished.
    pub in_flight: u64,
    /// Tasks whose results the agent has sent.
    pub done: u64,
    /// Tasks whose errors the agent has sent, for example of a panic, the death of the worker or a
    /// timeout.
    pub failed: u64,
    /// Tasks that the agent has received, and that had been handed out before.
    pub redelivered: u64,
}

/// Whether an agent takes work.
///
/// See the example of [`Fleet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// The agent takes work.
    Up,
    /// The agent finishes the work that it has and takes no more, or has ended.
    Leaving,
    /// The agent sent no heartbeat for five seconds: it is lost, or its connection is cut.
    Silent,
}

impl Display for AgentState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AgentState::Up => "up",
            AgentState::Leaving => "leaving",
            AgentState::Silent => "silent",
        })
    }
}

impl Fleet {
    /// The agents, sorted by host and pid.
    ///
    /// See the example of [`Fleet`].
    pub fn agents(&self) -> &[AgentStatus] {
        &self.agents
    }

    /// How many workers this driver can use: those of agents that are up and have the driver's
    /// build.
    ///
    /// See the example of [`Fleet`].
    pub fn workers(&self) -> usize {
        let ready = |agent: &&AgentStatus| agent.same_build && agent.state == AgentState::Up;
        self.agents.iter().filter(ready).map(|agent| agent.workers).sum()
    }
}

impl Display for Fleet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.agents.iter().map(|agent| agent.host.len()).max().unwrap_or(0).max(4);
        write!(f, "{:width$} {:>8} {:16}  {:7}", "host", "pid", "build", "state")?;
        write!(f, " {:>7} {:>9} {:>9} {:>7}", "workers", "in flight", "done", "failed")?;
        write!(f, " {:>11}", "redelivered")?;
        for agent in &self.agents {
            let other = if agent.same_build { ' ' } else { '*' };
            write!(f, "\n{:width$} {:>8} {:16}{other} ", agent.host, agent.pid, agent.build)?;
            write!(f, "{:7} {:>7} {:>9}", agent.state, agent.workers, agent.in_flight)?;
            write!(f, " {:>9} {:>7} {:>11}", agent.done, agent.failed, agent.redelivered)?;
        }
        if self.agents.iter().any(|agent| !agent.same_build) {
            write!(f, "\n* another build of this program: gets no work from this driver")?;
        }
        Ok(())
    }
}

/// The heartbeats that a driver has received from agents.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    /// The last heartbeat of each agent, and when it arrived.
    heartbeats: HashMap<u64, (AgentHeartbeat, Instant)>,
    /// When the driver connected last. No heartbeat could arrive just before that.
    connected: Option<Instant>,
    /// The last count of workers: for which build, how many, and when.
    counted: Option<(String, usize, Instant)>,
}

impl Roster {
    /// Records the heartbeat of an agent.
    pub(crate) fn on_heartbeat(&mut self, heartbeat: AgentHeartbeat) {
        let now = Instant::now();
        let (workers, leaving) = (heartbeat.workers, heartbeat.leaving);
        let known = self.heartbeats.get(&heartbeat.agent).map(|(p, _)| (p.workers, p.leaving));
        if known.is_none() {
            self.forget();
        }
        // A client that may send heartbeats can send any number.
        if workers > MAX_WORKERS || (known.is_none() && self.heartbeats.len() >= MAX_AGENTS) {
            return;
        }
        self.heartbeats.insert(heartbeat.agent, (heartbeat, now));
        if known != Some((workers, leaving)) {
            self.counted = None;
        }
    }

    /// Forgets agents that are not shown any more.
    fn forget(&mut self) {
        let connected = self.connected;
        self.heartbeats.retain(|_, (_, heard)| silence(*heard, connected) < FORGET_TIMEOUT);
    }

    /// Notes that the driver has connected.
    pub(crate) fn on_connected(&mut self) {
        self.connected = Some(Instant::now());
        self.counted = None;
    }

    /// Whether a machine is lost that may have had some work. The work was handed out at
    /// `handed_out`, and the driver learned at `redelivered` that the server has redelivered it.
    ///
    /// An agent of `build` that was not leaving is lost if it has been silent for [`LOSS_TIMEOUT`].
    /// If its last heartbeat was already that old when the work was handed out, it is taken not to
    /// have the work. (That can be wrong just after the driver has connected again.)
    ///
    /// `None` if the answer is not known yet: no agent is lost, but one has sent no heartbeat since
    /// `redelivered`.
    pub(crate) fn has_lost(
        &self,
        build: &str,
        handed_out: Instant,
        redelivered: Instant,
    ) -> Option<bool> {
        let mut are_all_heard = true;
        for (heartbeat, heard) in self.heartbeats.values() {
            if heartbeat.build != build || heartbeat.leaving || *heard + LOSS_TIMEOUT < handed_out {
                continue;
            }
            if silence(*heard, self.connected) > LOSS_TIMEOUT {
                return Some(true);
            }
            are_all_heard &= *heard > redelivered;
        }
        are_all_heard.then_some(false)
    }

    /// How many workers the agents of `build` have.
    ///
    /// A job asks for this number with each chunk and each result, so the workers are not counted
    /// each time. They are counted when an agent comes or goes, and every `RECOUNT_INTERVAL`,
    /// because agents may become silent.
    pub(crate) fn workers(&mut self, build: &str) -> usize {
        if let Some((of, workers, when)) = &self.counted
            && of == build
            && when.elapsed() < RECOUNT_INTERVAL
        {
            return *workers;
        }
        let workers = self.count(build);
        self.counted = Some((build.to_owned(), workers, Instant::now()));
        workers
    }

    fn count(&self, build: &str) -> usize {
        let up = |(heartbeat, heard): &&(AgentHeartbeat, Instant)| {
            heartbeat.build == build
                && !heartbeat.leaving
                && silence(*heard, self.connected) <= SILENCE_TIMEOUT
        };
        self.heartbeats.values().filter(up).map(|(heartbeat, _)| heartbeat.workers).sum()
    }

    pub(crate) fn fleet(&mut self, build: &str) -> Fleet {
        self.forget();
        let status = |(heartbeat, heard): &(AgentHeartbeat, Instant)| AgentStatus {
            host: heartbeat.host.clone(),
            pid: heartbeat.pid,
            build: heartbeat.build.clone(),
            same_build: heartbeat.build == build,
            state: match heartbeat.leaving {
                true => AgentState::Leaving,
                false if silence(*heard, self.connected) > SILENCE_TIMEOUT => AgentState::Silent,
                false => AgentState::Up,
            },
            workers: heartbeat.workers,
            in_flight: heartbeat.counts.in_flight,
            done: heartbeat.counts.done,
            failed: heartbeat.counts.failed,
            redelivered: heartbeat.counts.redelivered,
        };
        let mut agents: Vec<AgentStatus> = self.heartbeats.values().map(status).collect();
        agents.sort_by(|a, b| (&a.host, a.pid).cmp(&(&b.host, b.pid)));
        Fleet { agents }
    }

    /// The text of the error that no agent does the work of `build`.
    pub(crate) fn absence(&mut self, build: &str) -> String {
        let fleet = self.fleet(build);
        let others: BTreeSet<String> = fleet
            .agents
            .iter()
            .filter(|agent| !agent.same_build && agent.state == AgentState::Up)
            .map(|agent| format!("{} (build {})", agent.host, agent.build))
            .collect();
        let begin = format!("no agent of this build ({build}) is there");
        if others.is_empty() {
            return format!("{begin}: start this program with PROC_CLUSTER_AGENT on the machines");
        }
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        format!("{begin}, only others: {others}; give all machines the same file of the program")
    }
}

/// How long an agent has been silent whose last heartbeat arrived at `heard`. The time counts from
/// when the driver connected, if that is later.
fn silence(heard: Instant, connected: Option<Instant>) -> Duration {
    connected.map_or(heard, |connected| connected.max(heard)).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Counts;

    fn heartbeat(agent: u64, host: &str, build: &str) -> AgentHeartbeat {
        let counts = Counts { in_flight: 2, done: 1000 * agent, failed: 0, redelivered: agent };
        let (host, build) = (host.to_owned(), build.to_owned());
        AgentHeartbeat { agent, host, pid: 4242, build, workers: 2, counts, leaving: agent == 3 }
    }

    #[test]
    fn roster_ignores_heartbeats_with_impossible_numbers() {
        let mut roster = Roster::default();
        roster.on_heartbeat(AgentHeartbeat {
            workers: usize::MAX / 2 + 1,
            ..heartbeat(1, "node1", "aaaa")
        });
        assert_eq!(roster.workers("aaaa"), 0);
        for agent in 10..10 + 2 * MAX_AGENTS as u64 {
            roster
                .heartbeats
                .entry(agent)
                .or_insert((heartbeat(agent, "n", "aaaa"), Instant::now()));
            if roster.heartbeats.len() == MAX_AGENTS {
                break;
            }
        }
        roster.on_heartbeat(heartbeat(9, "one too many", "aaaa"));
        assert_eq!(roster.count("aaaa"), 2 * MAX_AGENTS);
    }

    #[test]
    fn silent_agent_that_was_not_leaving_is_lost() {
        let mut roster = Roster::default();
        let begin = Instant::now();
        let ago = |time| begin.checked_sub(time).expect("the machine has run for longer");
        let silent_since = ago(2 * LOSS_TIMEOUT);
        roster.heartbeats.insert(3, (heartbeat(3, "n3", "aaaa"), silent_since));
        roster.on_heartbeat(heartbeat(1, "node1", "aaaa"));
        let has_lost = roster.has_lost("aaaa", silent_since, begin);
        assert_eq!(has_lost, Some(false), "one was leaving, one was heard since");
        roster.heartbeats.insert(2, (heartbeat(2, "node2", "aaaa"), silent_since));
        assert_eq!(roster.has_lost("aaaa", silent_since, begin), Some(true));
        assert_eq!(roster.has_lost("bbbb", silent_since, begin), Some(false), "nobody is there");
        let has_lost = roster.has_lost("aaaa", begin, begin);
        assert_eq!(has_lost, Some(false), "it was silent before the work was handed out");
    }

    #[test]
    fn it_is_not_known_whether_an_agent_is_lost_until_it_is_heard_or_silent_for_long() {
        let mut roster = Roster::default();
        let handed_out = Instant::now();
        roster.on_heartbeat(heartbeat(1, "node1", "aaaa"));
        let redelivered = Instant::now();
        assert_eq!(roster.has_lost("aaaa", handed_out, redelivered), None);
        roster.on_heartbeat(heartbeat(1, "node1", "aaaa"));
        assert_eq!(roster.has_lost("aaaa", handed_out, redelivered), Some(false));
    }

    #[test]
    fn silence_counts_from_when_the_driver_connected() {
        let mut roster = Roster::default();
        let now = Instant::now();
        let heard = now.checked_sub(2 * SILENCE_TIMEOUT).expect("the machine has run for longer");
        roster.heartbeats.insert(1, (heartbeat(1, "node1", "aaaa"), heard));
        assert_eq!(roster.workers("aaaa"), 0);
        roster.on_connected();
        assert_eq!(roster.workers("aaaa"), 2, "it may be there");
        assert_eq!(roster.has_lost("aaaa", heard, now), None, "it was not heard since");
        assert_eq!(roster.has_lost("aaaa", now, now), Some(false), "its last heartbeat is too old");
    }

    #[test]
    fn fleet_prints_a_table_and_serializes_as_json() {
        let mut roster = Roster::default();
        for (agent, host, build) in [(1, "node1", "aaaa"), (2, "node10", "bbbb"), (3, "n3", "aaaa")]
        {
            roster.on_heartbeat(heartbeat(agent, host, build));
        }
        let fleet = roster.fleet("aaaa");
        assert_eq!(
            (fleet.workers(), roster.workers("aaaa")),
            (2, 2),
            "one agent is leaving, and one has another build"
        );
        insta::assert_snapshot!(fleet.to_string());
        let json = serde_json::to_value(&fleet).expect("names and numbers");
        assert_eq!(json[0]["host"], "n3");
        assert_eq!(json[0]["state"], "leaving");
        assert_eq!(json[2]["in_flight"], 2);
    }

    #[test]
    fn absence_names_agents_of_other_builds() {
        let mut roster = Roster::default();
        assert!(roster.absence("aaaa").contains("PROC_CLUSTER_AGENT"));
        roster.on_heartbeat(heartbeat(2, "node10", "bbbb"));
        assert!(
            roster.absence("aaaa").contains("node10 (build bbbb)"),
            "{}",
            roster.absence("aaaa")
        );
    }
}
