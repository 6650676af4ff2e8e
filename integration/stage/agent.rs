//! The files of a node agent that leads.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::view::STATE;

/// Holds the lock of the agents, as the leader does.
pub(crate) fn lead() -> Flock<File> {
    fs::create_dir_all(STATE).expect("/run is ours");
    let lock = File::create(Path::new(STATE).join("agent.lock")).expect("a file");
    Flock::lock(lock, FlockArg::LockExclusiveNonblock).expect("it is free")
}

/// Writes a heartbeat of that age.
pub(crate) fn beat(age: Duration) {
    beat_that_tells(age, json!({}));
}

/// Writes one that has these fields more.
pub(crate) fn beat_that_tells(age: Duration, mut beat: Value) {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a time"));
    let heartbeat = now.saturating_sub(age).as_nanos() as u64;
    beat["version"] = json!(1);
    beat["connected"] = json!(true);
    beat["heartbeat"] = json!(heartbeat);
    fs::write(Path::new(STATE).join("agent.json"), beat.to_string()).expect("a file");
}
