//! `autoport repair`: the table as the records imply it, and a store without what cannot be read.

use serde::Serialize;

use super::phases::{self, Finished, UnderLock};
use super::{adopt, failed, reconcile, table};
use crate::error::Error;
use crate::event::{Log, Then, Undone};
use crate::kernel::{self, Applied, Nft, Survey};
use crate::store::{Store, Unreadable};

/// What `repair` does with a store of another network namespace, and with a table of another store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Leave it alone.
    Respect,
    /// Take it over: the operator knows that there is nobody else.
    Adopt,
}

/// What `repair` found and did.
#[derive(Debug, Default, Serialize)]
pub struct Repaired {
    /// How many attachments the table serves.
    pub attachments: usize,
    /// How many of their records were made again from the table.
    pub adopted: usize,
    /// The records that cannot be read here and now, but perhaps by a later version or another time.
    #[serde(skip)]
    pub left_alone: Vec<Unreadable>,
    /// What had to be changed in the table.
    #[serde(flatten)]
    pub applied: Applied,
}

/// Makes the kernel's table equal to the store at `store`, and clears the store of what means
/// nothing and of what cannot be read. Adopting, it first records what the table says of attachments
/// without record. `None` when there is neither a store nor, adopting, a table.
///
/// # Errors
/// When the store or the kernel refuses.
pub fn repair(
    store: &Store,
    ownership: Ownership,
    now: u64,
    log: &mut dyn Log,
) -> Result<Option<Repaired>, Error> {
    if store.read(log)?.is_none() {
        reconcile::delete_old_table(log)?;
        let is_lost = ownership == Ownership::Adopt && Nft::open("")?.survey()?.is_some();
        if !is_lost {
            return Ok(None);
        }
    }
    let mut locked = store.lock(log)?;
    match ownership {
        Ownership::Respect => locked.belongs_here()?,
        Ownership::Adopt => locked.adopt()?,
    }
    let mut nft = Nft::open(&locked.instance().id)?;
    // Before anything that was recorded is given up.
    let survey = match ownership {
        Ownership::Respect => nft.probe().map(|()| None)?,
        Ownership::Adopt => nft.survey()?,
    };
    let Finished { done, published } = phases::with(locked, Some(nft), now, log, |command| {
        mend(command, ownership, survey.as_ref())
    });
    let repaired = done?;
    published?;
    Ok(Some(repaired))
}

fn mend(
    command: &mut UnderLock<'_>,
    ownership: Ownership,
    survey: Option<&Survey>,
) -> Result<Repaired, Error> {
    command.finish_all();
    let locked = command.locked;
    let mut left_alone = Vec::new();
    for unreadable in locked.records()?.into_iter().filter_map(Result::err) {
        if !unreadable.is_discardable() {
            left_alone.push(unreadable);
            continue;
        }
        let then = Then::Removed(locked.discard(&unreadable.key)?.to_string());
        command.log.note(unreadable.event(then));
    }
    let adopted = survey.map_or(Ok(0), |survey| adopt::adopt(locked, survey, command.log))?;
    let everything = table::ruleset(locked, &[], None, command.log)?;
    let mut applied = match command.nft()?.reconcile(&everything) {
        Err(kernel::Error::OtherInstance { .. }) if ownership == Ownership::Adopt => {
            command.nft()?.adopt(&everything)?
        }
        reconciled => reconciled?,
    };
    if let Some(error) = applied.not_offloaded.take() {
        failed(command.log, Undone::NotOffloaded, error);
    }
    command.restored(&mut applied);
    locked.tidy()?;
    let attachments = locked.records()?.len() - left_alone.len();
    Ok(Repaired { attachments, adopted, left_alone, applied })
}
