//! Records whose elements have left the table, while connections may still go where those led.
//!
//! Such a record takes the place of its container's entry, `containers/<container ID>/<key>`, until the
//! connections have ended, which happens without the lock. A command that is killed before leaves it to
//! the next DEL of the container, GC or repair.

use super::error::Error;
use super::key::Key;
use super::lookup::{self, CONTAINERS};
use super::{Shared, Unlocked, record};
use crate::model::Record;

/// Where the record of a container stands while it is leaving.
pub(super) fn place(record: &Record) -> Option<String> {
    let key = Key::of(&record.owner.holder);
    let container = record.owner.container_id()?;
    Some(format!("{}/{key}", lookup::directory(CONTAINERS, container)))
}

impl Shared {
    /// The records of this container that are leaving.
    ///
    /// # Errors
    /// When the directory cannot be listed. What cannot be read is none.
    pub fn leaving(&self, container_id: &str) -> Result<Vec<Record>, Error> {
        self.leaving_in(&lookup::directory(CONTAINERS, container_id))
    }

    /// The same of all containers.
    ///
    /// # Errors
    /// As for [`Shared::leaving`].
    pub fn all_leaving(&self) -> Result<Vec<Record>, Error> {
        let mut all = Vec::new();
        for name in self.disk.names(CONTAINERS)? {
            all.append(&mut self.leaving_in(&format!("{CONTAINERS}/{name}"))?);
        }
        Ok(all)
    }

    fn leaving_in(&self, directory: &str) -> Result<Vec<Record>, Error> {
        let keys = self.disk.names(directory)?.into_iter().filter_map(|name| Key::of_name(&name));
        // An entry is a link, which is not followed.
        let read = |key: Key| record::read_at(&self.disk, &key, &format!("{directory}/{key}"));
        let found = keys.filter_map(|key| read(key).ok().flatten());
        Ok(found.filter(|record| record.boot_id == self.instance.boot_id).collect())
    }
}

impl Unlocked {
    /// Forgets a record that was leaving, unless its holder has come back since.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget(&self, record: &Record) -> Result<(), Error> {
        let disk = &self.shared.disk;
        match place(record) {
            Some(place) if lookup::is_no_entry(disk, &place)? => lookup::withdraw(disk, &place),
            Some(_) | None => Ok(()),
        }
    }
}
