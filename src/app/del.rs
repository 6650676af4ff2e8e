//! DEL and GC: kernel, then record. Neither fails because something is missing already.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::time::Duration;

use super::collect::{Evidence, judge};
use super::{end_flows, everything, failed};
use crate::cni::{Release, Sweep};
use crate::error::Error;
use crate::event::{Event, Log, Then, Undone};
use crate::kernel::{self, Change, Nft, Redirected};
use crate::model::{Mapping, Record};
use crate::ruleset::{Data, Traffic, hairpin_of, host_at, places_of};
use crate::store::{self, Key, Locked, Store, Unreadable};

/// How long DEL and GC wait for the lock: their failure costs more than their delay, because a
/// failed DEL keeps the main plugin from giving back the pod's address.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes the lock of a store that exists and concerns this node; `None` where there is nothing to
/// do. That something is held and cannot be reached just now is a failure: the runtime asks again.
fn lock(store: &Store, log: &mut dyn Log) -> Result<Option<Locked>, Error> {
    let locked = match store.lock(PATIENCE, log) {
        Ok(locked) => locked,
        Err(error @ (store::Error::LockTaken { .. } | store::Error::Io { .. })) => {
            return Err(error.into());
        }
        Err(error) => {
            failed(log, Undone::NothingRemoved, error);
            return Ok(None);
        }
    };
    if let Err(error) = locked.belongs_here() {
        failed(log, Undone::NothingRemoved, error);
        return Ok(None);
    }
    Ok(Some(locked))
}

pub(super) fn del(release: &Release, now: u64, log: &mut dyn Log) -> Result<(), Error> {
    let store = super::store(&release.store);
    // The DEL of a pod without ports ends here.
    if !store.holds(&release.attachment).unwrap_or(true) {
        return Ok(());
    }
    let Some(locked) = lock(&store, log)? else { return Ok(()) };
    let released = match locked.load(&release.attachment) {
        Ok(Some(record)) => remove(&locked, &record, now, log),
        Ok(None) => Ok(()),
        Err(store::Error::Unreadable(unreadable)) => discard(&locked, unreadable, log),
        Err(error) => {
            failed(log, Undone::NothingRemoved, error);
            Ok(())
        }
    };
    super::publish_rest(locked.unlock(), log);
    released
}

/// Takes a record's elements out of the kernel, then the record out of the store.
/// Its ports are remembered for a while.
pub(super) fn remove(
    locked: &Locked,
    record: &Record,
    now: u64,
    log: &mut dyn Log,
) -> Result<(), Error> {
    let owned = locked.owned(record)?;
    let change = Change { released: super::places(locked, record, &owned)?, ..Change::default() };
    if !change.is_empty() {
        let mut nft = Nft::open(&locked.instance().id)?;
        let own = Key::of(&record.owner.holder);
        let new = withdraw(locked, &mut nft, &change, &own, log)?;
        let gone = vec![Traffic::of(record, owned)];
        end_flows(&mut nft, &Redirected { gone, new, ..Redirected::default() }, log);
    }
    // On a full disk nothing can be remembered, but everything given back.
    if let Err(error) = locked.remember(record, now) {
        failed(log, Undone::NotRemembered, error);
    }
    Ok(locked.remove(record)?)
}

/// Does the same for a record that cannot be read, as far as the index tells.
fn discard(locked: &Locked, unreadable: Unreadable, log: &mut dyn Log) -> Result<(), Error> {
    let key = &unreadable.key;
    let mut nft = Nft::open(&locked.instance().id)?;
    let mut released: BTreeSet<_> = locked.entered(key)?.iter().flat_map(places_of).collect();
    let places: Vec<_> = released.iter().copied().collect();
    let mut gone = Traffic::default();
    // Where it leads only the kernel knows.
    for (place, seen) in nft.look(kernel::Extent::Places(&places))?.elements {
        if let (Some(host), Some(Data::Target(target))) = (host_at(&place), seen.data) {
            released.insert(hairpin_of(&host, target));
            let container_port = NonZeroU16::new(target.port()).unwrap_or(host.port);
            gone.mappings.push(Mapping { host, container_port, target: Some(target) });
        }
    }
    let change = Change { released, ..Change::default() };
    let new = withdraw(locked, &mut nft, &change, key, log)?;
    end_flows(&mut nft, &Redirected { gone: vec![gone], new, ..Redirected::default() }, log);
    let then = Then::Removed(locked.discard(key)?.to_string());
    log.note(Event::Unreadable { path: unreadable.path, damage: unreadable.source.into(), then });
    Ok(())
}

/// Makes the kernel forget what `change` releases, which `holder` had; says what had to be restored.
fn withdraw(
    locked: &Locked,
    nft: &mut Nft,
    change: &Change,
    holder: &Key,
    log: &mut dyn Log,
) -> Result<Vec<Traffic>, Error> {
    let without = std::slice::from_ref(holder);
    match nft.apply(change, || everything::ruleset(locked, without, None, log)) {
        Ok(mut applied) => {
            let restored = std::mem::take(&mut applied.restored);
            super::report(applied, log).map_or(Ok(restored), |error| Err(error.into()))
        }
        Err(Error::Kernel(error @ kernel::Error::OtherInstance { .. })) => {
            failed(log, Undone::OnlyRecordRemoved, error);
            Ok(Vec::new())
        }
        Err(Error::Kernel(kernel::Error::NewerLayout { .. })) => {
            let places: Vec<_> = change.released.iter().copied().collect();
            nft.withdraw(&places)?;
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

pub(super) fn gc(sweep: &Sweep, now: u64, log: &mut dyn Log) -> Result<(), Error> {
    let store = super::store(&sweep.store);
    match store.read(PATIENCE, log) {
        Ok(None) => return Ok(()),
        Ok(Some(_)) => {}
        Err(error @ (store::Error::LockTaken { .. } | store::Error::Io { .. })) => {
            return Err(error.into());
        }
        Err(error) => {
            failed(log, Undone::NothingRemoved, error);
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
                log.note(Event::Collected(Box::new(record.owner.clone())));
                remove(&locked, &record, now, log)
            }
            Err(unreadable) if unreadable.is_discardable() && is_invalid(&unreadable.key) => {
                discard(&locked, unreadable, log)
            }
            Ok(_) | Err(_) => Ok(()),
        };
        // The others are no better off for it.
        if let Err(error) = removed {
            match first_failure {
                Ok(()) => first_failure = Err(error),
                Err(_) => failed(log, Undone::NotCollected, error),
            }
        }
    }
    if let Err(error) = locked.tidy() {
        failed(log, Undone::NotCollected, error);
    }
    let reconciled = reconcile(&locked, log);
    if let Err(error) = super::clear_published(locked, log) {
        failed(log, Undone::NotCollected, error);
    }
    first_failure.and(reconciled)
}

/// Finds what was lost of the table, and what nobody recorded.
fn reconcile(locked: &Locked, log: &mut dyn Log) -> Result<(), Error> {
    match everything::reconcile(locked, log) {
        Err(Error::Kernel(
            error @ (kernel::Error::OtherInstance { .. } | kernel::Error::NewerLayout { .. }),
        )) => {
            failed(log, Undone::TableLeft, error);
            Ok(())
        }
        reconciled => reconciled.map(drop),
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
