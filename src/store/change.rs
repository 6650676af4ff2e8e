//! Changing what is recorded. Each change is a row of small steps, in an order in which every one may
//! be the last: `docs/store.md` has what a command that is killed after it leaves.

use std::collections::{BTreeMap, BTreeSet};

use super::disk;
use super::error::Error;
use super::instance::Instance;
use super::key::{Key, Kind};
use super::{Locked, index, lookup, record, reservation};
use crate::model::{HostPort, Record};

impl Locked {
    /// Records `record` in place of whatever its holder held before; its `boot_id` must be that of
    /// [`super::Shared::instance`].
    ///
    /// Entries come first, then the record, then the entries that are no longer needed go: an entry
    /// without a record is nothing, but a record without its entry would be a port that another
    /// claimant could take.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when the record before cannot be read ([`Locked::discard`] it first), or
    /// when a later version has entered one of the ports.
    pub fn save(&self, record: &Record) -> Result<(), Error> {
        debug_assert_eq!(record.boot_id, self.instance.boot_id, "it would be void");
        debug_assert!(record.mappings.is_sorted(), "they would not be found");
        let (disk, key) = (&self.disk, Key::of(&record.owner.holder));
        let before = self.record(&key)?;
        for mapping in &record.mappings {
            index::enter(disk, &mapping.host, &key)?;
        }
        for (name, target) in lookup::entries(record) {
            disk.link(&name, &target)?;
        }
        record::write(disk, &key.path(), record)?;
        if !record.grants.is_empty() {
            self.note_change(record);
        }
        before.map_or(Ok(()), |before| self.withdraw_all_but(record, &before))
    }

    /// Forgets `record`. Index entries that lead to another holder by now stay.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, record: &Record) -> Result<(), Error> {
        self.disk.remove(&Key::of(&record.owner.holder).path())?;
        self.withdraw_entries(record)
    }

    /// Takes out what is entered for a record that is no longer there.
    pub(super) fn withdraw_entries(&self, record: &Record) -> Result<(), Error> {
        self.note_change(record);
        let key = Key::of(&record.owner.holder);
        self.withdraw(&key, record.mappings.iter().map(|mapping| &mapping.host))?;
        lookup::entries(record).keys().try_for_each(|name| lookup::withdraw(&self.disk, name))
    }

    /// Remembers that the files of the pod of `record` are to be published again.
    fn note_change(&self, record: &Record) {
        self.changed.borrow_mut().extend(record.owner.uid().map(lookup::name));
    }

    /// Takes out what is entered for `before` and not for `record`, both of one holder.
    fn withdraw_all_but(&self, record: &Record, before: &Record) -> Result<(), Error> {
        let gone = before.mappings.iter().filter(|old| record.mapping_at(&old.host).is_none());
        self.withdraw(&Key::of(&record.owner.holder), gone.map(|mapping| &mapping.host))?;
        if !before.grants.is_empty() {
            self.note_change(before);
        }
        let entries = lookup::entries(record);
        let old = lookup::entries(before);
        let mut gone = old.keys().filter(|name| !entries.contains_key(*name));
        gone.try_for_each(|name| lookup::withdraw(&self.disk, name))
    }

    pub(super) fn withdraw<'a>(
        &self,
        key: &Key,
        hosts: impl Iterator<Item = &'a HostPort>,
    ) -> Result<(), Error> {
        let mut ports = BTreeSet::new();
        for host in hosts {
            match index::entered(&self.disk, host)? {
                Some(holder) if holder == *key => index::withdraw(&self.disk, host)?,
                Some(_) => continue,
                // A directory may have been made for it.
                None => {}
            }
            ports.insert((host.protocol, host.port));
        }
        ports
            .into_iter()
            .try_for_each(|(protocol, port)| index::abandon(&self.disk, protocol, port))
    }

    /// Records `before` again, or nothing, in place of `attempted`, which may have been saved in
    /// part.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn take_back(&self, attempted: &Record, before: Option<&Record>) -> Result<(), Error> {
        let Some(before) = before else { return self.remove(attempted) };
        self.save(before)?;
        self.withdraw_all_but(before, attempted)
    }

    /// Ends the store, if nothing is recorded any more: the next writer begins another. What helps to
    /// choose stays, and so does the directory. An agent that runs makes its files again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn end(self) -> Result<bool, Error> {
        let is_over =
            self.record_keys()?.is_empty() && self.disk.keys(Kind::Reservation)?.is_empty();
        if is_over {
            Instance::remove(&self.disk)?;
            let mut others = super::agent::FILES.iter().chain(&super::journal::FILES);
            others.try_for_each(|file| self.disk.remove_all(file))?;
        }
        Ok(is_over)
    }

    /// Makes the store that of the network namespace of this process. The caller has made sure that the
    /// namespace before no longer exists.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn adopt(&mut self) -> Result<(), Error> {
        let moved = self.instance.moved_here()?;
        moved.write(&self.disk)?;
        self.shared.instance = moved;
        Ok(())
    }

    /// Clears away what means nothing: index entries that lead nowhere, records of an earlier boot, a
    /// temporary file; and enters again what the index has lost. No command needs this; it keeps the
    /// directory readable. [`super::Unlocked::clear_published`] does the same for published files.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn tidy(&self) -> Result<(), Error> {
        self.disk.remove(disk::TEMPORARY)?;
        self.forget_gone()?;
        // What each holder lists, sorted, or a record with all ports of a node would take a minute.
        let mut listed: BTreeMap<Key, Option<Vec<HostPort>>> = BTreeMap::new();
        let mut entered = BTreeSet::new();
        for key in self.record_keys()? {
            match self.record(&key) {
                Ok(Some(record)) => {
                    let hosts: Vec<_> = record.mappings.iter().map(|one| one.host).collect();
                    for host in &hosts {
                        if index::entered(&self.disk, host)?.is_none() {
                            index::enter(&self.disk, host, &key)?;
                        }
                    }
                    for (name, target) in lookup::entries(&record) {
                        self.disk.link(&name, &target)?;
                        entered.insert(name);
                    }
                    listed.insert(key, Some(hosts));
                }
                Ok(None) => self.disk.remove(&key.path())?,
                Err(_) => {
                    listed.insert(key, None);
                }
            }
        }
        for key in self.disk.keys(Kind::Reservation)? {
            let read = reservation::read(&self.disk, &key).ok().flatten();
            listed.insert(key, read.map(|reservation| reservation.hosts));
        }
        index::prune(&self.disk, |host, key| {
            let lists = |hosts: &Vec<HostPort>| hosts.binary_search(host).is_ok();
            listed.get(key).is_some_and(|held| held.as_ref().is_none_or(lists))
        })?;
        lookup::prune(&self.disk, |name, key| {
            entered.contains(name)
                || listed.get(key).is_some_and(Option::is_none)
                || self.may_be_leaving(name)
        })
    }
}
