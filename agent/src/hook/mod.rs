//! The bind hook: a program in a pod on the node's network that binds the port that its author chose gets the
//! host port that the node chose. Programs of eBPF, attached to the pod's cgroup, change the number in the
//! system call; packets are not touched.
//!
//! They are attached before the pod's first container, and last as long as the cgroup, whether or not an agent
//! runs. [`program()`] writes them, without I/O; `door` is the only way to the kernel.
//!
//! The [port guard](Guard) is a program at the cgroup of all pods, which refuses ports to others than their holders.

mod assembler;
mod cgroup;
mod door;
mod guard;
mod instruction;
mod kubepods;
mod note;
mod place;
mod program;
mod redirect;
mod refusal;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use autoport::model::Protocol;
use autoport::store::BindHook;
use nix::libc::EPERM;

pub use self::assembler::{Program, TooLong};
use self::cgroup::Cgroup;
pub use self::cgroup::Unattached;
pub use self::guard::{Guard, Run, Unguarded};
pub use self::note::Differs;
use self::note::Note;
pub use self::place::Nowhere;
use self::place::Place;
pub use self::program::{Call, Plan, program};
pub use self::redirect::{MOST, Redirect, Unclear, redirects};
use crate::cgroups::Tree;

/// The hook of this node.
#[derive(Clone, Debug)]
pub struct Hook {
    tree: Tree,
    /// Of the node's network namespace.
    netns: u64,
}

/// A program that is attached.
#[derive(Debug)]
pub struct Loaded {
    pub call: Call,
    /// Its number in the kernel.
    pub id: u32,
    pub program: Program,
}

/// Why no program can be attached on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error(
        "no cgroups of version 2 are mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified; boot the node with \
         systemd.unified_cgroup_hierarchy=1, and mount the directory into the agent's container"
    )]
    NoCgroups,
    #[error(
        "the agent may not load programs of eBPF: {0}. It needs the capabilities CAP_BPF and CAP_NET_ADMIN, and \
         bpf(2) in its seccomp profile: add the component deploy/kubernetes/bind-hook, or see docs/agent.md for \
         the systemd units"
    )]
    NotPermitted(String),
    #[error(
        "the kernel does not have what the hook needs: {0}. It needs Linux 5.14 with CONFIG_BPF_SYSCALL and \
         CONFIG_CGROUP_BPF"
    )]
    Kernel(String),
}

impl Unusable {
    /// As `agent.json` has it.
    pub const fn told(&self) -> BindHook {
        match self {
            Self::NoCgroups => BindHook::Cgroups,
            Self::NotPermitted(_) => BindHook::Capability,
            Self::Kernel(_) => BindHook::Kernel,
        }
    }

    fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied {
            Self::NotPermitted(error.to_string())
        } else {
            Self::Kernel(error.to_string())
        }
    }
}

/// Why the programs of a pod are not attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Nowhere(#[from] Nowhere),
    #[error(transparent)]
    Differs(#[from] Differs),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error(
        "a program is attached to cgroup {} that permits no others below it; `bpftool cgroup show` names it. \
         Have its owner attach it with BPF_F_ALLOW_MULTI", .0.display()
    )]
    Forbidden(PathBuf),
    #[error(transparent)]
    Unattached(#[from] Unattached),
}

impl Hook {
    /// Finds out whether programs can be attached on this node: has the kernel verify one of each kind, and asks
    /// it what is attached to the root cgroup, for which it wants the same as for attaching.
    ///
    /// # Errors
    /// Why not.
    pub fn find() -> Result<Self, Unusable> {
        let tree = Tree::find().ok_or(Unusable::NoCgroups)?;
        let netns = door::netns_cookie().map_err(|error| Unusable::Kernel(error.to_string()))?;
        let root = tree.open(Path::new("")).map_err(|error| Unusable::of(&error))?;
        let tcp = Redirect { protocol: Protocol::Tcp, named: 1, given: 2, count: 1 };
        let udp = Redirect { protocol: Protocol::Udp, count: 2, ..tcp };
        let plan = Plan { redirects: vec![tcp, udp], earlier: Vec::new(), getsockname: true };
        for call in Call::needed(&plan) {
            let code =
                program(call, &plan, netns).map_err(|error| Unusable::Kernel(error.to_string()))?;
            let tried = door::load(call, &code).and_then(|_| door::attached(root.as_fd(), call));
            tried.map_err(|error| Unusable::of(&error))?;
        }
        Ok(Self { tree, netns })
    }

    /// The port guard of this node.
    pub fn guard(&self) -> Guard {
        Guard::new(self.tree.clone(), self.netns)
    }

    /// Has the programs of a pod give `redirects`, unless they do already; gives the programs that it has attached. `cgroup` is what the runtime gives
    /// for the pod with this UID. Programs of others at the cgroup, and above it, are left alone.
    ///
    /// # Errors
    /// Why they do not; nothing is attached then that was not before.
    pub fn attach(
        &self,
        cgroup: &str,
        uid: &str,
        redirects: Vec<Redirect>,
        getsockname: bool,
    ) -> Result<Vec<Loaded>, Error> {
        let place = Place::of(cgroup, uid)?;
        let cgroup = Cgroup::new(&place.path, place.open(&self.tree)?);
        let pod = Pod { tree: &self.tree, path: &place.path, cgroup };
        let noted = pod.note()?;
        let ids =
            |call| door::attached(pod.cgroup.fd(), call).map_or_else(|_| Vec::new(), |it| it.ids);
        if noted.as_ref().is_some_and(|note| note.is_in_force(&redirects, getsockname, ids)) {
            return Ok(Vec::new());
        }
        let note = Note::after(noted, redirects, getsockname)?;
        // First, so that it never lacks what is attached.
        pod.cgroup.set_note(&note.bytes())?;
        let plan = note.plan();
        let (mut loaded, mut told) = (Vec::new(), Vec::new());
        for call in Call::needed(&plan) {
            let code = program(call, &plan, self.netns)?;
            tracing::debug!(pod = uid, ?call, slots = code.slots(), "bind hook:\n{code}");
            let program = door::load(call, &code).map_err(|error| pod.cgroup.kernel(error))?;
            let id = door::id(&program).map_err(|error| pod.cgroup.kernel(error))?;
            told.push(Loaded { call, id, program: code });
            loaded.push((call, program, id));
        }
        pod.attach_all(&loaded)?;
        let programs = loaded.iter().map(|(call, _, id)| (*call, *id));
        pod.cgroup.set_note(&note.attached(programs).bytes())?;
        Ok(told)
    }
}

/// The cgroup of a pod.
struct Pod<'a> {
    tree: &'a Tree,
    path: &'a Path,
    cgroup: Cgroup,
}

impl Pod<'_> {
    /// What is noted. A note that cannot be read may be of a later agent, whose programs are not known.
    fn note(&self) -> Result<Option<Note>, Error> {
        let bytes = self.cgroup.note()?;
        bytes.map(|bytes| Note::parse(&bytes).ok_or(Error::Differs(Differs))).transpose()
    }

    /// Attaches all of them, or none.
    fn attach_all(&self, loaded: &[(Call, OwnedFd, u32)]) -> Result<(), Error> {
        for (place, (call, program, _)) in loaded.iter().enumerate() {
            let attached = door::attach(self.cgroup.fd(), *call, program, door::ALLOW_MULTI);
            let Err(error) = attached else { continue };
            for (call, program, _) in &loaded[..place] {
                if let Err(error) = door::detach(self.cgroup.fd(), *call, program) {
                    tracing::warn!(?call, "cannot detach the bind hook: {error}");
                }
            }
            return Err(match self.forbidding(*call) {
                Some(path) if error.raw_os_error() == Some(EPERM) => Error::Forbidden(path),
                _ => self.cgroup.kernel(error).into(),
            });
        }
        Ok(())
    }

    /// The cgroup, of this one and those above, whose program permits no other.
    fn forbidding(&self, call: Call) -> Option<PathBuf> {
        let is_exclusive = |path: &&Path| {
            let directory = self.tree.open(path);
            let attached = directory.and_then(|it| door::attached(it.as_fd(), call));
            attached.is_ok_and(|it| !it.ids.is_empty() && it.flags & door::ALLOW_MULTI == 0)
        };
        let path = self.path.ancestors().find(is_exclusive)?;
        Some(cgroup::rooted(path))
    }
}

#[cfg(test)]
mod tests;
