//! DEL and GC: kernel, then record. Neither fails because something is missing already.

use std::io::Write;
use std::time::Duration;

use super::{everything, forget_flows, note, note_error};
use crate::cni::{Release, Sweep};
use crate::error::Error;
use crate::kernel::{self, Applied, Change, Nft, Stale};
use crate::model::{Attachment, Record};
use crate::netns;
use crate::ruleset::places_of;
use crate::store::{self, Key, Locked, Store};

/// How long DEL and GC wait for the lock: their failure costs more than their delay, because a
/// failed DEL keeps the main plugin from giving back the pod's address.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes the lock of a store that exists and concerns this node; `None` where there is nothing to
/// do.
fn lock(store: &Store, log: &mut dyn Write) -> Result<Option<Locked>, Error> {
    let locked = match store.lock(PATIENCE, log) {
        Ok(locked) => locked,
        Err(error @ store::Error::LockTaken { .. }) => return Err(error.into()),
        Err(error) => {
            note_error(log, "there is nothing that could be removed", &error.into());
            return Ok(None);
        }
    };
    if let Err(error) = locked.belongs_here() {
        note_error(log, "nothing was removed", &error.into());
        return Ok(None);
    }
    Ok(Some(locked))
}

pub(super) fn del(release: &Release, log: &mut dyn Write) -> Result<(), Error> {
    let store = Store::at(&release.store.state_dir);
    // The DEL of a pod without ports ends here.
    if !store.holds(&release.attachment).unwrap_or(true) {
        return Ok(());
    }
    let Some(locked) = lock(&store, log)? else { return Ok(()) };
    match locked.load(&release.attachment) {
        Ok(Some(record)) => remove(&locked, &record, log),
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
fn remove(locked: &Locked, record: &Record, log: &mut dyn Write) -> Result<(), Error> {
    let owned = locked.owned(record)?;
    let change = Change { released: super::places(locked, record, &owned)?, ..Change::default() };
    if !change.is_empty() {
        let mut nft = Nft::open(&locked.instance().id)?;
        withdraw(locked, &mut nft, &change, &record.owner.attachment, log)?;
        forget_flows(&mut nft, &owned, Stale::Target, log);
    }
    Ok(locked.remove(record)?)
}

/// Does the same for a record that cannot be read, as far as the index tells.
fn discard(locked: &Locked, key: &Key, log: &mut dyn Write) -> Result<(), Error> {
    let hosts = locked.entered(key)?;
    let change =
        Change { released: hosts.iter().flat_map(places_of).collect(), ..Change::default() };
    let mut nft = Nft::open(&locked.instance().id)?;
    if let Some(attachment) = key.attachment() {
        withdraw(locked, &mut nft, &change, &attachment, log)?;
    }
    let aside = locked.discard(key)?;
    note(log, &format!("an unreadable record was removed; a copy is at {}", aside.display()));
    Ok(())
}

fn withdraw(
    locked: &Locked,
    nft: &mut Nft,
    change: &Change,
    attachment: &Attachment,
    log: &mut dyn Write,
) -> Result<(), Error> {
    let without = std::slice::from_ref(attachment);
    let applied = nft.apply(change, || everything::ruleset(locked, without, None, log));
    match applied {
        Ok(Applied::Rebuilt(reason)) => {
            note(log, &format!("built table inet autoport, because {reason}"));
            Ok(())
        }
        Ok(Applied::Changed) => Ok(()),
        Err(Error::Kernel(error @ kernel::Error::OtherInstance { .. })) => {
            note_error(log, "only the record was removed", &error.into());
            Ok(())
        }
        Err(Error::Kernel(kernel::Error::NewerLayout { .. })) => Ok(nft.withdraw(change)?),
        Err(error) => Err(error),
    }
}

pub(super) fn gc(sweep: &Sweep, log: &mut dyn Write) -> Result<(), Error> {
    let store = Store::at(&sweep.store.state_dir);
    if !matches!(store.read(PATIENCE, log), Ok(Some(_))) {
        return Ok(());
    }
    let Some(locked) = lock(&store, log)? else { return Ok(()) };
    let mut removed = Vec::new();
    for read in locked.records()? {
        match read {
            Ok(record) if is_waste(sweep, &record) => removed.push(record),
            Ok(_) => {}
            Err(unreadable) => {
                let attachment = unreadable.key.attachment();
                if attachment.is_some_and(|attachment| is_invalid(sweep, &attachment)) {
                    discard(&locked, &unreadable.key, log)?;
                }
            }
        }
    }
    let without: Vec<_> = removed.iter().map(|record| record.owner.attachment.clone()).collect();
    // The whole table is built again: an element that was lost, or that nobody recorded, is found
    // by nobody else.
    let mut nft = everything::rebuild(&locked, &without, log)?;
    for record in &removed {
        note(log, &format!("removed what {} held", record.owner));
        forget_flows(&mut nft, &record.mappings, Stale::Target, log);
        locked.remove(record)?;
    }
    Ok(locked.tidy()?)
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
