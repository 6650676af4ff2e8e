//! What is noted at a pod's cgroup: what the programs that are attached to it give. An agent that may load
//! programs may not look into those that another process has loaded, nor detach them: the kernel wants
//! `CAP_SYS_ADMIN` for that. The note is gone with the cgroup, as they are.

use serde::{Deserialize, Serialize};

use super::program::{Call, Plan};
use super::redirect::Redirect;

/// Raised when an older agent would misunderstand it.
const VERSION: u32 = 1;

/// The content of the note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Note {
    version: u32,
    /// What programs are given.
    redirects: Vec<Redirect>,
    getsockname: bool,
    /// What earlier programs give that are still attached, or may be; the latest first.
    earlier: Vec<Redirect>,
    /// The number of each program; empty until all are attached.
    programs: Vec<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    call: u32,
    id: u32,
}

/// The programs that are attached cannot be followed by what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another sandbox of this Pod had other items in its annotations, whose programs are attached to the cgroup \
     as long as it exists; delete the Pod"
)]
pub struct Differs;

impl Note {
    /// What will be attached to a cgroup at which `noted` is found.
    ///
    /// # Errors
    /// [`Differs`].
    pub(super) fn after(
        noted: Option<Self>,
        redirects: Vec<Redirect>,
        getsockname: bool,
    ) -> Result<Self, Differs> {
        let mut next = Self {
            version: VERSION,
            redirects,
            getsockname,
            earlier: Vec::new(),
            programs: Vec::new(),
        };
        let Some(noted) = noted else { return Ok(next) };
        if noted.getsockname && !getsockname {
            return Err(Differs);
        }
        let all = noted.redirects.into_iter().chain(noted.earlier);
        for one in all {
            if !next.redirects.iter().any(|redirect| redirect.names_the_same(one)) {
                return Err(Differs);
            }
            if !next.redirects.contains(&one) && !next.earlier.contains(&one) {
                next.earlier.push(one);
            }
        }
        Ok(next)
    }

    /// Whether it asks for the same, and has all its programs among those `attached` for a call.
    pub(super) fn is_in_force(
        &self,
        redirects: &[Redirect],
        getsockname: bool,
        attached: impl Fn(Call) -> Vec<u32>,
    ) -> bool {
        self.redirects == redirects
            && self.getsockname == getsockname
            && Call::needed(&self.plan()).into_iter().all(|call| {
                let ids = attached(call);
                self.programs.iter().any(|one| one.call == call as u32 && ids.contains(&one.id))
            })
    }

    /// What its programs do.
    pub(super) fn plan(&self) -> Plan {
        let from_there = |one: &Redirect| {
            let mut same = self.redirects.iter().filter(|redirect| redirect.names_the_same(*one));
            same.next().map(|redirect| Redirect { named: one.given, ..*redirect })
        };
        Plan {
            redirects: self.redirects.clone(),
            earlier: self.earlier.iter().filter_map(from_there).collect(),
            getsockname: self.getsockname,
        }
    }

    /// The same with its programs attached.
    pub(super) fn attached(self, programs: impl Iterator<Item = (Call, u32)>) -> Self {
        let programs = programs.map(|(call, id)| Program { call: call as u32, id }).collect();
        Self { programs, ..self }
    }

    /// Reads one; `None` where it is of a later version, or no such note.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|note: &Self| note.version == VERSION)
    }

    /// As it is written.
    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
