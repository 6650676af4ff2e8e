//! The port guard: processes of pods on the node's network bind no port of the node's ranges, unless their pod holds
//! it. A program at the cgroup of all pods refuses it, for IPv4 and for IPv6.
//!
//! It is attached so that the next one replaces it, whichever agent has attached it: an agent that may load programs
//! may not look into those of another process, nor into their maps. So each change of the holders is another program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use autoport::model::{Protocol, Record};
use serde::{Deserialize, Serialize};

use super::assembler::{Program, TooLong};
use super::cgroup::{Cgroup, Unattached, rooted};
use super::door;
use super::kubepods::Pods;
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
    pods: Pods,
    /// What is guarded.
    runs: Vec<Run>,
    /// The number of the cgroup that may bind each port.
    holders: BTreeMap<(Protocol, u16), u64>,
    /// What this process has attached last, and where.
    attached: Option<(Program, Vec<(PathBuf, Ids)>)>,
}

/// The number of the program for each family.
type Ids = [u32; FAMILIES.len()];

/// Why the ports are not guarded.
#[derive(Debug, thiserror::Error)]
pub enum Unguarded {
    #[error(
        "the runtime has told of no Pod whose cgroup is below kubelet's of all Pods (kubepods or kubepods.slice): \
         pods that kubelet does not run are not guarded"
    )]
    NoPods,
    #[error(
        "a program of another owner is attached to cgroup {} for post_bind; `bpftool cgroup show` names it. \
         Have its owner attach it to the root", .0.display()
    )]
    NotOurs(PathBuf),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error(transparent)]
    Unattached(#[from] Unattached),
}

/// What is noted at the cgroup: the programs that are attached to it, or may be.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    guard: Vec<u32>,
}

impl Guard {
    /// The guard of a node with these cgroups, for processes in the network namespace with this cookie.
    pub(super) fn new(tree: Tree, netns: u64) -> Self {
        let one = Guarded { runs: vec![Run { first: 1, count: 1 }], held: Vec::new() };
        let chooses = refusal(&one, netns, true)
            .is_ok_and(|program| door::load(FAMILIES[0], &program).is_ok());
        let (pods, holders) = (Pods::new(tree.clone()), BTreeMap::new());
        Self { tree, netns, chooses, pods, runs: Vec::new(), holders, attached: None }
    }

    /// Learns of a pod of this node, with the cgroup that the runtime gives for it; gives whether it was not known. What
    /// it may bind is learnt from records.
    pub fn learn(&mut self, cgroup: &str, uid: &str) -> bool {
        self.pods.learn(cgroup, uid)
    }

    /// Has the ports of these runs refused to all pods but those that hold them by these records, unless that is so
    /// already. Gives the cgroups, as paths from the root; none while the runtime has told of no pod.
    ///
    /// # Errors
    /// Why they are not refused; what was attached before still is.
    pub fn set(&mut self, runs: Vec<Run>, records: &[Record]) -> Result<Vec<PathBuf>, Unguarded> {
        self.pods.forget();
        self.runs = runs;
        self.holders.clear();
        for record in records {
            self.enter(record);
        }
        self.renew()
    }

    /// Has the ports of this record, which is new, refused to all others. The rest is as it was set last.
    ///
    /// # Errors
    /// As for [`Guard::set`].
    pub fn add(&mut self, record: &Record) -> Result<Vec<PathBuf>, Unguarded> {
        self.withdraw(record.owner.uid().unwrap_or_default());
        self.enter(record);
        self.renew()
    }

    /// Has the next change refuse all ports to this pod, which has released them.
    pub fn withdraw(&mut self, uid: &str) {
        if let Some(cgroup) = self.pods.cgroup(uid) {
            self.holders.retain(|_, holder| *holder != cgroup);
        }
    }

    /// What a pod on the node's network may bind. What is translated is bound by nobody.
    fn enter(&mut self, record: &Record) {
        let mut bound =
            record.mappings.iter().filter(|mapping| mapping.target.is_none()).peekable();
        let Some(uid) = record.owner.uid().filter(|_| bound.peek().is_some()) else { return };
        let Some(cgroup) = self.pods.cgroup(uid) else { return };
        let held = bound.map(|mapping| (mapping.host.protocol, mapping.host.port.get()));
        // A number has one holder, the last one.
        self.holders.extend(held.filter(|(it, _)| *it != Protocol::Sctp).map(|it| (it, cgroup)));
    }

    fn renew(&mut self) -> Result<Vec<PathBuf>, Unguarded> {
        if self.runs.is_empty() {
            return self.remove().map(|_| Vec::new());
        }
        if self.pods.are_elsewhere() {
            return Err(Unguarded::NoPods);
        }
        let places = self.places()?;
        let guarded = Guarded { runs: self.runs.clone(), held: in_runs(&self.holders) };
        let program = refusal(&guarded, self.netns, self.chooses)?;
        if !self.is_attached(&program, &places) {
            tracing::debug!(slots = program.slots(), "port guard:\n{program}");
            let attached = places.iter().map(|place| {
                let ids = place.attach(&program)?;
                Ok((place.cgroup.path.clone(), ids))
            });
            let attached = attached.collect::<Result<_, Unguarded>>()?;
            self.attached = Some((program, attached));
        }
        Ok(places.into_iter().map(|place| place.cgroup.path).collect())
    }

    fn is_attached(&self, program: &Program, places: &[Place]) -> bool {
        let Some((last, attached)) = &self.attached else { return false };
        last == program
            && places.len() == attached.len()
            && places.iter().zip(attached).all(|(place, (path, ids))| {
                place.cgroup.path == *path
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
        self.pods.forget();
        for place in self.places()? {
            removed |= place.detach()?;
        }
        Ok(removed)
    }

    /// The cgroups of all pods.
    fn places(&self) -> Result<Vec<Place>, Unguarded> {
        self.pods.all().map(|path| Place::open(&self.tree, path)).collect()
    }
}

/// Numbers of one pod that follow each other are one.
fn in_runs(holders: &BTreeMap<(Protocol, u16), u64>) -> Vec<Held> {
    let mut all: Vec<Held> = Vec::new();
    for (&(protocol, first), &cgroup) in holders {
        match all.last_mut() {
            Some(last)
                if (last.protocol, last.cgroup) == (protocol, cgroup)
                    && u32::from(last.run.first) + u32::from(last.run.count)
                        == u32::from(first) =>
            {
                last.run.count += 1;
            }
            _ => all.push(Held { protocol, cgroup, run: Run { first, count: 1 } }),
        }
    }
    all
}

/// A cgroup of all pods.
struct Place {
    cgroup: Cgroup,
    noted: Option<Note>,
}

impl Place {
    fn open(tree: &Tree, path: &Path) -> Result<Self, Unguarded> {
        let directory = tree.open(path);
        let directory =
            directory.map_err(|error| Unattached::Kernel { path: rooted(path), error })?;
        let cgroup = Cgroup::new(path, directory);
        let noted = cgroup.note()?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self { cgroup, noted })
    }

    /// The numbers of what is attached, for each family.
    fn ids(&self) -> Result<[Vec<u32>; FAMILIES.len()], Unguarded> {
        let mut all = [const { Vec::new() }; FAMILIES.len()];
        for (family, ids) in FAMILIES.into_iter().zip(&mut all) {
            let attached = door::attached(self.cgroup.fd(), family);
            let attached = attached.map_err(|error| self.cgroup.kernel(error))?;
            *ids = attached.ids;
            if !ids.is_empty() && attached.flags != door::ALLOW_OVERRIDE {
                return Err(Unguarded::NotOurs(self.cgroup.path.clone()));
            }
        }
        Ok(all)
    }

    /// What agents have attached. A program that is not noted is of another owner.
    fn ours(&self) -> &[u32] {
        self.noted.as_ref().map_or(&[], |note| &note.guard)
    }

    /// Attaches it for each family in place of what an agent has attached.
    fn attach(&self, program: &Program) -> Result<Ids, Unguarded> {
        let kernel = |error| self.cgroup.kernel(error);
        let found = self.ids()?.concat();
        if !found.iter().all(|id| self.ours().contains(id)) {
            return Err(Unguarded::NotOurs(self.cgroup.path.clone()));
        }
        let (mut loaded, mut ids) = (Vec::new(), Ids::default());
        for (family, place) in FAMILIES.into_iter().zip(&mut ids) {
            let one = door::load(family, program).map_err(kernel)?;
            *place = door::id(&one).map_err(kernel)?;
            loaded.push((family, one));
        }
        // First, so that it never lacks what is attached.
        let noted = [found, ids.to_vec()].concat();
        self.cgroup.set_note(&serde_json::to_vec(&Note { guard: noted }).unwrap_or_default())?;
        for (family, one) in &loaded {
            let attached = door::attach(self.cgroup.fd(), *family, one, door::ALLOW_OVERRIDE);
            attached.map_err(kernel)?;
        }
        Ok(ids)
    }

    /// Detaches what an agent has attached; gives whether there was anything.
    fn detach(&self) -> Result<bool, Unguarded> {
        let (ours, kernel) = (self.ours(), |error| self.cgroup.kernel(error));
        if ours.is_empty() {
            return Ok(false);
        }
        for family in FAMILIES {
            let attached = door::attached(self.cgroup.fd(), family).map_err(kernel)?;
            if attached.ids.iter().any(|id| ours.contains(id)) {
                door::detach_only(self.cgroup.fd(), family).map_err(kernel)?;
            }
        }
        self.cgroup.remove_note()?;
        Ok(true)
    }
}
