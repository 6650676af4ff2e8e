//! The state directory as a place: opened once, checked, and from then on every name in it is looked
//! up relative to that open directory, so nobody can move it away under a running command.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstatat, mkdirat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, fsync, symlinkat, unlinkat};

use super::error::Error;
use super::key::{Key, Kind};
use super::place::{check_owner, make_parents, no_directory};
use super::{lock, tree};

/// Everything new is made under this name and then renamed. One name is enough, because only the
/// holder of the exclusive lock writes, and the next write clears away what a killed one left.
pub(super) const TEMPORARY: &str = ".new";

/// More than a million mappings; a larger file is none of ours and would only fill the memory.
const LONGEST_FILE: u64 = 256 << 20;

/// How often a directory is made that another command takes away at once.
const ATTEMPTS: usize = 16;

pub(super) const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
const PRIVATE_DIRECTORY: Mode = Mode::S_IRWXU;

/// An open state directory.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) dir: File,
    mode: u32,
    /// Whether everything in here ends with this boot: a tmpfs needs neither syncing nor a boot ID.
    pub(super) is_volatile: bool,
    /// Whether what is written here is to survive a crash of the node.
    durable: bool,
}

/// What tells one content of a file from another: files are replaced and not written again, and the kernel notes
/// when another program has written into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    inode: u64,
    size: i64,
    /// Seconds since 1970, and nanoseconds.
    changed: (i64, i64),
}

impl Version {
    /// When the content or anything else of the file was changed last, since 1970.
    pub(super) fn changed(self) -> Duration {
        let (seconds, nanoseconds) = self.changed;
        let seconds = Duration::from_secs(seconds.try_into().unwrap_or_default());
        seconds + Duration::from_nanos(nanoseconds.try_into().unwrap_or_default())
    }
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
        let is_volatile = kind.filesystem_type() == TMPFS_MAGIC;
        Ok(Some(Self { path: path.to_owned(), dir, mode, is_volatile, durable: false }))
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

    /// The same for what outlives a boot: each change is on the disk before it is reported, and so is
    /// the way to it, which an earlier command may have made and not synced.
    pub(super) fn create_durable(path: &Path) -> Result<Self, Error> {
        let disk = Self::create(path)?.durable();
        for dir in path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
            let opened = File::open(dir).map_err(Error::io("open", dir))?;
            match uninterrupted(|| fsync(&opened)) {
                // A file system that is read-only, or knows no syncing, has nothing to sync.
                Ok(()) | Err(Errno::EINVAL | Errno::EROFS) => {}
                Err(errno) => return Err(Error::io("sync", dir)(errno)),
            }
        }
        Ok(disk)
    }

    /// Syncs each change from now on.
    pub(super) fn durable(self) -> Self {
        Self { durable: true, ..self }
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

    /// Opens the file to lock; makes it for a writer. `None` when it is missing; a writer asks again: the
    /// directory was deleted since it was opened, or another command was faster.
    pub(super) fn lock_file(&self, name: &str, mode: lock::Mode) -> Result<Option<File>, Error> {
        let access = match mode {
            // Some network file systems want a file open for writing to lock it exclusively.
            lock::Mode::Exclusive => OFlag::O_RDWR,
            lock::Mode::Shared => OFlag::O_RDONLY,
        };
        match self.open_file(name, access, Mode::empty()) {
            Err(Errno::ENOENT) if mode == lock::Mode::Shared => return Ok(None),
            Err(Errno::ENOENT) => {}
            opened => return opened.map(Some).map_err(self.error("open", name)),
        }
        match self.open_file(name, access | OFlag::O_CREAT | OFlag::O_EXCL, PRIVATE_FILE) {
            Err(Errno::EEXIST | Errno::ENOENT) => Ok(None),
            opened => {
                let file = opened.map_err(self.error("create", name))?;
                fchmod(&file, PRIVATE_FILE).map_err(self.error("protect", name))?;
                Ok(Some(file))
            }
        }
    }

    /// Opens a file unless a link is in its place, and never waits for one.
    pub(super) fn open_file(&self, name: &str, flags: OFlag, mode: Mode) -> nix::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        uninterrupted(|| openat(&self.dir, name, flags, mode)).map(File::from)
    }

    /// What a file holds; `None` when it is missing. The caller decides what a failure means.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut file = match self.open_file(name, OFlag::O_RDONLY, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            opened => opened?,
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(Errno::EISDIR.into());
        }
        // Files are replaced and not written again, so this is all of it, by one call.
        let mut bytes = vec![0; found.len().min(LONGEST_FILE) as usize];
        file.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Some bytes of a file from the offset `at` on, as many as there are; none when it is missing.
    pub(super) fn read_part(&self, name: &str, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = match self.open_file(name, OFlag::O_RDONLY, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, at)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes the same bytes into a file at each of these offsets, which ascend, and makes it if it is missing.
    pub(super) fn write_parts(&self, name: &str, at: &[u64], bytes: &[u8]) -> Result<(), Error> {
        let write = || {
            let file = self.open_file(name, OFlag::O_WRONLY | OFlag::O_CREAT, PRIVATE_FILE)?;
            let mut runs = at.chunk_by(|one, next| one + bytes.len() as u64 == *next);
            let write = |run: &[u64]| file.write_all_at(&bytes.repeat(run.len()), run[0]);
            let written = runs.try_for_each(write);
            written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
        };
        self.in_directory(name, write).map_err(self.error("write", name))
    }

    /// Puts a file with these bytes in the place of `name`: a reader sees all of the old or all
    /// of the new.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write_temporary(TEMPORARY, &self.full(name), bytes, PRIVATE_FILE)?;
        self.put(name)
    }

    /// Writes the file `temporary`, which is to be renamed to `path`.
    pub(super) fn write_temporary(
        &self,
        temporary: &str,
        path: &Path,
        bytes: &[u8],
        access: Mode,
    ) -> Result<(), Error> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let made = self.afresh(temporary, || self.open_file(temporary, flags, PRIVATE_FILE));
        let file = made.map_err(self.error("create", temporary))?;
        let written = || {
            fchmod(&file, access).map_err(self.error("protect", temporary))?;
            (&file).write_all(bytes).map_err(Error::io("write", path))?;
            if self.durable {
                uninterrupted(|| fsync(&file)).map_err(Error::io("sync", path))?;
            }
            Ok(())
        };
        self.or_clear_away(temporary, written())
    }

    /// Leaves no temporary file behind a failure, which may be a lack of space.
    pub(super) fn or_clear_away(
        &self,
        temporary: &str,
        done: Result<(), Error>,
    ) -> Result<(), Error> {
        if done.is_err() {
            let _ = unlinkat(&self.dir, temporary, UnlinkatFlags::NoRemoveDir);
        }
        done
    }

    /// Makes `name` a symbolic link to `target`, whatever was there.
    pub(super) fn link(&self, name: &str, target: &str) -> Result<(), Error> {
        if self.link_new(name, target)? || self.target(name)?.as_deref() == Some(target) {
            return Ok(());
        }
        self.link_over(name, target)
    }

    /// Makes `name` a symbolic link unless something of that name is there; says whether it did.
    pub(super) fn link_new(&self, name: &str, target: &str) -> Result<bool, Error> {
        match self.in_directory(name, || symlinkat(target, &self.dir, name)) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(self.error("create", name)(errno)),
        }
    }

    /// Puts a symbolic link in the place of what `name` is.
    pub(super) fn link_over(&self, name: &str, target: &str) -> Result<(), Error> {
        let made = self.afresh(TEMPORARY, || symlinkat(target, &self.dir, TEMPORARY));
        made.map_err(self.error("create", TEMPORARY))?;
        self.put(name)
    }

    /// Renames the new file into its place.
    fn put(&self, name: &str) -> Result<(), Error> {
        let rename = || renameat(&self.dir, TEMPORARY, &self.dir, name);
        let renamed = self.in_directory(name, rename).map_err(self.error("replace", name));
        self.or_clear_away(TEMPORARY, renamed)?;
        self.settle()
    }

    /// Runs `make`, again if a killed command left its temporary file.
    fn afresh<T>(&self, temporary: &str, make: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
        match make() {
            Err(Errno::EEXIST) => {
                unlinkat(&self.dir, temporary, UnlinkatFlags::NoRemoveDir)?;
                make()
            }
            done => done,
        }
    }

    /// Runs `make`, again with the directory of `name` if it was missing. Another command may take an
    /// empty directory away in between, but not time and again.
    fn in_directory(&self, name: &str, make: impl Fn() -> nix::Result<()>) -> nix::Result<()> {
        for _ in 0..ATTEMPTS {
            match make() {
                Err(Errno::ENOENT) if !parent(name).is_empty() => {
                    self.make_directory(parent(name))?;
                }
                done => return done,
            }
        }
        make()
    }

    fn make_directory(&self, name: &str) -> nix::Result<()> {
        let make = || mkdirat(&self.dir, name, PRIVATE_DIRECTORY);
        match self.in_directory(name, make) {
            Err(Errno::EEXIST) => return Ok(()),
            done => done?,
        }
        match fchmodat(&self.dir, name, PRIVATE_DIRECTORY, FchmodatFlags::FollowSymlink) {
            // Another command has taken it away already.
            Err(Errno::ENOENT) => Ok(()),
            done => done,
        }
    }

    /// Makes a directory unless something of that name is there.
    pub(super) fn make(&self, name: &str) -> Result<(), Error> {
        self.make_directory(name).map_err(self.error("create", name))
    }

    /// Opens a directory below this one, unless a link is in its place.
    pub(super) fn open_directory(&self, name: &str) -> nix::Result<File> {
        self.open_file(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
    }

    /// Where a symbolic link points; `None` when it is missing or something else.
    pub(super) fn target(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.entry(name)?.filter(|found| found != name))
    }

    /// What is in the place of an index entry: where it points, or its own name where it is no link;
    /// `None` when it is missing.
    pub(super) fn entry(&self, name: &str) -> Result<Option<String>, Error> {
        match readlinkat(&self.dir, name) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(Errno::EINVAL) => Ok(Some(name.to_owned())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.error("read", name)(errno)),
        }
    }

    /// Renames a file, which must exist, over nothing.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let rename = || renameat(&self.dir, from, &self.dir, to);
        self.in_directory(to, rename).map_err(self.error("move", from))?;
        Ok(())
    }

    /// Which content the file `name` has; `None` when it is missing.
    pub(super) fn version(&self, name: &str) -> io::Result<Option<Version>> {
        match fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => {
                let (inode, size) = (found.st_ino, found.st_size);
                Ok(Some(Version { inode, size, changed: (found.st_ctime, found.st_ctime_nsec) }))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
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
            Ok(()) => self.settle(),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.error("delete", name)(errno)),
        }
    }

    /// Deletes a directory unless something is in it; says whether it is gone.
    pub(super) fn remove_if_empty(&self, name: &str) -> Result<bool, Error> {
        match unlinkat(&self.dir, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(true),
            // A link that root put there leads to a directory, and stays.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(self.error("delete", name)(errno)),
        }
    }

    /// Deletes a directory with everything in it, which nobody else writes into.
    pub(super) fn remove_all(&self, name: &str) -> Result<(), Error> {
        tree::delete(&self.dir, name, None).map_err(Error::io("delete", &self.full(name)))?;
        Ok(())
    }

    /// The names in a directory, sorted; none when it is missing.
    pub(super) fn names(&self, name: &str) -> Result<Vec<String>, Error> {
        let mut names = self.some_names(name, usize::MAX)?;
        names.sort_unstable();
        Ok(names)
    }

    /// At most `most` of them, in no order. A name that is no UTF-8 is none of ours.
    pub(super) fn some_names(&self, name: &str, most: usize) -> Result<Vec<String>, Error> {
        use io::ErrorKind::{NotADirectory, NotFound};
        let failed = |error| Error::io("list", &self.full(name))(error);
        // A path through the open directory: there is no call relative to one.
        let path = format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd());
        let entries = match fs::read_dir(path) {
            // A stray file in the place of a directory is none of ours either.
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().into_string().ok()).transpose()
        };
        entries.filter_map(name).take(most).collect::<io::Result<_>>().map_err(failed)
    }

    /// The keys of all that is recorded of this kind, sorted.
    pub(super) fn keys(&self, kind: Kind) -> Result<Vec<Key>, Error> {
        let names = self.names(kind.directory())?;
        Ok(names.iter().filter_map(|name| Key::of_file(kind, name)).collect())
    }

    /// Makes a change of a name here durable, where that is wanted.
    fn settle(&self) -> Result<(), Error> {
        if !self.durable {
            return Ok(());
        }
        uninterrupted(|| fsync(&self.dir)).map_err(self.error("sync", ""))
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
