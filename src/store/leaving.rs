//! What has left the table while connections may still go where it led.
//!
//! A record that is leaving, or the mappings that one has given up, is a file
//! `containers/<container ID>/.<key>.<random>` until the connections have ended, which happens without the lock.
//! A command that is killed before leaves it to the next ADD or DEL of the container, GC or repair. Each has a
//! name of its own: a command that has ended its connections deletes that file, and nothing that another
//! command has left there since.

use super::disk::parent;
use super::error::{Damage, Error};
use super::key::Key;
use super::lookup::{self, CONTAINERS};
use super::{Locked, Shared, Unlocked, record};
use crate::model::Record;

/// Mappings that are no longer in the table, as those of a record.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Whose they were, with these mappings only.
    pub record: Record,
    /// Where that is noted; `None` where it could not be.
    place: Option<String>,
}

/// A place for something of `record` that is leaving; `None` where no container is known.
fn free_place(record: &Record) -> Option<String> {
    let (entry, _) =
        lookup::of_container(record.owner.container_id()?, &Key::of(&record.owner.holder));
    let (directory, key) = entry.rsplit_once('/')?;
    Some(format!("{directory}/.{key}.{:016x}", fastrand::u64(..)))
}

impl Shared {
    /// The mappings of this container whose connections are not ended yet.
    ///
    /// # Errors
    /// When the directory cannot be listed. What cannot be read is none.
    pub fn leaving(&self, container_id: &str) -> Result<Vec<Leaving>, Error> {
        self.leaving_in(&lookup::directory(CONTAINERS, container_id))
    }

    /// The same for all containers.
    ///
    /// # Errors
    /// As for [`Shared::leaving`].
    pub fn all_leaving(&self) -> Result<Vec<Leaving>, Error> {
        let mut all = Vec::new();
        for name in self.disk.names(CONTAINERS)? {
            // What cannot be listed keeps the others from nothing.
            all.extend(self.leaving_in(&format!("{CONTAINERS}/{name}")).unwrap_or_default());
        }
        Ok(all)
    }

    fn leaving_in(&self, directory: &str) -> Result<Vec<Leaving>, Error> {
        let names = self.disk.names(directory)?.into_iter().filter(|name| name.starts_with('.'));
        let places = names.map(|name| format!("{directory}/{name}"));
        Ok(places.filter_map(|place| self.leaving_at(place).ok().flatten()).collect())
    }

    fn leaving_at(&self, place: String) -> Result<Option<Leaving>, Damage> {
        let Some(bytes) = self.disk.read(&place).map_err(Damage::of)? else { return Ok(None) };
        let record: Record = record::decode(&bytes)?;
        let is_current = record.boot_id == self.instance.boot_id;
        Ok(is_current.then_some(Leaving { record, place: Some(place) }))
    }

    /// Whether what is at `place` is leaving, or may be to a later version.
    pub(super) fn may_be_leaving(&self, place: &str) -> bool {
        let is_hidden = place.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
        is_hidden
            && self
                .leaving_at(place.to_owned())
                .map_or_else(|damage| !damage.is_discardable(), |found| found.is_some())
    }
}

impl Locked {
    /// Forgets a record whose connections are still to be ended: [`Unlocked::forget`] says
    /// that they are. Until then a DEL of its container finds it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn retire(&self, record: &Record) -> Result<Leaving, Error> {
        let path = Key::of(&record.owner.holder).path();
        // Where it cannot be noted, everything is given back all the same.
        let place = free_place(record).filter(|place| self.disk.rename(&path, place).is_ok());
        if place.is_none() {
            self.disk.remove(&path)?;
        }
        self.withdraw_entries(record)?;
        Ok(Leaving { record: record.clone(), place })
    }

    /// Notes that connections through the mappings of `gone`, whose holder stays, are still to be ended.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn leave(&self, gone: Record) -> Result<Leaving, Error> {
        let place = free_place(&gone);
        place.iter().try_for_each(|place| record::write(&self.disk, place, &gone))?;
        Ok(Leaving { record: gone, place })
    }
}

impl Unlocked {
    /// Forgets what was leaving, whose connections have ended.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget(&self, leaving: &Leaving) -> Result<(), Error> {
        let Some(place) = &leaving.place else { return Ok(()) };
        let disk = &self.shared.disk;
        disk.remove(place)?;
        disk.remove_if_empty(parent(place)).map(drop)
    }
}
