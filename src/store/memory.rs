//! Who gave which ports back lately, so that a pod whose sandbox is made again gets the same numbers,
//! and nobody else gets them while others are free.
//!
//! `released/<period>/<proto>/<port>` is a symbolic link whose target says when and by whom;
//! `released/<period>/<releaser>.json` is all that one releaser gave back at once. A period is as long
//! as the memory lasts, so what counts is in the present one or the one before, and the others are
//! deleted whole: the memory never grows with the age of the node, and no command looks through it.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::key::{fitting, hashed};
use super::{Locked, Shared, record};
use crate::model::{Grant, HostPort, Owner, Protocol, Record, check_identifier};

/// For how many seconds a release is remembered.
pub const REMEMBERED: u64 = 600;

const DIRECTORY: &str = "released";

/// To whom a released port may return: the same network and interface of the same pod, or of the
/// same container where the runtime names no pod's UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Releaser(String);

impl Releaser {
    /// The releaser that `owner` is, was or will be.
    #[must_use]
    pub fn of(owner: &Owner) -> Self {
        let attachment = owner.attachment();
        let (kind, id) = match owner.uid() {
            Some(uid) => ("pod", uid),
            None => ("container", owner.container_id().unwrap_or_default()),
        };
        let (network, ifname) = attachment.map_or(("", ""), |own| (own.network(), own.ifname()));
        let plain = [kind, id, network, ifname].join(":");
        // A runtime may send any text for a UID.
        let plain_is_safe = check_identifier("pod UID", id).is_ok();
        Self(if plain_is_safe { fitting(plain) } else { hashed(&plain) })
    }

    /// Whether a mark names it.
    pub(super) fn is(&self, by: &str) -> bool {
        self.0 == by
    }

    /// Whether both are attachments of one pod or of one container. Where a name had to be
    /// shortened that is not known, and so they are not.
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        let whose = |releaser: &Self| {
            let mut parts = releaser.0.splitn(3, ':').map(str::to_owned);
            Some((parts.next()?, parts.next()?, parts.next().map(drop)?))
        };
        whose(self).is_some_and(|own| Some(own) == whose(other))
    }
}

impl fmt::Display for Releaser {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// That a port was released lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// By whom.
    pub by: Releaser,
    /// When, in seconds since the epoch.
    pub at: u64,
}

/// What somebody released lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// When, in seconds since the epoch.
    pub at: u64,
    /// Every host port, chosen by the node or not.
    pub hosts: BTreeSet<HostPort>,
    /// What the node had chosen for it.
    pub grants: Vec<Grant>,
}

/// The directories in which something that counts may be, the latest first.
pub(super) fn periods(now: u64) -> impl Iterator<Item = String> {
    let present = now / REMEMBERED;
    std::iter::once(present).chain(present.checked_sub(1)).map(period)
}

fn period(number: u64) -> String {
    format!("{DIRECTORY}/{number}")
}

/// A clock that was set back makes what was released after the present count as well as what was
/// released that long before it.
pub(super) fn counts(at: u64, now: u64) -> bool {
    now.abs_diff(at) < REMEMBERED
}

fn mark(protocol: Protocol, port: NonZeroU16) -> String {
    format!("{protocol}/{port}")
}

/// When and by whom, as the target of a mark says it.
pub(super) fn told(target: &str) -> Option<(u64, &str)> {
    let (at, by) = target.split_once('/')?;
    Some((at.parse().ok()?, by))
}

/// Where all that a releaser gave back in a period is.
pub(super) fn memory(period: &str, releaser: &Releaser) -> String {
    format!("{period}/{releaser}.json")
}

impl Shared {
    /// Who released this port lately, on whatever address: at most two look-ups.
    ///
    /// # Errors
    /// When the file system refuses; a damaged mark is none.
    pub fn released_at(
        &self,
        protocol: Protocol,
        port: NonZeroU16,
        now: u64,
    ) -> Result<Option<Mark>, Error> {
        for period in periods(now) {
            let target = self.disk.target(&format!("{period}/{}", mark(protocol, port)))?;
            if let Some((at, by)) = target.as_deref().and_then(told) {
                let mark = || Mark { by: Releaser(by.to_owned()), at };
                return Ok(counts(at, now).then(mark));
            }
        }
        Ok(None)
    }

    /// What this releaser gave back lately; what others have taken since is still in it. A damaged
    /// memory, or one that cannot be read, is none.
    #[must_use]
    pub fn released_to(&self, releaser: &Releaser, now: u64) -> Option<Released> {
        let read = |period: String| {
            let bytes = self.disk.read(&memory(&period, releaser)).ok()??;
            record::decode(&bytes).ok()
        };
        let latest: Option<Released> = periods(now).find_map(read);
        latest.filter(|released| counts(released.at, now))
    }
}

impl Locked {
    /// Remembers for ten minutes what `record` owns, before [`Locked::remove`]. What somebody else
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
        let recent: Vec<String> = periods(now).collect();
        for name in self.disk.names(DIRECTORY)? {
            let path = format!("{DIRECTORY}/{name}");
            if !recent.contains(&path) {
                self.disk.remove_all(&path)?;
            }
        }
        let (releaser, period) = (Releaser::of(&record.owner), period(now / REMEMBERED));
        for mapping in &owned {
            let name = mark(mapping.host.protocol, mapping.host.port);
            self.disk.link(&format!("{period}/{name}"), &format!("{now}/{releaser}"))?;
        }
        let hosts = owned.iter().map(|mapping| mapping.host).collect();
        let numbers =
            owned.iter().map(|mapping| (mapping.host.protocol, mapping.host.port.get())).collect();
        let grants =
            record.grants.iter().filter(|grant| is_whole(grant, &numbers)).cloned().collect();
        let memory = Released { at: now, hosts, grants };
        record::write(&self.disk, &format!("{period}/{releaser}.json"), &memory)
    }
}

/// Whether everything that was granted is still there, in what is `owned` now.
fn is_whole(grant: &Grant, owned: &BTreeSet<(Protocol, u16)>) -> bool {
    let first = grant.port.get();
    let last = first.saturating_add(grant.wish.count.get() - 1);
    let owns = |protocol, port| owned.contains(&(protocol, port));
    grant.wish.protocols.iter().all(|protocol| (first..=last).all(|port| owns(*protocol, port)))
}
