//! The truth: one file per attachment. And what every file of this store looks like.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::error::{Damage, Error, Unreadable};
use super::key::Key;
use crate::model::{Family, HostPort, Mapping, Record};

/// The version of the state directory, raised when an older autoport would misunderstand what a
/// newer one writes. 2 added `owners`, `containers` and `namespaces`.
pub const LAYOUT: u32 = 2;

/// The first layout whose readers understand the files of today.
const WRITTEN: u32 = 1;

/// A packet mark has 32 bits.
const MARK_BIT_MAX: u8 = 31;

/// What every file says first.
#[derive(Deserialize)]
pub(super) struct Versioned {
    pub(super) version: u32,
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// Reads the record of `key`; `None` when there is none. The outer failure of the type is left to
/// the caller, since an unreadable record is an answer to some and an error to others.
pub(super) fn read(disk: &Disk, key: &Key) -> Result<Option<Record>, Unreadable> {
    read_as(disk, key, &key.path(), parse)
}

/// The same, unless it is of another boot than this.
pub(super) fn current(disk: &Disk, key: &Key, boot_id: &str) -> Result<Option<Record>, Unreadable> {
    Ok(read(disk, key)?.filter(|record| record.boot_id == boot_id))
}

/// Reads what `parse` knows how to read from the file `path` of the holder with this key.
pub(super) fn read_as<T>(
    disk: &Disk,
    key: &Key,
    path: &str,
    parse: impl FnOnce(&[u8], &Key) -> Result<T, Damage>,
) -> Result<Option<T>, Unreadable> {
    let unreadable = |source| Unreadable { key: key.clone(), path: disk.full(path), source };
    let Some(bytes) = disk.read(path).map_err(|error| unreadable(Damage::of(error)))? else {
        return Ok(None);
    };
    parse(&bytes, key).map(Some).map_err(unreadable)
}

/// What is known of a holder that a later version entered.
pub(super) fn of_unknown_kind(disk: &Disk, key: &Key) -> Unreadable {
    Unreadable { key: key.clone(), path: disk.full(&key.path()), source: Damage::UnknownKind }
}

/// Writes any content into the file `path`, with the version in front.
pub(super) fn write(disk: &Disk, path: &str, content: &impl Serialize) -> Result<(), Error> {
    let printed = serde_json::to_vec_pretty(&Written { version: WRITTEN, content });
    let mut bytes = printed.map_err(Error::io("encode", &disk.full(path)))?;
    bytes.push(b'\n');
    disk.replace(path, &bytes)
}

/// How what [`write()`] writes begins, of [`WRITTEN`].
const HEAD: &[u8] = b"{\n  \"version\": 1,\n";

/// Decodes what [`write()`] wrote.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    // The version is looked for in the whole file only where it is not where it is written.
    if !bytes.starts_with(HEAD) {
        let Versioned { version } = serde_json::from_slice(bytes).map_err(Damage::Json)?;
        if version > LAYOUT {
            return Err(Damage::NewerLayout { found: version, known: LAYOUT });
        }
    }
    serde_json::from_slice(bytes).map_err(Damage::Json)
}

fn parse(bytes: &[u8], key: &Key) -> Result<Record, Damage> {
    let mut record: Record = decode(bytes)?;
    check_name(key, &Key::of(&record.owner.holder), &record.owner.holder)?;
    record.mappings.sort_unstable();
    check_once(record.mappings.iter().map(|mapping| mapping.host))?;
    check_content(&record).map_err(Damage::Content)?;
    Ok(record)
}

/// Refuses a file whose content names another holder than its name does.
pub(super) fn check_name(key: &Key, own: &Key, named: &impl fmt::Display) -> Result<(), Damage> {
    let text = || format!("it names {named}, whose record has another file name");
    if own == key { Ok(()) } else { Err(Damage::Content(text())) }
}

/// Refuses sorted host ports if two of them are the same.
pub(super) fn check_once(hosts: impl Iterator<Item = HostPort>) -> Result<(), Damage> {
    let mut last = None;
    for host in hosts {
        if last.replace(host) == Some(host) {
            return Err(Damage::Content(format!("it holds {host} twice")));
        }
    }
    Ok(())
}

/// Refuses what the types allow and the kernel would not: one such record in the table would fail
/// the commands of every other pod.
fn check_content(record: &Record) -> Result<(), String> {
    for Mapping { host, target, .. } in &record.mappings {
        if let Some(target) = target
            && Family::of(&host.address) != Family::of(&target.ip())
        {
            return Err(format!(
                "it leads {host} to {target}, which is of the other address family"
            ));
        }
    }
    let found = record.policy.mark_bit;
    if found > MARK_BIT_MAX {
        return Err(format!("it has mark bit {found}, and a packet mark has the bits 0 to 31"));
    }
    for family in Family::ALL {
        let mut own = record.pod_addresses.iter().filter(|own| Family::of(&own.ip()) == family);
        if let (Some(first), Some(second)) = (own.next(), own.next()) {
            return Err(format!(
                "it gives the pod two addresses of one family, {first} and {second}"
            ));
        }
    }
    Ok(())
}
