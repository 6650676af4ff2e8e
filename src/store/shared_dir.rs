//! A directory into which a container that has it mounted may write: it is entered without following a
//! link, nothing in it is read, and what is in the place of our files is deleted.
//!
//! Such a directory can stop a process that works in it for as long as its container likes (a process that
//! lists it holds its lock while a page fault is served), so this is never done under the lock of the
//! store.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::renameat;
use nix::sys::stat::{Mode, fchmod, mkdirat};

use super::disk::{Disk, parent};
use super::error::Error;
use super::tree;

/// Entering it and listing it is for everybody.
const ACCESS: Mode = Mode::S_IRWXU
    .union(Mode::S_IRGRP)
    .union(Mode::S_IXGRP)
    .union(Mode::S_IROTH)
    .union(Mode::S_IXOTH);

/// How long one is being deleted at most: new files may be put there all the while.
const PATIENCE: Duration = Duration::from_secs(1);

/// An open directory of that kind.
pub(super) struct SharedDir<'a> {
    disk: &'a Disk,
    name: &'a str,
    dir: File,
}

impl<'a> SharedDir<'a> {
    /// Opens the directory `name` of `disk`, made if it is missing, so that everybody may list it who
    /// can reach it.
    pub(super) fn make(disk: &'a Disk, name: &'a str) -> Result<Self, Error> {
        let error = |errno| Error::io("open up", &disk.full(name))(errno);
        let enter = || match mkdirat(&disk.dir, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => disk.open_directory(name),
            Err(errno) => Err(errno),
        };
        disk.make(parent(name))?;
        let dir = match enter() {
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                disk.remove(name)?;
                enter()
            }
            entered => entered,
        };
        let dir = dir.map_err(error)?;
        // By the descriptor: what has the name by now may be a link.
        fchmod(&dir, ACCESS).map_err(error)?;
        Ok(Self { disk, name, dir })
    }

    /// Whether anything but an empty directory has this name.
    pub(super) fn has_content(disk: &Disk, name: &str) -> Result<bool, Error> {
        let names = match disk.open_directory(name) {
            Ok(dir) => tree::names(&dir).map(|(names, _)| !names.is_empty()),
            Err(Errno::ENOENT) => Ok(false),
            Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(true),
            Err(errno) => Err(errno.into()),
        };
        names.map_err(Error::io("list", &disk.full(name)))
    }

    /// Deletes the directory `name` of `disk` with everything in it.
    pub(super) fn remove(disk: &Disk, name: &str) -> Result<(), Error> {
        tree::delete(&disk.dir, name, soon()).map_err(Error::io("delete", &disk.full(name)))
    }

    /// Puts a file with these bytes, which everybody may read, in the place of whatever `name` is.
    /// It is made as `temporary`, where nobody else can touch it.
    pub(super) fn replace(&self, temporary: &str, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let full = self.disk.full(&format!("{}/{name}", self.name));
        self.disk.write_temporary(temporary, &full, bytes, Mode::from_bits_truncate(0o644))?;
        let put = || renameat(&self.disk.dir, temporary, &self.dir, name);
        let done = match put() {
            Err(Errno::EISDIR) => {
                tree::delete(&self.dir, name, soon()).map_err(Error::io("delete", &full))?;
                put()
            }
            done => done,
        };
        self.disk.or_clear_away(temporary, done.map_err(Error::io("replace", &full)))
    }
}

fn soon() -> Option<Instant> {
    Instant::now().checked_add(PATIENCE)
}
