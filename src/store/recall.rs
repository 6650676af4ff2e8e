//! Records that this process has read before. A watch reads all of them again and again, and most stay as they are.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::disk::{Disk, Version};
use super::error::{Damage, Unreadable};
use super::key::Key;
use super::record;
use crate::model::Record;

/// File systems note changes by a clock that stands still for some milliseconds, and give the number of a deleted
/// file to a new one. What was changed so recently is read again.
const RECENT: Duration = Duration::from_millis(100);

/// The records of this boot that were read before, each with the version of its file.
#[derive(Debug, Default)]
pub(super) struct Recall(RwLock<HashMap<Key, (Version, Arc<Record>)>>);

impl Recall {
    /// The record of `key`, as [`record::current`] reads it: from memory where its file is the one that was read.
    pub(super) fn record(
        &self,
        disk: &Disk,
        key: &Key,
        boot_id: &str,
    ) -> Result<Option<Arc<Record>>, Unreadable> {
        let path = key.path();
        let unreadable = |source| Unreadable { key: key.clone(), path: disk.full(&path), source };
        // Before it is read: a file that another program changes meanwhile is another version next time.
        let version = disk.version(&path).map_err(|error| unreadable(Damage::of(error)))?;
        let Some(version) = version else { return Ok(None) };
        if let Ok(known) = self.0.read()
            && let Some((_, record)) = known.get(key).filter(|(of, _)| *of == version)
        {
            return Ok(Some(Arc::clone(record)));
        }
        let Some(record) = record::current(disk, key, boot_id)?.map(Arc::new) else {
            return Ok(None);
        };
        if is_settled(version)
            && let Ok(mut known) = self.0.write()
        {
            known.insert(key.clone(), (version, Arc::clone(&record)));
        }
        Ok(Some(record))
    }

    /// Forgets all records but those of `keys`.
    pub(super) fn keep(&self, keys: &[Key]) {
        if let Ok(mut known) = self.0.write()
            && known.len() > keys.len()
        {
            let keys: BTreeSet<_> = keys.iter().collect();
            known.retain(|key, _| keys.contains(key));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the age of a file, by the clock of its file system")]
fn is_settled(version: Version) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.checked_sub(version.changed()).is_some_and(|age| age >= RECENT)
}
