//! What can go wrong with the state directory, as facts.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::key::{Key, Kind};
use crate::event::{Event, LockHolder, Then};
use crate::model::{InvalidName, NamespaceId};
use crate::netns;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a field is named for what it is")]
pub enum Error {
    /// The file system said no; `action` is a verb.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A symbolic link or a file is where the state directory should be.
    #[error(
        "state directory {} is {found}, not a directory; remove it or set another stateDir",
        path.display()
    )]
    NotADirectory { path: PathBuf, found: &'static str },
    /// The owner of the directory can change what is in it.
    #[error(
        "state directory {} belongs to uid {owner}, but autoport runs as uid {euid}; \
         change its owner or set another stateDir",
        path.display()
    )]
    ForeignOwner { path: PathBuf, owner: u32, euid: u32 },
    /// Another user may have written what is in the directory.
    #[error(
        "state directory {} has mode {mode:04o}, so others may have written to it; \
         look through it, then `chmod 0700` it or remove it, or set another stateDir",
        path.display()
    )]
    WritableByOthers { path: PathBuf, mode: u32 },
    /// The lock stayed taken for the whole patience; `/proc/locks` may tell by whom.
    #[error(
        "lock {} stayed taken for {:.1} s{}; try again, or raise lockTimeout",
        path.display(),
        waited.as_secs_f64(),
        holder.as_ref().map(|holder| format!(", by {holder}")).unwrap_or_default()
    )]
    LockTaken { path: PathBuf, waited: Duration, holder: Option<LockHolder> },
    /// A pod that has to be told its host ports by the agent would start without them.
    #[error(
        "the Pod needs the variables of its host ports, and no node agent is connected to the runtime: \
         {}/agent.lock is free, or agent.json there is older than 5 s; start autoport-agent on this node",
        dir.display()
    )]
    NoAgent { dir: PathBuf },
    /// What the annotations of a Pod ask for cannot be known without its spec.
    #[error(
        "the Pod's annotations need its spec, which autoport-agent writes to {}: {why}; look at the \
         agent's log on this node, or list the ports by number in autoport.cni/ports",
        path.display()
    )]
    NoSpec { path: PathBuf, why: &'static str, source: Option<Damage> },
    /// What a Pod declares in its spec cannot be had.
    #[error(
        "{reason}, so what its annotations ask for cannot be served; list the ports that it needs in \
         autoport.cni/ports"
    )]
    Declares { reason: String },
    /// Two nodes faked on one machine share a state directory, or a namespace was re-created.
    #[error(
        "state directory {} belongs to network namespace {} (device {}), but autoport runs in {} \
         (device {}); give each node its own stateDir, or run `autoport repair --adopt` if the \
         other namespace no longer exists",
        path.display(), recorded.inode, recorded.device, own.inode, own.device
    )]
    OtherNetns { path: PathBuf, recorded: NamespaceId, own: NamespaceId },
    /// A later autoport wrote this; what it means cannot be known here.
    #[error(
        "{} has layout version {found}, and this autoport knows up to {known}; \
         use the autoport that wrote it",
        path.display()
    )]
    NewerLayout { path: PathBuf, found: u32, known: u32 },
    /// A record is there, but not what it says.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Nothing can be kept or found under this name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A reservation was to be kept over reboots by a store that has no place for it.
    #[error("reservation {name} cannot be kept over reboots: this store has no directory for that")]
    NotPersistent { name: String },
    /// This process cannot tell which network namespace it is in.
    #[error(transparent)]
    Netns(#[from] netns::Error),
}

impl Error {
    /// For `map_err`, which takes the reason last.
    pub(super) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: source.into() }
    }
}

/// A record that exists and cannot be understood. Its ports stay held until it is discarded.
#[derive(Debug, thiserror::Error)]
#[error("record {} cannot be read; its ports stay held until {}", path.display(), remedy(key, source))]
pub struct Unreadable {
    /// The key of the record.
    pub key: Key,
    /// The file of the record.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub source: Damage,
}

impl Damage {
    /// A link is not followed, a socket not opened, and a device not read.
    pub(super) fn of(error: io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw);
        match errno {
            Some(Errno::ELOOP | Errno::ENXIO | Errno::EISDIR) => Self::NoFile,
            _ => Self::Io(error),
        }
    }

    /// Whether nobody can read more of it than we do.
    pub(super) const fn is_discardable(&self) -> bool {
        !matches!(self, Self::NewerLayout { .. } | Self::UnknownKind | Self::Io(_))
    }
}

impl Unreadable {
    /// The event for a log; `then` is what happens to the record.
    pub fn event(self, then: Then) -> Event {
        Event::Unreadable { path: self.path, damage: self.source.into(), then }
    }

    /// Whether the file is there and holds no record, so that nobody can read more of it than we do.
    ///
    /// What a later version wrote, and what the system could not read this time, is never discarded on
    /// behalf of another container.
    pub const fn is_discardable(&self) -> bool {
        self.source.is_discardable()
    }
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a field is named for what it is")]
pub enum Damage {
    /// The bytes cannot be had.
    #[error("the file cannot be read")]
    Io(#[source] io::Error),
    /// Something else is in its place.
    #[error("it is no regular file")]
    NoFile,
    /// Only a later version can have made the entry that leads to it.
    #[error("it is of a kind that only a later version of autoport knows")]
    UnknownKind,
    /// The bytes are no record.
    #[error("the file does not hold a record")]
    Json(#[source] serde_json::Error),
    /// The record is of a later version.
    #[error("it has layout version {found}, and this autoport knows up to {known}")]
    NewerLayout { found: u32, known: u32 },
    /// What it says cannot be true.
    #[error("{0}")]
    Content(String),
}

/// What frees the ports of a record that cannot be read.
fn remedy(key: &Key, damage: &Damage) -> String {
    let remedy = match (key.kind, damage) {
        (Kind::Unknown, _) | (_, Damage::NewerLayout { .. }) => {
            "the later autoport that wrote it releases them"
        }
        (Kind::Attachment | Kind::HostPod, Damage::Io(_)) => {
            "it can be read again, or a DEL of its container"
        }
        (Kind::Attachment, _) => "a DEL of its container, a GC or `autoport repair`",
        (Kind::HostPod, _) => "`autoport repair`",
        (Kind::Reservation, _) => return format!("`autoport release {}`", key.stem),
    };
    remedy.to_owned()
}
