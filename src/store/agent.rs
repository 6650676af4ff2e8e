//! Whether a node agent is connected to the container runtime. The agent holds `agent.lock` and writes
//! `agent.json`; both are only looked at: a lock tried here would keep another agent from taking it.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::fs::{self, File};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;

use super::lock::holder_of;
use super::{Error, Store};

/// Held by the agent that answers the runtime.
pub const AGENT_LOCK: &str = "agent.lock";

/// What the leading agent writes twice a second.
pub const AGENT_HEARTBEAT: &str = "agent.json";

/// Held by an agent that waits for the lead; its content is that agent's heartbeat.
pub const AGENT_NEXT: &str = "agent.next";

/// All files of the agents.
pub(super) const FILES: [&str; 3] = [AGENT_LOCK, AGENT_HEARTBEAT, AGENT_NEXT];

/// An agent whose last heartbeat is older is not connected.
const STALE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Heartbeat {
    connected: bool,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    heartbeat: u64,
}

impl Store {
    /// Insists that an agent is connected, as far as its files tell.
    ///
    /// # Errors
    /// [`Error::NoAgent`].
    pub fn require_agent(&self) -> Result<(), Error> {
        let lock = File::open(self.dir.join(AGENT_LOCK)).ok();
        let beat = fs::read(self.dir.join(AGENT_HEARTBEAT)).ok();
        let beat = beat.and_then(|bytes| serde_json::from_slice::<Heartbeat>(&bytes).ok());
        let beats = beat.filter(|beat| beat.connected).is_some_and(|beat| {
            let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
            let age = now.map(|now| now.saturating_sub(Duration::from_nanos(beat.heartbeat)));
            age.is_ok_and(|age| age < STALE)
        });
        let leads = lock.as_ref().and_then(holder_of).is_some();
        (leads && beats).then_some(()).ok_or_else(|| Error::NoAgent { dir: self.dir.clone() })
    }
}

#[cfg(test)]
mod tests;
