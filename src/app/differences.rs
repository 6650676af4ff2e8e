//! The store and the kernel side by side, without a change to either: what `repair` would find.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{split, table};
use crate::error::Error;
use crate::event::{Log, Silent};
use crate::kernel::{self, Nft};
use crate::model::Record;
use crate::ruleset::Offload;
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
    /// What is offloaded; `None` where no record asks for it.
    pub offload: Option<Offloaded>,
}

/// Which established connections bypass the node's forwarding.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offloaded {
    /// The interfaces that the operator named.
    pub uplinks: Vec<String>,
    /// Those of them that do not exist.
    pub missing: Vec<String>,
    /// The interfaces between which.
    pub interfaces: Vec<String>,
    /// How many attachments ask for it and have no interface on the node to themselves.
    pub excluded: usize,
    /// How many connections there are now.
    pub connections: usize,
    /// Why it is not as recorded, if it is not.
    pub differences: Vec<String>,
}

impl Offloaded {
    fn of(records: &[Record], wanted: &Offload) -> Option<Self> {
        let named: Vec<_> = records.iter().filter_map(|record| record.offload.as_ref()).collect();
        if named.is_empty() {
            return None;
        }
        let uplinks: BTreeSet<&String> = named.iter().flat_map(|named| &named.uplinks).collect();
        let uplinks: Vec<String> = uplinks.into_iter().cloned().collect();
        let excluded = named.iter().filter(|named| named.interfaces.is_empty()).count();
        let mut found = Self { uplinks, excluded, ..Self::default() };
        if let Err(error) = found.look(wanted) {
            found.differences.push(Error::from(error).in_one_line());
        }
        Some(found)
    }

    fn look(&mut self, wanted: &Offload) -> Result<(), kernel::Error> {
        let mut nft = Nft::open("")?;
        let seen = nft.offloading()?;
        self.missing = self.uplinks.iter().filter(|one| !kernel::exists(one)).cloned().collect();
        self.differences = seen.differences(wanted);
        // What is missing altogether, the kernel may not have.
        if seen.devices.is_empty()
            && !wanted.is_empty()
            && let Ok(Err(refusal)) = kernel::offload_trial()
        {
            self.differences.push(Error::from(refusal).in_one_line());
        }
        self.interfaces = seen.devices.into_iter().filter(|one| kernel::exists(one)).collect();
        self.connections = nft.count_offloaded(wanted)?;
        Ok(())
    }
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
    let offload = Offloaded::of(&records, &everything.offload);
    Ok(Some(Examined { instance, records, unreadable, differences, offload }))
}
