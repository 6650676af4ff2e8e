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

/// Its [`Heartbeat`].
pub const AGENT_HEARTBEAT: &str = "agent.json";

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
mod tests {
    use std::path::Path;

    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn beat(dir: &Path, connected: bool, age: Duration) {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a time"));
        let heartbeat = now.saturating_sub(age).as_nanos();
        let text = format!(r#"{{"version":1,"connected":{connected},"heartbeat":{heartbeat}}}  "#);
        fs::write(dir.join(AGENT_HEARTBEAT), text).expect("a file");
    }

    #[test]
    fn an_agent_is_connected_while_it_holds_its_lock_and_its_heart_beats() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path());
        let is_there = || store.require_agent().is_ok();
        assert!(!is_there(), "there is no file");
        beat(dir.path(), true, Duration::ZERO);
        let lock = File::create(dir.path().join(AGENT_LOCK)).expect("a file");
        assert!(!is_there(), "the lock is free");
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).expect("it is free");
        assert!(is_there());
        for (connected, age) in [(false, 0), (true, 6)] {
            beat(dir.path(), connected, Duration::from_secs(age));
            assert!(!is_there(), "{connected} {age}");
        }
        drop(lock);
    }
}
