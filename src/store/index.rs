//! The index: `ports/<proto>/<port>/<host address>`, a symbolic link to the record of the holder.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::disk::Disk;
use super::error::Error;
use super::key::Key;
use super::record;
use crate::model::{HostPort, Mapping, Protocol, Record};

/// From an entry up to the state directory.
const UP: &str = "../../../";

pub(super) fn directory(protocol: Protocol, port: NonZeroU16) -> String {
    format!("{}/{port}", of_protocol(protocol))
}

fn entry(host: &HostPort) -> String {
    format!("ports/{}/{}/{}", host.protocol, host.port, host.address)
}

/// Enters `key` as the holder of `host`, in place of a holder before it. An entry that a later
/// version made is never replaced.
pub(super) fn enter(disk: &Disk, host: &HostPort, key: &Key) -> Result<(), Error> {
    let (name, target) = (entry(host), format!("{UP}{}", key.path()));
    if disk.link_new(&name, &target)? {
        return Ok(());
    }
    match entered(disk, host)? {
        Some(holder) if holder == *key => Ok(()),
        Some(holder) if !holder.is_known() => Err(record::of_unknown_kind(disk, &holder).into()),
        Some(_) | None => disk.link_over(&name, &target),
    }
}

/// Takes the entry out.
pub(super) fn withdraw(disk: &Disk, host: &HostPort) -> Result<(), Error> {
    disk.remove(&entry(host))
}

/// Takes away the directory of a port that nobody is entered for.
pub(super) fn abandon(disk: &Disk, protocol: Protocol, port: NonZeroU16) -> Result<(), Error> {
    disk.remove_if_empty(&directory(protocol, port)).map(drop)
}

/// Who is entered for exactly this host port.
pub(super) fn entered(disk: &Disk, host: &HostPort) -> Result<Option<Key>, Error> {
    let target = disk.entry(&entry(host))?;
    Ok(target.map(|target| key_in(&target)))
}

/// Those mappings of `record` that nobody else is entered for.
pub(super) fn owned(disk: &Disk, record: &Record) -> Result<Vec<Mapping>, Error> {
    let key = Key::of(&record.owner.holder);
    let mut owned = Vec::with_capacity(record.mappings.len());
    for mapping in &record.mappings {
        if entered(disk, &mapping.host)?.is_none_or(|holder| holder == key) {
            owned.push(*mapping);
        }
    }
    Ok(owned)
}

/// Everyone who is entered for a port, on whatever address. An entry whose name is no address is a
/// later version's: it counts for every address.
pub(super) fn at(
    disk: &Disk,
    protocol: Protocol,
    port: NonZeroU16,
) -> Result<Vec<(HostPort, Key)>, Error> {
    let mut found = Vec::new();
    let names = disk.names(&directory(protocol, port))?.into_iter();
    // A hidden file is nobody's.
    for name in names.filter(|name| !name.starts_with('.')) {
        let Some(address) = address_in(&name) else {
            let key = Key::unknown(&format!("{}/{name}", directory(protocol, port)));
            found.extend(HostPort::each(protocol, None, port).map(|host| (host, key.clone())));
            continue;
        };
        let host = HostPort { protocol, address, port };
        found.extend(entered(disk, &host)?.map(|key| (host, key)));
    }
    Ok(found)
}

/// Every entry of the node.
pub(super) fn all(disk: &Disk) -> Result<Vec<(HostPort, Key)>, Error> {
    let mut found = Vec::new();
    for (protocol, port) in ports(disk)? {
        found.extend(at(disk, protocol, port)?);
    }
    Ok(found)
}

/// Takes out every entry that does not count. What a later version entered stays.
pub(super) fn prune(disk: &Disk, counts: impl Fn(&HostPort, &Key) -> bool) -> Result<(), Error> {
    for (protocol, port) in ports(disk)? {
        let dir = directory(protocol, port);
        for name in disk.names(&dir)? {
            let Some(address) = address_in(&name) else { continue };
            let host = HostPort { protocol, address, port };
            let holder = entered(disk, &host)?.filter(Key::is_known);
            if holder.is_some_and(|key| !counts(&host, &key)) {
                disk.remove(&format!("{dir}/{name}"))?;
            }
        }
        disk.remove_if_empty(&dir)?;
    }
    Ok(())
}

/// Every port that has a directory.
fn ports(disk: &Disk) -> Result<Vec<(Protocol, NonZeroU16)>, Error> {
    let mut found = Vec::new();
    for protocol in Protocol::ALL {
        let names = disk.names(&of_protocol(protocol))?;
        found.extend(names.iter().filter_map(|name| Some((protocol, port_in(name)?))));
    }
    Ok(found)
}

/// Where every port of a protocol that anybody is entered for has a directory.
pub(super) fn of_protocol(protocol: Protocol) -> String {
    format!("ports/{protocol}")
}

/// A port has one spelling in the store, so that one look finds it.
pub(super) fn port_in(name: &str) -> Option<NonZeroU16> {
    let is_plain = matches!(name.as_bytes(), [b'1'..=b'9', ..]);
    if is_plain { name.parse().ok() } else { None }
}

/// An address has one spelling in the index, so that one look finds it.
fn address_in(name: &str) -> Option<IpAddr> {
    name.parse().ok().filter(|address: &IpAddr| address.to_string() == name)
}

fn key_in(target: &str) -> Key {
    let known = target.strip_prefix(UP).and_then(Key::of_path);
    known.unwrap_or_else(|| Key::unknown(target))
}
