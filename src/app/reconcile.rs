//! Making the kernel have the table that the records imply.

use super::{report, table};
use crate::error::Error;
use crate::event::{Event, Log};
use crate::kernel::{Applied, Nft};
use crate::store::Shared;

/// Makes the kernel's table the one that the store implies, and notes what that took: nothing is
/// written where they are equal.
///
/// # Errors
/// When the store or the kernel refuses, or something that was released may still be there.
pub(super) fn reconcile(
    shared: &Shared,
    nft: &mut Nft,
    log: &mut dyn Log,
) -> Result<Applied, Error> {
    let mut applied = nft.reconcile(&table::ruleset(shared, &[], None, log)?)?;
    report(&mut applied, log)?;
    Ok(applied)
}

/// Deletes a table of an earlier boot where no store exists yet: its elements lead to addresses that
/// belong to other pods by now.
pub(super) fn delete_old_table(log: &mut dyn Log) -> Result<(), Error> {
    if Nft::open("")?.remove_of_another_boot()? {
        log.note(Event::OldTableDeleted);
    }
    Ok(())
}
