//! What an ADD has to know of what is recorded.

use crate::error::Error;
use crate::model::{HostPort, Record};
use crate::store::{Held, Key, Shared, Unreadable};

/// The records: none where there is no store, or none that a command may read that only asks.
#[derive(Clone, Copy)]
pub(super) struct Past<'a>(pub(super) Option<&'a Shared>);

impl Past<'_> {
    pub(super) fn record(self, key: &Key) -> Result<Option<Record>, Unreadable> {
        self.0.map_or(Ok(None), |shared| shared.record(key))
    }

    pub(super) fn holders(self, wanted: &[HostPort]) -> Result<Vec<Held>, Error> {
        self.0.map_or(Ok(Vec::new()), |shared| Ok(shared.holders(wanted)?))
    }
}
