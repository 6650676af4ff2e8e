//! What records of layout 1 lack: the dialects, which were in `ports.json` only. A container may have
//! written that file, so what is read there decides nothing but which variables its pod is told.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use serde::Deserialize;

use super::disk::Disk;
use crate::model::{Dialect, Record, check_identifier};

/// More than the entries of all ports that a pod may have.
const LONGEST: u64 = 1 << 20;

/// Takes into a record what its pod was told to wait for; says whether that is anything.
pub(super) fn complete(disk: &Disk, record: &mut Record) -> bool {
    let is_told = !record.grants.is_empty() && record.dialects.is_empty();
    let uid = record.owner.uid().filter(|_| is_told);
    let dialects = uid.and_then(|uid| dialects(disk, uid)).filter(|found| !found.is_empty());
    dialects.map(|dialects| record.dialects = dialects).is_some()
}

/// The dialects that `ports.json` of layout 1 names.
fn dialects(disk: &Disk, uid: &str) -> Option<BTreeSet<Dialect>> {
    #[derive(Deserialize)]
    struct Publication {
        ports: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        dialects: BTreeSet<Dialect>,
    }
    check_identifier("pod UID", uid).ok()?;
    let directory = disk.open_directory(&format!("pods/{uid}")).ok()?;
    // A device must not even be opened: first it is seen what it is.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let seen = File::from(openat(&directory, "ports.json", flags, Mode::empty()).ok()?);
    if !seen.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let path = format!("/proc/self/fd/{}", seen.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(open(&*path, flags, Mode::empty()).ok()?);
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    let read: Publication = serde_json::from_slice(&bytes).ok()?;
    Some(read.ports.into_iter().flat_map(|entry| entry.dialects).collect())
}
