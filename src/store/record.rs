//! The truth: one file per attachment. And what every file of this store looks like.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, Serializer};

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
    read_at(disk, key, &key.path())
}

/// The same from another file.
pub(super) fn read_at(disk: &Disk, key: &Key, path: &str) -> Result<Option<Record>, Unreadable> {
    read_as(disk, key, path, parse)
}

/// Reads what `parse` knows how to read from the file `path` of whoever has this key.
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
    let bytes = print(content).map_err(Error::io("encode", &disk.full(path)))?;
    disk.replace(path, &bytes)
}

/// Decodes what [`write()`] wrote.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    let Versioned { version } = serde_json::from_slice(bytes).map_err(Damage::Json)?;
    if version > LAYOUT {
        return Err(Damage::NewerLayout { found: version, known: LAYOUT });
    }
    serde_json::from_slice(bytes).map_err(Damage::Json)
}

fn parse(bytes: &[u8], key: &Key) -> Result<Record, Damage> {
    let mut record: Record = decode(bytes)?;
    let named = &record.owner.holder;
    if Key::of(named) != *key {
        return Err(Damage::OtherHolder { found: named.to_string() });
    }
    record.mappings.sort_unstable();
    let again = record.mappings.windows(2).find(|pair| pair[0].host == pair[1].host);
    if let Some(pair) = again {
        return Err(Damage::Twice { host_port: pair[0].host.to_string() });
    }
    check_content(&record)?;
    Ok(record)
}

/// Refuses what the types allow and the kernel would not: one such record in the table would fail
/// the commands of every other pod.
fn check_content(record: &Record) -> Result<(), Damage> {
    for Mapping { host, target, .. } in &record.mappings {
        if let Some(target) = target
            && Family::of(&host.address) != Family::of(&target.ip())
        {
            return Err(Damage::OtherFamily { host_port: host.to_string(), target: *target });
        }
    }
    let mark_bit = record.policy.mark_bit;
    if mark_bit > MARK_BIT_MAX {
        return Err(Damage::NoMarkBit { found: mark_bit });
    }
    for family in Family::ALL {
        let mut own = record.pod_addresses.iter().filter(|own| Family::of(&own.ip()) == family);
        if let (Some(first), Some(second)) = (own.next(), own.next()) {
            return Err(Damage::TwoAddresses { first: *first, second: *second });
        }
    }
    Ok(())
}

/// Whether sorted mappings hold exactly this host port.
pub(super) fn lists(mappings: &[Mapping], host: &HostPort) -> bool {
    mappings.binary_search_by(|mapping| mapping.host.cmp(host)).is_ok()
}

fn print(content: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2048);
    let mut serializer = Serializer::with_formatter(&mut bytes, Lines::default());
    Written { version: WRITTEN, content }.serialize(&mut serializer)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// One line per field and one per mapping, so that a record can be read, searched and compared.
#[derive(Default)]
struct Lines {
    depth: usize,
}

impl Lines {
    fn open<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        out.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b"," })?;
        match self.depth {
            1 => out.write_all(b"\n "),
            2 => out.write_all(b"\n  "),
            _ => out.write_all(if first { b"" } else { b" " }),
        }
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}
