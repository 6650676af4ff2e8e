//! A directory into which somebody else may write, a container that has it mounted: it is entered
//! without following a link, and whatever stands in the way of ours is deleted.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::disk::{Disk, TEMPORARY, parent};
use super::error::Error;

/// Entering it and listing it is for everybody.
const ACCESS: Mode = Mode::S_IRWXU
    .union(Mode::S_IRGRP)
    .union(Mode::S_IXGRP)
    .union(Mode::S_IROTH)
    .union(Mode::S_IXOTH);

/// How long one is being deleted at most: whoever has it mounted may put new files there all the while,
/// and everybody else waits for the lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many names of it are in memory at once.
pub(super) const AT_ONCE: usize = 1024;

/// An open directory of that kind.
pub(super) struct Public<'a> {
    disk: &'a Disk,
    name: &'a str,
    dir: File,
}

impl<'a> Public<'a> {
    /// Opens the directory `name` of `disk`; `None` when there is none.
    pub(super) fn open(disk: &'a Disk, name: &'a str) -> nix::Result<Option<Self>> {
        match disk.open_directory(name) {
            Ok(dir) => Ok(Some(Self { disk, name, dir })),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens it, made if it is missing, so that everybody may list it who can reach it.
    pub(super) fn make(disk: &'a Disk, name: &'a str) -> Result<Self, Error> {
        let error = |errno| Error::io("open up", &disk.full(name))(errno);
        let enter = || match mkdirat(disk.dir(), name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => Self::open(disk, name),
            Err(errno) => Err(errno),
        };
        disk.make(parent(name))?;
        let mut public = enter().map_err(error)?;
        if public.is_none() {
            disk.remove(name)?;
            public = enter().map_err(error)?;
        }
        let public = public.ok_or_else(|| error(Errno::ENOTDIR))?;
        // By the descriptor: what has the name by now may be a link.
        fchmod(&public.dir, ACCESS).map_err(error)?;
        Ok(public)
    }

    /// Deletes the directory `name` of `disk` with everything in it.
    pub(super) fn remove(disk: &Disk, name: &str) -> Result<(), Error> {
        delete(disk.dir(), name, soon()).map_err(Error::io("delete", &disk.full(name)))?;
        Ok(())
    }

    /// What a file holds, up to so many bytes; `None` when it is missing. Anything but a file holds
    /// nothing.
    pub(super) fn read(&self, most: u64, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        let mut bytes = Vec::new();
        if file.metadata()?.is_file() {
            file.take(most).read_to_end(&mut bytes)?;
        }
        Ok(Some(bytes))
    }

    /// Puts a file with these bytes, which everybody may read, in the place of whatever `name` is.
    /// It is made where nobody else can touch it.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let full = format!("{}/{name}", self.name);
        self.disk.write_temporary(&full, bytes, Mode::from_bits_truncate(0o644))?;
        let put = || renameat(self.disk.dir(), TEMPORARY, &self.dir, name);
        let done = match put() {
            Err(Errno::EISDIR) => {
                let failed = Error::io("delete", &self.disk.full(&full));
                delete(&self.dir, name, soon()).map_err(failed)?;
                put()
            }
            done => done,
        };
        let done = done.map_err(|errno| Error::io("replace", &self.disk.full(&full))(errno));
        self.disk.or_clear_away(done)?;
        Ok(())
    }
}

/// Deletes whatever `name` in `parent` is, with everything in it; what is missing is deleted already.
/// Where that takes until later than `until` it stops with an error, and the next time there is so much
/// less to do.
///
/// Somebody may have nested directories as deep as the memory goes. So there is no recursion, and no
/// more than three of them are open at once: what is nested is moved up, until nothing is.
pub(super) fn delete(
    parent: &File,
    name: impl AsRef<Path>,
    until: Option<Instant>,
) -> io::Result<()> {
    let name = name.as_ref();
    match unlink(parent, name)? {
        Unlinked::Gone => return Ok(()),
        Unlinked::Nonempty => {}
    }
    let top = enter(parent, name)?;
    let mut number: u64 = 0;
    loop {
        let (entries, mut more) = names(&top)?;
        for entry in entries {
            if unlink(&top, Path::new(&entry))? == Unlinked::Gone {
                continue;
            }
            let inner = enter(&top, Path::new(&entry))?;
            let (all_below, more_below) = names(&inner)?;
            for below in all_below {
                if unlink(&inner, Path::new(&below))? == Unlinked::Gone {
                    continue;
                }
                more = true;
                loop {
                    number += 1;
                    match renameat(&inner, &*below, &top, &*format!(".up-{number}")) {
                        // The name is taken.
                        Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => in_time(until)?,
                        done => break done?,
                    }
                }
            }
            if more_below {
                more = true;
            } else {
                unlinkat(&top, &*entry, UnlinkatFlags::RemoveDir)?;
            }
            in_time(until)?;
        }
        if !more {
            return Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?);
        }
        in_time(until)?;
    }
}

fn soon() -> Option<Instant> {
    Instant::now().checked_add(PATIENCE)
}

fn in_time(until: Option<Instant>) -> io::Result<()> {
    if until.is_none_or(|until| Instant::now() < until) {
        return Ok(());
    }
    Err(io::Error::other("there is very much in it, or somebody keeps putting more there"))
}

#[derive(PartialEq, Eq)]
enum Unlinked {
    Gone,
    /// A directory with something in it.
    Nonempty,
}

fn unlink(dir: &File, name: &Path) -> io::Result<Unlinked> {
    let deleted = match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unlinkat(dir, name, UnlinkatFlags::RemoveDir),
        deleted => deleted,
    };
    match deleted {
        Ok(()) | Err(Errno::ENOENT) => Ok(Unlinked::Gone),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(Unlinked::Nonempty),
        Err(errno) => Err(errno.into()),
    }
}

fn enter(dir: &File, name: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?.into())
}

/// Some of the names in a directory, and whether there are more.
fn names(dir: &File) -> io::Result<(Vec<OsString>, bool)> {
    let mut entries = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    let some = entries.by_ref().take(AT_ONCE).map(|entry| Ok(entry?.file_name()));
    let some = some.collect::<io::Result<_>>()?;
    Ok((some, entries.next().is_some()))
}
