//! Records whose elements have left the table, while connections may still go where those led.
//!
//! Such a record takes the place of its container's entry, `containers/<container ID>/<key>`, until the
//! connections have ended, which happens without the lock. A command that is killed before leaves it to
//! the next ADD or DEL of the container, GC or repair.
//!
//! One host port may be in it twice: a container that came back has another address.

use super::error::Error;
use super::key::Key;
use super::lookup::{self, CONTAINERS};
use super::{Locked, Shared, Unlocked, record};
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
        Ok(keys.filter_map(|key| self.leaving_at(&format!("{directory}/{key}"))).collect())
    }

    fn leaving_at(&self, place: &str) -> Option<Record> {
        let record: Record = record::decode(&self.disk.read(place).ok()??).ok()?;
        (record.boot_id == self.instance.boot_id).then_some(record)
    }
}

impl Locked {
    /// Remembers the record that is leaving at `place`, whose holder has come back: its connections are
    /// this command's to end.
    pub(super) fn note_leaving(&self, place: &str) {
        self.leaving.borrow_mut().extend(self.leaving_at(place));
    }

    /// The records that were found leaving where this command recorded something.
    pub fn found_leaving(&self) -> Vec<Record> {
        self.leaving.take()
    }
}

impl Unlocked {
    /// Forgets a record that was leaving. If its holder has come back since, its place becomes that one's
    /// entry.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget(&self, record: &Record) -> Result<(), Error> {
        let (disk, key) = (&self.shared.disk, Key::of(&record.owner.holder));
        let Some(place) = place(record) else { return Ok(()) };
        if !lookup::is_no_entry(disk, &place)? {
            return Ok(());
        }
        if disk.inode(&key.path())?.is_none() {
            return lookup::withdraw(disk, &place);
        }
        // Not by renaming: the temporary name belongs to whoever has the lock.
        disk.remove(&place)?;
        disk.link_new(&place, &format!("../../{}", key.path())).map(drop)
    }
}
