//! What a change would do, for whoever only asks.

use std::borrow::Cow;

use super::change::Difference;
use super::look::Standing;
use super::{Change, Error, Extent, Nft, Table};
use crate::ruleset::{Ruleset, Script};

impl Nft {
    /// What [`Self::apply`] would do now. Nothing is changed.
    ///
    /// # Errors
    /// Those for which [`Self::apply`] refuses before it changes anything, and those of
    /// [`Self::look`].
    pub fn preview<E: From<Error>>(
        &mut self,
        change: &Change,
        everything: impl FnOnce() -> Result<Ruleset, E>,
    ) -> Result<Script, E> {
        let look = self.look(Extent::Places(&change.places()))?;
        match look.standing(&self.identity, &change.chains)? {
            Standing::Intact { missing } => {
                let difference = Difference::new(change, &look, &missing)?;
                Ok(Script::Difference(difference.script()))
            }
            Standing::Rebuild(_) => {
                let mut table = self.with_spared(Cow::Owned(everything()?))?.into_owned();
                table.identity = self.identity.clone();
                Ok(Script::Whole { table, replaces: look.table != Table::Absent })
            }
        }
    }
}
