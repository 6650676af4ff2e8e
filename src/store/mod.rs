//! Who holds which host port, on disk. The only module that opens files of the state directory.
//!
//! The truth is one file per attachment or reservation; an index of symbolic links, made before the
//! truth and removed after it, answers "who holds this port" without reading anybody else's record.
//! Beside it stand what helps to choose (cursors, the memory of what was released) and what
//! containers read.
//! `docs/store.md` has the layout and what every crash leaves.

mod agent;
mod change;
mod containers;
mod cursor;
mod disk;
mod error;
mod guarded;
mod holders;
mod index;
mod instance;
mod journal;
mod key;
mod layout1;
mod leaving;
mod lock;
mod lookup;
mod loopback;
mod memory;
mod place;
mod programs;
mod published;
mod quarantine;
mod real_time;
mod recall;
mod record;
mod requests;
mod reservation;
mod shared_dir;
mod tree;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};

pub use agent::{AGENT_HEARTBEAT, AGENT_LOCK, AGENT_NEXT, AGENT_PRESENT, Agent, BindHook};
pub use containers::{Container, Containers, Lack};
pub use error::{Damage, Error, Unreadable};
pub use guarded::Guarded;
pub use holders::{Held, Who};
pub use instance::Instance;
pub use journal::{Deed, Entry, Reader};
pub use key::Key;
pub use leaving::Leaving;
pub use lock::guards;
pub(crate) use lock::holder_of as lock_holder;
pub use lookup::Presence;
pub use loopback::Inlet;
pub use memory::{Memory, REMEMBERED, Times};
pub use programs::BindProgram;
pub use published::Unlocked;
pub use quarantine::Aside;
pub use record::LAYOUT;
pub use requests::Ports;
pub use reservation::{PERSISTENT, Reservation};

use crate::event::Log;
use crate::model::{Holder, HostPort, Mapping, Record};
use crate::netns;
use disk::Disk;
use key::Kind;
use lock::{Lock, Mode, Wait};
use real_time::RealTime;
use recall::Recall;

const LOCK: &str = "lock";

const PATIENCE: Duration = Duration::from_mins(1);

/// So many records are read by two threads.
const MANY: usize = 512;

/// A state directory that nobody has touched yet.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    persistent: Option<PathBuf>,
    patience: Duration,
    deadline: Option<Instant>,
    recall: Option<Arc<Recall>>,
}

impl Store {
    /// Names a state directory; does no I/O.
    ///
    /// A trailing slash is dropped: with it, a symbolic link would be followed after all.
    pub fn at(dir: &Path) -> Self {
        let dir = dir.components().collect();
        Self { dir, persistent: None, patience: PATIENCE, deadline: None, recall: None }
    }

    /// The same store, whose lock is waited for so long and not for a minute.
    pub fn waiting(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same store, none of whose locks is waited for after `deadline`.
    pub fn by(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// The same store, whose records stay in memory after [`Shared::owned_records`], so that it reads only those
    /// again that were changed.
    pub fn recalling(self) -> Self {
        Self { recall: Some(Arc::default()), ..self }
    }

    /// Names a directory beside it, such as [`PERSISTENT`], for reservations that outlive a boot. A
    /// directory serves one store: what is in it is brought into any store that is begun with it.
    pub fn with_persistent(self, dir: &Path) -> Self {
        Self { persistent: Some(dir.components().collect()), ..self }
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where what `holder` holds is recorded.
    pub fn path_of(&self, holder: &Holder) -> PathBuf {
        self.dir.join(Key::of(holder).path())
    }

    /// Whether a writer could make or change something, as far as that can be told without doing it.
    ///
    /// # Errors
    /// When the file system is read-only, or refuses this process.
    pub fn is_writable(&self) -> Result<(), Error> {
        let found = self.dir.ancestors().find(|dir| dir.exists()).unwrap_or(&self.dir);
        if !found.is_dir() {
            return Err(place::no_directory(found));
        }
        access(found, AccessFlags::W_OK).map_err(Error::io("write to", found))
    }

    /// Takes the store for writing, and waits for that; makes whatever is missing.
    ///
    /// # Errors
    /// [`Error::LockTaken`] when the patience is used up, or when the directory is not ours alone,
    /// was written by a later version, or cannot be used.
    pub fn lock(&self, log: &mut dyn Log) -> Result<Locked, Error> {
        let mut wait = Wait::new(self.patience, self.deadline, log);
        loop {
            let disk = Disk::create(&self.dir)?;
            let path = disk.full(LOCK);
            let Some(file) = disk.lock_file(LOCK, Mode::Exclusive)? else { continue };
            let lock = wait.take(file, &path, Mode::Exclusive, RealTime::begin)?;
            if guards(&lock.0, &path).map_err(Error::io("examine", &path))? {
                let instance = Instance::of_writer(&disk, || match &self.persistent {
                    Some(kept) => reservation::bring_back(&disk, kept, wait.log()),
                    None => Ok(()),
                })?;
                let persistent = self.persistent.clone();
                let (lock, deadline, recall) = (Some(lock), self.deadline, self.recall.clone());
                let shared = Shared { disk, instance, lock, deadline, recall };
                return Ok(Locked { shared, persistent, changed: RefCell::default() });
            }
        }
    }

    /// Takes the store for reading, and waits for that. `None` when nothing is recorded: there
    /// is no directory, or none that a command has finished making. Never makes anything.
    ///
    /// # Errors
    /// As for [`Store::lock`].
    pub fn read(&self, log: &mut dyn Log) -> Result<Option<Shared>, Error> {
        let mut wait = Wait::new(self.patience, self.deadline, log);
        loop {
            let Some(disk) = Disk::open(&self.dir)? else { return Ok(None) };
            let path = disk.full(LOCK);
            let Some(file) = disk.lock_file(LOCK, Mode::Shared)? else { return Ok(None) };
            let lock = wait.take(file, &path, Mode::Shared, RealTime::begin)?;
            if guards(&lock.0, &path).map_err(Error::io("examine", &path))? {
                let instance = Instance::of_reader(&disk)?;
                let (lock, deadline, recall) = (Some(lock), self.deadline, self.recall.clone());
                let shared = |instance| Shared { disk, instance, lock, deadline, recall };
                return Ok(instance.map(shared));
            }
        }
    }
}

/// The store while nobody can change it.
#[derive(Debug)]
pub struct Shared {
    disk: Disk,
    instance: Instance,
    /// `None` after it was let go.
    lock: Option<Lock>,
    deadline: Option<Instant>,
    recall: Option<Arc<Recall>>,
}

impl Shared {
    /// The identity of this store.
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
        Err(Error::OtherNetns { path: self.disk.path.clone(), recorded, own })
    }

    /// Everything that the attachment or host-network pod of this key holds. A record of another
    /// boot is as good as none.
    ///
    /// # Errors
    /// When something is recorded, but not what.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, Unreadable> {
        record::current(&self.disk, key, &self.instance.boot_id)
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

    /// All records, each with those mappings only that are its own. Many are read by two threads: while the
    /// table is lost, pods are not reached.
    ///
    /// # Errors
    /// When the directory cannot be listed, or the index cannot be read.
    pub fn owned_records(&self) -> Result<Vec<Result<Record, Unreadable>>, Error> {
        let keys = self.record_keys()?;
        let (disk, boot_id) = (&self.disk, &self.instance.boot_id);
        let recall = self.recall.as_deref();
        recall.inspect(|recall| recall.keep(&keys));
        let one = |key: &Key| match recall {
            Some(recall) => recall.record(disk, key, boot_id),
            None => record::current(disk, key, boot_id).map(|record| record.map(Arc::new)),
        };
        let read = |keys: &[Key]| -> Result<Vec<_>, Error> {
            let read = keys.iter().filter_map(|key| one(key).transpose());
            read.map(|read| match read {
                Ok(record) => {
                    let mappings = index::owned(disk, &record)?;
                    Ok(Ok(Record { mappings, ..Arc::unwrap_or_clone(record) }))
                }
                Err(unreadable) => Ok(Err(unreadable)),
            })
            .collect()
        };
        if keys.len() < MANY {
            return read(&keys);
        }
        let (first, second) = keys.split_at(keys.len() / 2);
        thread::scope(|scope| {
            let other = thread::Builder::new().spawn_scoped(scope, || read(second));
            let mut records = read(first)?;
            let others = other.ok().and_then(|thread| thread.join().ok());
            records.append(&mut others.unwrap_or_else(|| read(second))?);
            Ok(records)
        })
    }

    fn record_keys(&self) -> Result<Vec<Key>, Error> {
        let mut keys = self.disk.keys(Kind::Attachment)?;
        keys.extend(self.disk.keys(Kind::HostPod)?);
        Ok(keys)
    }

    /// Those mappings of `record` that are its own: their index entry leads to it, or was lost, so that
    /// nobody has taken them over. A holder that was superseded has none, even while its record is
    /// still there.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn owned(&self, record: &Record) -> Result<Vec<Mapping>, Error> {
        index::owned(&self.disk, record)
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
#[derive(Debug, derive_more::Deref)]
pub struct Locked {
    #[deref]
    shared: Shared,
    persistent: Option<PathBuf>,
    /// The pods whose records were changed, as `owners` names them.
    changed: RefCell<BTreeSet<String>>,
}
