//! What the plugin rejected, superseded and repaired, for the node agent, which counts it: `journal`, a line of
//! JSON for each. Writing it fails no command, and no command reads it.
//!
//! A line is appended without the lock. A file that is full is renamed to `journal.old` under the lock, and as
//! long as the lock is taken nothing is appended to it.

use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode as Access, fchmod};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, PRIVATE_FILE};
use super::lock::{Mode, attempt};
use super::{LOCK, Store};

const CURRENT: &str = "journal";
const OLD: &str = "journal.old";

/// In the order of what is in them.
pub(super) const FILES: [&str; 2] = [OLD, CURRENT];

/// How long a file is at most: full when no command's lines may fit.
const FILE_MAX: u64 = 32 << 10;
const FULL: u64 = FILE_MAX - 6 * (LINES_MAX * (TEXT_MAX + 100)) as u64;

/// How many lines of a command are kept, the last ones, and how many bytes of their text. A byte takes at most six in JSON.
const LINES_MAX: usize = 4;
const TEXT_MAX: usize = 200;

/// The kind of an event in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, derive_more::Display)]
#[serde(rename_all = "lowercase")]
#[display(rename_all = "lowercase")]
pub enum Deed {
    /// A command failed.
    Rejected,
    /// The ports of a holder that no longer exists went to another.
    Superseded,
    /// The table was built again.
    Built,
    /// Elements of the table were restored or removed.
    Mended,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since the epoch.
    pub time: u64,
    /// The kind of event.
    pub kind: Deed,
    /// The code of the reply to a rejected command, otherwise 0.
    pub code: u32,
    /// The error or the event, at most 200 bytes.
    pub text: String,
}

impl Store {
    /// Appends entries to the journal, if there is a state directory and nothing prevents it.
    pub fn note(&self, entries: Vec<Entry>) {
        let others = entries.len().saturating_sub(LINES_MAX);
        let lines = entries.into_iter().skip(others).filter_map(|mut entry| {
            entry.text.truncate(entry.text.floor_char_boundary(TEXT_MAX));
            Some(serde_json::to_string(&entry).ok()? + "\n")
        });
        let lines: String = lines.collect();
        if let (false, Ok(Some(disk))) = (lines.is_empty(), Disk::open(&self.dir)) {
            // A full disk, or something else in the place of the file: there is nobody to tell.
            let _ = append(&disk, &lines);
        }
    }
}

fn append(disk: &Disk, lines: &str) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
    let open = || {
        let file = disk.open_file(CURRENT, flags, PRIVATE_FILE)?;
        let is_full = regular(&file)?.len() >= FULL;
        // A umask may have taken rights away.
        fchmod(&file, PRIVATE_FILE)?;
        Ok::<_, io::Error>((file, is_full))
    };
    let (mut file, mut is_full) = open()?;
    // Until this is over, nobody else does the same.
    let lock;
    if is_full {
        lock = disk.open_file(LOCK, OFlag::O_RDWR, Access::empty())?;
        if !attempt(&lock, Mode::Exclusive)? {
            return Ok(());
        }
        (file, is_full) = open()?;
        if is_full {
            disk.rename(CURRENT, OLD).map_err(io::Error::other)?;
            (file, _) = open()?;
        }
    }
    // In one call, so that the lines of two commands do not mix.
    file.write_all(lines.as_bytes())
}

fn regular(file: &File) -> io::Result<Metadata> {
    let found = file.metadata()?;
    if found.is_file() { Ok(found) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Reads what is added to the journal.
#[derive(Debug, Default)]
pub struct Reader {
    begun: bool,
    /// The file that was read last, and how much of it was. While it is open, no other has its inode.
    last: Option<(File, u64)>,
}

impl Reader {
    /// What was added since the last call; nothing at the first. Lines that are no entries are passed over.
    pub fn read(&mut self, store: &Store) -> Vec<Entry> {
        let (mut entries, begins) = (Vec::new(), !std::mem::replace(&mut self.begun, true));
        let Ok(Some(disk)) = Disk::open(store.dir()) else { return entries };
        let open = |name| disk.open_file(name, OFlag::O_RDONLY, Access::empty()).ok();
        let examined = |file: File| regular(&file).ok().map(|found| (file, found));
        let files: Vec<_> = FILES.into_iter().filter_map(|name| examined(open(name)?)).collect();
        let known = self.last.as_mut().and_then(|(file, read)| {
            let found = regular(file).ok()?;
            *read = if *read > found.len() { 0 } else { *read };
            *read += take(file, *read, &mut entries);
            Some(found.ino())
        });
        let is_known = |(_, found): &(File, Metadata)| Some(found.ino()) == known;
        let others = files.iter().position(is_known).map_or(0, |at| at + 1);
        for (file, found) in files.into_iter().skip(others) {
            let read = if begins { found.len() } else { take(&file, 0, &mut entries) };
            self.last = Some((file, read));
        }
        entries
    }
}

/// Reads the whole lines from there on; gives how many bytes they have.
fn take(file: &File, from: u64, entries: &mut Vec<Entry>) -> u64 {
    let mut bytes = vec![0; FILE_MAX as usize];
    let length = file.read_at(&mut bytes, from).unwrap_or_default();
    let whole = bytes[..length].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let lines = bytes[..whole].split(|byte| *byte == b'\n');
    entries.extend(lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()));
    whole as u64
}

#[cfg(test)]
mod tests;
