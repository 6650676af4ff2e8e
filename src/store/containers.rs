//! Which containers have the variables of their host ports, and which run without: `agent.containers`. The agent
//! that leads writes it, for people: no decision depends on it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::agent::AGENT_CONTAINERS;
use super::disk::Disk;
use super::instance::boot_id;
use super::{Agent, Error, Locked, Store, record};
use crate::model::Pod;

/// How many containers are listed, and how many bytes of each text: of a Pod's name, which is the longest, all.
const LISTED_MAX: usize = 1000;
const TEXT_MAX: usize = 253;

/// What is longer was not written by an agent: each of the five texts of a container has at most six bytes in JSON
/// for one of its own.
const FILE_MAX: usize = LISTED_MAX * (5 * 6 * TEXT_MAX + 500);

/// Why a container runs without its variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, derive_more::Display)]
#[serde(rename_all = "camelCase")]
pub enum Lack {
    /// No agent answered the runtime, or not in time.
    #[display("no agent answered when it was created")]
    NoAgent,
    /// Its Pod asks for host ports by annotation, and has none.
    #[display("its Pod asks for host ports and holds none")]
    NoPorts,
    /// An annotation of its Pod cannot be understood.
    #[display("an annotation of its Pod has a wrong value")]
    Annotation,
}

/// A container of a Pod with host ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The ID that the runtime gave it.
    pub id: String,
    /// Its name in the Pod.
    pub name: String,
    /// The Pod.
    pub pod: Pod,
    /// When it was created, or found by an agent that did not see that, in seconds since the epoch.
    pub since: u64,
    /// How many variables it has, or should have. 0 where that is not known.
    pub variables: usize,
    /// Why it has none of them; `None` if it has them.
    pub uninjected: Option<Lack>,
}

impl Container {
    /// Its name and the beginning of its ID.
    pub fn label(&self) -> String {
        let id: String = self.id.chars().take(12).collect();
        format!("{} ({})", self.name.escape_debug(), id.escape_debug())
    }
}

impl fmt::Display for Container {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of {}", self.label(), self.pod)
    }
}

/// What the agents know of the node's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Containers {
    boot_id: String,
    /// Whether every container has been examined.
    pub complete: bool,
    /// How many have their variables.
    pub injected: usize,
    /// How many run without their variables.
    pub uninjected: usize,
    /// The first thousand of them, those without first.
    pub containers: Vec<Container>,
}

impl Containers {
    /// What is known if these are all of them, unless others are still to be examined.
    ///
    /// # Errors
    /// When the kernel does not tell which boot this is.
    pub fn new(mut containers: Vec<Container>, complete: bool) -> Result<Self, Error> {
        let uninjected = containers.iter().filter(|one| one.uninjected.is_some()).count();
        let injected = containers.len() - uninjected;
        containers.sort_by_key(|one| one.uninjected.is_none());
        containers.truncate(LISTED_MAX);
        for Container { id, name, pod, .. } in &mut containers {
            for text in [id, name, &mut pod.namespace, &mut pod.name, &mut pod.uid] {
                text.truncate(text.floor_char_boundary(TEXT_MAX));
            }
        }
        Ok(Self { boot_id: boot_id()?, complete, injected, uninjected, containers })
    }

    /// Those that run without their variables, as far as they are listed.
    pub fn uninjected(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|one| one.uninjected.is_some())
    }

    /// How a sentence about them goes on: nothing while `agent` is connected and has examined all.
    pub fn as_of(&self, agent: &Agent) -> String {
        match agent {
            Agent { connected: true, .. } if self.complete => String::new(),
            Agent { connected: true, .. } => ", and others are still to be examined".to_owned(),
            Agent { heartbeat_age: Some(age), .. } => {
                format!(", as of {} s ago, when an agent was last connected", age / 1000)
            }
            Agent { .. } => ", as of an unknown time, when an agent was connected".to_owned(),
        }
    }
}

impl Store {
    /// What an agent has written of the node's containers in this boot; `None` where that cannot be read.
    pub fn containers(&self) -> Option<Containers> {
        let disk = Disk::open(&self.dir).ok()??;
        let bytes = disk.read(AGENT_CONTAINERS).ok()?.filter(|bytes| bytes.len() <= FILE_MAX)?;
        let found: Containers = record::decode(&bytes).ok()?;
        boot_id().is_ok_and(|boot_id| boot_id == found.boot_id).then_some(found)
    }
}

impl Locked {
    /// Writes what is known of the node's containers.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_containers(&self, containers: &Containers) -> Result<(), Error> {
        record::write(&self.disk, AGENT_CONTAINERS, containers)
    }
}

#[cfg(test)]
mod tests;
