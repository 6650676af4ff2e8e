//! What was released a short while ago, so that a pod whose sandbox is made again gets the same numbers,
//! and other pods get them only when no others are free.
//!
//! `released/<protocol>` says when each port was released: four bytes for every number.
//! `released/<period>/<pod or container>.json` is what one of them gave back. A period is as long as
//! the memory lasts, so what counts is in the present one or the one before. Of older ones every
//! release deletes more files than it makes, and no command deletes many at once.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::error::Error;
use super::{Locked, Shared, lookup, record};
use crate::model::{Grant, Holder, HostPort, Owner, Protocol, Record};

/// For how many seconds a release is remembered.
pub const REMEMBERED: u64 = 600;

/// For how many seconds after a release a listener on the port is taken for the container's own
/// runtime's: `podman network reload` does DEL and ADD at once, and conmon listens all the while.
const RELOADING: u64 = 60;

const DIRECTORY: &str = "released";

/// How many files of older periods one release deletes.
const FORGOTTEN: usize = 8;

/// What one holder released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Release {
    #[serde(flatten)]
    holder: Holder,
    /// Seconds since the epoch.
    at: u64,
    /// Every host port, chosen by the node or not.
    hosts: BTreeSet<HostPort>,
    /// What the node had chosen for it.
    grants: Vec<Grant>,
}

/// What one pod, or one container without a pod's UID, released a short while ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    releases: Vec<Release>,
}

impl Memory {
    /// What the node had chosen for the same interface in the same network, in whatever sandbox.
    pub fn grants(&self, holder: &Holder) -> Vec<Grant> {
        let own = self.releases.iter().filter(|one| one.holder.is_same_place(holder));
        own.max_by_key(|one| one.at).map_or(Vec::new(), |one| one.grants.clone())
    }

    /// Whether a port that was released at this time was its own.
    pub fn has(&self, protocol: Protocol, port: NonZeroU16, at: u64) -> bool {
        let its = |host: &HostPort| host.protocol == protocol && host.port == port;
        self.releases.iter().any(|one| one.at >= at && one.hosts.iter().any(its))
    }

    /// Whether the container that `holder` belongs to released this host port just now, in whatever
    /// network of its: they are reloaded one after the other, in any order.
    pub fn is_reloading(&self, holder: &Holder, host: &HostPort, now: u64) -> bool {
        let Holder::Attachment(own) = holder else { return false };
        self.releases.iter().any(|one| {
            let Holder::Attachment(other) = &one.holder else { return false };
            other.container_id() == own.container_id()
                && now.abs_diff(one.at) < RELOADING
                && one.hosts.contains(host)
        })
    }
}

/// A clock that was set back makes what was released after the present count as well as what was
/// released that long before it.
fn counts(at: u64, now: u64) -> bool {
    now.abs_diff(at) < REMEMBERED
}

fn period(number: u64) -> String {
    format!("{DIRECTORY}/{number}")
}

/// The periods in which something that counts may be, the latest first.
fn periods(now: u64) -> impl Iterator<Item = u64> {
    let present = now / REMEMBERED;
    std::iter::once(present).chain(present.checked_sub(1))
}

fn path(owner: &Owner, number: u64) -> String {
    let (kind, id) = match owner.uid() {
        Some(uid) => ("pod", uid),
        None => ("container", owner.container_id().unwrap_or_default()),
    };
    format!("{}/{kind}:{}.json", period(number), lookup::name(id))
}

/// A damaged memory, or one that cannot be read, is none.
fn read(disk: &Disk, path: &str) -> Memory {
    let bytes = disk.read(path).ok().flatten();
    bytes.and_then(|bytes| record::decode(&bytes).ok()).unwrap_or_default()
}

/// How many numbers are read at once.
const PAGE: u16 = 1024;

/// When the ports of each protocol were released, as far as that was asked.
#[derive(Debug, Default)]
pub struct Times(BTreeMap<(Protocol, u16), Vec<u8>>);

/// Where the time of a port is.
fn offset(port: u16) -> u64 {
    u64::from(port) * size_of::<u32>() as u64
}

fn times(protocol: Protocol) -> String {
    format!("{DIRECTORY}/{protocol}")
}

impl Times {
    /// When a port was released, if that still counts. A time that cannot be read is none.
    pub fn of(
        &mut self,
        shared: &Shared,
        protocol: Protocol,
        port: NonZeroU16,
        now: u64,
    ) -> Option<u64> {
        let (page, place) = (port.get() / PAGE, usize::from(port.get() % PAGE));
        let bytes = self.0.entry((protocol, page)).or_insert_with(|| {
            let length = usize::from(PAGE) * size_of::<u32>();
            shared.disk.read_part(&times(protocol), offset(page * PAGE), length).unwrap_or_default()
        });
        let time = bytes.as_chunks().0.get(place).map(|bytes| u32::from_le_bytes(*bytes));
        time.map(u64::from).filter(|at| counts(*at, now))
    }
}

impl Shared {
    /// What this pod or container released a short while ago; other holders may have taken some of it
    /// since.
    pub fn memory(&self, owner: &Owner, now: u64) -> Memory {
        let all = periods(now).flat_map(|number| read(&self.disk, &path(owner, number)).releases);
        Memory { releases: all.filter(|one| counts(one.at, now)).collect() }
    }
}

impl Locked {
    /// Remembers for ten minutes what `record` owns, before [`Locked::remove`]. What another holder
    /// has taken over is not its own to be remembered, so the late DEL of a superseded sandbox
    /// changes nothing.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remember(&self, record: &Record, now: u64) -> Result<(), Error> {
        let owned = self.owned(record)?;
        if owned.is_empty() {
            return Ok(());
        }
        self.forget(now)?;
        let hosts: BTreeSet<HostPort> = owned.iter().map(|mapping| mapping.host).collect();
        let numbers: BTreeSet<_> =
            hosts.iter().map(|host| (host.protocol, host.port.get())).collect();
        let time = u32::try_from(now).unwrap_or(u32::MAX).to_le_bytes();
        let mut offsets: BTreeMap<Protocol, Vec<u64>> = BTreeMap::new();
        for (protocol, port) in &numbers {
            offsets.entry(*protocol).or_default().push(offset(*port));
        }
        for (protocol, offsets) in offsets {
            let name = times(protocol);
            if self.disk.write_parts(&name, &offsets, &time).is_err() {
                // Damaged.
                self.disk.remove_all(&name)?;
                self.disk.write_parts(&name, &offsets, &time)?;
            }
        }
        let grants =
            record.grants.iter().filter(|grant| is_whole(grant, &numbers)).cloned().collect();
        let holder = record.owner.holder.clone();
        let path = path(&record.owner, now / REMEMBERED);
        let mut memory = read(&self.disk, &path);
        memory.releases.retain(|one| !one.holder.is_same_place(&holder));
        memory.releases.push(Release { holder, at: now, hosts, grants });
        record::write(&self.disk, &path, &memory)
    }

    /// Deletes a few files of older periods.
    fn forget(&self, now: u64) -> Result<(), Error> {
        let recent: Vec<u64> = periods(now).collect();
        for name in self.disk.names(DIRECTORY)? {
            let Ok(number) = name.parse() else { continue };
            if recent.contains(&number) {
                continue;
            }
            let old = period(number);
            for name in self.disk.some_names(&old, FORGOTTEN)? {
                self.disk.remove_all(&format!("{old}/{name}"))?;
            }
            self.disk.remove_if_empty(&old)?;
        }
        Ok(())
    }
}

/// Whether everything that was granted is still there, in what is `owned` now.
fn is_whole(grant: &Grant, owned: &BTreeSet<(Protocol, u16)>) -> bool {
    let owns = |protocol, port| owned.contains(&(protocol, port));
    let owns_all = |protocol: &Protocol| grant.numbers().all(|port| owns(*protocol, port));
    grant.request.protocols.iter().all(owns_all)
}
