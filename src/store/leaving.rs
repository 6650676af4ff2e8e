//! Records whose elements have left the table, while connections may still go where those led.
//!
//! Such a record takes the place of its container's entry, `containers/<container ID>/<key>`, until the
//! connections have ended, which happens without the lock. A command that is killed before leaves it to
//! the next ADD or DEL of the container, GC or repair.
//!
//! One host port may be in it twice: a container that came back has another address.

use super::disk::parent;
use super::error::{Damage, Error};
use super::key::Key;
use super::lookup::{self, CONTAINERS};
use super::{Locked, Shared, Unlocked, record};
use crate::model::Record;

/// Where the record of a container stands while it is leaving, and where its entry leads.
fn place(record: &Record) -> Option<(String, String)> {
    let key = Key::of(&record.owner.holder);
    Some(lookup::of_container(record.owner.container_id()?, &key))
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
            // What cannot be listed keeps the others from nothing.
            all.extend(self.leaving_in(&format!("{CONTAINERS}/{name}")).unwrap_or_default());
        }
        Ok(all)
    }

    fn leaving_in(&self, directory: &str) -> Result<Vec<Record>, Error> {
        let keys = self.disk.names(directory)?.into_iter().filter_map(|name| Key::of_name(&name));
        let at = |key| self.leaving_at(&format!("{directory}/{key}")).ok().flatten();
        Ok(keys.filter_map(at).collect())
    }

    /// An entry is a link, which is not followed.
    fn leaving_at(&self, place: &str) -> Result<Option<Record>, Damage> {
        let Some(bytes) = self.disk.read(place).map_err(Damage::of)? else { return Ok(None) };
        let record: Record = record::decode(&bytes)?;
        Ok((record.boot_id == self.instance.boot_id).then_some(record))
    }
}

impl Locked {
    /// Enters a record. Where its holder is still leaving, that serves as the entry of its container, and
    /// its connections are this command's to end.
    pub(super) fn enter(&self, record: &Record) -> Result<(), Error> {
        for (name, target) in lookup::entries(record) {
            if self.disk.link_new(&name, &target)? {
                continue;
            }
            match self.disk.entry(&name)? {
                Some(found) if found == target => {}
                Some(found) if found == name && self.note_leaving(&name) => {}
                // What is leaving may have left just now, without the lock.
                Some(_) | None => self.disk.link_over(&name, &target)?,
            }
        }
        Ok(())
    }

    /// Forgets a record whose connections are still to be ended: [`Unlocked::forget`] says
    /// that they are. Until then a DEL of its container finds it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn retire(&self, record: &Record) -> Result<(), Error> {
        let key = Key::of(&record.owner.holder);
        let Some((place, _)) = place(record) else { return self.remove(record) };
        let before = self.leaving_before(record)?;
        if before.is_none()
            && self.leaving.borrow().is_empty()
            && self.disk.rename(&key.path(), &place).is_ok()
        {
            return self.withdraw_entries(record, Some(&place));
        }
        // On a full disk nothing can be written, but everything given back.
        let kept = self.leave(record).is_ok().then_some(place);
        self.disk.remove(&key.path())?;
        self.withdraw_entries(record, kept.as_deref())
    }

    /// Notes that connections through mappings of `gone`, whose holder may stay, are still to be ended: beside
    /// what was leaving before.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn leave(&self, gone: &Record) -> Result<(), Error> {
        let Some((place, _)) = place(gone) else { return Ok(()) };
        let mut gone = gone.clone();
        let earlier = self.leaving.borrow();
        let its = earlier.iter().filter(|earlier| earlier.owner.holder == gone.owner.holder);
        gone.mappings.extend(its.flat_map(|earlier| &earlier.mappings));
        gone.mappings.sort_unstable();
        gone.mappings.dedup();
        record::write(&self.disk, &place, &gone)
    }

    /// The place of `record` where something is leaving there already: that is noted.
    pub(super) fn leaving_before(&self, record: &Record) -> Result<Option<String>, Error> {
        let Some((place, _)) = place(record) else { return Ok(None) };
        let is_leaving = self.disk.target(&place)?.is_none() && self.note_leaving(&place);
        Ok(is_leaving.then_some(place))
    }

    /// Notes the record that is leaving at `place`, whose connections are then this command's to end; says
    /// whether what is there means something, if only to a later version or another time.
    pub(super) fn note_leaving(&self, place: &str) -> bool {
        match self.leaving_at(place) {
            Ok(found) => {
                let is_there = found.is_some();
                self.leaving.borrow_mut().extend(found);
                is_there
            }
            Err(damage) => !damage.is_discardable(),
        }
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
        let disk = &self.shared.disk;
        let Some((place, target)) = place(record) else { return Ok(()) };
        if disk.target(&place)?.is_none() {
            disk.remove(&place)?;
        }
        // The place comes first: a command that found it taken records its holder and then does the same.
        if disk.inode(&Key::of(&record.owner.holder).path())?.is_some() {
            // Not by renaming: the temporary name belongs to whoever has the lock.
            return disk.link_new(&place, &target).map(drop);
        }
        disk.remove_if_empty(parent(&place)).map(drop)
    }
}
