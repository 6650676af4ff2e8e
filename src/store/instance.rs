//! Which store this is: its random name, the network namespace and the boot it belongs to.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::error::Error;
use super::key::Kind;
use super::record::{self, LAYOUT, Versioned};
use super::{layout1, lookup};
use crate::model::NamespaceId;
use crate::netns;

const FILE: &str = "instance";
const RANDOM: &str = "/proc/sys/kernel/random";

/// What means nothing after a reboot. The cursors stay: they only say where to go on. What was
/// published stays until it is published again or cleared: that takes as long as containers made it.
const OF_ONE_BOOT: [&str; 11] = [
    "attachments",
    "hostpods",
    "ports",
    lookup::OWNERS,
    lookup::CONTAINERS,
    lookup::NAMESPACES,
    "reservations",
    "released",
    "loopback",
    "requests",
    "programs",
];

/// Which store this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    version: u32,
    /// 32 hexadecimal digits, a random UUID. The kernel table carries the same, so that a second state
    /// directory cannot take the table over by mistake.
    pub id: String,
    /// The network namespace whose ports are recorded here.
    pub netns: NamespaceId,
    /// The boot in which everything that counts here was recorded.
    pub boot_id: String,
}

impl Instance {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            version: LAYOUT,
            id: random("uuid")?.replace('-', ""),
            netns: netns::own()?,
            boot_id: boot_id()?,
        })
    }

    /// Reads the instance file; `None` when it is missing or damaged, because nothing in it is lost
    /// that a new one does not replace: records carry their boot ID themselves, and a table of the
    /// old instance is noticed.
    fn read(disk: &Disk) -> Result<Option<Self>, Error> {
        let path = disk.full(FILE);
        let Some(bytes) = disk.read(FILE).map_err(Error::io("read", &path))? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(Versioned { version: found }) if found > LAYOUT => {
                Err(Error::NewerLayout { path, found, known: LAYOUT })
            }
            Ok(_) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(_) => Ok(None),
        }
    }

    /// Reads the instance for a command that may not write; `None` when nothing that is recorded
    /// counts.
    pub(super) fn of_reader(disk: &Disk) -> Result<Option<Self>, Error> {
        let Some(found) = Self::read(disk)? else { return Ok(None) };
        let counts = disk.is_volatile || found.boot_id == boot_id()?;
        Ok(counts.then_some(found))
    }

    /// Reads the instance, or starts a new one where there is none or only one of an earlier boot. One of
    /// an earlier layout becomes one of today's.
    ///
    /// What an earlier boot recorded goes first, then `furnish` brings in what outlives a boot, and the
    /// new instance is written last: a command killed in between leaves the old instance or none, and
    /// the next one does it all again. One of an earlier layout knows nothing of the new entries.
    pub(super) fn of_writer(
        disk: &Disk,
        furnish: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let new = match Self::read(disk)? {
            Some(found) if disk.is_volatile || found.boot_id == boot_id()? => {
                if found.is_current() {
                    return Ok(found);
                }
                Self { version: LAYOUT, ..found }
            }
            found => {
                for directory in found.map_or(&[][..], |_| &OF_ONE_BOOT) {
                    disk.remove_all(directory)?;
                }
                furnish()?;
                Self::new()?
            }
        };
        build(disk)?;
        new.write(disk)?;
        Ok(new)
    }

    /// Whether it has everything that the layout of today has.
    pub(super) const fn is_current(&self) -> bool {
        self.version == LAYOUT
    }

    /// The same store, in the network namespace of this process.
    pub(super) fn moved_here(&self) -> Result<Self, Error> {
        Ok(Self { netns: netns::own()?, ..self.clone() })
    }

    /// Takes the instance away: then nothing is recorded.
    pub(super) fn remove(disk: &Disk) -> Result<(), Error> {
        disk.remove(FILE)
    }

    pub(super) fn write(&self, disk: &Disk) -> Result<(), Error> {
        let encoded = serde_json::to_vec(self).map_err(Error::io("encode", &disk.full(FILE)));
        let mut bytes = encoded?;
        bytes.push(b'\n');
        disk.replace(FILE, &bytes)
    }
}

/// Enters every record of a store that has none of these entries, or may have lost them.
fn build(disk: &Disk) -> Result<(), Error> {
    // It tells a look-up without the lock that these entries are complete.
    disk.make(lookup::CONTAINERS)?;
    for key in [Kind::Attachment, Kind::HostPod].map(|kind| disk.keys(kind)) {
        for key in key? {
            match record::read(disk, &key) {
                Ok(Some(mut record)) => {
                    for (name, target) in lookup::entries(&record) {
                        disk.link(&name, &target)?;
                    }
                    if layout1::complete(disk, &mut record) {
                        record::write(disk, &key.path(), &record)?;
                    }
                }
                Ok(None) => {}
                // A DEL has to find it.
                Err(_) => lookup::enter_unreadable(disk, &key)?,
            }
        }
    }
    Ok(())
}

pub(super) fn boot_id() -> Result<String, Error> {
    random("boot_id")
}

/// What the kernel says once per boot, or each time another.
fn random(what: &str) -> Result<String, Error> {
    let path = Path::new(RANDOM).join(what);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok(text.trim_end().to_owned())
}
