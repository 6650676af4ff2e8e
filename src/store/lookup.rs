//! From the UID of a pod, the ID of a container, or a namespace to the records: an entry for each,
//! made before the record and removed after it, as in the index of ports.
//!
//! | entry | leads to |
//! | --- | --- |
//! | `owners/<pod UID>/<key>` | the record |
//! | `containers/<container ID>/<key>` | the record |
//! | `namespaces/<namespace>/<key>` | how many numbers the node chose for it |

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::collections::BTreeMap;
use std::fs;

use super::disk::{Disk, parent};
use super::error::{Error, Unreadable};
use super::key::{Key, hashed};
use super::lock::is_absence;
use super::{Shared, Store, layout1, record};
use crate::model::{Record, check_identifier};

pub(super) const OWNERS: &str = "owners";
pub(super) const CONTAINERS: &str = "containers";
pub(super) const NAMESPACES: &str = "namespaces";

/// File names have 255 bytes.
const LONGEST: usize = 255;

/// What a UID, an ID or a namespace is called here: a runtime may have sent it in any form.
pub(super) fn name(value: &str) -> String {
    if check_identifier("name", value).is_ok() && value.len() <= LONGEST {
        value.to_owned()
    } else {
        // No identifier begins with this.
        format!("={}", hashed(value))
    }
}

pub(super) fn directory(of: &str, value: &str) -> String {
    format!("{of}/{}", name(value))
}

/// Every entry of a record, with its target.
pub(super) fn entries(record: &Record) -> BTreeMap<String, String> {
    let owner = &record.owner;
    let key = Key::of(&owner.holder);
    let mut entries = BTreeMap::new();
    let mut enter = |of, value: Option<&str>, target: &str| {
        if let Some(value) = value {
            entries.insert(format!("{}/{key}", directory(of, value)), target.to_owned());
        }
    };
    enter(OWNERS, owner.uid(), &link_to(&key));
    let namespace = owner.pod.as_ref().map(|pod| pod.namespace.as_str());
    let chosen = record.chosen_numbers().len();
    let is_counted = |namespace: &&str| chosen > 0 && !namespace.is_empty();
    enter(NAMESPACES, namespace.filter(is_counted), &chosen.to_string());
    entries.extend(owner.container_id().map(|container| of_container(container, &key)));
    entries
}

/// The entry of a record in the directory of its container, with its target.
pub(super) fn of_container(container_id: &str, key: &Key) -> (String, String) {
    (format!("{}/{key}", directory(CONTAINERS, container_id)), link_to(key))
}

fn link_to(key: &Key) -> String {
    format!("../../{}", key.path())
}

/// Takes an entry out, and its directory with the last one. That of a pod goes when its published files
/// are gone, under a lock of its own ([`super::Unlocked`]).
pub(super) fn withdraw(disk: &Disk, name: &str) -> Result<(), Error> {
    disk.remove(name)?;
    let directory = parent(name);
    if parent(directory) == OWNERS { Ok(()) } else { disk.remove_if_empty(directory).map(drop) }
}

/// Enters what is known of a record that cannot be read: a DEL of its container has to find it.
pub(super) fn enter_unreadable(disk: &Disk, key: &Key) -> Result<(), Error> {
    let Some(attachment) = key.attachment() else { return Ok(()) };
    let (name, target) = of_container(attachment.container_id(), key);
    disk.link(&name, &target)
}

/// Takes out the entries for which `counts`, given the path and the key, is false. What a later version
/// entered stays.
pub(super) fn prune(disk: &Disk, counts: impl Fn(&str, &Key) -> bool) -> Result<(), Error> {
    for of in [OWNERS, CONTAINERS, NAMESPACES] {
        for value in disk.names(of)? {
            let directory = format!("{of}/{value}");
            for name in disk.names(&directory)? {
                let path = format!("{directory}/{name}");
                let key = Key::of_name(name.trim_start_matches('.'));
                if key.is_some_and(|key| !counts(&path, &key)) {
                    disk.remove_all(&path)?;
                }
            }
            if of != OWNERS {
                disk.remove_if_empty(&directory)?;
            }
        }
    }
    Ok(())
}

/// What a look-up without the lock finds of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Something may be recorded for it.
    Recorded,
    /// Nothing is.
    Absent,
    /// There is no store.
    NoStore,
}

impl Store {
    /// Whether anything is recorded for this container, in whatever network and readable or not. One
    /// or two look-ups without the lock, so the DEL of a pod without ports costs no more than this.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn look_for(&self, container_id: &str) -> Result<Presence, Error> {
        let exists = |name: &str| {
            let path = self.dir().join(name);
            match fs::symlink_metadata(&path) {
                Ok(_) => Ok(true),
                Err(error) if is_absence(&error) => Ok(false),
                Err(error) => Err(Error::io("examine", &path)(error)),
            }
        };
        if exists(&directory(CONTAINERS, container_id))? {
            return Ok(Presence::Recorded);
        }
        if exists(CONTAINERS)? {
            return Ok(Presence::Absent);
        }
        // An earlier version's store: only its records tell.
        Ok(if exists("instance")? { Presence::Recorded } else { Presence::NoStore })
    }
}

impl Shared {
    /// Every record of the pod with this UID.
    ///
    /// # Errors
    /// When a directory cannot be read; a record that cannot is an item.
    pub fn records_of_pod(&self, uid: &str) -> Result<Vec<Result<Record, Unreadable>>, Error> {
        self.records_at(&directory(OWNERS, uid), |record| record.owner.uid() == Some(uid))
    }

    /// The same, for a pod as `owners` names it.
    pub(super) fn records_of_owner(&self, own: &str) -> Result<Vec<Record>, Error> {
        let is_its = |record: &Record| record.owner.uid().map(name).as_deref() == Some(own);
        let found = self.records_at(&format!("{OWNERS}/{own}"), is_its)?;
        Ok(found.into_iter().collect::<Result<_, _>>()?)
    }

    /// Every record of this container, in whatever network.
    ///
    /// # Errors
    /// As for [`Shared::records_of_pod`].
    pub fn records_of_container(
        &self,
        container_id: &str,
    ) -> Result<Vec<Result<Record, Unreadable>>, Error> {
        let is_its = |record: &Record| record.owner.container_id() == Some(container_id);
        self.records_at(&directory(CONTAINERS, container_id), is_its)
    }

    fn records_at(
        &self,
        directory: &str,
        is_it: impl Fn(&Record) -> bool,
    ) -> Result<Vec<Result<Record, Unreadable>>, Error> {
        let mut found = Vec::new();
        for key in self.keys_at(directory)? {
            let read = match key {
                Ok(key) => self.record(&key).transpose(),
                Err(unknown) => Some(Err(record::of_unknown_kind(&self.disk, &unknown))),
            };
            found.extend(read.filter(|read| read.as_ref().map_or(true, &is_it)));
        }
        if !self.instance.is_current() {
            for record in found.iter_mut().flatten() {
                layout1::complete(&self.disk, record);
            }
        }
        Ok(found)
    }

    /// The keys that are entered in a directory; all there are, where an earlier version left the
    /// store without these entries. One of a later version is an error.
    fn keys_at(&self, directory: &str) -> Result<Vec<Result<Key, Key>>, Error> {
        if !self.instance.is_current() {
            return Ok(self.record_keys()?.into_iter().map(Ok).collect());
        }
        // What is hidden is leaving, or a file of a pod that is about to be published.
        let names = self.disk.names(directory)?.into_iter().filter(|it| !it.starts_with('.'));
        let key = |name: String| {
            Key::of_name(&name).ok_or_else(|| Key::unknown(&format!("{directory}/{name}")))
        };
        Ok(names.map(key).collect())
    }

    /// How many numbers the node chose for each holder in this namespace that has any.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn granted_in_namespace(&self, namespace: &str) -> Result<Vec<(Key, usize)>, Error> {
        let directory = directory(NAMESPACES, namespace);
        let mut granted = Vec::new();
        for key in self.keys_at(&directory)?.into_iter().flatten() {
            let count = if self.instance.is_current() {
                let target = self.disk.target(&format!("{directory}/{key}"))?;
                let is_recorded = self.disk.inode(&key.path())?.is_some();
                target.filter(|_| is_recorded).and_then(|target| target.parse().ok())
            } else {
                let record = self.record(&key).ok().flatten();
                let pod = record.as_ref().and_then(|record| record.owner.pod.as_ref());
                let is_its = pod.is_some_and(|pod| pod.namespace == namespace);
                record.filter(|_| is_its).map(|record| record.chosen_numbers().len())
            };
            granted.extend(count.filter(|count| *count > 0).map(|count| (key, count)));
        }
        Ok(granted)
    }
}
