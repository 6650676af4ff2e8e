//! The ports that a Pod declares, which no runtime passes to a plugin: `requests/<pod UID>.json`. The node's
//! agents write them under the lock, and an ADD that needs one reads it without.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde::{Deserialize, Serialize};

use super::error::{Damage, Error};
use super::instance::boot_id;
use super::{Locked, Store, record};
use crate::model::Pod;

const DIRECTORY: &str = "requests";

/// How long a file is waited for, as errors say, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Declared {
    boot_id: String,
    #[serde(flatten)]
    pod: Pod,
    #[serde(flatten)]
    ports: Ports,
}

/// What the spec of a Pod comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ports {
    /// A list of the annotation `autoport.cni/ports`.
    #[serde(rename = "ports")]
    Declared(String),
    /// Why the Pod cannot be served, for its author: the beginning of a sentence.
    #[serde(rename = "rejected")]
    Rejected(String),
}

/// A UID is an identifier, or empty where the runtime does not tell it.
fn file(pod: &Pod) -> String {
    format!("{DIRECTORY}/{}.json", pod.uid)
}

impl Store {
    /// The ports that the Pod declares, as a list of the annotation `autoport.cni/ports`. While an agent
    /// writes such files, one that is missing is waited for. Without an agent there are none, which is an
    /// error only if they are `needed`.
    ///
    /// # Errors
    /// [`Error::NoSpec`]; [`Error::Declares`] where the agent rejects what it declares.
    pub fn declared(&self, pod: &Pod, needed: bool) -> Result<String, Error> {
        let (path, begun) = (self.dir.join(file(pod)), Instant::now());
        let is_coming = self.require_agent().is_ok() && self.dir.join(DIRECTORY).is_dir();
        let late = "it did not come within 2 s";
        let absent = if is_coming { late } else { "no agent that reaches Kubernetes is connected" };
        let (why, source) = loop {
            match path.exists().then(|| read(&path, pod)).transpose() {
                Ok(Some(Some(Ports::Declared(ports)))) => return Ok(ports),
                Ok(Some(Some(Ports::Rejected(reason)))) => return Err(Error::Declares { reason }),
                Ok(_) if is_coming && begun.elapsed() < PATIENCE => thread::sleep(STEP),
                Ok(_) if is_coming || needed => break (absent, None),
                Ok(_) => return Ok(String::new()),
                Err(damage) => break ("it cannot be used", Some(damage)),
            }
        };
        Err(Error::NoSpec { path, why, source })
    }
}

fn read(path: &Path, pod: &Pod) -> Result<Option<Ports>, Damage> {
    let found: Declared = record::decode(&fs::read(path).map_err(Damage::of)?)?;
    if found.pod != *pod {
        return Err(Damage::Content(format!("it is of Pod {} ({})", found.pod, found.pod.uid)));
    }
    Ok(boot_id().is_ok_and(|boot_id| boot_id == found.boot_id).then_some(found.ports))
}

impl Locked {
    /// Records what the spec of a Pod comes to, or forgets it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn declare(&self, pod: &Pod, ports: Option<Ports>) -> Result<(), Error> {
        let (file, boot_id) = (file(pod), self.instance.boot_id.clone());
        let Some(ports) = ports else { return self.disk.remove(&file) };
        record::write(&self.disk, &file, &Declared { boot_id, pod: pod.clone(), ports })
    }

    /// The names of all such files. Before this is called in a boot, no ADD waits for one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn declaring(&self) -> Result<Vec<String>, Error> {
        self.disk.make(DIRECTORY).and_then(|()| self.disk.names(DIRECTORY))
    }
}

#[cfg(test)]
mod tests;
