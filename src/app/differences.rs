//! The store and the kernel side by side, without a change to either: what `repair` would find.

use super::{split, table};
use crate::error::Error;
use crate::event::{Log, Silent};
use crate::kernel::Nft;
use crate::model::Record;
use crate::store::{Store, Unreadable};

/// What is recorded, and how the kernel differs from it.
#[derive(Debug)]
pub struct Examined {
    /// The store's instance ID.
    pub instance: String,
    /// Each attachment's record, with those mappings that it still owns.
    pub records: Vec<Record>,
    /// The records that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// What differs in the kernel; or why that could not be seen.
    pub differences: Result<Vec<String>, Error>,
}

/// Reads all records and compares the table with them. `None` when nothing is recorded.
///
/// # Errors
/// When the store cannot be read, or belongs to another network namespace.
pub fn examine(store: &Store, log: &mut dyn Log) -> Result<Option<Examined>, Error> {
    let Some(shared) = store.read(log)? else { return Ok(None) };
    shared.belongs_here()?;
    let (records, unreadable) = split(shared.owned_records()?);
    let instance = shared.instance().id.clone();
    let everything = table::ruleset(&shared, &[], None, &mut Silent)?;
    let compare = || Ok(Nft::open(&instance)?.differences(&everything)?);
    let differences = compare();
    Ok(Some(Examined { instance, records, unreadable, differences }))
}
