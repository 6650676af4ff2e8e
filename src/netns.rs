//! Which network namespace a path leads to, and whether one that was recorded is provably gone.
//!
//! The only module that looks at `/proc/self/ns` and at the paths of `CNI_NETNS`.

use std::io;
use std::os::fd::AsFd;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, lstat, stat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::model::{Holder, NamespaceId, Netns, Owner};

const OWN_NETNS: &str = "/proc/self/ns/net";
const OWN_MOUNT_NAMESPACE: &str = "/proc/self/ns/mnt";

/// A namespace of this process could not be identified; `/proc` is not mounted, most likely.
#[derive(Debug, thiserror::Error)]
#[error("cannot examine {path}; /proc must be mounted where autoport runs")]
pub struct Error {
    /// The file under `/proc/self/ns`.
    pub path: &'static str,
    pub source: io::Error,
}

/// The identity of the network namespace this process is in.
///
/// # Errors
/// When `/proc/self/ns/net` cannot be examined.
pub fn own() -> Result<NamespaceId, Error> {
    identify(OWN_NETNS)
}

/// A path that leads to no network namespace.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} {found}")]
pub struct Missing {
    pub path: String,
    /// What it is or lacks, as a verb.
    pub found: &'static str,
}

/// What the container's network namespace looks like from here; `None` when `path` cannot be examined:
/// then there will be no evidence, ever, that it is gone.
///
/// # Errors
/// When the path provably leads to no namespace.
pub fn observe(path: &str) -> Result<Option<Netns>, Missing> {
    let missing = |found| Err(Missing { path: path.to_owned(), found });
    let id = match look(path) {
        Ok(Some(id)) => id,
        Ok(None) => return missing("is not a network namespace"),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return missing("does not exist"),
        Err(_) => return Ok(None),
    };
    let seen_from = identify(OWN_MOUNT_NAMESPACE).ok();
    Ok(seen_from.map(|seen_from| Netns { path: path.to_owned(), id, seen_from }))
}

/// What can be said of a recorded namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
pub enum Fate {
    /// Its path leads to it.
    #[display("its network namespace exists")]
    Alive,
    /// It provably does not exist any more: whoever asks for the ports of its pod gets them.
    #[display("its network namespace no longer exists")]
    Gone,
    /// It cannot be told, for this reason; that counts as alive.
    #[display("it may be in use: {_0}")]
    Unknown(&'static str),
}

impl Fate {
    /// What became of the namespace of `owner`, seen from this process.
    pub fn of(owner: &Owner) -> Self {
        match (&owner.holder, &owner.netns) {
            (Holder::HostPod { .. }, _) => Self::Unknown("its pod is on the node's network"),
            (Holder::Attachment(_), Some(netns)) => fate(netns),
            (Holder::Attachment(_), None) => {
                Self::Unknown("its network namespace was not recorded")
            }
        }
    }
}

/// What became of the namespace. It is gone when this process looks from the mount namespace in which
/// it was recorded, and its path is absent, leads to something that is no namespace, or to another
/// one.
///
/// Every doubt means alive, because who is gone loses its ports. A path below `/proc` is such a
/// doubt: it vanishes with one process, while others may still live in the namespace. So is a
/// symbolic link, which may lead there, or be turned: only a bind mount holds a namespace.
pub fn fate(netns: &Netns) -> Fate {
    let found = look(&netns.path);
    if found == Ok(Some(netns.id)) {
        return Fate::Alive;
    }
    if !netns.path.starts_with('/') {
        return Fate::Unknown("its path is relative to a working directory");
    }
    if netns.path.starts_with("/proc/") {
        return Fate::Unknown("its path was that of a process");
    }
    if identify(OWN_MOUNT_NAMESPACE).ok() != Some(netns.seen_from) {
        return Fate::Unknown("its path was recorded in another mount namespace");
    }
    if lstat(netns.path.as_str()).is_ok_and(|found| is_link(&found)) {
        return Fate::Unknown("its path is a symbolic link");
    }
    match found {
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => Fate::Gone,
        Err(_) => Fate::Unknown("its path cannot be examined"),
    }
}

/// Runs `work` on a thread inside the namespace, provided that its path still leads to it.
///
/// # Errors
/// When it cannot be entered, which takes `CAP_SYS_ADMIN`.
pub fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = open(netns.path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    if identity(&fstat(file.as_fd())?) != netns.id {
        return Err(io::Error::other("its path leads to another namespace now"));
    }
    let enter = || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    };
    thread::scope(|scope| {
        let inside = thread::Builder::new().spawn_scoped(scope, enter)?;
        inside.join().unwrap_or_else(|_| Err(io::Error::other("looking into it panicked")))
    })
}

/// Whether the namespace is provably gone.
pub fn is_gone(netns: &Netns) -> bool {
    fate(netns) == Fate::Gone
}

fn is_link(found: &FileStat) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits()
}

/// The namespace at `path`; `None` where something else is there.
///
/// `O_PATH` opens nothing for real, so neither a FIFO nor a device node in the place of a namespace
/// can do harm, and both questions go to the same file.
fn look(path: &str) -> nix::Result<Option<NamespaceId>> {
    let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if fstatfs(file.as_fd())?.filesystem_type() != NSFS_MAGIC {
        return Ok(None);
    }
    Ok(Some(identity(&fstat(file.as_fd())?)))
}

fn identify(path: &'static str) -> Result<NamespaceId, Error> {
    let found = stat(path).map_err(|errno| Error { path, source: errno.into() })?;
    Ok(identity(&found))
}

fn identity(found: &FileStat) -> NamespaceId {
    NamespaceId { device: found.st_dev, inode: found.st_ino }
}

#[cfg(test)]
mod tests;
