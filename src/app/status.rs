//! Whether an ADD could work now: for CNI's STATUS, and with what there is to see, for the operator.

use super::explain::NO_INSTANCE;
use super::list::{Listing, listing_of};
use crate::error::Error;
use crate::event::Log;
use crate::kernel::{self, Extent, Nft, Table};
use crate::store::{self, Store};

/// Succeeds when an ADD could: the store can be locked and is this node's, and `nf_tables` answers.
/// Nothing is made where nothing is yet.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn status(store: &Store, log: &mut dyn Log) -> Result<(), Error> {
    ask(store, log).map_err(|source| Error::Unavailable { source: Box::new(source) })
}

fn ask(store: &Store, log: &mut dyn Log) -> Result<(), Error> {
    store.is_writable()?;
    let found = match store.read(log) {
        Ok(found) => found,
        // Busy is not broken.
        Err(store::Error::LockTaken { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if let Some(shared) = &found {
        shared.belongs_here()?;
    }
    let instance = found.as_ref().map_or(NO_INSTANCE, |shared| &shared.instance().id);
    match Nft::open(instance)?.probe() {
        // The node's first command may have made both after the store was looked for.
        Err(kernel::Error::OtherInstance { .. })
            if found.is_none() && store.read(log)?.is_some() =>
        {
            ask(store, log)
        }
        probed => Ok(probed?),
    }
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
