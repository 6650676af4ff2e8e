//! What containers read about their own ports: `pods/<pod UID>/ports.json` and `ports.env`.
//!
//! The only files here that others than root may read, and a container that mounts the directory may
//! write there. They are a projection of the pod's records, written and never read back. A
//! command that changed a record writes them when the lock of the store is free, under a lock on
//! `owners/<pod UID>`, from the records as they are then: so the last one writes the current state.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::disk::TEMPORARY;
use super::error::Error;
use super::lock::{self, Mode, Wait};
use super::lookup::{self, OWNERS};
use super::shared_dir::SharedDir;
use super::{Locked, Shared, Store};
use crate::event::Log;
use crate::model::check_identifier;
use crate::publication::Publication;

const DIRECTORY: &str = "pods";
const JSON: &str = "ports.json";
const ENV: &str = "ports.env";

fn directory(uid: &str) -> Result<String, Error> {
    check_identifier("pod UID", uid)?;
    Ok(format!("{DIRECTORY}/{uid}"))
}

/// A store without its lock, for what may take as long as a container likes.
#[derive(Debug)]
pub struct Unlocked {
    /// Others may change it meanwhile.
    pub(super) shared: Shared,
    changed: BTreeSet<String>,
}

impl Locked {
    /// Lets the lock go. The files of every pod whose records were changed are still as before:
    /// [`Unlocked::publish`].
    pub fn unlock(mut self) -> Unlocked {
        drop(self.shared.lock.take());
        Unlocked { shared: self.shared, changed: self.changed.into_inner() }
    }
}

impl Store {
    /// The directory in which files are published for the pod with this UID; `None` where it can have
    /// none.
    pub fn published_at(&self, uid: &str) -> Option<PathBuf> {
        Some(self.dir().join(directory(uid).ok()?))
    }
}

impl Unlocked {
    /// Makes the published files of the pod with this UID say what its records say, if they were
    /// changed.
    ///
    /// # Errors
    /// [`Error::Name`] when the UID cannot be a file name; [`Error::LockTaken`] when another command is
    /// held up in the pod's directory; or when the file system refuses.
    pub fn publish(
        &mut self,
        uid: &str,
        patience: Duration,
        log: &mut dyn Log,
    ) -> Result<(), Error> {
        let own = lookup::name(uid);
        if !self.changed.remove(&own) {
            return Ok(());
        }
        self.publish_for(&own, self.wait(patience, log))
    }

    /// The same for every pod whose records were changed and whose files were not yet written. Gives the
    /// failures: what one pod has made of its directory keeps no other's from being written.
    pub fn publish_rest(mut self, patience: Duration, log: &mut dyn Log) -> Vec<Error> {
        let changed = std::mem::take(&mut self.changed);
        let publish = |own: &String| self.publish_for(own, self.wait(patience, log)).err();
        changed.iter().filter_map(publish).collect()
    }

    /// Deletes what is published for pods that have no record. What is empty stays: kubelet makes the
    /// directory of a mount itself, also for a pod that has no ports. Gives the failures.
    ///
    /// # Errors
    /// When nothing can be listed.
    pub fn clear_published(
        &self,
        patience: Duration,
        log: &mut dyn Log,
    ) -> Result<Vec<Error>, Error> {
        let disk = &self.shared.disk;
        let mut told: BTreeSet<String> = disk.names(DIRECTORY)?.into_iter().collect();
        told.retain(|uid| {
            SharedDir::has_content(disk, &format!("{DIRECTORY}/{uid}")).unwrap_or(true)
        });
        let uids: BTreeSet<String> = told.iter().cloned().chain(disk.names(OWNERS)?).collect();
        let mut failures = Vec::new();
        for own in uids {
            // A command that was killed may have left what a pod is no longer to be told.
            let is_over = self.shared.records_of_owner(&own).is_ok_and(|records| {
                records.is_empty() || told.contains(&own) && Publication::of(&records).is_none()
            });
            if is_over {
                let cleared = self.publish_for(&own, self.wait(patience, log));
                failures.extend(cleared.err());
            }
        }
        Ok(failures)
    }

    fn wait<'a>(&self, patience: Duration, log: &'a mut dyn Log) -> Wait<'a> {
        Wait::new(patience, self.shared.deadline, log)
    }

    fn publish_for(&self, own: &str, mut wait: Wait<'_>) -> Result<(), Error> {
        let (disk, owner) = (&self.shared.disk, format!("{OWNERS}/{own}"));
        // Most pods are told nothing, and then this is all there is to do after a DEL. It needs no lock:
        // a directory without entries is that of a pod without records.
        if let Ok(dir) = directory(own)
            && disk.inode(&dir)?.is_none()
            && disk.remove_if_empty(&owner)?
        {
            return Ok(());
        }
        let _lock = self.lock_pod(&owner, &mut wait)?;
        let records = self.shared.records_of_owner(own)?;
        match Publication::of(&records) {
            Some(publication) => {
                self.write(&directory(&publication.pod.uid)?, &owner, &publication)?;
            }
            None => {
                if let Ok(dir) = directory(own)
                    && (records.is_empty() || SharedDir::has_content(disk, &dir)?)
                {
                    SharedDir::remove(disk, &dir)?;
                }
            }
        }
        if records.is_empty() {
            disk.remove(&temporary(&owner))?;
            disk.remove_if_empty(&owner)?;
        }
        Ok(())
    }

    /// Locks the directory of a pod's entries, made if it is missing. Unless it is empty, it is taken away
    /// under this lock only.
    fn lock_pod(&self, owner: &str, wait: &mut Wait<'_>) -> Result<File, Error> {
        let path = self.shared.disk.full(owner);
        loop {
            let dir = match self.shared.disk.open_directory(owner) {
                Err(Errno::ENOENT) => {
                    self.shared.disk.make(owner)?;
                    continue;
                }
                opened => opened.map_err(Error::io("open", &path))?,
            };
            let (dir, ()) = wait.take(dir, &path, Mode::Exclusive, || ())?;
            if lock::guards(&dir, &path).map_err(Error::io("examine", &path))? {
                return Ok(dir);
            }
        }
    }

    /// A reader sees each file as it was or as it will be, never half of it.
    fn write(&self, dir: &str, owner: &str, publication: &Publication) -> Result<(), Error> {
        let full = self.shared.disk.full(&format!("{dir}/{JSON}"));
        let text = publication.to_json().map_err(Error::io("encode", &full))?;
        let (dir, temporary) = (SharedDir::make(&self.shared.disk, dir)?, temporary(owner));
        dir.replace(&temporary, ENV, publication.to_env().as_bytes())?;
        dir.replace(&temporary, JSON, text.as_bytes())
    }
}

/// Where only root can reach it, and only the command that has the pod's lock writes.
fn temporary(owner: &str) -> String {
    format!("{owner}/{TEMPORARY}")
}
