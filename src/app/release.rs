//! Giving host ports back: kernel, then record. Nothing fails because something is missing already.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use super::phases::{self, UnderLock};
use super::{end_flows, failed, table, tolerate};
use crate::error::Error;
use crate::event::{Event, Log, Then, Undone};
use crate::kernel::{self, Change, Extent, Leftover, Nft, Redirected};
use crate::model::{Attachment, Holder, HostPort, Mapping, Record};
use crate::ruleset::{Data, Offload, Traffic, hairpin_of, host_at, places_of};
use crate::store::{self, Key, Locked, Presence, Store, Unreadable};

/// Takes the lock of a store that exists and concerns this node; `None` where it cannot be used. That
/// something is held and cannot be reached just now is a failure: the runtime asks again.
pub(super) fn lock(store: &Store, log: &mut dyn Log) -> Result<Option<Locked>, Error> {
    let usable = store.lock(log).and_then(|locked| {
        locked.belongs_here()?;
        Ok(locked)
    });
    if_usable(usable, Undone::StoreUnusable, log)
}

/// Notes `what` where the store cannot be used; a store that is busy or fails is another matter.
pub(super) fn if_usable<T>(
    asked: Result<T, store::Error>,
    what: Undone,
    log: &mut dyn Log,
) -> Result<Option<T>, Error> {
    match asked {
        Ok(usable) => Ok(Some(usable)),
        Err(error @ (store::Error::LockTaken { .. } | store::Error::Io { .. })) => {
            Err(error.into())
        }
        Err(error) => {
            failed(log, what, error);
            Ok(None)
        }
    }
}

/// Gives back what `holder` holds: of an attachment, all that its container holds by that interface,
/// whatever the network is called by now. Where the store cannot be used, or has lost the record, what the
/// table has of it goes all the same: the pod's address is given to another pod next. `is_wanted` says
/// whether the caller may still decide that: it is asked under the lock, for which a release may have
/// waited long. Gives whether there was a record.
///
/// # Errors
/// When the lock stays taken, or the kernel refuses.
pub fn release(
    store: &Store,
    holder: &Holder,
    is_wanted: &dyn Fn() -> bool,
    now: u64,
    log: &mut dyn Log,
) -> Result<bool, Error> {
    let Holder::Attachment(attachment) = holder else {
        let Some(locked) = lock(store, log)? else { return Ok(false) };
        let released = phases::with(locked, None, now, log, |command| {
            let found = command.locked.record(&Key::of(holder)).transpose();
            let Some(found) = found.filter(|_| is_wanted()) else { return Ok(false) };
            remove_or_discard(command, found).map(|()| true)
        });
        return released.done;
    };
    match store.look_for(attachment.container_id()) {
        // The DEL of a pod without ports ends here.
        Ok(Presence::Absent) => return Ok(false),
        Ok(Presence::NoStore) => return withdraw_by_name(attachment, log).map(|()| false),
        Ok(Presence::Recorded) | Err(_) => {}
    }
    let Some(locked) = lock(store, log)? else {
        return withdraw_by_name(attachment, log).map(|()| false);
    };
    let released = phases::with(locked, None, now, log, |command| {
        if is_wanted() { release_attachment(command, attachment) } else { Ok(false) }
    });
    released.done
}

fn release_attachment(command: &mut UnderLock<'_>, attachment: &Attachment) -> Result<bool, Error> {
    let own = Key::of_attachment(attachment);
    command.finish(|locked| locked.leaving(attachment.container_id()));
    if let Some(found) = command.locked.record(&own).transpose() {
        return remove_or_discard(command, found).map(|()| true);
    }
    let is_its = |read: &Result<Record, Unreadable>| match read {
        Ok(record) => {
            record.owner.attachment().is_some_and(|it| it.ifname() == attachment.ifname())
        }
        Err(unreadable) => {
            let named = unreadable.key.attachment();
            unreadable.key == own || named.is_some_and(|it| it.ifname() == attachment.ifname())
        }
    };
    let mut found = command.locked.records_of_container(attachment.container_id())?;
    found.retain(is_its);
    if found.is_empty() {
        command.withdraw_by_name(attachment)?;
        return Ok(false);
    }
    found.into_iter().try_for_each(|found| remove_or_discard(command, found))?;
    Ok(true)
}

/// Deletes what portmap has of an attachment that has no record: it was there before autoport, and the
/// runtime sends the DEL to the plugin that is in the list now. Nothing fails for it.
pub(super) fn delete_portmaps(attachment: &Attachment, log: &mut dyn Log) {
    let leftover = Leftover::of(attachment.network(), attachment.container_id());
    match leftover.delete() {
        Ok(deleted) if !deleted.is_empty() => {
            log.note(Event::PortmapDeleted { attachment: attachment.clone(), deleted });
        }
        Ok(_) if kernel::has_legacy_nat() => {
            let chain = leftover.chain().to_owned();
            log.note(Event::LegacyUnseen { attachment: attachment.clone(), chain });
        }
        Ok(_) => {}
        Err(error) => failed(log, Undone::PortmapLeft, error),
    }
}

fn remove_or_discard(
    command: &mut UnderLock<'_>,
    found: Result<Record, Unreadable>,
) -> Result<(), Error> {
    match found {
        Ok(record) => remove(command, &record),
        Err(unreadable) => discard(command, unreadable),
    }
}

/// Removes the elements that carry the names of the container and its interface, and ends their flows.
fn withdraw_by_name(attachment: &Attachment, log: &mut dyn Log) -> Result<(), Error> {
    let mut nft = Nft::open("")?;
    let mappings = phases::withdraw_by_name(&mut nft, attachment, log)?;
    let gone = vec![Traffic { mappings, ..Traffic::default() }];
    end_flows(&mut nft, &Redirected { gone, ..Redirected::default() }, log);
    Ok(())
}

/// Takes a record's elements out of the kernel, then the record out of the store.
/// Its ports are remembered for a while.
pub(super) fn remove(command: &mut UnderLock<'_>, record: &Record) -> Result<(), Error> {
    let locked = command.locked;
    let mut used = locked.owned(record)?;
    let change = Change { released: table::places(locked, record, &used)?, ..Change::default() };
    if !change.is_empty() {
        let unused = withdraw(command, &change, &Key::of(&record.owner.holder))?;
        used.retain(|mapping| mapping.target.is_some() && !unused.contains(&mapping.host));
        command.unoffload(&Offload::of(record));
    }
    // On a full disk nothing can be remembered, but everything given back.
    tolerate(locked.remember(record, command.now), Undone::NotRemembered, command.log);
    if change.is_empty() || used.is_empty() {
        return Ok(locked.remove(record)?);
    }
    command.end_flows(Traffic::of(record, used));
    command.retire(record)
}

/// Does the same for a record that cannot be read, as far as the index tells.
pub(super) fn discard(command: &mut UnderLock<'_>, unreadable: Unreadable) -> Result<(), Error> {
    let (locked, key) = (command.locked, &unreadable.key);
    let mut released: BTreeSet<_> = locked.entered(key)?.iter().flat_map(places_of).collect();
    let places: Vec<_> = released.iter().copied().collect();
    let mut gone = Traffic::default();
    // Where it leads only the kernel knows.
    for (place, seen) in command.nft()?.look(Extent::Places(&places))?.elements {
        if let (Some(host), Some(Data::Target(target))) = (host_at(&place), seen.data) {
            released.insert(hairpin_of(&host, target));
            let container_port = NonZeroU16::new(target.port()).unwrap_or(host.port);
            gone.mappings.push(Mapping { host, container_port, target: Some(target) });
        }
    }
    withdraw(command, &Change { released, ..Change::default() }, key)?;
    command.end_flows(gone);
    let then = Then::Removed(locked.discard(key)?.to_string());
    command.log.note(unreadable.event(then));
    Ok(())
}

/// Makes the kernel forget what `change` releases, which `holder` had. Gives what certainly no client has
/// used.
fn withdraw(
    command: &mut UnderLock<'_>,
    change: &Change,
    holder: &Key,
) -> Result<Vec<HostPort>, Error> {
    match command.apply(change, std::slice::from_ref(holder), None) {
        Ok(finished) => return finished,
        Err(Error::Kernel(error @ kernel::Error::OtherInstance { .. })) => {
            failed(command.log, Undone::OtherTable, error);
            if let Some(attachment) = holder.attachment() {
                command.withdraw_by_name(&attachment)?;
            }
        }
        Err(Error::Kernel(kernel::Error::NewerLayout { .. })) => {
            let places: Vec<_> = change.released.iter().copied().collect();
            command.nft()?.withdraw(&places)?;
        }
        Err(error) => return Err(error),
    }
    Ok(Vec::new())
}
