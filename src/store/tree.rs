//! Deleting a tree of directories that a container has made, and may go on making.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How many names of a directory are in memory at once.
pub(super) const AT_ONCE: usize = 1024;

/// Deletes whatever `name` in `parent` is, with everything in it; what is missing is deleted already.
/// Where that takes until later than `until` it stops with an error, and the next time there is so much
/// less to do.
///
/// A container may have nested directories as deep as the memory goes. So there is no recursion, and no
/// more than three of them are open at once: what is nested is moved up, until nothing is.
pub(super) fn delete(
    parent: &File,
    name: impl AsRef<Path>,
    until: Option<Instant>,
) -> io::Result<()> {
    let name = name.as_ref();
    if unlink(parent, name)? {
        return Ok(());
    }
    let top = enter(parent, name)?;
    let mut number: u64 = 0;
    loop {
        let (entries, mut more) = names(&top)?;
        for entry in entries {
            if unlink(&top, Path::new(&entry))? {
                continue;
            }
            let inner = enter(&top, Path::new(&entry))?;
            let (all_below, more_below) = names(&inner)?;
            for below in all_below {
                if unlink(&inner, Path::new(&below))? {
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

fn in_time(until: Option<Instant>) -> io::Result<()> {
    if until.is_none_or(|until| Instant::now() < until) {
        return Ok(());
    }
    Err(io::Error::other("it has very many entries, or entries are still being added"))
}

/// Says whether it is gone: a directory with something in it is not.
fn unlink(dir: &File, name: &Path) -> io::Result<bool> {
    let deleted = match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unlinkat(dir, name, UnlinkatFlags::RemoveDir),
        deleted => deleted,
    };
    match deleted {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn enter(dir: &File, name: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?.into())
}

/// Some of the names in a directory, and whether there are more.
pub(super) fn names(dir: &File) -> io::Result<(Vec<OsString>, bool)> {
    let mut entries = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    let some = entries.by_ref().take(AT_ONCE).map(|entry| Ok(entry?.file_name()));
    let some = some.collect::<io::Result<_>>()?;
    Ok((some, entries.next().is_some()))
}
