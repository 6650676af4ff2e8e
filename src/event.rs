//! What happens beside the result of a command, as facts: a log prints them, an agent counts them.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Holder, HostPort, Owner};

/// Takes note of what happens. It must not fail: no command fails because nobody listens.
pub trait Log {
    /// Called at once, while the command goes on.
    fn note(&mut self, event: Event);
}

/// Keeps the events, to be looked at afterwards.
impl Log for Vec<Event> {
    fn note(&mut self, event: Event) {
        self.push(event);
    }
}

/// Drops every event.
#[derive(Debug)]
pub struct Silent;

impl Log for Silent {
    fn note(&mut self, _: Event) {}
}

/// An error that did not end the command, as a reply would tell it.
pub trait Failure: fmt::Debug + Send + Sync {
    /// The `code` of the reply.
    fn code(&self) -> u32;
    /// The error with its causes.
    fn in_one_line(&self) -> String;
}

/// Why a record cannot be read.
pub type Damage = Box<dyn StdError + Send + Sync>;

/// Something that happened. Its text is one line for a person.
#[derive(Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "a field is named for what it is")]
pub enum Event {
    /// A key of the configuration is ignored.
    Ignored(String),
    /// Another process has the lock of the store.
    Waiting {
        lock: PathBuf,
        /// For how long at most.
        patience: Duration,
        /// If `/proc/locks` tells.
        holder: Option<LockHolder>,
    },
    /// A record or reservation cannot be read.
    Unreadable { path: PathBuf, damage: Damage, then: Then },
    /// A stale holder lost its host ports to a new claimant.
    Superseded { claimant: Box<Owner>, holder: Box<Owner>, reason: &'static str },
    /// Another network of the same container serves some of the ports that are asked for.
    LeftToSibling { claimant: Holder, sibling: Box<Owner> },
    /// The main plugin gave the pod no address.
    NoAddress(Box<Owner>),
    /// A rule of portmap translates the port before our table does.
    MappedByPortmap { host: HostPort, owner: Box<Owner>, chain: String },
    /// GC found that the runtime does not know this attachment any more.
    Collected(Box<Owner>),
    /// The whole table was written.
    Built { reason: String },
    /// The table was built in an earlier boot, and no store exists yet.
    OldTableDeleted,
    /// Parts of the table were restored or removed.
    Mended { summary: String },
    /// Elements without a holder's name could not be adopted.
    Nameless { comment: String, count: usize, first: String },
    /// A record was restored from the table.
    Adopted { owner: Box<Owner>, ports: usize, unknown: String },
    /// Records were restored from the table, which does not have everything.
    AdoptedInPart,
    /// `repair --watch` has begun.
    Watching { state_dir: PathBuf },
    /// Something besides the result of the command was left undone.
    Failed { what: Undone, error: Box<dyn Failure> },
}

/// What became of a record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Then {
    /// A reservation that outlives a boot was not brought back.
    NotReserved,
    /// A reservation of the same name has replaced it.
    Replaced,
    /// It was removed; the text says where the copy is, or why there is none.
    Removed(String),
    /// Its elements stay in the table as they are.
    LeftInTable,
}

/// What a command left undone without failing for it, or before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undone {
    /// UDP connection tracking entries of an earlier pod may live on.
    StaleFlows,
    /// A host port that was given up may still be mapped.
    StillMapped,
    /// A refused change could not be taken out of the record.
    RecordAhead,
    /// A failed ADD could not undo its mapping.
    MappingLeft,
    /// The store could not be used; what the table has of the container goes all the same.
    StoreUnusable,
    /// Nothing could be removed, and what is held stays held.
    NothingRemoved,
    /// The table belongs to another store; what it has of the container goes all the same.
    OtherTable,
    /// The table belongs to another store or a later version.
    TableLeft,
    /// What was released will not be offered to the same pod first.
    NotRemembered,
    /// The published files of a pod could not be removed.
    PublicationLeft,
    /// Some of what GC removes could not be removed.
    NotCollected,
    /// `repair --watch` could not restore the table.
    NotRestored,
}

/// A process that holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// As seen from this PID namespace.
    pub pid: u32,
    /// Its `comm`; empty when it has ended since.
    pub command: String,
    /// Whether it was stopped, so that it will not release the lock by itself.
    pub stopped: bool,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "process {}", self.pid)?;
        if self.command.is_empty() {
            return Ok(());
        }
        let stopped = if self.stopped { ", stopped" } else { "" };
        write!(out, " ({}{stopped})", self.command.escape_debug())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored(warning) => out.write_str(warning),
            Self::Waiting { lock, patience, holder } => {
                let (seconds, lock) = (patience.as_secs_f64(), lock.display());
                write!(out, "waiting up to {seconds:.1} s for lock {lock}, taken")?;
                holder.as_ref().map_or(Ok(()), |holder| write!(out, " by {holder}"))
            }
            Self::Unreadable { path, damage, then } => {
                write!(out, "{} is unreadable ({damage}): {then}", path.display())
            }
            Self::Superseded { claimant, holder, reason } => {
                write!(out, "the host ports of {holder} are reassigned to {claimant}: {reason}")
            }
            Self::LeftToSibling { claimant, sibling } => {
                write!(out, "{sibling} maps host ports that {claimant} asks for too")
            }
            Self::NoAddress(owner) => write!(
                out,
                "the pod has no address in prevResult, so the host ports of {owner} are held and not \
                 translated; put autoport after the plugin that makes the interface"
            ),
            Self::MappedByPortmap { host, owner, chain } => write!(
                out,
                "host port {host} of {owner} is mapped by portmap too, and its rule in {chain} comes \
                 first: traffic follows that rule. If its container no longer exists, delete the \
                 rule; `autoport doctor` shows all of them"
            ),
            Self::Collected(owner) => write!(out, "removing what {owner} held"),
            Self::OldTableDeleted => out.write_str(
                "deleted table inet autoport, because it was built in an earlier boot, saved, and loaded \
                 again; the first ADD builds it",
            ),
            Self::Built { reason } => write!(out, "built table inet autoport, because {reason}"),
            Self::Mended { summary } => write!(out, "mended table inet autoport: {summary}"),
            Self::Nameless { comment, count, first } => write!(
                out,
                "{count} elements for {comment:?}, such as {first}, name no attachment, so no DEL \
                 could free their ports: they are removed"
            ),
            Self::Adopted { owner, ports, unknown } => write!(
                out,
                "restored the record of {owner} from the table, with {ports} host ports; not known \
                 are {unknown}"
            ),
            Self::AdoptedInPart => out.write_str(
                "ports that were held and not translated (pods on the node's network, reservations) \
                 are not in the table: they are free",
            ),
            Self::Watching { state_dir } => {
                write!(out, "watching table inet autoport for {}", state_dir.display())
            }
            Self::Failed { what, error } => write!(out, "{what}: {}", error.in_one_line()),
        }
    }
}

impl fmt::Display for Then {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReserved => out.write_str("its ports are not reserved"),
            Self::Replaced => out.write_str("the new reservation replaces it"),
            Self::Removed(copy) => write!(out, "it was removed and its ports are free; {copy}"),
            Self::LeftInTable => out.write_str("its elements are left in the table as they are"),
        }
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::StaleFlows => {
                "could not delete stale UDP conntrack entries; running UDP clients may keep reaching \
                 the old pod"
            }
            Self::StillMapped => "a host port that was given up may still be mapped",
            Self::RecordAhead => "the record may name ports that are not mapped",
            Self::MappingLeft => "could not undo the mapping; the container's DEL will",
            Self::StoreUnusable => "the records cannot be used and are left as they are",
            Self::NothingRemoved => {
                "nothing was removed; host ports of this container or network stay mapped"
            }
            Self::OtherTable => "the table was not compared with the records",
            Self::TableLeft => "the table was left as it is",
            Self::NotRemembered => "the released ports are not kept for the same pod",
            Self::PublicationLeft => "could not remove the published files",
            Self::NotCollected => "could not remove everything",
            Self::NotRestored => "table inet autoport was not restored",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_events_keeps_them_for_whoever_counts() {
        let mut log = Vec::new();
        let holder = LockHolder { pid: 7, command: "autoport".to_owned(), stopped: true };
        let (lock, patience) = (PathBuf::from("/run/autoport/lock"), Duration::from_secs(10));
        log.note(Event::Waiting { lock, patience, holder: Some(holder) });
        assert!(
            matches!(&log[..], [Event::Waiting { holder: Some(holder), .. }] if holder.pid == 7)
        );
        assert_eq!(
            log[0].to_string(),
            "waiting up to 10.0 s for lock /run/autoport/lock, taken by process 7 (autoport, stopped)"
        );
    }
}
