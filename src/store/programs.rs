//! The programs of the bind hook at the cgroup of a pod: `programs/<pod UID>.json`. The node agent writes it when it has
//! attached them, for people: no decision depends on it.

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::instance::boot_id;
use super::{Error, Locked, Store, record};
use crate::model::HostPod;

const DIRECTORY: &str = "programs";

/// Where the records of these pods are, under the same names.
const HOLDERS: &str = "hostpods";

/// What is longer was not written by an agent: ten programs, each for the most ports, are half of it.
const FILE_MAX: usize = 2 * 1024 * 1024;

/// A program that the kernel runs for a call of the pod's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindProgram {
    /// Such as `bind4`.
    pub call: String,
    /// Its number in the kernel, as bpftool(8) shows it.
    pub id: u32,
    /// How long it is, as the kernel counts.
    pub instructions: usize,
    /// A line for each instruction.
    pub listing: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Programs {
    boot_id: String,
    programs: Vec<BindProgram>,
}

fn file(uid: &str) -> String {
    format!("{DIRECTORY}/{uid}.json")
}

impl Store {
    /// What an agent has attached last for this pod in this boot; empty where it is not known.
    pub fn bind_programs(&self, pod: &HostPod) -> Vec<BindProgram> {
        self.read_programs(pod).unwrap_or_default()
    }

    fn read_programs(&self, pod: &HostPod) -> Option<Vec<BindProgram>> {
        let disk = Disk::open(&self.dir).ok()??;
        let bytes = disk.read(&file(pod.uid())).ok()?.filter(|bytes| bytes.len() <= FILE_MAX)?;
        let found: Programs = record::decode(&bytes).ok()?;
        boot_id().is_ok_and(|boot_id| boot_id == found.boot_id).then_some(found.programs)
    }
}

impl Locked {
    /// Writes what is attached for this pod, and forgets that of pods that hold nothing any more.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_bind_programs(
        &self,
        pod: &HostPod,
        programs: Vec<BindProgram>,
    ) -> Result<(), Error> {
        self.disk.make(DIRECTORY)?;
        for name in self.disk.names(DIRECTORY)? {
            if self.disk.inode(&format!("{HOLDERS}/{name}"))?.is_none() {
                self.disk.remove(&format!("{DIRECTORY}/{name}"))?;
            }
        }
        let content = Programs { boot_id: self.instance.boot_id.clone(), programs };
        record::write(&self.disk, &file(pod.uid()), &content)
    }
}

#[cfg(test)]
mod tests;
