//! The table that the whole store implies, and making the kernel have it.

use std::io::Write;
use std::time::Duration;

use super::note;
use crate::error::Error;
use crate::kernel::Nft;
use crate::model::{Attachment, Record};
use crate::ruleset::{Identity, Ruleset};
use crate::store::{Key, Shared, Store};

/// The table for all records but those of `without`, and with `instead`.
///
/// A record that cannot be read contributes nothing, loudly; its ports stay held.
pub(super) fn ruleset(
    shared: &Shared,
    without: &[Attachment],
    instead: Option<&Record>,
    log: &mut dyn Write,
) -> Result<Ruleset, Error> {
    gather(shared, without, instead, log).map(|(ruleset, _)| ruleset)
}

/// The same, and the keys of the records that cannot be read.
pub(super) fn gather(
    shared: &Shared,
    without: &[Attachment],
    instead: Option<&Record>,
    log: &mut dyn Write,
) -> Result<(Ruleset, Vec<Key>), Error> {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for read in shared.records()? {
        match read {
            Ok(mut record) if !without.contains(&record.owner.attachment) => {
                record.mappings = shared.owned(&record)?;
                records.push(record);
            }
            Ok(_) => {}
            Err(error) => {
                note(log, &format!("left out of the table: {error}"));
                unreadable.push(error.key);
            }
        }
    }
    records.extend(instead.cloned());
    Ok((Ruleset::new(Identity::current(&shared.instance().id), &records), unreadable))
}

/// What `repair` does with a store or a table that belongs to somebody else: a store to another
/// network namespace, a table to another store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Leave it alone.
    Respect,
    /// Take it over: the operator knows that there is nobody else.
    Adopt,
}

/// Builds the kernel's table again from the store at `store` and clears the store of what means
/// nothing and of what cannot be read. Returns how many attachments it serves; `None` when there is
/// no store.
///
/// # Errors
/// When the store or the kernel refuses.
pub fn repair(
    store: &Store,
    patience: Duration,
    ownership: Ownership,
    log: &mut dyn Write,
) -> Result<Option<usize>, Error> {
    if store.read(patience, log)?.is_none() {
        return Ok(None);
    }
    let mut locked = store.lock(patience, log)?;
    match ownership {
        Ownership::Respect => locked.belongs_here()?,
        Ownership::Adopt => locked.adopt()?,
    }
    for unreadable in locked.records()?.into_iter().filter_map(Result::err) {
        let aside = locked.discard(&unreadable.key)?;
        note(log, &format!("{unreadable}; it was removed, a copy is at {}", aside.display()));
    }
    let everything = ruleset(&locked, &[], None, log)?;
    let mut nft = Nft::open(&locked.instance().id)?;
    match ownership {
        Ownership::Respect => nft.rebuild(&everything)?,
        Ownership::Adopt => nft.adopt(&everything)?,
    }
    locked.tidy()?;
    Ok(Some(locked.records()?.len()))
}
