//! DEL and GC: kernel, then record. Neither fails because something is missing already.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use super::{everything, forget_flows, note, note_error};
use crate::cni::{Release, Sweep};
use crate::error::Error;
use crate::kernel::{self, Change, Nft, Stale};
use crate::model::{Attachment, Record};
use crate::netns;
use crate::ruleset::places_of;
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
            discard(&locked, &Key::of(&release.attachment), log)
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
        let own = std::slice::from_ref(&record.owner.attachment);
        withdraw(locked, &mut nft, &change, own, log)?;
        forget_flows(&mut nft, &owned, Stale::Target, log);
    }
    locked.remember(record, now)?;
    locked.remove(record)?;
    match &record.owner.pod {
        Some(pod) if !pod.uid.is_empty() && !record.grants.is_empty() => {
            Ok(locked.unpublish(&pod.uid, &record.owner.attachment)?)
        }
        Some(_) | None => Ok(()),
    }
}

/// Does the same for a record that cannot be read, as far as the index tells.
fn discard(locked: &Locked, key: &Key, log: &mut dyn Write) -> Result<(), Error> {
    let hosts = locked.entered(key)?;
    let change =
        Change { released: hosts.iter().flat_map(places_of).collect(), ..Change::default() };
    withdraw(locked, &mut Nft::open(&locked.instance().id)?, &change, &[], log)?;
    let aside = locked.discard(key)?;
    note(log, &format!("an unreadable record was removed; a copy is at {}", aside.display()));
    Ok(())
}

/// Makes the kernel forget what `change` releases, held by the attachments `without`.
fn withdraw(
    locked: &Locked,
    nft: &mut Nft,
    change: &Change,
    without: &[Attachment],
    log: &mut dyn Write,
) -> Result<(), Error> {
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
    let mut first_failure = Ok(());
    for read in locked.records()? {
        let removed = match read {
            Ok(record) if is_waste(sweep, &record) => {
                note(log, &format!("removing what {} held", record.owner));
                remove(&locked, &record, now, log)
            }
            Ok(_) => Ok(()),
            Err(unreadable) => match unreadable.key.attachment() {
                Some(attachment) if is_invalid(sweep, &attachment) => {
                    discard(&locked, &unreadable.key, log)
                }
                Some(_) | None => Ok(()),
            },
        };
        // The others are no better off for it.
        if let Err(error) = removed {
            note_error(log, "something is left", &error);
            first_failure = first_failure.and(Err(error));
        }
    }
    locked.tidy()?;
    first_failure.and(reconcile(&locked, log))
}

/// Finds elements that were lost, or that nobody recorded. Those of a record that cannot be read
/// stay, since its ports do.
fn reconcile(locked: &Locked, log: &mut dyn Write) -> Result<(), Error> {
    let mut spared = BTreeSet::new();
    for unreadable in locked.records()?.into_iter().filter_map(Result::err) {
        spared.extend(locked.entered(&unreadable.key)?.iter().flat_map(places_of));
    }
    let everything = everything::ruleset(locked, &[], None, log)?;
    let applied = Nft::open(&locked.instance().id)?.reconcile(&everything, &spared)?;
    super::report(applied, log).map_or(Ok(()), |error| Err(error.into()))
}

/// Whether the runtime said that it does not know the attachment.
fn is_invalid(sweep: &Sweep, attachment: &Attachment) -> bool {
    let valid = sweep.valid.as_ref();
    attachment.network() == sweep.network && valid.is_some_and(|valid| !valid.contains(attachment))
}

/// Without a list of valid attachments only evidence counts.
fn is_waste(sweep: &Sweep, record: &Record) -> bool {
    let attachment = &record.owner.attachment;
    match sweep.valid {
        Some(_) => is_invalid(sweep, attachment),
        None => {
            attachment.network() == sweep.network
                && record.owner.netns.as_ref().is_some_and(netns::is_gone)
        }
    }
}
