//! Our nftables table, read and changed over netlink: [`Nft`].
//!
//! `look` asks what there is, `compare` and `change` make a difference of it, `elements` and `encode`
//! (with `rule_encode`) write it as bytes, and `assemble` as a transaction; `reconcile` does the same for the whole
//! table.

mod assemble;
mod change;
mod compare;
mod elements;
mod encode;
mod events;
mod look;
mod offload;
mod probe;
mod reconcile;
#[cfg(feature = "replay")]
#[path = "tests/replay.rs"]
mod replay;
mod rule_encode;
mod withdraw;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::thread;
use std::time::Duration;

use nftnl::MsgType;
use nix::libc;
use serde::Serialize;

use assemble::{add_chains, add_sets, make, put_comment};
use encode::Encoder;

use super::netlink::message;
use super::netlink::socket::{self, CREATE, EXCL, Socket, Transaction};
use super::{ATTEMPTS, Error, INET, uapi};
use crate::model::{HostPort, Protocol};
use crate::ruleset::{Difference, Element, Identity, Place, Ruleset, TABLE, Traffic, host_at};

pub use change::Change;
pub use events::{Events, Woken};
pub use look::{Extent, Look, Table};
pub use offload::Offloading;
pub use probe::{Release, offload_trial, trial};
pub use reconcile::Survey;
#[cfg(feature = "replay")]
pub use replay::{Asked, read};

/// How often, and how far apart, something is looked at that goes by itself within a timer tick of
/// the kernel's: 1 to 10 ms.
const PATIENCE: u32 = 100;
const TICK: Duration = Duration::from_millis(1);

/// The table `inet autoport` of this network namespace.
#[derive(Debug)]
pub struct Nft {
    pub(super) socket: Socket,
    identity: Identity,
}

impl Nft {
    /// Opens the way to the kernel, for the store with this instance ID.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open(instance: &str) -> Result<Self, Error> {
        let identity = Identity { boot: boot_id(), ..Identity::current(instance) };
        Ok(Self { socket: Socket::open()?, identity })
    }

    /// The same way, for the store with this instance ID.
    pub(crate) fn of(mut self, instance: &str) -> Self {
        instance.clone_into(&mut self.identity.instance);
        self
    }

    /// Whether the table could be changed: what STATUS needs to know.
    ///
    /// # Errors
    /// As for [`Self::look`]; [`Error::OtherInstance`], [`Error::NewerLayout`].
    pub fn probe(&mut self) -> Result<(), Error> {
        self.look(Extent::Places(&[]))?.permit(&self.identity)
    }

    /// Makes `change` true. Where the table is missing, damaged, foreign or older, it is built
    /// again from `everything`, which must already contain what is wanted and nothing of what is
    /// released; nobody may change what it is made from meanwhile.
    ///
    /// # Errors
    /// [`Error::OtherInstance`], [`Error::NewerLayout`], [`Error::Unrecorded`] before anything was
    /// changed; [`Error::Refused`] likewise; [`Error::Unanswered`] when nobody knows.
    pub fn apply<E: From<Error>>(
        &mut self,
        change: &Change,
        mut everything: impl FnMut() -> Result<Ruleset, E>,
    ) -> Result<Applied, E> {
        let mut whole = None;
        let mut vacated = Vec::new();
        let mut applied =
            self.attempt::<_, E>(Extent::Places(&change.places()), |nft, look, tries| {
                let flaw = look.flaw(&nft.identity, &change.chains)?;
                vacated = change.vacated(look);
                if let Some(reason) = flaw.or_else(|| tries.give_up()) {
                    let whole = match &mut whole {
                        Some(whole) => whole,
                        none => none.insert(nft.with_spared(Cow::Owned(everything()?))?),
                    };
                    return Ok(Some(nft.rebuild(look, whole, reason)));
                }
                if change.must_wait(look, tries) {
                    return Ok(None);
                }
                Ok(Some(Applied::of(&change.difference(look)?, look, change.is_new)))
            })?;
        match whole.filter(|whole| applied.rebuilt.is_some() && !whole.offload.is_empty()) {
            Some(whole) => applied.offload(self.offload_exactly(&whole.offload)),
            None if applied.rebuilt.is_some() => {}
            None => match self.finish(&vacated) {
                Ok(unused) => applied.unused = unused,
                Err(error) => applied.unfinished = Some(error),
            },
        }
        Ok(applied)
    }

    /// What [`Self::apply`] would do now, as a script for nft(8). Nothing is changed.
    ///
    /// # Errors
    /// Those for which [`Self::apply`] refuses before it changes anything, and those of
    /// [`Self::look`].
    pub fn preview<E: From<Error>>(
        &mut self,
        change: &Change,
        everything: impl FnOnce() -> Result<Ruleset, E>,
    ) -> Result<String, E> {
        let look = self.look(Extent::Places(&change.places()))?;
        if look.flaw(&self.identity, &change.chains)?.is_none() {
            return Ok(change.difference(&look)?.to_string());
        }
        let mut table = self.with_spared(Cow::Owned(everything()?))?.into_owned();
        table.identity = self.identity.clone();
        let replaced = format!("table inet {TABLE}\ndelete table inet {TABLE}\n");
        let is_there = look.table != Table::Absent;
        Ok(if is_there { format!("{replaced}{table}") } else { table.to_string() })
    }

    /// Sees to it that what was at `places` is on its way out: a kernel before 6.12 ignores that. Gives the
    /// ports that no client has connected to. Of UDP and SCTP there are none: a flow that begins before the
    /// element has expired can last for ever.
    fn finish(&mut self, places: &[Place]) -> Result<Vec<HostPort>, Error> {
        let seen = self.seen_at(places)?;
        if seen.values().any(|seen| !seen.expiring) {
            self.delete(places, |place| places.contains(place))?;
            return Ok(Vec::new());
        }
        let unused = seen.iter().filter(|(_, seen)| seen.unused);
        let hosts = unused.filter_map(|(place, _)| host_at(place));
        Ok(hosts.filter(|host| host.protocol == Protocol::Tcp).collect())
    }

    /// Waits until nothing at `places` is about to expire; says whether there was anything.
    pub(super) fn await_expiry(&mut self, mut places: Vec<Place>) -> Result<bool, Error> {
        for waits in 0..PATIENCE {
            let seen = self.seen_at(&places)?.into_iter();
            places = seen.filter(|(_, seen)| seen.expiring).map(|(place, _)| place).collect();
            if places.is_empty() {
                return Ok(waits > 0);
            }
            thread::sleep(TICK);
        }
        Ok(true)
    }

    /// Deletes what is at `places` and what they cover, whosever table it is.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unanswered`].
    pub fn withdraw(&mut self, places: &[Place]) -> Result<(), Error> {
        self.delete(places, |_| true)
    }

    fn delete(&mut self, places: &[Place], is_meant: impl Fn(&Place) -> bool) -> Result<(), Error> {
        self.attempt(Extent::Places(places), |_, look, _| {
            let mut transaction = Transaction::begin();
            let present = look.elements.keys().copied();
            let present: Vec<_> = present.filter(|place| is_meant(place)).collect();
            elements::delete(&mut transaction, &present);
            Ok(Some((transaction, ())))
        })
    }

    /// Deletes the table, if there is one that belongs to the store, or only looks for it; says whether
    /// there was.
    ///
    /// # Errors
    /// [`Error::OtherInstance`], [`Error::NewerLayout`], [`Error::Refused`], [`Error::Unanswered`].
    pub fn remove_table(&mut self, dry_run: bool) -> Result<bool, Error> {
        self.attempt(Extent::Places(&[]), |nft, look, _| {
            look.permit(&nft.identity)?;
            let is_ours = matches!(look.table, Table::Ours(_));
            Ok(Some((look.removal(is_ours && !dry_run, "deleting the table"), is_ours)))
        })
    }

    /// Deletes the table if it was built in another boot; says whether it was. It needs no lock: one that
    /// is built meanwhile has another handle.
    ///
    /// # Errors
    /// As for [`Self::look`]; [`Error::Refused`], [`Error::Unanswered`].
    pub fn remove_of_another_boot(&mut self) -> Result<bool, Error> {
        self.attempt(Extent::Places(&[]), |nft, look, _| {
            let is_old =
                matches!(&look.table, Table::Ours(found) if nft.identity.is_of_another_boot(found));
            Ok(Some((look.removal(is_old, "deleting the table of an earlier boot"), is_old)))
        })
    }

    /// Builds the table again from `everything`, whatever is there but for what is spared, and whichever
    /// store it belongs to.
    ///
    /// # Errors
    /// [`Error::NewerLayout`], [`Error::Refused`], [`Error::Unanswered`].
    pub fn adopt(&mut self, everything: &Ruleset) -> Result<Applied, Error> {
        let whole = self.with_spared(Cow::Borrowed(everything))?;
        let mut applied: Applied = self.attempt(Extent::Places(&[]), |nft, look, _| {
            let reason = match look.permit(&nft.identity) {
                Err(Error::OtherInstance { .. }) => "it belonged to another store",
                Ok(()) => "it was replaced meanwhile",
                Err(error) => return Err(error),
            };
            Ok(Some(nft.rebuild(look, &whole, reason.to_owned())))
        })?;
        applied.offload(self.offload_exactly(&everything.offload));
        Ok(applied)
    }

    /// The transaction that replaces whatever there is by `whole`, for this `reason`, and what it comes to:
    /// nothing where nothing is made of nothing.
    fn rebuild(&self, look: &Look, whole: &Ruleset, reason: String) -> (Transaction, Applied) {
        let mut transaction = Transaction::begin();
        if look.table == Table::Absent && whole.elements.is_empty() {
            return (transaction, Applied::default());
        }
        let mut encoder = Encoder::new();
        if look.table != Table::Absent {
            // What is added first is deleted whether it was there or not, so that the transaction does
            // not depend on what others do after the look.
            let table = encoder.table(MsgType::Add);
            transaction.append(table, CREATE, "finding the table".to_owned());
            transaction.append(encoder.table(MsgType::Del), 0, "deleting the table".to_owned());
        }
        let table = encoder.table(MsgType::Add);
        transaction.append(table, CREATE | EXCL, "adding the table".to_owned());
        put_comment(transaction.last(), uapi::NFTA_TABLE_USERDATA, &self.identity.to_string());
        add_sets(&mut transaction, &mut encoder, whole.sets());
        add_chains(&mut transaction, &mut encoder, &whole.chains());
        let all: Vec<&Element> = whole.elements.values().collect();
        elements::add(&mut transaction, &all, false);
        let restored = whole.traffic.clone();
        (transaction, Applied { rebuilt: Some(reason), restored, ..Applied::default() })
    }

    /// Looks, then sends what `propose` makes of it, until the kernel takes it or there is no
    /// reason to believe that another look would help. Where `propose` makes nothing of it yet, it
    /// is asked again after a while.
    fn attempt<T, E: From<Error>>(
        &mut self,
        extent: Extent<'_>,
        mut propose: impl FnMut(&mut Self, &Look, Tries) -> Result<Option<(Transaction, T)>, E>,
    ) -> Result<T, E> {
        let mut tries = Tries::default();
        loop {
            let look = self.look(extent)?;
            let Some((transaction, done)) = propose(self, &look, tries)? else {
                tries.waits += 1;
                thread::sleep(TICK);
                continue;
            };
            tries.refusals += 1;
            match self.socket.commit(transaction) {
                Err(Error::Refused { source, .. })
                    if tries.refusals < ATTEMPTS && is_passing(&source) => {}
                committed => return Ok(committed.map(|()| done)?),
            }
            thread::sleep(TICK);
        }
    }
}

/// The boot this is, which a table says in which it was built.
#[expect(clippy::disallowed_methods, reason = "the kernel says it, and this is its door")]
fn boot_id() -> Option<String> {
    let mut text = [0; 36];
    File::open("/proc/sys/kernel/random/boot_id").ok()?.read_exact(&mut text).ok()?;
    String::from_utf8(text.to_vec()).ok()
}

/// What has been tried already.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    refusals: u32,
    /// How often it was too early, a [`TICK`] each.
    waits: u32,
}

impl Tries {
    /// Why the table has to be built again although it looks sound: what is sent is refused every time.
    fn give_up(self) -> Option<String> {
        (self.refusals > 2).then(|| "something in it was missing".to_owned())
    }
}

/// What [`Nft::apply`] or [`Nft::reconcile`] did: what was wanted is in force.
#[derive(Debug, Default, Serialize)]
pub struct Applied {
    /// Why the whole table was built again, if it was.
    pub rebuilt: Option<String>,
    /// Otherwise, what was wrong with single elements, where all were looked at.
    pub mended: Vec<String>,
    /// And how many elements were added, one by one; what was replaced counts as removed, too.
    pub added: usize,
    /// And how many were removed.
    pub removed: usize,
    /// The host ports that were released and that certainly no client has connected to since they were mapped.
    #[serde(skip)]
    pub unused: Vec<HostPort>,
    /// The generation of the node's tables in which they were equal to the records, where all were looked at.
    #[serde(skip)]
    pub generation: Option<u32>,
    /// Why something that was released may still be there, if it may.
    #[serde(skip)]
    pub unfinished: Option<Error>,
    /// Why established connections may not be offloaded as recorded, if so.
    #[serde(skip)]
    pub not_offloaded: Option<Error>,
    /// What was not translated, or not rightly, until now: flows may have begun meanwhile.
    #[serde(skip)]
    pub restored: Vec<Traffic>,
}

impl Applied {
    /// The transaction that makes a difference, and what it comes to.
    fn of(difference: &Difference, look: &Look, is_new: bool) -> (Transaction, Self) {
        let removed = difference.deleted.len() + difference.expired.len();
        let added = difference.added.len();
        (make(difference, look, is_new), Self { added, removed, ..Self::default() })
    }

    /// Takes note of what came of the second table.
    fn offload(&mut self, offloaded: Result<u32, Error>) {
        match offloaded {
            Ok(0) => {}
            Ok(made) => {
                self.generation = self.generation.map(|last| last.wrapping_add(made));
                let what = "table inet autoport_offload was not as recorded";
                self.mended.extend(self.rebuilt.is_none().then(|| what.to_owned()));
            }
            Err(error) => self.not_offloaded = Some(error),
        }
    }

    /// What was wrong with single elements, in short.
    pub fn summary(&self) -> Option<String> {
        let (first, others) = self.mended.split_first()?;
        Some(match others.len() {
            0 => first.clone(),
            number => format!("{first}, and {number} more"),
        })
    }
}

/// Whether a refusal is likely to pass. Somebody else changed the tables after the look: an element,
/// a chain or the table came or went. Or the hash table of a set, into which thousands of elements
/// have just been put, is being enlarged (`EBUSY` of `rhashtable_insert_rehash`).
fn is_passing(refusal: &io::Error) -> bool {
    use libc::{EAGAIN, EBUSY, EEXIST, EINTR, ENOENT, ERESTART};
    [EEXIST, ENOENT, EBUSY, ERESTART, EAGAIN, EINTR].map(Some).contains(&refusal.raw_os_error())
}
