//! The kernel's side: our nftables table, read and changed over netlink.
//!
//! Two costs shape this module, both a grace period of the kernel's (about 8 ms): a transaction
//! that **fails**, and closing the socket after one that **deleted** something. So every change
//! looks first, which costs microseconds, and sends only what will succeed; `NLM_F_EXCL` guards
//! against what happened in between, and a refusal means to look again. And what has to go is given
//! a millisecond to live where the kernel can do that, and deleted where it cannot.

mod conntrack;
mod elements;
mod encode;
mod error;
mod listeners;
mod look;
mod lower;
mod message;
mod raise;
mod reconcile;
mod route;
mod socket;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::thread;
use std::time::Duration;

use nix::libc;

use nftnl::MsgType;

use elements::Seen;
use encode::Encoder;
use socket::{APPEND, CREATE, EXCL, Outcome, Socket, Transaction};

use crate::model::Protocol;
use crate::ruleset::{self, Chain, Data, Element, Identity, Key, Ruleset, Set};

pub use conntrack::Stale;
pub use error::Error;
pub use listeners::{Listener, Listeners, Process};
pub use look::{Look, Table};
pub use reconcile::Survey;
pub use route::{Loopback, allow_loopback, interface_towards, outward_addresses};

/// `NFPROTO_INET` of `linux/netfilter.h`.
const INET: u8 = 1;

/// How often a change is tried again when somebody else changed the tables meanwhile.
const ATTEMPTS: u32 = 16;

/// How often, and how far apart, something is looked at that goes by itself within a timer tick of
/// the kernel's: 1 to 10 ms.
const PATIENCE: u32 = 100;
const TICK: Duration = Duration::from_millis(1);

/// What has to become true of the table, for one command.
#[derive(Debug, Default)]
pub struct Change {
    /// The elements that must be there.
    pub wanted: BTreeMap<(Set, Key), Element>,
    /// The places that must be empty unless wanted: what is there is ours to replace.
    pub released: BTreeSet<(Set, Key)>,
    /// The chains that the wanted elements lead to.
    pub chains: Vec<Chain>,
}

impl Change {
    /// Whether the table need not be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.released.is_empty()
    }

    /// The places that have to become empty.
    fn vacated(&self) -> impl Iterator<Item = &(Set, Key)> {
        self.released.iter().filter(|place| !self.wanted.contains_key(place))
    }

    /// Whether a wanted place is still taken by what somebody released a moment ago.
    fn must_wait(&self, look: &Look) -> bool {
        let expiring = |place| look.elements.get(place).is_some_and(|seen: &Seen| seen.expiring);
        self.wanted.keys().any(expiring)
    }

    fn places(&self) -> Vec<(Set, Key)> {
        let mut places: Vec<_> = self.wanted.keys().chain(&self.released).copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// The table `inet autoport` of this network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    identity: Identity,
}

impl Nft {
    /// Opens the way to the kernel, for the store with this instance ID.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open(instance: &str) -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, identity: Identity::current(instance) })
    }

    /// Whether the table could be changed: what STATUS needs to know.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`], [`Error::OtherInstance`], [`Error::NewerLayout`].
    pub fn probe(&mut self) -> Result<(), Error> {
        self.look(&[])?.permit(&self.identity)
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
        let identity = self.identity.clone();
        let mut whole = None;
        let mut applied = self.attempt::<_, E>(&change.places(), |nft, look, tries| {
            let reason = match look.standing(&identity, &change.chains)? {
                look::Standing::Rebuild(reason) => reason,
                look::Standing::Intact { .. } if tries.refusals > 2 => {
                    "something in it was missing".to_owned()
                }
                look::Standing::Intact { .. }
                    if tries.waits < PATIENCE && change.must_wait(look) =>
                {
                    return Ok(None);
                }
                look::Standing::Intact { missing } => {
                    return Ok(Some(difference(change, look, &missing)?));
                }
            };
            if whole.is_none() {
                whole = Some(nft.with_spared(Cow::Owned(everything()?))?);
            }
            let transaction = whole.as_ref().and_then(|whole| rebuild(whole, look));
            Ok(Some(transaction.map_or((Transaction::begin(), Applied::default()), |built| {
                (built, Applied { rebuilt: Some(reason), ..Applied::default() })
            })))
        })?;
        if applied.rebuilt.is_none() {
            applied.unfinished = self.finish(change).err();
        }
        Ok(applied)
    }

    /// Sees to it that what was released is on its way out, and that nothing of it that carries UDP
    /// is there any more: a flow that began in the meantime would outlive it.
    fn finish(&mut self, change: &Change) -> Result<(), Error> {
        let mut places: Vec<_> = change.vacated().copied().collect();
        for _ in 0..PATIENCE {
            let mut left = BTreeMap::new();
            for volley in places.chunks(look::PER_VOLLEY) {
                self.look_at(volley, &mut left)?;
            }
            if left.values().any(|seen| !seen.expiring) {
                // A kernel before 6.12.
                break;
            }
            places = left.into_keys().filter(|(_, key)| key.protocol == Protocol::Udp).collect();
            if places.is_empty() {
                return Ok(());
            }
            thread::sleep(TICK);
        }
        self.withdraw(&places)
    }

    /// Deletes what is at `places`, whosever table it is.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unanswered`].
    pub fn withdraw(&mut self, places: &[(Set, Key)]) -> Result<(), Error> {
        self.attempt(places, |_, look, _| {
            let mut transaction = Transaction::begin();
            let present: Vec<_> = look.elements.keys().copied().collect();
            elements::delete(&mut transaction, &present);
            Ok(Some((transaction, ())))
        })
    }

    /// Builds the table again from `everything`, whatever is there but for what is spared.
    ///
    /// # Errors
    /// [`Error::OtherInstance`], [`Error::NewerLayout`], [`Error::Refused`],
    /// [`Error::Unanswered`].
    pub fn rebuild(&mut self, everything: &Ruleset) -> Result<(), Error> {
        let identity = self.identity.clone();
        let whole = self.with_spared(Cow::Borrowed(everything))?;
        self.attempt(&[], |_, look, _| {
            look.permit(&identity)?;
            Ok(Some((rebuild(&whole, look).unwrap_or_else(Transaction::begin), ())))
        })
    }

    /// Does the same even if the table belongs to another store.
    ///
    /// # Errors
    /// [`Error::NewerLayout`], [`Error::Refused`], [`Error::Unanswered`].
    pub fn adopt(&mut self, everything: &Ruleset) -> Result<(), Error> {
        let whole = self.with_spared(Cow::Borrowed(everything))?;
        self.attempt(&[], |_, look, _| match look.permit(&whole.identity) {
            Err(Error::OtherInstance { .. }) | Ok(()) => {
                Ok(Some((rebuild(&whole, look).unwrap_or_else(Transaction::begin), ())))
            }
            Err(error) => Err(error),
        })
    }

    /// Looks, then sends what `propose` makes of it, until the kernel takes it or there is no
    /// reason to believe that another look would help. Where `propose` makes nothing of it yet, it
    /// is asked again after a while.
    fn attempt<T, E: From<Error>>(
        &mut self,
        places: &[(Set, Key)],
        mut propose: impl FnMut(&mut Self, &Look, Tries) -> Result<Option<(Transaction, T)>, E>,
    ) -> Result<T, E> {
        let mut tries = Tries::default();
        loop {
            let look = self.look(places)?;
            let Some((transaction, done)) = propose(self, &look, tries)? else {
                tries.waits += 1;
                thread::sleep(TICK);
                continue;
            };
            match self.socket.commit(transaction)? {
                Outcome::Committed => return Ok(done),
                Outcome::Unanswered => return Err(Error::Unanswered.into()),
                Outcome::Refused { subject, errno } => {
                    tries.refusals += 1;
                    if tries.refusals == ATTEMPTS || !is_passing(errno) {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(Error::Refused { subject, source }.into());
                    }
                    thread::sleep(TICK);
                }
            }
        }
    }
}

/// What has been tried already.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    /// How often the kernel refused.
    refusals: u32,
    /// How often it was too early, a [`TICK`] each.
    waits: u32,
}

/// The transaction that brings the elements from what `look` saw to what `change` asks for.
fn difference(
    change: &Change,
    look: &Look,
    missing: &[Chain],
) -> Result<(Transaction, Applied), Error> {
    let (mut deleted, mut expired) = (Vec::new(), Vec::new());
    for place in &change.released {
        let Some(seen) = look.elements.get(place) else { continue };
        match (change.wanted.get(place), &seen.data) {
            (Some(wanted), _) if seen.is(wanted) => {}
            (None, Some(data)) if !seen.expiring => expired.push((*place, data)),
            (None, Some(_)) => {}
            (Some(_), _) | (None, None) => deleted.push(*place),
        }
    }
    let mut added = Vec::new();
    for (place, wanted) in &change.wanted {
        match look.elements.get(place) {
            None => added.push(wanted),
            Some(_) if deleted.binary_search(place).is_ok() => added.push(wanted),
            // A hairpin may serve an address that is given out again: it leads nowhere, so
            // nothing is overwritten.
            Some(Seen { data: Some(Data::None), .. }) => {}
            Some(_) if change.released.contains(place) => {}
            Some(seen) => return Err(unrecorded(wanted, seen)),
        }
    }
    let mut transaction = Transaction::begin();
    if !missing.is_empty() {
        let mut encoder = Encoder::new();
        add_chains(&mut transaction, &mut encoder, missing.iter());
        for chain in missing.iter().filter(|c| c.name.starts_with(ruleset::MASQUERADE_PREFIX)) {
            let postrouting = Chain {
                name: ruleset::POSTROUTING.to_owned(),
                base: None,
                rules: vec![ruleset::jump_to(chain)],
            };
            add_rules(&mut transaction, &mut encoder, &postrouting);
        }
    }
    elements::delete(&mut transaction, &deleted);
    elements::expire(&mut transaction, &expired);
    elements::add(&mut transaction, &added);
    let removed = deleted.len() + expired.len();
    Ok((transaction, Applied { added: added.len(), removed, ..Applied::default() }))
}

/// What [`Nft::apply`] or [`Nft::reconcile`] did: what was wanted is in force.
#[derive(Debug, Default)]
pub struct Applied {
    /// Why the whole table was built again, if it was.
    pub rebuilt: Option<String>,
    /// Otherwise, how many elements were added.
    pub added: usize,
    /// And how many were taken away; one that was replaced is in both.
    pub removed: usize,
    /// Why something that was released may still be there, if it may.
    pub unfinished: Option<Error>,
}

impl Applied {
    /// Whether the table was already as it should be.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.rebuilt.is_none() && self.added == 0 && self.removed == 0
    }
}

fn unrecorded(wanted: &Element, seen: &Seen) -> Error {
    let target = seen.data.as_ref().map_or("an unknown place".to_owned(), Data::to_string);
    Error::Unrecorded { host: wanted.host, target, set: wanted.set.name() }
}

/// Whether a refusal is likely to pass. Somebody else changed the tables after the look: an element,
/// a chain or the table came or went. Or the hash table of a set, into which thousands of elements
/// have just been put, is being enlarged (`EBUSY` of `rhashtable_insert_rehash`).
const fn is_passing(errno: i32) -> bool {
    matches!(
        errno,
        libc::EEXIST | libc::ENOENT | libc::EBUSY | libc::ERESTART | libc::EAGAIN | libc::EINTR
    )
}

/// The transaction that replaces whatever there is by `ruleset`. Nothing is made of nothing.
fn rebuild(ruleset: &Ruleset, look: &Look) -> Option<Transaction> {
    let mut transaction = Transaction::begin();
    if look.table == Table::Absent && ruleset.elements.is_empty() {
        return None;
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
    look::put_table_comment(transaction.last(), &ruleset.identity.to_string());
    for (set, id) in Set::all().zip(1..) {
        transaction.append(encoder.set(set, id), CREATE, format!("adding set {set}"));
    }
    add_chains(&mut transaction, &mut encoder, ruleset.chains());
    let all: Vec<&Element> = ruleset.elements.values().collect();
    elements::add(&mut transaction, &all);
    Some(transaction)
}

fn add_chains<'a>(
    transaction: &mut Transaction,
    encoder: &mut Encoder,
    chains: impl Iterator<Item = &'a Chain> + Clone,
) {
    for chain in chains.clone() {
        let subject = format!("adding chain {}", chain.name);
        transaction.append(encoder.chain(chain), CREATE, subject);
    }
    for chain in chains {
        add_rules(transaction, encoder, chain);
    }
}

fn add_rules(transaction: &mut Transaction, encoder: &mut Encoder, chain: &Chain) {
    for rule in &chain.rules {
        let subject = format!("adding rule \"{rule}\" to chain {}", chain.name);
        transaction.append(encoder.rule(chain, rule), CREATE | APPEND, subject);
    }
}
