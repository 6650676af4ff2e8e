//! What happens beside the result of a command, as facts: a log prints them, an agent counts them.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Attachment, Holder, HostPort, Owner};

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

/// Why a record cannot be read.
pub type Damage = Box<dyn StdError + Send + Sync>;

/// Something that happened. Its text is one line for a person; `thiserror` is here for that text alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "a field is named for what it is")]
pub enum Event {
    /// A key of the configuration is ignored.
    #[error("{0}")]
    Ignored(String),
    /// Another process has the lock of the store; waiting lasts for `patience` at most, and `/proc/locks`
    /// may tell which process it is.
    #[error(
        "waiting up to {:.1} s for lock {lock}, taken{}", patience.as_secs_f64(),
        holder.as_ref().map_or(String::new(), |holder| format!(" by {holder}"))
    )]
    Waiting { lock: PathBuf, patience: Duration, holder: Option<LockHolder> },
    /// A record or reservation cannot be read.
    #[error("{path} is unreadable ({damage}): {then}")]
    Unreadable { path: PathBuf, damage: Damage, then: Then },
    /// A stale holder lost its host ports to a new claimant.
    #[error("the host ports of {holder} are reassigned to {claimant}: {reason}")]
    Superseded { claimant: Box<Owner>, holder: Box<Owner>, reason: &'static str },
    /// Another network of the same container serves some of the ports that are asked for.
    #[error("{sibling} maps host ports that {claimant} requests too")]
    LeftToSibling { claimant: Holder, sibling: Box<Owner> },
    /// The main plugin gave the pod no address.
    #[error(
        "the pod has no address in prevResult, so the host ports of {0} are held and not translated; \
         put autoport after the plugin that makes the interface"
    )]
    NoAddress(Box<Owner>),
    /// A rule of portmap translates the port before our table does.
    #[error(
        "host port {host} of {owner} is mapped by portmap too, and its rule in {chain} comes first: \
         traffic follows that rule. If its container no longer exists, delete the rule; `autoport \
         doctor` shows all of them"
    )]
    MappedByPortmap { host: HostPort, owner: Box<Owner>, chain: String },
    /// DEL deleted the rules of a container that portmap attached.
    #[error("deleted the rules that portmap had for {attachment}: {deleted}")]
    PortmapDeleted { attachment: Attachment, deleted: String },
    /// DEL of a container without a record, on a node with iptables-legacy.
    #[error(
        "{attachment} has no record. If portmap mapped its ports with iptables-legacy, whose rules \
         autoport cannot read, delete them: `iptables-legacy-save -t nat | grep -v {chain} | \
         iptables-legacy-restore`, for IPv6 with ip6tables-legacy-save and ip6tables-legacy-restore"
    )]
    LegacyUnseen { attachment: Attachment, chain: String },
    /// GC found that the runtime does not know this attachment any more.
    #[error("removing what {0} held")]
    Collected(Box<Owner>),
    /// The whole table was written.
    #[error("built table inet autoport, because {reason}")]
    Built { reason: String },
    /// The table was built in an earlier boot, and no store exists yet.
    #[error(
        "deleted table inet autoport, because it was built in an earlier boot, saved, and loaded again; \
         the first ADD builds it"
    )]
    OldTableDeleted,
    /// Parts of the table were restored or removed.
    #[error("mended table inet autoport: {summary}")]
    Mended { summary: String },
    /// Elements without a holder's name could not be adopted.
    #[error(
        "{count} elements for {comment:?}, such as {first}, name no attachment, so no DEL could free \
         their ports: they are removed"
    )]
    Nameless { comment: String, count: usize, first: String },
    /// A record was restored from the table.
    #[error(
        "restored the record of {owner} from the table, with {ports} host ports; unknown: {unknown}"
    )]
    Adopted { owner: Box<Owner>, ports: usize, unknown: String },
    /// Records were restored from the table, which does not have everything.
    #[error(
        "ports that were held and not translated (pods on the node's network, reservations) are not in \
         the table: they are free"
    )]
    AdoptedInPart,
    /// `repair --watch` has begun.
    #[error("watching table inet autoport for {state_dir}")]
    Watching { state_dir: PathBuf },
    /// Something besides the result of the command was left undone; `error` has its causes, and `code` is
    /// the one of a reply.
    #[error("{what}: {error}")]
    Failed { what: Undone, code: u32, error: String },
}

/// What became of a record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Then {
    /// A reservation that outlives a boot was not brought back.
    #[error("its ports are not reserved")]
    NotReserved,
    /// A reservation of the same name took its place.
    #[error("the new reservation replaces it")]
    Replaced,
    /// The text says where the copy is, or why there is none.
    #[error("it was removed and its ports are free; {0}")]
    Removed(String),
    /// Which elements it should have is not known.
    #[error("its elements are left in the table as they are")]
    LeftInTable,
}

/// What a command left undone without failing for it, or before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Undone {
    /// The flows of an earlier pod may live on.
    #[error(
        "could not delete stale UDP conntrack entries; running UDP clients may keep reaching the old pod"
    )]
    StaleFlows,
    /// An element could not be removed.
    #[error("a released host port may still be mapped")]
    StillMapped,
    /// A refused change could not be taken out of the record.
    #[error("the record may name ports that are not mapped")]
    RecordAhead,
    /// A failed ADD could not clean up.
    #[error("could not undo the mapping; the container's DEL will")]
    MappingLeft,
    /// What the table has of the container goes all the same.
    #[error("the records cannot be used and are left as they are")]
    StoreUnusable,
    /// Host ports that should have been released are still held.
    #[error("nothing was removed; host ports of this container or network stay mapped")]
    NothingRemoved,
    /// It belongs to another store; what it has of the container goes all the same.
    #[error("the table was not compared with the records")]
    OtherTable,
    /// The table belongs to another store or a later version.
    #[error("the table was left as it is")]
    TableLeft,
    /// The same pod may get other numbers next time.
    #[error("the released ports are not kept for the same pod")]
    NotRemembered,
    /// Rules of portmap may come before ours.
    #[error("could not delete the rules that portmap may have for the container")]
    PortmapLeft,
    /// Files of a pod that no longer exists are left.
    #[error("could not remove the published files")]
    PublicationLeft,
    /// Some of what GC removes is left.
    #[error("could not remove everything")]
    NotCollected,
    /// They take the usual way.
    #[error("established connections may not be offloaded; they work without")]
    NotOffloaded,
    /// Only those that another program has translated to the pod's address.
    #[error(
        "connections to the removed pod's address may still be offloaded; `autoport repair` ends that"
    )]
    StillOffloaded,
    /// `repair --watch` failed.
    #[error("table inet autoport was not restored")]
    NotRestored,
}

/// A process that holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("process {pid}{}", match &**command {
    "" => String::new(),
    name => format!(" ({}{})", name.escape_debug(), if *stopped { ", stopped" } else { "" }),
})]
pub struct LockHolder {
    /// As seen from this PID namespace.
    pub pid: u32,
    /// Its `comm`; empty when it has ended since.
    pub command: String,
    /// Whether it was stopped, so that it will not release the lock by itself.
    pub stopped: bool,
}

#[cfg(test)]
mod tests;
