//! Whether an ADD could work now: for CNI's STATUS, and with what there is to see, for the operator.

use super::explain::NO_INSTANCE;
use super::list::{Listing, listing_of};
use crate::error::Error;
use crate::event::Log;
use crate::kernel::{Extent, Nft, Table};
use crate::store::{self, Store};

/// Succeeds when an ADD could: the store can be locked and is this node's, and `nf_tables` answers.
/// Nothing is made where nothing is yet.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn status(store: &Store, log: &mut dyn Log) -> Result<(), Error> {
    let mut usable = || {
        store.is_writable()?;
        let instance = match store.read(log) {
            Ok(None) => NO_INSTANCE.to_owned(),
            Ok(Some(shared)) => {
                shared.belongs_here()?;
                shared.instance().id.clone()
            }
            // Busy is not broken.
            Err(store::Error::LockTaken { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        Ok(Nft::open(&instance)?.probe()?)
    };
    usable().map_err(|source: Error| Error::Unavailable { source: Box::new(source) })
}

/// What `autoport status` finds.
#[derive(Debug)]
pub struct Overview {
    /// Why STATUS would fail.
    pub unavailable: Option<Error>,
    /// The table in the kernel; `None` where it could not be looked at.
    pub table: Option<Table>,
    /// Who holds what; `None` where nothing has been recorded, or nothing can be read.
    pub listing: Option<Listing>,
}

/// Asks what STATUS asks, and looks at who holds what and at the table.
pub fn overview(store: &Store, log: &mut dyn Log) -> Overview {
    let found = store.read(log).map_err(Error::from).and_then(|shared| {
        let Some(shared) = shared else { return Ok(None) };
        shared.belongs_here()?;
        listing_of(&shared).map(Some)
    });
    let (listing, unavailable) = match found {
        Ok(listing) => (listing, status(store, log).err()),
        // Busy is not broken.
        Err(Error::Store(store::Error::LockTaken { .. })) => (None, None),
        Err(source) => (None, Some(Error::Unavailable { source: Box::new(source) })),
    };
    let instance = listing.as_ref().map_or(NO_INSTANCE, |listing| &listing.instance);
    let look = Nft::open(instance).and_then(|mut nft| nft.look(Extent::Places(&[])));
    Overview { unavailable, table: look.ok().map(|look| look.table), listing }
}
