//! DEL and GC: kernel, then record. Neither fails because something is missing already.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use super::collect::{Evidence, judge};
use super::{everything, forget_flows, note, note_error};
use crate::cni::{Release, Sweep};
use crate::error::Error;
use crate::kernel::{self, Change, Nft, Stale};
use crate::model::Record;
use crate::ruleset::{Data, hairpin_of, host_at, places_of};
use crate::store::{self, Key, Locked, Store};

/// How long DEL and GC wait for the lock: their failure costs more than their delay, because a
/// failed DEL keeps the main plugin from giving back the pod's address.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes the lock of a store that exists and concerns this node; `None` where there is nothing to
/// do. That something is held and cannot be reached just now is a failure: the runtime asks again.
fn lock(store: &Store, log: &mut dyn Write) -> Result<Option<Locked>, Error> {
    let locked = match store.lock(PATIENCE, log) {
        Ok(locked) => locked,
        Err(error @ (store::Error::LockTaken { .. } | store::Error::Io { .. })) => {
            return Err(error.into());
        }
        Err(error) => {
            note_error(log, "nothing was removed, and what is held stays held", &error.into());
            return Ok(None);
        }
    };
    if let Err(error) = locked.belongs_here() {
        note_error(log, "nothing was removed", &error.into());
        return Ok(None);
    }
    Ok(Some(locked))
}

pub(super) fn del(release: &Release, now: u64, log: &mut dyn Write) -> Result<(), Error> {
    let store = super::store(&release.store);
    // The DEL of a pod without ports ends here.
    if !store.holds(&release.attachment).unwrap_or(true) {
        return Ok(());
    }
    let Some(locked) = lock(&store, log)? else { return Ok(()) };
    match locked.load(&release.attachment) {
        Ok(Some(record)) => remove(&locked, &record, now, log),
        Ok(None) => Ok(()),
        Err(store::Error::Unreadable(unreadable)) => {
            note(log, &unreadable.to_string());
            discard(&locked, &Key::of_attachment(&release.attachment), log)
        }
        Err(error) => {
            note_error(log, "nothing was removed", &error.into());
            Ok(())
        }
    }
}

/// Takes a record's elements out of the kernel, then the record out of the store.
/// Then what was published for it, and its ports are remembered for a while.
pub(super) fn remove(
    locked: &Locked,
    record: &Record,
    now: u64,
    log: &mut dyn Write,
) -> Result<(), Error> {
    let owned = locked.owned(record)?;
    let change = Change { released: super::places(locked, record, &owned)?, ..Change::default() };
    if !change.is_empty() {
        let mut nft = Nft::open(&locked.instance().id)?;
        let own = Key::of(&record.owner.holder);
        withdraw(locked, &mut nft, &change, &own, log)?;
        forget_flows(&mut nft, &owned, Stale::Target, log);
    }
    // On a full disk nothing can be remembered, but everything given back.
    if let Err(error) = locked.remember(record, now) {
        note_error(log, "what is released is not remembered", &error.into());
    }
    locked.remove(record)?;
    // A container may have made anything of its directory, and DEL must not fail for that either.
    if let (Some(uid), Some(attachment)) = (record.owner.uid(), record.owner.attachment())
        && !record.grants.is_empty()
        && let Err(error) = locked.unpublish(uid, attachment)
    {
        note_error(log, "what was published is left", &error.into());
    }
    Ok(())
}

/// Does the same for a record that cannot be read, as far as the index tells.
fn discard(locked: &Locked, key: &Key, log: &mut dyn Write) -> Result<(), Error> {
    let mut nft = Nft::open(&locked.instance().id)?;
    let mut released: BTreeSet<_> = locked.entered(key)?.iter().flat_map(places_of).collect();
    let places: Vec<_> = released.iter().copied().collect();
    // Where it leads only the kernel knows.
    for (place, seen) in nft.look(kernel::Extent::Places(&places))?.elements {
        if let (Some(host), Some(Data::Target(target))) = (host_at(&place), seen.data) {
            released.insert(hairpin_of(&host, target));
        }
    }
    let change = Change { released, ..Change::default() };
    withdraw(locked, &mut nft, &change, key, log)?;
    let aside = locked.discard(key)?;
    note(log, &format!("an unreadable record was removed; {aside}"));
    Ok(())
}

/// Makes the kernel forget what `change` releases, which `holder` had.
fn withdraw(
    locked: &Locked,
    nft: &mut Nft,
    change: &Change,
    holder: &Key,
    log: &mut dyn Write,
) -> Result<(), Error> {
    let without = std::slice::from_ref(holder);
    match nft.apply(change, || everything::ruleset(locked, without, None, log)) {
        Ok(applied) => super::report(applied, log).map_or(Ok(()), |error| Err(error.into())),
        Err(Error::Kernel(error @ kernel::Error::OtherInstance { .. })) => {
            note_error(log, "only the record was removed", &error.into());
            Ok(())
        }
        Err(Error::Kernel(kernel::Error::NewerLayout { .. })) => {
            let places: Vec<_> = change.released.iter().copied().collect();
            Ok(nft.withdraw(&places)?)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn gc(sweep: &Sweep, now: u64, log: &mut dyn Write) -> Result<(), Error> {
    let store = super::store(&sweep.store);
    match store.read(PATIENCE, log) {
        Ok(None) => return Ok(()),
        Ok(Some(_)) => {}
        Err(error @ (store::Error::LockTaken { .. } | store::Error::Io { .. })) => {
            return Err(error.into());
        }
        Err(error) => {
            note_error(log, "nothing was removed", &error.into());
            return Ok(());
        }
    }
    let Some(locked) = lock(&store, log)? else { return Ok(()) };
    let valid = sweep.valid.as_ref().map(|valid| valid.iter().map(Key::of_attachment).collect());
    let is_invalid = |key: &Key| is_invalid(&sweep.network, valid.as_ref(), key);
    let mut first_failure = Ok(());
    for read in locked.records()? {
        let removed = match read {
            Ok(record)
                if is_invalid(&Key::of(&record.owner.holder)) || is_waste(sweep, &record) =>
            {
                note(log, &format!("removing what {} held", record.owner));
                remove(&locked, &record, now, log)
            }
            Err(unreadable) if is_invalid(&unreadable.key) => {
                discard(&locked, &unreadable.key, log)
            }
            Ok(_) | Err(_) => Ok(()),
        };
        // The others are no better off for it.
        if let Err(error) = removed {
            note_error(log, "something is left", &error);
            first_failure = first_failure.and(Err(error));
        }
    }
    if let Err(error) = locked.tidy() {
        note_error(log, "something is left", &error.into());
    }
    first_failure.and(reconcile(&locked, log))
}

/// Finds what was lost of the table, and what nobody recorded.
fn reconcile(locked: &Locked, log: &mut dyn Write) -> Result<(), Error> {
    match everything::reconcile(locked, log) {
        Err(Error::Kernel(
            error @ (kernel::Error::OtherInstance { .. } | kernel::Error::NewerLayout { .. }),
        )) => {
            note_error(log, "the table was left alone", &error.into());
            Ok(())
        }
        reconciled => reconciled,
    }
}

/// Whether the runtime said that it does not know the attachment. Of a record that cannot be read there
/// is nothing but the key.
fn is_invalid(network: &str, valid: Option<&BTreeSet<Key>>, key: &Key) -> bool {
    key.is_of_network(network) && valid.is_some_and(|valid| !valid.contains(key))
}

/// Without a list of valid attachments only evidence counts.
fn is_waste(sweep: &Sweep, record: &Record) -> bool {
    sweep.valid.is_none()
        && record.owner.attachment().is_some_and(|own| own.network() == sweep.network)
        && judge(&record.owner) == Evidence::Stale
}
