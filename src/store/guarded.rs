//! Whether the port ranges are guarded (`guardRange`): `agent.guard`. The agent that leads writes it, for people: no
//! decision depends on it.

use serde::{Deserialize, Serialize};

use super::agent::AGENT_GUARD;
use super::disk::Disk;
use super::instance::boot_id;
use super::{Error, Locked, Store, record};

/// What is longer was not written by an agent.
const FILE_MAX: usize = 16 * 1024;

/// What an agent has made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guarded {
    boot_id: String,
    /// The cgroups in which no process binds a port that its pod does not hold.
    pub cgroups: Vec<String>,
    /// Why the ranges are not guarded.
    pub problem: Option<String>,
}

impl Guarded {
    /// What is found in this boot.
    ///
    /// # Errors
    /// When the kernel does not tell which boot this is.
    pub fn new(found: Result<Vec<String>, String>) -> Result<Self, Error> {
        let (cgroups, problem) = match found {
            Ok(cgroups) => (cgroups, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        Ok(Self { boot_id: boot_id()?, cgroups, problem })
    }
}

impl Store {
    /// What an agent has written of the guard in this boot; `None` where that cannot be read.
    pub fn guarded(&self) -> Option<Guarded> {
        let disk = Disk::open(&self.dir).ok()??;
        let found: Guarded =
            record::decode(&disk.read_part(AGENT_GUARD, 0, FILE_MAX).ok()?).ok()?;
        boot_id().is_ok_and(|boot_id| boot_id == found.boot_id).then_some(found)
    }
}

impl Locked {
    /// Writes what has become of the guard; `None` where none is asked for.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_guarded(&self, guarded: Option<&Guarded>) -> Result<(), Error> {
        let Some(guarded) = guarded else { return self.disk.remove(AGENT_GUARD) };
        record::write(&self.disk, AGENT_GUARD, guarded)
    }
}

#[cfg(test)]
mod tests;
