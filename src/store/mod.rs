//! Who holds which host port, on disk. The only module that opens files of the state directory.
//!
//! The truth is one file per attachment or reservation; an index of symbolic links, made before the
//! truth and removed after it, answers "who holds this port" without reading anybody else's record.
//! Beside it stand what helps to choose (cursors, the memory of what was released) and what
//! containers read.
//! `docs/store.md` has the layout and what every crash leaves.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

mod aside;
mod cursor;
mod disk;
mod error;
mod holder;
mod index;
mod instance;
mod key;
mod listing;
mod lock;
mod loopback;
mod memory;
mod public;
mod published;
mod record;
mod reservation;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use aside::Aside;
pub use error::{Damage, Error, Unreadable};
pub use holder::{Held, Who};
pub use instance::Instance;
pub use key::Key;
pub use listing::Listing;
pub(crate) use lock::holder_of as lock_holder;
pub use memory::{Mark, REMEMBERED, Released, Releaser};
pub use record::LAYOUT;
pub use reservation::{PERSISTENT, Reservation};

use crate::event::Log;
use crate::model::{Attachment, Holder, HostPort, Mapping, Record};
use crate::netns;
use disk::Disk;
use key::Kind;
use lock::{Mode, Wait};

const LOCK: &str = "lock";

/// So many records take longer to read than a thread to start.
const MANY: usize = 256;

/// A state directory that nobody has touched yet.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    persistent: Option<PathBuf>,
}

impl Store {
    /// Names a state directory; does no I/O.
    ///
    /// A trailing slash is dropped: with it, a symbolic link would be followed after all.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.components().collect(), persistent: None }
    }

    /// Names a directory beside it, such as [`PERSISTENT`], for reservations that outlive a boot. A
    /// directory serves one store: what is in it is brought into any store that is begun with it.
    #[must_use]
    pub fn with_persistent(self, dir: &Path) -> Self {
        Self { persistent: Some(dir.components().collect()), ..self }
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where what `holder` holds is recorded.
    #[must_use]
    pub fn path_of(&self, holder: &Holder) -> PathBuf {
        self.dir.join(Key::of(holder).path())
    }

    /// Whether anything is recorded for `attachment`, readable or not. One look-up without the lock,
    /// so the DEL of a pod without ports costs no more than this.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn holds(&self, attachment: &Attachment) -> Result<bool, Error> {
        let path = self.dir.join(Key::of_attachment(attachment).path());
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(Error::io("examine", &path)(error)),
        }
    }

    /// Takes the store for writing, waiting up to `patience`; makes whatever is missing.
    ///
    /// # Errors
    /// [`Error::LockTaken`] when the patience is used up, or when the directory is not ours alone,
    /// was written by a later version, or cannot be used.
    pub fn lock(&self, patience: Duration, log: &mut dyn Log) -> Result<Locked, Error> {
        let mut wait = Wait::new(patience, log);
        loop {
            let disk = Disk::create(&self.dir)?;
            let path = disk.full(LOCK);
            let Some(file) = disk.lock_file(LOCK, Mode::Exclusive)? else { continue };
            wait.take(&file, &path, Mode::Exclusive)?;
            if lock::guards(&file, &path)? {
                let instance = Instance::of_writer(&disk, || match &self.persistent {
                    Some(kept) => reservation::bring_back(&disk, kept, wait.log()),
                    None => Ok(()),
                })?;
                let persistent = self.persistent.clone();
                return Ok(Locked { shared: Shared { disk, instance, _lock: file }, persistent });
            }
        }
    }

    /// Takes the store for reading, waiting up to `patience`. `None` when nothing is recorded: there
    /// is no directory, or none that a command has finished making. Never makes anything.
    ///
    /// # Errors
    /// As for [`Store::lock`].
    pub fn read(&self, patience: Duration, log: &mut dyn Log) -> Result<Option<Shared>, Error> {
        let mut wait = Wait::new(patience, log);
        loop {
            let Some(disk) = Disk::open(&self.dir)? else { return Ok(None) };
            let path = disk.full(LOCK);
            let Some(file) = disk.lock_file(LOCK, Mode::Shared)? else { return Ok(None) };
            wait.take(&file, &path, Mode::Shared)?;
            if lock::guards(&file, &path)? {
                let instance = Instance::of_reader(&disk)?;
                return Ok(instance.map(|instance| Shared { disk, instance, _lock: file }));
            }
        }
    }
}

/// `ENOTDIR` too: there is no record below a file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The store while nobody can change it.
#[derive(Debug)]
pub struct Shared {
    disk: Disk,
    instance: Instance,
    _lock: File,
}

impl Shared {
    /// Which store this is.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Checks that what is recorded here concerns the network namespace of this process.
    ///
    /// # Errors
    /// [`Error::OtherNetns`]; a DEL or GC takes it as "nothing to do here" instead.
    pub fn belongs_here(&self) -> Result<(), Error> {
        let (recorded, own) = (self.instance.netns, netns::own()?);
        if recorded == own {
            return Ok(());
        }
        Err(Error::OtherNetns { path: self.disk.path().to_owned(), recorded, own })
    }

    /// Everything one attachment holds, or `None`.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when something is recorded, but not what.
    pub fn load(&self, attachment: &Attachment) -> Result<Option<Record>, Error> {
        Ok(self.record(&Key::of_attachment(attachment))?)
    }

    /// Everything that the attachment or host-network pod of this key holds. A record of another
    /// boot is as good as none.
    ///
    /// # Errors
    /// When something is recorded, but not what.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, Unreadable> {
        let found = record::read(&self.disk, key)?;
        Ok(found.filter(|record| record.boot_id == self.instance.boot_id))
    }

    /// Every record, sorted by kind and key. For list, GC, repair and rebuild; other commands
    /// have no business with other attachments.
    ///
    /// # Errors
    /// When the directory cannot be read; a record that cannot is an item.
    pub fn records(&self) -> Result<Vec<Result<Record, Unreadable>>, Error> {
        let keys = self.record_keys()?;
        Ok(keys.iter().filter_map(|key| self.record(key).transpose()).collect())
    }

    /// All records, each with those mappings only that are its own. On two processors where there are
    /// many: after the table was lost, traffic waits for this.
    ///
    /// # Errors
    /// When the directory cannot be listed, or the index cannot be read.
    pub fn owned_records(&self) -> Result<Vec<Result<Record, Unreadable>>, Error> {
        let keys = self.record_keys()?;
        let read = |keys: &[Key]| {
            let found = keys.iter().filter_map(|key| self.record(key).transpose());
            found.map(|read| self.with_owned(read)).collect::<Result<Vec<_>, Error>>()
        };
        if keys.len() < MANY {
            return read(&keys);
        }
        let (first, second) = keys.split_at(keys.len() / 2);
        let (all, others) = thread::scope(|scope| {
            let other = thread::Builder::new().spawn_scoped(scope, || read(second));
            let all = read(first);
            // Where no thread may be started, and one that panicked is for the panic hook.
            let others = other.ok().and_then(|other| other.join().ok());
            (all, others.unwrap_or_else(|| read(second)))
        });
        let mut all = all?;
        all.extend(others?);
        Ok(all)
    }

    fn with_owned(
        &self,
        read: Result<Record, Unreadable>,
    ) -> Result<Result<Record, Unreadable>, Error> {
        let Ok(mut record) = read else { return Ok(read) };
        record.mappings = self.owned(&record)?;
        Ok(Ok(record))
    }

    fn record_keys(&self) -> Result<Vec<Key>, Error> {
        let mut keys = self.keys(Kind::Attachment)?;
        keys.extend(self.keys(Kind::HostPod)?);
        Ok(keys)
    }

    fn keys(&self, kind: Kind) -> Result<Vec<Key>, Error> {
        let names = self.disk.names(kind.directory())?;
        Ok(names.iter().filter_map(|name| Key::of_file(kind, name)).collect())
    }

    /// Those mappings of `record` that are its own: their index entry leads to it, or was lost, so that
    /// nobody has taken them over. A holder that was superseded has none, even while its record is
    /// still there.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn owned(&self, record: &Record) -> Result<Vec<Mapping>, Error> {
        let key = Key::of(&record.owner.holder);
        let mut owned = Vec::with_capacity(record.mappings.len());
        for mapping in &record.mappings {
            if index::entered(&self.disk, &mapping.host)?.is_none_or(|holder| holder == key) {
                owned.push(*mapping);
            }
        }
        Ok(owned)
    }

    /// Every host port whose index entry leads to `key`: all that is known of an unreadable record.
    /// Reads the whole index.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn entered(&self, key: &Key) -> Result<Vec<HostPort>, Error> {
        let mut all = index::all(&self.disk)?;
        all.retain(|(_, holder)| holder == key);
        Ok(all.into_iter().map(|(host, _)| host).collect())
    }
}

/// The store while this command alone may change it.
#[derive(Debug)]
pub struct Locked {
    shared: Shared,
    persistent: Option<PathBuf>,
}

impl Deref for Locked {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Locked {
    /// Records `record` in place of whatever its attachment held before; its `boot_id` must be that
    /// of [`Shared::instance`].
    ///
    /// Index entries come first, then the record, then the entries that are no longer needed go: an
    /// entry without a record is nothing, but a record without its entry would be a port that
    /// somebody else could take.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when the record before cannot be read; [`Locked::discard`] it first.
    pub fn save(&self, record: &Record) -> Result<(), Error> {
        debug_assert_eq!(record.boot_id, self.instance.boot_id, "it would be void");
        debug_assert!(record.mappings.is_sorted(), "they would not be found");
        let (disk, key) = (&self.disk, Key::of(&record.owner.holder));
        let before = self.record(&key)?;
        for mapping in &record.mappings {
            index::enter(disk, &mapping.host, &key)?;
        }
        disk.settle()?;
        record::write(disk, &key.path(), record)?;
        disk.settle()?;
        let before = before.map(|before| before.mappings).unwrap_or_default();
        let gone = before.iter().filter(|old| !record::lists(&record.mappings, &old.host));
        self.withdraw(&key, gone.map(|mapping| &mapping.host))
    }

    /// Forgets `record`. Index entries that lead to somebody else by now stay.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, record: &Record) -> Result<(), Error> {
        let key = Key::of(&record.owner.holder);
        self.disk.remove(&key.path())?;
        self.disk.settle()?;
        self.withdraw(&key, record.mappings.iter().map(|mapping| &mapping.host))
    }

    fn withdraw<'a>(
        &self,
        key: &Key,
        hosts: impl Iterator<Item = &'a HostPort>,
    ) -> Result<(), Error> {
        for host in hosts {
            match index::entered(&self.disk, host)? {
                Some(holder) if holder == *key => index::withdraw(&self.disk, host)?,
                Some(_) => {}
                // A directory may have been made for it.
                None => index::abandon(&self.disk, host)?,
            }
        }
        self.disk.settle()
    }

    /// Records `before` again, or nothing, in place of `attempted`, of which any part may have been
    /// saved.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn take_back(&self, attempted: &Record, before: Option<&Record>) -> Result<(), Error> {
        let Some(before) = before else { return self.remove(attempted) };
        self.save(before)?;
        let lists = |mapping: &&Mapping| record::lists(&before.mappings, &mapping.host);
        let gone = attempted.mappings.iter().filter(|mapping| !lists(mapping));
        self.withdraw(&Key::of(&before.owner.holder), gone.map(|mapping| &mapping.host))
    }

    /// Ends the store, if nothing is recorded any more: the next writer begins another. What helps to
    /// choose stays, and so does the directory.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn end(self) -> Result<bool, Error> {
        let is_over = self.record_keys()?.is_empty() && self.keys(Kind::Reservation)?.is_empty();
        if is_over {
            Instance::remove(&self.disk)?;
        }
        Ok(is_over)
    }

    /// Makes the store that of the network namespace of this process. Whoever decides so has made
    /// sure that the namespace before is no more.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn adopt(&mut self) -> Result<(), Error> {
        let moved = self.instance.moved_here()?;
        moved.write(&self.disk)?;
        self.shared.instance = moved;
        Ok(())
    }

    /// Clears away what means nothing: index entries that lead nowhere, records of an earlier boot,
    /// what was published for attachments that are not recorded, a temporary file; and enters again what
    /// the index has lost. No command needs this; it keeps the directory readable.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn tidy(&self) -> Result<(), Error> {
        self.disk.remove(disk::TEMPORARY)?;
        let mut listed = BTreeMap::new();
        for key in self.record_keys()? {
            match self.record(&key) {
                Ok(Some(record)) => {
                    let hosts: Vec<_> = record.mappings.iter().map(|one| one.host).collect();
                    for host in &hosts {
                        if index::entered(&self.disk, host)?.is_none() {
                            index::enter(&self.disk, host, &key)?;
                        }
                    }
                    listed.insert(key, Some(hosts));
                }
                Ok(None) => self.disk.remove(&key.path())?,
                Err(_) => {
                    listed.insert(key, None);
                }
            }
        }
        for key in self.keys(Kind::Reservation)? {
            let read = reservation::read(&self.disk, &key).ok().flatten();
            listed.insert(key, read.map(|reservation| reservation.hosts));
        }
        index::prune(&self.disk, |host, key| {
            // Sorted, or a record with all ports of a node would take a minute.
            let lists = |hosts: &Vec<HostPort>| hosts.binary_search(host).is_ok();
            Ok(listed.get(key).is_some_and(|held| held.as_ref().is_none_or(lists)))
        })?;
        self.unpublish_all_but(|key| listed.contains_key(key))?;
        self.disk.settle()
    }
}
