//! Making the kernel have the table that the records imply.

use super::{report, table};
use crate::error::Error;
use crate::event::{Event, Log};
use crate::kernel::Nft;
use crate::ruleset::Traffic;
use crate::store::Shared;

/// What was wrong with the table.
pub(super) struct Mended {
    /// Whether anything was.
    pub(super) anything: bool,
    /// What is translated only now; for [`super::end_flows`].
    pub(super) restored: Vec<Traffic>,
}

/// Makes the kernel's table the one that the store implies, and notes what that took: nothing is
/// written where they are equal.
///
/// # Errors
/// When the store or the kernel refuses, or something that was released may still be there.
pub(super) fn reconcile(
    shared: &Shared,
    nft: &mut Nft,
    log: &mut dyn Log,
) -> Result<Mended, Error> {
    let applied = nft.reconcile(&table::ruleset(shared, &[], None, log)?)?;
    let anything = applied.rebuilt.is_some() || !applied.mended.is_empty();
    Ok(Mended { anything, restored: report(applied, log)? })
}

/// Deletes a table of an earlier boot where no store exists yet: its elements lead to addresses that
/// belong to other pods by now.
pub(super) fn delete_old_table(log: &mut dyn Log) -> Result<(), Error> {
    if Nft::open("")?.remove_of_another_boot()? {
        log.note(Event::OldTableDeleted);
    }
    Ok(())
}
