//! Taking away what nobody uses any more, when its DEL does not come: what the runtime does not list (CNI's
//! GC), and what provably is gone (`autoport gc`). Who goes is judged without the lock, and judged again
//! under it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::phases::{self, Finished, UnderLock};
use super::{failed, release, tolerate};
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::kernel;
use crate::model::{Attachment, HostPort, Record};
use crate::netns::Fate;
use crate::store::{Key, Store, Unreadable};

/// A runtime may have attached a container after it made its list: what is so young, in seconds, and alive
/// is left alone.
const YOUNG: u64 = 60;

/// A holder, and what `autoport gc` made of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Its name, with the whole ID of its container.
    pub name: String,
    /// The same with a short ID, for people.
    #[serde(skip)]
    pub short: String,
    /// How many host ports it has; `None` where its record cannot be read.
    pub host_ports: Option<usize>,
    /// Whether it was removed, or would be.
    pub removed: bool,
    /// The evidence that it no longer exists, or why it was kept.
    pub reason: String,
    /// Why it stays although it should have been removed.
    #[serde(skip)]
    pub failure: Option<Error>,
}

impl Judged {
    fn of(read: &Result<Record, Unreadable>) -> Self {
        match read {
            Ok(Record { owner, mappings, .. }) => {
                let fate = Fate::of(owner);
                Self {
                    name: format!("{owner:#}"),
                    short: owner.to_string(),
                    host_ports: Some(HostPort::count(mappings.iter().map(|one| &one.host))),
                    removed: fate == Fate::Gone,
                    reason: fate.to_string(),
                    failure: None,
                }
            }
            Err(unreadable) => Self {
                name: unreadable.key.to_string(),
                short: unreadable.key.to_string(),
                host_ports: None,
                removed: false,
                reason: unreadable.to_string(),
                failure: None,
            },
        }
    }
}

/// The result of `autoport gc`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Whether nothing was removed, because of `--dry-run`.
    pub dry_run: bool,
    /// How many of the holders were removed, or would be.
    pub removed: usize,
    /// How many of them were kept, or would be.
    pub kept: usize,
    /// Each holder.
    pub holders: Vec<Judged>,
    /// Why something besides them was left undone.
    #[serde(skip)]
    pub failure: Option<Error>,
}

/// Removes every attachment whose network namespace is provably gone, of whatever network, and then
/// makes the table equal to what is left; with `dry_run` only says what would go. `None` where
/// nothing is recorded.
///
/// # Errors
/// When the store or the kernel refuses; a single removal that fails is an item.
pub fn collect(
    store: &Store,
    dry_run: bool,
    now: u64,
    log: &mut dyn Log,
) -> Result<Option<Collected>, Error> {
    let Some(shared) = store.read(log)? else { return Ok(None) };
    shared.belongs_here()?;
    let found = shared.records()?;
    drop(shared);
    let mut holders: Vec<Judged> = found.iter().map(Judged::of).collect();
    let mut failure = None;
    if !dry_run {
        let locked = store.lock(log)?;
        let Finished { done, published } = phases::with(locked, None, now, log, |command| {
            command.locked.belongs_here()?;
            command.finish_all();
            for (one, read) in holders.iter_mut().zip(&found).filter(|(one, _)| one.removed) {
                one.failure = read.iter().find_map(|record| remove(command, record).err());
                if one.failure.is_some() {
                    one.removed = false;
                    "it could not be removed".clone_into(&mut one.reason);
                }
            }
            let tidied = command.locked.tidy().map_err(Error::from);
            // The table is no better off for what is left of the store.
            let reconciled = command.reconcile();
            Ok(tidied.and(reconciled).err())
        });
        failure = done?.or(published.err());
    }
    let removed = holders.iter().filter(|one| one.removed).count();
    let kept = holders.len() - removed;
    Ok(Some(Collected { dry_run, removed, kept, holders, failure }))
}

/// Gives back what no attachment of `network` in `valid` holds, and then makes the table equal to what is
/// left. Without a list only evidence counts.
///
/// # Errors
/// When the lock stays taken, or the kernel refuses.
pub fn gc(
    store: &Store,
    network: &str,
    valid: Option<&BTreeSet<Attachment>>,
    now: u64,
    log: &mut dyn Log,
) -> Result<(), Error> {
    let shared = store.read(log);
    let shared = release::if_usable(shared, Undone::NothingRemoved, log)?.flatten();
    let Some(found) = shared.map(|shared| shared.records()).transpose()? else { return Ok(()) };
    let valid: Option<BTreeSet<Key>> =
        valid.map(|valid| valid.iter().map(Key::of_attachment).collect());
    let goes = |read: &Result<Record, Unreadable>| match read {
        Ok(record) => {
            let key = Key::of(&record.owner.holder);
            key.is_of_network(network)
                && goes(record, valid.as_ref().map(|it| it.contains(&key)), now)
        }
        Err(Unreadable { key, .. }) => {
            key.is_of_network(network) && valid.as_ref().is_some_and(|valid| !valid.contains(key))
        }
    };
    let going: Vec<_> = found.into_iter().filter(goes).collect();
    let Some(locked) = release::lock(store, log)? else { return Ok(()) };
    let Finished { done, published } =
        phases::with(locked, None, now, log, |command| sweep(command, going));
    tolerate(published, Undone::NotCollected, log);
    done
}

/// Whether a record goes that the runtime lists or not, if it has a list.
fn goes(record: &Record, is_listed: Option<bool>, now: u64) -> bool {
    match (is_listed, Fate::of(&record.owner)) {
        (Some(true), _) | (None, Fate::Alive | Fate::Unknown(_)) => false,
        (Some(false), Fate::Alive) => record.created.abs_diff(now) >= YOUNG,
        (Some(false), Fate::Gone | Fate::Unknown(_)) | (None, Fate::Gone) => true,
    }
}

fn sweep(command: &mut UnderLock<'_>, going: Vec<Result<Record, Unreadable>>) -> Result<(), Error> {
    command.finish_all();
    let mut first_failure = Ok(());
    for read in going {
        let removed = match read {
            Ok(record) => {
                command.log.note(Event::Collected(Box::new(record.owner.clone())));
                remove(command, &record)
            }
            Err(Unreadable { key, .. }) => match command.locked.record(&key) {
                Err(unreadable) if unreadable.is_discardable() => {
                    release::discard(command, unreadable)
                }
                Ok(_) | Err(_) => Ok(()),
            },
        };
        // The others are no better off for it.
        match removed {
            removed if first_failure.is_ok() => first_failure = removed,
            removed => tolerate(removed, Undone::NotCollected, command.log),
        }
    }
    tolerate(command.locked.tidy(), Undone::NotCollected, command.log);
    let reconciled = match command.reconcile() {
        Err(Error::Kernel(
            error @ (kernel::Error::OtherInstance { .. } | kernel::Error::NewerLayout { .. }),
        )) => {
            failed(command.log, Undone::TableLeft, error);
            Ok(())
        }
        reconciled => reconciled,
    };
    first_failure.and(reconciled)
}

/// Removes what was judged to go, unless it was changed since.
fn remove(command: &mut UnderLock<'_>, record: &Record) -> Result<(), Error> {
    let found = command.locked.record(&Key::of(&record.owner.holder));
    if found.ok().flatten().as_ref() != Some(record) {
        return Ok(());
    }
    release::remove(command, record)
}
