//! Whether a node agent is connected to the container runtime. The agent holds `agent.lock` and writes
//! `agent.json`; both are only looked at: a lock tried here would keep another agent from taking it.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::fs::{self, File};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::lock::is_taken;
use super::{Error, Store};

/// Held by the agent that answers the runtime. Every agent makes the file when it starts.
pub const AGENT_LOCK: &str = "agent.lock";

/// What the leading agent writes twice a second.
pub const AGENT_HEARTBEAT: &str = "agent.json";

/// Held by an agent that waits for the lead; its content is that agent's heartbeat.
pub const AGENT_NEXT: &str = "agent.next";

/// Held, shared, by every agent that is connected to the runtime and is not about to end.
pub const AGENT_PRESENT: &str = "agent.present";

/// What the leading agent knows of the node's containers.
pub(super) const AGENT_CONTAINERS: &str = "agent.containers";

/// What has become of the port guard.
pub(super) const AGENT_GUARD: &str = "agent.guard";

/// All that agents write, files and directories.
pub(super) const FILES: [&str; 8] = [
    AGENT_LOCK,
    AGENT_HEARTBEAT,
    AGENT_NEXT,
    AGENT_PRESENT,
    AGENT_CONTAINERS,
    AGENT_GUARD,
    "requests",
    "programs",
];

/// An agent whose last heartbeat is older is not connected.
const STALE: Duration = Duration::from_secs(5);

/// Whether an agent can attach the bind hook, or what keeps it from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BindHook {
    /// It can.
    Usable,
    /// No cgroups of version 2 are mounted.
    Cgroups,
    /// It may not load programs of eBPF.
    Capability,
    /// The kernel has not what is needed.
    Kernel,
    /// What a later agent says.
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Beat {
    connected: bool,
    #[serde(default)]
    bind_hook: Option<BindHook>,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    heartbeat: u64,
}

/// What the files of the node's agents tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Whether one of them answers the runtime.
    pub connected: bool,
    /// Milliseconds since the last heartbeat; `None` if none has been connected in this boot.
    pub heartbeat_age: Option<u64>,
    /// Whether the one that answers can attach the bind hook; `None` if it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_hook: Option<BindHook>,
}

impl Store {
    /// What is known of the node's agents; `None` where none has been started in this boot.
    pub fn agent(&self) -> Option<Agent> {
        let lock = File::open(self.dir.join(AGENT_LOCK)).ok()?;
        let Some(beat) = self.heartbeat() else {
            return Some(Agent { connected: false, heartbeat_age: None, bind_hook: None });
        };
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
        let age = now.saturating_sub(Duration::from_nanos(beat.heartbeat));
        let connected = is_taken(&lock) && beat.connected && age < STALE;
        let bind_hook = beat.bind_hook.filter(|_| connected);
        Some(Agent { connected, heartbeat_age: Some(age.as_millis() as u64), bind_hook })
    }

    fn heartbeat(&self) -> Option<Beat> {
        let beat = fs::read(self.dir.join(AGENT_HEARTBEAT)).ok()?;
        serde_json::from_slice(&beat).ok()
    }

    /// Insists that an agent is connected, as far as its files tell.
    ///
    /// # Errors
    /// [`Error::NoAgent`].
    pub fn require_agent(&self) -> Result<(), Error> {
        let connected = self.agent().is_some_and(|agent| agent.connected);
        connected.then_some(()).ok_or_else(|| Error::NoAgent { dir: self.dir.clone() })
    }
}

#[cfg(test)]
mod tests;
