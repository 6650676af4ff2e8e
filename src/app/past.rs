//! What an ADD has to know of what is recorded.

use std::num::NonZeroU16;

use crate::error::Error;
use crate::model::{Attachment, HostPort, Protocol, Record};
use crate::publication::Publication;
use crate::store::{self, Holder, Mark, Released, Releaser, Shared};

/// The records: none where there is no store, or none that may be read by whoever only asks.
#[derive(Clone, Copy)]
pub(super) struct Past<'a>(pub(super) Option<&'a Shared>);

impl Past<'_> {
    pub(super) fn load(self, attachment: &Attachment) -> Result<Option<Record>, store::Error> {
        self.0.map_or(Ok(None), |shared| shared.load(attachment))
    }

    pub(super) fn holders(self, wanted: &[HostPort]) -> Result<Vec<Holder>, Error> {
        self.0.map_or(Ok(Vec::new()), |shared| Ok(shared.holders(wanted)?))
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
