//! Ports taken out of the pool by hand, or by the agent: `reservations/<name>.json`.
//!
//! A reservation has no attachment, so no DEL, GC or evidence ends it, only its release. One that is
//! to outlive a boot is kept in another directory as well, from where the first command after the
//! boot brings it back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::error::{Damage, Error, Unreadable};
use super::key::{Key, Kind};
use super::{Locked, Shared, index, record};
use crate::event::{Log, Then};
use crate::model::HostPort;

/// Where reservations that outlive a boot are kept, unless tests say otherwise.
pub const PERSISTENT: &str = "/var/lib/autoport/reservations";

/// Host ports that belong to something that is no container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, derive_more::Display)]
#[display("reservation {name}")]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// Its name, at most 200 bytes, by the rules for names of networks.
    pub name: String,
    /// The reserved ports.
    pub hosts: Vec<HostPort>,
    /// Seconds since the epoch at which it was made.
    pub created: u64,
    /// Whether it outlives a boot.
    pub persistent: bool,
}

/// Reads the reservation with this key; `None` when there is none.
pub(super) fn read(disk: &Disk, key: &Key) -> Result<Option<Reservation>, Unreadable> {
    record::read_as(disk, key, &key.path(), parse)
}

fn parse(bytes: &[u8], key: &Key) -> Result<Reservation, Damage> {
    let mut reservation: Reservation = record::decode(bytes)?;
    let own = Key::of_reservation(&reservation.name);
    let own = own.map_err(|error| Damage::Content(error.to_string()))?;
    record::check_name(key, &own, &reservation)?;
    reservation.hosts.sort_unstable();
    record::check_once(reservation.hosts.iter().copied())?;
    Ok(reservation)
}

/// The file of a reservation in the directory of those that outlive a boot.
fn kept_file(key: &Key) -> String {
    format!("{}.json", key.stem)
}

/// Brings back what is kept at `kept` and not in the store. What cannot be read is left where it is,
/// loudly: its name is known, but not its ports.
pub(super) fn bring_back(disk: &Disk, kept: &Path, log: &mut dyn Log) -> Result<(), Error> {
    let Some(kept) = Disk::open(kept)? else { return Ok(()) };
    for name in kept.names("")? {
        let Some(key) = Key::of_file(Kind::Reservation, &name) else { continue };
        match record::read_as(&kept, &key, &name, parse) {
            Ok(Some(reservation)) if disk.inode(&key.path())?.is_none() => {
                for host in &reservation.hosts {
                    enter_unless_held(disk, host, &key)?;
                }
                record::write(disk, &key.path(), &reservation)?;
            }
            Ok(_) => {}
            Err(unreadable) => log.note(unreadable.event(Then::NotReserved)),
        }
    }
    Ok(())
}

/// Where the instance file was lost, another holder may have the port since, on any address.
fn enter_unless_held(disk: &Disk, host: &HostPort, key: &Key) -> Result<(), Error> {
    for (other, holder) in index::at(disk, host.protocol, host.port)? {
        let is_there = !holder.is_known() || disk.inode(&holder.path())?.is_some();
        if holder != *key && is_there && other.overlaps(host) {
            return Ok(());
        }
    }
    index::enter(disk, host, key)
}

impl Shared {
    /// Every reservation, sorted by name.
    ///
    /// # Errors
    /// When the directory cannot be read; a reservation that cannot is an item.
    pub fn reservations(&self) -> Result<Vec<Result<Reservation, Unreadable>>, Error> {
        let keys = self.disk.keys(Kind::Reservation)?;
        Ok(keys.iter().filter_map(|key| read(&self.disk, key).transpose()).collect())
    }
}

impl Locked {
    /// Records `reservation` in place of the one of that name. The caller has made sure with
    /// [`Shared::holders`] that no other holder has the ports.
    ///
    /// It is kept for the next boot first, so that what cannot be kept changes nothing; then the
    /// order is that of [`Locked::save`].
    ///
    /// # Errors
    /// [`Error::Name`]; [`Error::NotPersistent`]; [`Error::Unreadable`] when the one before cannot be
    /// read: [`Locked::release`] it first.
    pub fn reserve(&self, reservation: &Reservation) -> Result<(), Error> {
        let (disk, key) = (&self.disk, Key::of_reservation(&reservation.name)?);
        let mut reservation = reservation.clone();
        reservation.hosts.sort_unstable();
        reservation.hosts.dedup();
        let before = read(disk, &key)?;
        self.keep(&key, &reservation)?;
        for host in &reservation.hosts {
            index::enter(disk, host, &key)?;
        }
        record::write(disk, &key.path(), &reservation)?;
        let before = before.map(|before| before.hosts).unwrap_or_default();
        let gone = before.iter().filter(|host| reservation.hosts.binary_search(host).is_err());
        self.withdraw(&key, gone)
    }

    /// Ends the reservation of this name and says which ports that frees; `None` when there is none.
    /// One that cannot be read is put aside like a record ([`Locked::discard`]).
    ///
    /// # Errors
    /// [`Error::Name`], or when the file system refuses.
    pub fn release(&self, name: &str) -> Result<Option<Vec<HostPort>>, Error> {
        let key = Key::of_reservation(name)?;
        let kept = self.forget_kept(&key)?;
        match read(&self.disk, &key) {
            Ok(Some(reservation)) => {
                self.disk.remove(&key.path())?;
                self.withdraw(&key, reservation.hosts.iter())?;
                Ok(Some(reservation.hosts))
            }
            Ok(None) => Ok(kept.then(Vec::new)),
            Err(_) => {
                let hosts = self.entered(&key)?;
                self.discard(&key)?;
                Ok(Some(hosts))
            }
        }
    }

    /// Makes the directory of what outlives a boot say what `reservation` says.
    fn keep(&self, key: &Key, reservation: &Reservation) -> Result<(), Error> {
        if !reservation.persistent {
            return self.forget_kept(key).map(drop);
        }
        let Some(kept) = &self.persistent else {
            return Err(Error::NotPersistent { name: reservation.name.clone() });
        };
        record::write(&Disk::create_durable(kept)?, &kept_file(key), reservation)
    }

    /// Says whether there was anything to forget.
    fn forget_kept(&self, key: &Key) -> Result<bool, Error> {
        let Some(kept) = &self.persistent else { return Ok(false) };
        let Some(kept) = Disk::open(kept)?.map(Disk::durable) else { return Ok(false) };
        let there = kept.inode(&kept_file(key))?.is_some();
        kept.remove(&kept_file(key))?;
        Ok(there)
    }
}
