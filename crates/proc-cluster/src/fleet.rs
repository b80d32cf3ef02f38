//! The fleet as a driver sees it: who is there, with what build, and how each fares.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::message::AgentHeartbeat;

/// How long an agent that says nothing still counts; they tell of themselves twice a second.
const SILENCE: Duration = Duration::from_secs(5);

/// How long one that went is still shown.
const MEMORY: Duration = Duration::from_secs(600);

/// How long a count of workers holds where nobody comes or goes.
const RECOUNT: Duration = Duration::from_millis(100);

/// More workers than any machine has, and more agents than any fleet has: so many are not believed.
const MAX_WORKERS: usize = 1 << 16;
const MAX_AGENTS: usize = 1 << 16;

/// The agents of a fleet at one moment; made by [`Cluster::fleet`](crate::Cluster::fleet).
///
/// `Display` prints a table; with serde it becomes JSON, a list of agents.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Fleet {
    agents: Vec<AgentStatus>,
}

/// One agent, as it last told of itself. Counts are of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AgentStatus {
    /// The machine's name.
    pub host: String,
    /// The agent's process there.
    pub pid: u32,
    /// Which build of the program it runs: 16 digits of the file's SHA-256.
    pub build: String,
    /// Whether that is the build that asks, so that it can get its work.
    pub same_build: bool,
    /// Whether it takes work: `up`, `leaving` or `silent`.
    pub state: AgentState,
    /// How many worker processes it has.
    pub workers: usize,
    /// Tasks that it has at hand.
    pub in_flight: u64,
    /// Tasks whose results it has sent.
    pub done: u64,
    /// Tasks whose errors it has sent: those that panicked, died or were late.
    pub failed: u64,
    /// Tasks that had been handed out before, here or elsewhere.
    pub redelivered: u64,
}

/// Whether an agent takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It does.
    Up,
    /// It finishes what it has, or has ended.
    Leaving,
    /// It was not heard for five seconds: lost, or cut off.
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
    /// The agents, by host and pid.
    pub fn agents(&self) -> &[AgentStatus] {
        &self.agents
    }

    /// How many workers there are for the build that asks.
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
            write!(f, "\n* another build of this program, which gets none of its work")?;
        }
        Ok(())
    }
}

/// What was heard of agents.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    heard: HashMap<u64, (AgentHeartbeat, Instant)>,
    /// How many workers there were for a build, and when they were counted.
    counted: Option<(String, usize, Instant)>,
}

impl Roster {
    pub(crate) fn hear(&mut self, heartbeat: AgentHeartbeat) {
        let now = Instant::now();
        let (workers, leaving) = (heartbeat.workers, heartbeat.leaving);
        let known = self.heard.get(&heartbeat.agent).map(|(p, _)| (p.workers, p.leaving));
        if known.is_none() {
            self.forget();
        }
        // Whoever may speak as an agent can say anything.
        if workers > MAX_WORKERS || (known.is_none() && self.heard.len() >= MAX_AGENTS) {
            return;
        }
        self.heard.insert(heartbeat.agent, (heartbeat, now));
        if known != Some((workers, leaving)) {
            self.counted = None;
        }
    }

    fn forget(&mut self) {
        self.heard.retain(|_, (_, heard)| heard.elapsed() < MEMORY);
    }

    /// What was heard counts from now: nobody could be heard before.
    pub(crate) fn refresh(&mut self) {
        let now = Instant::now();
        self.heard.values_mut().for_each(|(_, heard)| *heard = now);
        self.counted = None;
    }

    /// Whether an agent of `build` that has not said good-bye was not heard of for so long.
    pub(crate) fn has_lost(&self, build: &str, silence: Duration) -> bool {
        let is_lost = |(heartbeat, heard): &(AgentHeartbeat, Instant)| {
            heartbeat.build == build && !heartbeat.leaving && heard.elapsed() > silence
        };
        self.heard.values().any(is_lost)
    }

    /// How many workers there are for `build`.
    ///
    /// This is asked for each chunk and result, so they are not counted each time: when somebody comes
    /// or goes, and now and then, since others fall silent.
    pub(crate) fn workers(&mut self, build: &str) -> usize {
        if let Some((of, workers, when)) = &self.counted
            && of == build
            && when.elapsed() < RECOUNT
        {
            return *workers;
        }
        let workers = self.count(build);
        self.counted = Some((build.to_owned(), workers, Instant::now()));
        workers
    }

    fn count(&self, build: &str) -> usize {
        let up = |(heartbeat, heard): &&(AgentHeartbeat, Instant)| {
            heartbeat.build == build && !heartbeat.leaving && heard.elapsed() <= SILENCE
        };
        self.heard.values().filter(up).map(|(heartbeat, _)| heartbeat.workers).sum()
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
                false if heard.elapsed() > SILENCE => AgentState::Silent,
                false => AgentState::Up,
            },
            workers: heartbeat.workers,
            in_flight: heartbeat.counts.in_flight,
            done: heartbeat.counts.done,
            failed: heartbeat.counts.failed,
            redelivered: heartbeat.counts.redelivered,
        };
        let mut agents: Vec<AgentStatus> = self.heard.values().map(status).collect();
        agents.sort_by(|a, b| (&a.host, a.pid).cmp(&(&b.host, b.pid)));
        Fleet { agents }
    }

    /// Why nobody does the work of `build`.
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
    fn numbers_that_no_machine_has_are_not_believed() {
        let mut roster = Roster::default();
        roster
            .hear(AgentHeartbeat { workers: usize::MAX / 2 + 1, ..heartbeat(1, "node1", "aaaa") });
        assert_eq!(roster.workers("aaaa"), 0);
        for agent in 10..10 + 2 * MAX_AGENTS as u64 {
            roster.heard.entry(agent).or_insert((heartbeat(agent, "n", "aaaa"), Instant::now()));
            if roster.heard.len() == MAX_AGENTS {
                break;
            }
        }
        roster.hear(heartbeat(9, "one too many", "aaaa"));
        assert_eq!(roster.count("aaaa"), 2 * MAX_AGENTS);
    }

    #[test]
    fn an_agent_is_lost_that_falls_silent_without_a_word() {
        let mut roster = Roster::default();
        let long_ago = Instant::now().checked_sub(SILENCE).expect("the machine runs for so long");
        roster.heard.insert(3, (heartbeat(3, "n3", "aaaa"), long_ago));
        roster.hear(heartbeat(1, "node1", "aaaa"));
        assert!(!roster.has_lost("aaaa", SILENCE / 2), "one has said good-bye, one is there");
        roster.heard.insert(2, (heartbeat(2, "node2", "aaaa"), long_ago));
        assert!(roster.has_lost("aaaa", SILENCE / 2) && !roster.has_lost("bbbb", SILENCE / 2));
    }

    #[test]
    fn a_fleet_is_a_table_and_json() {
        let mut roster = Roster::default();
        for (agent, host, build) in [(1, "node1", "aaaa"), (2, "node10", "bbbb"), (3, "n3", "aaaa")]
        {
            roster.hear(heartbeat(agent, host, build));
        }
        let fleet = roster.fleet("aaaa");
        assert_eq!(
            (fleet.workers(), roster.workers("aaaa")),
            (2, 2),
            "one leaves, one is of another build"
        );
        insta::assert_snapshot!(fleet.to_string());
        let json = serde_json::to_value(&fleet).expect("names and numbers");
        assert_eq!(json[0]["host"], "n3");
        assert_eq!(json[0]["state"], "leaving");
        assert_eq!(json[2]["in_flight"], 2);
    }

    #[test]
    fn who_is_there_instead_is_named() {
        let mut roster = Roster::default();
        assert!(roster.absence("aaaa").contains("PROC_CLUSTER_AGENT"));
        roster.hear(heartbeat(2, "node10", "bbbb"));
        assert!(
            roster.absence("aaaa").contains("node10 (build bbbb)"),
            "{}",
            roster.absence("aaaa")
        );
    }
}
