//! The state directory as a place: opened once, checked, and from then on every name in it is looked
//! up relative to that open directory, so nobody can move it away under a running command.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstatat, lstat, mkdirat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, linkat, symlinkat, syncfs, unlinkat};

use super::error::Error;
use super::{lock, public};

/// Everything new is made under this name and then renamed. One name is enough, because only the
/// holder of the exclusive lock writes, and the next write clears away what a killed one left.
pub(super) const TEMPORARY: &str = ".new";

/// More than a million mappings; a larger file is none of ours and would only fill the memory.
const LONGEST_FILE: u64 = 256 << 20;

/// From how many directories on one sync of the whole file system is cheaper than one of each.
const MANY_DIRECTORIES: usize = 64;

const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
const PRIVATE_DIRECTORY: Mode = Mode::S_IRWXU;

/// An open state directory.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    dir: File,
    mode: u32,
    volatile: bool,
    unsynced: Mutex<BTreeSet<String>>,
}

impl Disk {
    /// Opens `path`, which must be a directory of ours; `None` when nothing is there.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = match open(path, flags, Mode::empty()) {
            Ok(dir) => File::from(dir),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(no_directory(path)),
            Err(errno) => return Err(Error::io("open", path)(errno)),
        };
        let mode = check_owner(path, &dir)?;
        let kind = fstatfs(&dir).map_err(Error::io("examine the file system of", path))?;
        let volatile = kind.filesystem_type() == TMPFS_MAGIC;
        Ok(Some(Self { path: path.to_owned(), dir, mode, volatile, unsynced: Mutex::default() }))
    }

    /// Opens `path`, made if it is missing, and takes away whatever others may do in it.
    ///
    /// Missing parents are made with mode 0755, as the package of any daemon would.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let opened = if let Some(disk) = Self::open(path)? {
            disk
        } else {
            make_parents(path)?;
            match DirBuilder::new().mode(0o700).create(path) {
                // Another command was faster.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", path)(error));
                }
                Ok(()) | Err(_) => {}
            }
            Self::open(path)?.ok_or_else(|| Error::io("create", path)(Errno::ENOENT))?
        };
        if opened.mode != PRIVATE_DIRECTORY.bits() {
            fchmod(&opened.dir, PRIVATE_DIRECTORY).map_err(Error::io("protect", path))?;
        }
        Ok(opened)
    }

    /// Whether everything in here ends with this boot: a tmpfs needs neither syncing nor a boot ID.
    pub(super) fn is_volatile(&self) -> bool {
        self.volatile
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of `name`, for people.
    pub(super) fn full(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn error<'a>(
        &'a self,
        action: &'static str,
        name: &'a str,
    ) -> impl FnOnce(Errno) -> Error + 'a {
        move |errno| Error::io(action, &self.full(name))(errno)
    }

    /// Opens the file to lock; makes it for a writer, and is `None` for a reader when it is missing.
    pub(super) fn lock_file(&self, name: &str, mode: lock::Mode) -> Result<Option<File>, Error> {
        let access = match mode {
            // Some network file systems want a file open for writing to lock it exclusively.
            lock::Mode::Exclusive => OFlag::O_RDWR,
            lock::Mode::Shared => OFlag::O_RDONLY,
        };
        loop {
            match self.open_file(name, access, Mode::empty()) {
                Err(Errno::ENOENT) if mode == lock::Mode::Shared => return Ok(None),
                Err(Errno::ENOENT) => {}
                opened => return opened.map(Some).map_err(self.error("open", name)),
            }
            match self.open_file(name, access | OFlag::O_CREAT | OFlag::O_EXCL, PRIVATE_FILE) {
                Err(Errno::EEXIST) => {}
                opened => {
                    let file = opened.map_err(self.error("create", name))?;
                    fchmod(&file, PRIVATE_FILE).map_err(self.error("protect", name))?;
                    return Ok(Some(file));
                }
            }
        }
    }

    fn open_file(&self, name: &str, flags: OFlag, mode: Mode) -> nix::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        uninterrupted(|| openat(&self.dir, name, flags, mode)).map(File::from)
    }

    /// What a file holds; `None` when it is missing. The caller decides what a failure means.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(name, OFlag::O_RDONLY, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::with_capacity(4096);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        file.take(LONGEST_FILE).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Puts a file with these bytes in the place of `name`: whoever reads sees all of the old or all
    /// of the new.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write_temporary(name, bytes, PRIVATE_FILE)?;
        self.put(name)
    }

    /// Writes what is to be renamed to `name`.
    pub(super) fn write_temporary(
        &self,
        name: &str,
        bytes: &[u8],
        access: Mode,
    ) -> Result<(), Error> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let made = self.afresh(|| self.open_file(TEMPORARY, flags, PRIVATE_FILE));
        let file = made.map_err(self.error("create", TEMPORARY))?;
        let written = || {
            fchmod(&file, access).map_err(self.error("protect", TEMPORARY))?;
            (&file).write_all(bytes).map_err(Error::io("write", &self.full(name)))?;
            if !self.volatile {
                uninterrupted(|| fsync(&file)).map_err(self.error("sync", name))?;
            }
            Ok(())
        };
        self.or_clear_away(written())
    }

    /// Leaves no temporary file behind a failure, which may be that there is no more space.
    pub(super) fn or_clear_away(&self, done: Result<(), Error>) -> Result<(), Error> {
        if done.is_err() {
            let _ = unlinkat(&self.dir, TEMPORARY, UnlinkatFlags::NoRemoveDir);
        }
        done
    }

    /// Makes `name` a symbolic link to `target`, whatever was there.
    pub(super) fn link(&self, name: &str, target: &str) -> Result<(), Error> {
        match self.in_directory(name, || symlinkat(target, &self.dir, name)) {
            Ok(()) => {
                self.changed(name);
                return Ok(());
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(self.error("create", name)(errno)),
        }
        if self.target(name)?.as_deref() == Some(target) {
            return Ok(());
        }
        let made = self.afresh(|| symlinkat(target, &self.dir, TEMPORARY));
        made.map_err(self.error("create", TEMPORARY))?;
        self.put(name)
    }

    /// Renames the new file into its place.
    fn put(&self, name: &str) -> Result<(), Error> {
        let rename = || renameat(&self.dir, TEMPORARY, &self.dir, name);
        let renamed = self.in_directory(name, rename).map_err(self.error("replace", name));
        self.or_clear_away(renamed)?;
        self.changed(name);
        Ok(())
    }

    /// Runs `make`, again if a killed command left its temporary file.
    fn afresh<T>(&self, make: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
        match make() {
            Err(Errno::EEXIST) => {
                unlinkat(&self.dir, TEMPORARY, UnlinkatFlags::NoRemoveDir)?;
                make()
            }
            done => done,
        }
    }

    /// Runs `make`, again with the directory of `name` if it was missing.
    fn in_directory(&self, name: &str, make: impl Fn() -> nix::Result<()>) -> nix::Result<()> {
        match make() {
            Err(Errno::ENOENT) if !parent(name).is_empty() => {
                self.make_directory(parent(name))?;
                make()
            }
            done => done,
        }
    }

    fn make_directory(&self, name: &str) -> nix::Result<()> {
        let make = || mkdirat(&self.dir, name, PRIVATE_DIRECTORY);
        match self.in_directory(name, make) {
            Err(Errno::EEXIST) => return Ok(()),
            done => done?,
        }
        self.changed(name);
        fchmodat(&self.dir, name, PRIVATE_DIRECTORY, FchmodatFlags::FollowSymlink)
    }

    /// Makes a directory unless something of that name is there.
    pub(super) fn make(&self, name: &str) -> Result<(), Error> {
        self.make_directory(name).map_err(self.error("create", name))
    }

    /// Opens a directory below this one, unless a link is in its place.
    pub(super) fn open_directory(&self, name: &str) -> nix::Result<File> {
        self.open_file(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
    }

    pub(super) fn dir(&self) -> &File {
        &self.dir
    }

    /// Where a symbolic link points; `None` when it is missing or something else.
    pub(super) fn target(&self, name: &str) -> Result<Option<String>, Error> {
        match readlinkat(&self.dir, name) {
            Ok(target) => Ok(target.into_string().ok()),
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(self.error("read", name)(errno)),
        }
    }

    /// Renames a file, which must exist, over nothing.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let rename = || renameat(&self.dir, from, &self.dir, to);
        self.in_directory(to, rename).map_err(self.error("move", from))?;
        self.changed(from);
        self.changed(to);
        Ok(())
    }

    /// Gives a file a second name. It needs no reading, so it works for a file that cannot be read.
    pub(super) fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let copy = || linkat(&self.dir, from, &self.dir, to, AtFlags::empty());
        self.in_directory(to, copy).map_err(self.error("put a copy aside of", from))?;
        self.changed(to);
        Ok(())
    }

    /// The inode of whatever `name` is; `None` when it is missing.
    pub(super) fn inode(&self, name: &str) -> Result<Option<u64>, Error> {
        match fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found.st_ino)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.error("examine", name)(errno)),
        }
    }

    /// Deletes a file or a link; one that is missing is deleted already.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => self.changed(name),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(self.error("delete", name)(errno)),
        }
        Ok(())
    }

    /// Deletes a directory unless something is in it.
    pub(super) fn remove_if_empty(&self, name: &str) -> Result<(), Error> {
        match unlinkat(&self.dir, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => self.changed(name),
            // A link that root put there leads to a directory, and stays.
            Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            Err(errno) => return Err(self.error("delete", name)(errno)),
        }
        Ok(())
    }

    /// Deletes a directory with everything in it, which nobody else writes into.
    pub(super) fn remove_all(&self, name: &str) -> Result<(), Error> {
        public::delete(&self.dir, name, None).map_err(Error::io("delete", &self.full(name)))?;
        self.changed(name);
        Ok(())
    }

    /// The names in a directory, sorted; none when it is missing.
    pub(super) fn names(&self, name: &str) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.each_name(name, |name| names.push(name))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Tells every name in a directory, in no order. A name that is no UTF-8 is none of ours.
    pub(super) fn each_name(&self, name: &str, mut tell: impl FnMut(String)) -> Result<(), Error> {
        let failed = |error| Error::io("list", &self.full(name))(error);
        let entries = match fs::read_dir(self.reach(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                tell(name);
            }
        }
        Ok(())
    }

    /// A directory in here as a place of its own, for many short looks; `None` when it is missing.
    pub(super) fn below(&self, name: &str) -> Result<Option<Self>, Error> {
        let dir = match self.open_directory(name) {
            Err(Errno::ENOENT) => return Ok(None),
            opened => opened.map_err(self.error("open", name))?,
        };
        let (path, unsynced) = (self.full(name), Mutex::default());
        Ok(Some(Self { path, dir, mode: self.mode, volatile: self.volatile, unsynced }))
    }

    /// A path that leads through the open directory, for what has no call relative to one.
    fn reach(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    pub(super) fn changed(&self, name: &str) {
        if !self.volatile {
            self.unsynced().insert(parent(name).to_owned());
        }
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // No change to a set can be half done.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every change of names so far durable; what is in a file is synced before it gets its
    /// name. Does nothing on a tmpfs.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let changed = std::mem::take(&mut *self.unsynced());
        if changed.len() >= MANY_DIRECTORIES {
            return uninterrupted(|| syncfs(&self.dir)).map_err(self.error("sync", ""));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        for name in changed {
            let opened = match name.as_str() {
                "" => uninterrupted(|| fsync(&self.dir)),
                name => self
                    .open_file(name, flags, Mode::empty())
                    .and_then(|dir| uninterrupted(|| fsync(&dir))),
            };
            match opened {
                // Deleted since: that change is in its parent.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.error("sync", &name)(errno)),
            }
        }
        Ok(())
    }
}

/// Makes a call again that a signal has interrupted.
fn uninterrupted<T>(call: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

pub(super) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Returns the permission bits.
fn check_owner(path: &Path, dir: &File) -> Result<u32, Error> {
    let found = dir.metadata().map_err(Error::io("examine", path))?;
    let (owner, euid, mode) = (found.uid(), geteuid().as_raw(), found.mode() & 0o7777);
    if owner != euid {
        return Err(Error::ForeignOwner { path: path.to_owned(), owner, euid });
    }
    if mode & 0o022 != 0 {
        return Err(Error::WritableByOthers { path: path.to_owned(), mode });
    }
    Ok(mode)
}

fn no_directory(path: &Path) -> Error {
    let kind = lstat(path).map_or(0, |found| found.st_mode) & nix::libc::S_IFMT;
    let found = match kind {
        nix::libc::S_IFLNK => "a symbolic link",
        nix::libc::S_IFREG => "a file",
        nix::libc::S_IFDIR => "below something that is a file",
        _ => "something else",
    };
    Error::NotADirectory { path: path.to_owned(), found }
}

fn make_parents(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755))
                .map_err(Error::io("protect", dir))?,
            // Another command was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", dir)(error)),
        }
    }
    Ok(())
}
