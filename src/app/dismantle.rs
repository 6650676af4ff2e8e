//! `autoport uninstall`: taking back what ADD did to the node besides its own pod, once no pod is left.

use serde::{Serialize, Serializer};

use super::split;
use crate::error::Error;
use crate::event::Log;
use crate::kernel::{self, Nft};
use crate::model::Owner;
use crate::netns::Fate;
use crate::store::{Locked, Shared, Store};

/// What is still mapped, or what was taken back.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dismantled {
    /// Who still has host ports; nothing is taken back before they are gone.
    #[serde(serialize_with = "in_full")]
    pub holders: Vec<Owner>,
    /// How many more there are whose records cannot be read.
    pub unreadable: usize,
    /// Whether there was a table, which is gone, or would be.
    pub table_removed: bool,
    /// The interfaces on which `route_localnet` is 0 again, or would be.
    pub loopback: Vec<String>,
    /// Those on which it stays 1, since portmap maps ports by now.
    pub kept_loopback: Vec<String>,
}

impl Dismantled {
    /// Whether nobody has host ports any more.
    pub fn is_over(&self) -> bool {
        self.holders.is_empty() && self.unreadable == 0
    }

    fn of(shared: &Shared, dry_run: bool) -> Result<Self, Error> {
        let (mut records, unreadable) = split(shared.records()?);
        // Without --dry-run, `collect` has removed these records before.
        records.retain(|record| !dry_run || Fate::of(&record.owner) != Fate::Gone);
        let holders = records.into_iter().map(|record| record.owner).collect();
        Ok(Self { holders, unreadable: unreadable.len(), ..Self::default() })
    }
}

/// Each by its name, with the whole ID of its container.
fn in_full<S: Serializer>(holders: &[Owner], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(holders.iter().map(|holder| format!("{holder:#}")))
}

/// Deletes the table and sets every `route_localnet` back, unless a pod still has host ports; with `dry_run`
/// only reports that. Holders that provably no longer exist have been collected before.
///
/// # Errors
/// When the store or the kernel refuses.
pub fn dismantle(store: &Store, dry_run: bool, log: &mut dyn Log) -> Result<Dismantled, Error> {
    let Some(shared) = store.read(log)? else { return Ok(Dismantled::default()) };
    let found = Dismantled::of(&shared, dry_run)?;
    // While pods have ports, `uninstall --stay` asks again and again, and shuts out no other reader.
    if dry_run || !found.is_over() {
        return take_back(found, &shared, None);
    }
    drop(shared);
    let locked = store.lock(log)?;
    let found = take_back(Dismantled::of(&locked, false)?, &locked, Some(&locked))?;
    if found.is_over() {
        locked.end()?;
    }
    Ok(found)
}

/// Does it where the store may be changed, and else only says what there is.
fn take_back(
    found: Dismantled,
    shared: &Shared,
    locked: Option<&Locked>,
) -> Result<Dismantled, Error> {
    if !found.is_over() {
        return Ok(found);
    }
    shared.belongs_here()?;
    let mut nft = Nft::open(&shared.instance().id)?;
    let switched_on = shared.loopback()?.into_iter().filter(|inlet| inlet.switched_on);
    let interfaces: Vec<_> = switched_on.map(|inlet| inlet.interface).collect();
    // Its pods would no longer be reached from 127.0.0.1, and it sets the sysctl itself.
    let is_portmaps = !nft.portmap()?.is_empty();
    if let Some(locked) = locked {
        // The chain `guard` goes last: without it they would be open to everybody.
        for interface in &interfaces {
            if !is_portmaps {
                kernel::refuse_loopback(interface)?;
            }
            locked.forget_loopback(interface)?;
        }
    }
    let (loopback, kept_loopback) =
        if is_portmaps { (Vec::new(), interfaces) } else { (interfaces, Vec::new()) };
    if locked.is_some() {
        nft.remove_offload()?;
    }
    let table_removed = nft.remove_table(locked.is_none())?;
    Ok(Dismantled { table_removed, loopback, kept_loopback, ..found })
}

#[cfg(test)]
mod tests;
