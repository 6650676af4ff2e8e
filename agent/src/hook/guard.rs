//! The port guard: processes of pods on the node's network bind no port of the node's ranges, unless their pod holds
//! it. A program at the cgroup of all pods refuses it, for IPv4 and for IPv6.
//!
//! It is attached so that the next one replaces it, whichever agent has attached it: an agent that may load programs
//! may not look into those of another process, nor into their maps. So each change of the holders is another program.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use autoport::model::{Protocol, Record};
use serde::{Deserialize, Serialize};

use super::assembler::{Program, TooLong};
use super::door;
use super::kubepods::{self, Pods};
pub use super::refusal::Run;
use super::refusal::{FAMILIES, Guarded, Held, refusal};
use crate::cgroups::Tree;

/// The guard of this node, as far as this process knows it.
#[derive(Debug)]
pub struct Guard {
    tree: Tree,
    netns: u64,
    /// Whether the kernel lets a program choose the error.
    chooses: bool,
    /// What this process has attached last, and where.
    attached: Option<(Program, Vec<(PathBuf, Ids)>)>,
}

/// The number of the program for each family.
type Ids = [u32; FAMILIES.len()];

/// Why the ports are not guarded.
#[derive(Debug, thiserror::Error)]
pub enum Unguarded {
    #[error(
        "kubelet's cgroup of all Pods (kubepods or kubepods.slice) is not at {}, nor one directory below: \
         kubelet has not made it yet, or its --cgroup-root is deeper", .0.display()
    )]
    NoPods(PathBuf),
    #[error(
        "a program of another owner is attached to cgroup {} for post_bind; `bpftool cgroup show` names it. \
         Have its owner attach it to the root", .0.display()
    )]
    NotOurs(PathBuf),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error(
        "cannot note at cgroup {} what is attached: {error}. The agent needs the directory mounted writable, as \
         the component deploy/kubernetes/bind-hook does", path.display()
    )]
    Note { path: PathBuf, error: io::Error },
    #[error("the kernel rejects it for cgroup {}: {error}", path.display())]
    Kernel { path: PathBuf, error: io::Error },
}

/// What is noted at the cgroup: the programs that are attached to it, or may be.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Of the node that has attached them. A node that is a container may see the cgroups of others.
    netns: u64,
    guard: Vec<u32>,
}

impl Guard {
    /// The guard of a node with these cgroups, for processes in the network namespace with this cookie.
    pub(super) fn new(tree: Tree, netns: u64) -> Self {
        let one = Guarded { runs: vec![Run { first: 1, count: 1 }], held: Vec::new() };
        let chooses = refusal(&one, netns, true)
            .is_ok_and(|program| door::load(FAMILIES[0], &program).is_ok());
        Self { tree, netns, chooses, attached: None }
    }

    /// Has the ports of these runs refused to all pods but those that hold them by these records, unless that is so
    /// already. Gives the cgroups, as paths from the root.
    ///
    /// # Errors
    /// Why they are not refused; what was attached before still is.
    pub fn set(&mut self, runs: Vec<Run>, records: &[Record]) -> Result<Vec<PathBuf>, Unguarded> {
        if runs.is_empty() {
            return self.remove().map(|_| Vec::new());
        }
        let places = self.places()?;
        if places.is_empty() {
            return Err(Unguarded::NoPods(self.tree.root.clone()));
        }
        let all: Vec<_> = places.iter().map(|place| &*place.path).collect();
        let held = held(records, &Pods::read(&self.tree, &all));
        let program = refusal(&Guarded { runs, held }, self.netns, self.chooses)?;
        if !self.is_attached(&program, &places) {
            tracing::debug!(slots = program.slots(), "port guard:\n{program}");
            let attached = places.iter().map(|place| {
                let ids = place.attach(&program, self.netns)?;
                Ok((place.path.clone(), ids))
            });
            let attached = attached.collect::<Result<_, Unguarded>>()?;
            self.attached = Some((program, attached));
        }
        Ok(places.into_iter().map(|place| Path::new("/").join(place.path)).collect())
    }

    fn is_attached(&self, program: &Program, places: &[Place]) -> bool {
        let Some((last, attached)) = &self.attached else { return false };
        last == program
            && places.len() == attached.len()
            && places.iter().zip(attached).all(|(place, (path, ids))| {
                place.path == *path
                    && place.ids().is_ok_and(|found| found == ids.map(|id| vec![id]))
            })
    }

    /// Has no port refused any more. Gives whether one was.
    ///
    /// # Errors
    /// Why they still are.
    pub fn remove(&mut self) -> Result<bool, Unguarded> {
        self.attached = None;
        let mut removed = false;
        for place in self.places()? {
            removed |= place.detach()?;
        }
        Ok(removed)
    }

    /// The cgroups of all pods, without those that another node guards.
    fn places(&self) -> Result<Vec<Place>, Unguarded> {
        let all = kubepods::find(&self.tree).into_iter();
        let mut places =
            all.map(|path| Place::open(&self.tree, path)).collect::<Result<Vec<_>, _>>()?;
        places.retain(|place| place.noted.as_ref().is_none_or(|note| note.netns == self.netns));
        Ok(places)
    }
}

/// What pods on the node's network may bind. What is translated is bound by nobody.
fn held(records: &[Record], pods: &Pods) -> Vec<Held> {
    let mut all = Vec::new();
    for record in records {
        let Some(cgroup) = record.owner.uid().and_then(|uid| pods.cgroup(uid)) else { continue };
        let bound = record.mappings.iter().filter(|mapping| mapping.target.is_none());
        let bound = bound.filter(|mapping| mapping.host.protocol != Protocol::Sctp);
        all.extend(bound.map(|mapping| Held {
            protocol: mapping.host.protocol,
            cgroup,
            run: Run { first: mapping.host.port.get(), count: 1 },
        }));
    }
    all.sort_unstable();
    all.dedup();
    all.dedup_by(|next, last| {
        let follows = (next.protocol, next.cgroup) == (last.protocol, last.cgroup)
            && u32::from(last.run.first) + u32::from(last.run.count) == u32::from(next.run.first);
        last.run.count += u16::from(follows);
        follows
    });
    all
}

/// A cgroup of all pods.
struct Place {
    /// Below the root.
    path: PathBuf,
    directory: OwnedFd,
    noted: Option<Note>,
}

impl Place {
    fn open(tree: &Tree, path: PathBuf) -> Result<Self, Unguarded> {
        let directory = tree.open(&path);
        let directory =
            directory.map_err(|error| Unguarded::Kernel { path: rooted(&path), error })?;
        let noted = door::note(directory.as_fd());
        let noted = noted.map_err(|error| Unguarded::Note { path: rooted(&path), error })?;
        let noted = noted.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self { path, directory: directory.into(), noted })
    }

    fn cgroup(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn kernel(&self, error: io::Error) -> Unguarded {
        Unguarded::Kernel { path: rooted(&self.path), error }
    }

    fn note(&self, error: io::Error) -> Unguarded {
        Unguarded::Note { path: rooted(&self.path), error }
    }

    /// The numbers of what is attached, for each family.
    fn ids(&self) -> Result<[Vec<u32>; FAMILIES.len()], Unguarded> {
        let mut all = [const { Vec::new() }; FAMILIES.len()];
        for (family, ids) in FAMILIES.into_iter().zip(&mut all) {
            let attached = door::attached(self.cgroup(), family);
            let attached = attached.map_err(|error| self.kernel(error))?;
            *ids = attached.ids;
            if !ids.is_empty() && attached.flags != door::ALLOW_OVERRIDE {
                return Err(Unguarded::NotOurs(rooted(&self.path)));
            }
        }
        Ok(all)
    }

    /// What agents have attached. A program that is not noted is of another owner.
    fn ours(&self) -> &[u32] {
        self.noted.as_ref().map_or(&[], |note| &note.guard)
    }

    /// Attaches it for each family in place of what an agent has attached.
    fn attach(&self, program: &Program, netns: u64) -> Result<Ids, Unguarded> {
        let found = self.ids()?.concat();
        if !found.iter().all(|id| self.ours().contains(id)) {
            return Err(Unguarded::NotOurs(rooted(&self.path)));
        }
        let (mut loaded, mut ids) = (Vec::new(), Ids::default());
        for (family, place) in FAMILIES.into_iter().zip(&mut ids) {
            let one = door::load(family, program).map_err(|error| self.kernel(error))?;
            *place = door::id(&one).map_err(|error| self.kernel(error))?;
            loaded.push((family, one));
        }
        // First, so that it never lacks what is attached.
        let noted = [found, ids.to_vec()].concat();
        let bytes = serde_json::to_vec(&Note { netns, guard: noted }).unwrap_or_default();
        door::set_note(self.cgroup(), &bytes).map_err(|error| self.note(error))?;
        for (family, one) in &loaded {
            let attached = door::attach(self.cgroup(), *family, one, door::ALLOW_OVERRIDE);
            attached.map_err(|error| self.kernel(error))?;
        }
        Ok(ids)
    }

    /// Detaches what an agent has attached; gives whether there was anything.
    fn detach(&self) -> Result<bool, Unguarded> {
        let ours = self.ours();
        if ours.is_empty() {
            return Ok(false);
        }
        for family in FAMILIES {
            let attached = door::attached(self.cgroup(), family);
            let attached = attached.map_err(|error| self.kernel(error))?;
            if attached.ids.iter().any(|id| ours.contains(id)) {
                door::detach_only(self.cgroup(), family).map_err(|error| self.kernel(error))?;
            }
        }
        door::remove_note(self.cgroup()).map_err(|error| self.note(error))?;
        Ok(true)
    }
}

fn rooted(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}
