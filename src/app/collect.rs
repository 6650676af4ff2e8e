//! `autoport gc`: taking away what provably nobody uses any more, in every network, when neither a DEL
//! nor the runtime's GC comes; and saying of each holder why it goes or stays.

use std::fmt;
use std::time::Duration;

use super::{del, everything};
use crate::error::Error;
use crate::event::Log;
use crate::model::{Owner, Record};
use crate::netns::{self, Fate};
use crate::store::{Store, Unreadable};

/// What is known of a holder's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It is there.
    Alive,
    /// It is provably no more: whoever asks for the ports gets them.
    Stale,
    /// It cannot be told, for this reason; that counts as alive.
    Unknown(&'static str),
}

impl fmt::Display for Evidence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => out.write_str("its network namespace is there"),
            Self::Stale => out.write_str("its network namespace is gone"),
            Self::Unknown(reason) => write!(out, "nobody knows whether it is gone: {reason}"),
        }
    }
}

/// What is known of a holder, seen from this process.
#[must_use]
pub fn judge(owner: &Owner) -> Evidence {
    match owner.netns.as_ref().map(netns::fate) {
        None => Evidence::Unknown("its network namespace was not recorded"),
        Some(Fate::Alive) => Evidence::Alive,
        Some(Fate::Gone) => Evidence::Stale,
        Some(Fate::Unknown(reason)) => Evidence::Unknown(reason),
    }
}

/// A holder, and what `autoport gc` made of it.
#[derive(Debug)]
pub enum Judged {
    /// It was removed, or would be.
    Removed(Record),
    /// It stays, by this evidence.
    Kept(Record, Evidence),
    /// It stays, since nothing is known of it.
    Unreadable(Unreadable),
    /// It should have been removed.
    Failed(Record, Error),
}

/// What `autoport gc` found and did.
#[derive(Debug)]
pub struct Collected {
    /// Each holder.
    pub judged: Vec<Judged>,
    /// Why something besides them was left undone.
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
    patience: Duration,
    dry_run: bool,
    now: u64,
    log: &mut dyn Log,
) -> Result<Option<Collected>, Error> {
    let Some(shared) = store.read(patience, log)? else { return Ok(None) };
    shared.belongs_here()?;
    if dry_run {
        let judged = shared.records()?.into_iter().map(|read| match read {
            Ok(record) => classify(record),
            Err(unreadable) => Judged::Unreadable(unreadable),
        });
        return Ok(Some(Collected { judged: judged.collect(), failure: None }));
    }
    drop(shared);
    let locked = store.lock(patience, log)?;
    locked.belongs_here()?;
    let mut judged = Vec::new();
    for read in locked.records()? {
        judged.push(match read.map(classify) {
            Ok(Judged::Removed(record)) => match del::remove(&locked, &record, now, log) {
                Ok(()) => Judged::Removed(record),
                Err(error) => Judged::Failed(record, error),
            },
            Ok(kept) => kept,
            Err(unreadable) => Judged::Unreadable(unreadable),
        });
    }
    let tidied = locked.tidy().map_err(Error::from);
    // The table is no better off for what is left of the store.
    let reconciled = everything::reconcile(&locked, log);
    let cleared = super::clear_published(locked, log);
    let failure = tidied.and(reconciled).and(cleared).err();
    Ok(Some(Collected { judged, failure }))
}

fn classify(record: Record) -> Judged {
    match judge(&record.owner) {
        Evidence::Stale => Judged::Removed(record),
        evidence @ (Evidence::Alive | Evidence::Unknown(_)) => Judged::Kept(record, evidence),
    }
}
