//! What an ADD has to know of what is recorded.

use std::num::NonZeroU16;

use crate::error::Error;
use crate::model::{HostPort, Protocol, Record};
use crate::publication::Publication;
use crate::store::{Held, Key, Listing, Mark, Released, Releaser, Shared, Unreadable, Who};

/// The records: none where there is no store, or none that may be read by whoever only asks.
#[derive(Clone, Copy)]
pub(super) struct Past<'a>(pub(super) Option<&'a Shared>);

impl Past<'_> {
    pub(super) fn record(self, key: &Key) -> Result<Option<Record>, Unreadable> {
        self.0.map_or(Ok(None), |shared| shared.record(key))
    }

    pub(super) fn holders(self, wanted: &[HostPort]) -> Result<Vec<Held>, Error> {
        self.0.map_or(Ok(Vec::new()), |shared| Ok(shared.holders(wanted)?))
    }

    pub(super) fn entries_at(
        self,
        protocol: Protocol,
        port: NonZeroU16,
    ) -> Result<Vec<(HostPort, Key)>, Error> {
        self.0.map_or(Ok(Vec::new()), |shared| Ok(shared.entries_at(protocol, port)?))
    }

    pub(super) fn who(self, key: &Key) -> Option<Who> {
        self.0?.who(key)
    }

    pub(super) fn entered_at(self, protocol: Protocol, port: NonZeroU16) -> Result<bool, Error> {
        self.0.map_or(Ok(false), |shared| Ok(shared.entered_at(protocol, port)?))
    }

    pub(super) fn released_at(
        self,
        protocol: Protocol,
        port: NonZeroU16,
        now: u64,
    ) -> Result<Option<Mark>, Error> {
        self.0.map_or(Ok(None), |shared| Ok(shared.released_at(protocol, port, now)?))
    }

    /// Whether somebody else than `releaser` released the port lately.
    pub(super) fn is_released(
        self,
        protocol: Protocol,
        port: NonZeroU16,
        releaser: &Releaser,
        now: u64,
    ) -> Result<bool, Error> {
        let mark = self.released_at(protocol, port, now)?;
        Ok(mark.is_some_and(|mark| mark.by != *releaser))
    }

    /// The same of all ports of a protocol at once, and who is entered.
    pub(super) fn listing(
        self,
        protocol: Protocol,
        releaser: &Releaser,
        now: u64,
    ) -> Result<Option<Listing<'_>>, Error> {
        self.0.map(|shared| Ok(shared.listing(protocol, releaser, now)?)).transpose()
    }

    pub(super) fn released_to(self, releaser: &Releaser, now: u64) -> Option<Released> {
        self.0?.released_to(releaser, now)
    }

    pub(super) fn published(self, uid: &str) -> Option<Publication> {
        self.0?.published(uid)
    }

    pub(super) fn cursor(self, range: Option<&str>) -> Result<Option<NonZeroU16>, Error> {
        self.0.map_or(Ok(None), |shared| Ok(shared.cursor(range)?))
    }
}
