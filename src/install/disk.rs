//! The folders of a runtime on disk: the second door to files, beside the store's.

#![expect(clippy::disallowed_methods, reason = "the door to the folders of a runtime")]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{
    MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink,
};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fs2::FileExt as _;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::Error;
use crate::{regular, store};

/// Also where the file that was started has been replaced since.
const OWN: &str = "/proc/self/exe";

/// What is about to be renamed into its place. No runtime reads such a name.
pub(super) const TEMPORARY: &str = ".autoport-new";

/// Is there while somebody installs.
pub(super) const LOCK: &str = ".autoport-lock";

/// How long others who install are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

const EXECUTABLE: u32 = 0o755;

/// What stands at a path.
pub(super) enum Found {
    Nothing,
    File(Vec<u8>),
    /// Anything else, in words.
    Other(&'static str),
}

/// Reads a whole file; a link is not followed.
pub(super) fn look(path: &Path) -> Result<Found, Error> {
    match fs::symlink_metadata(path).map(|found| found.file_type()) {
        Ok(kind) if kind.is_file() => {
            regular::read(path).map(Found::File).map_err(Error::io("read", path))
        }
        Ok(kind) if kind.is_symlink() => Ok(Found::Other("a symbolic link")),
        Ok(kind) if kind.is_dir() => Ok(Found::Other("a directory")),
        Ok(_) => Ok(Found::Other("a special file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(Error::io("examine", path)(error)),
    }
}

/// Lists the names in a folder; none where there is no folder.
pub(super) fn names(path: &Path) -> Result<Vec<OsString>, Error> {
    let list = || -> io::Result<Vec<OsString>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                found.push(entry.file_name());
            }
        }
        found.sort_unstable();
        Ok(found)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(Error::io("list", path)),
    }
}

/// Everything in a folder that a runtime takes for a network, in the order in which it looks.
///
/// # Errors
/// When the folder is there and cannot be listed.
pub fn configurations(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_one = |name: &OsString| {
        // As Go does: behind the last dot, also where nothing stands before it.
        let extension = name.as_encoded_bytes().rsplit(|byte| *byte == b'.').next();
        extension.is_some_and(|one| matches!(one, b"conf" | b"conflist" | b"json"))
            && name.as_encoded_bytes().contains(&b'.')
    };
    Ok(names(path)?.iter().filter(|name| is_one(name)).map(|name| path.join(name)).collect())
}

/// Whether there is an executable of this name, or a link: to what, a container that has this folder
/// alone cannot see.
pub(super) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() || found.is_symlink())
}

/// What is in the place of a link.
pub(super) enum Link {
    /// Nothing, and there is no folder for one.
    NoFolder,
    /// Nothing.
    Free,
    /// A link to this path.
    To(PathBuf),
    /// Anything else.
    Other,
}

pub(super) fn link_at(path: &Path) -> Link {
    match fs::symlink_metadata(path) {
        Ok(_) => fs::read_link(path).map_or(Link::Other, Link::To),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Link::Other,
        Err(_) if path.parent().is_some_and(is_folder) => Link::Free,
        Err(_) => Link::NoFolder,
    }
}

/// Makes a link where nothing is.
pub(super) fn make_link(path: &Path, target: &Path) -> io::Result<()> {
    symlink(target, path)
}

pub(super) fn is_folder(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_dir())
}

/// A locked file that is there as long as it is locked.
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn take(path: PathBuf) -> Result<Self, Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW | O_NONBLOCK);
            let file = options.open(&path).map_err(Error::io("open", &path))?;
            if file.try_lock_exclusive().is_ok() {
                // Who had it before has deleted it, and another file can be there.
                if file.metadata().is_ok_and(|found| found.nlink() > 0) {
                    return Ok(Self { path, file });
                }
            } else if Instant::now() > until {
                return Err(Error::Locked { holder: store::lock_holder(&file), path });
            } else {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What stays behind is taken by the next.
        let _ = fs::remove_file(&self.path);
        let _ = fs2::FileExt::unlock(&self.file);
    }
}

/// A folder in which this process alone changes anything.
pub(super) struct Folder {
    path: PathBuf,
    /// The folder, and its lock, which is given back with it; none where nothing is to be changed.
    open: Option<(File, Lock)>,
}

impl Folder {
    /// Waits for others who install there, but not for ever, and removes what a killed one left.
    ///
    /// What is locked is a file that only its owner can open. The folder itself could be locked by
    /// every user who can read it, for as long as that user likes.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let open = File::open(path).map_err(Error::io("open", path))?;
        let lock = Lock::take(path.join(LOCK))?;
        let folder = Self { path: path.to_owned(), open: Some((open, lock)) };
        for name in names(path)? {
            if name.as_encoded_bytes().ends_with(TEMPORARY.as_bytes()) {
                folder.remove(&path.join(name))?;
            }
        }
        Ok(folder)
    }

    /// As [`Self::open`], and makes the folder where there is none.
    pub(super) fn made(path: &Path) -> Result<Self, Error> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        Self::open(path)
    }

    /// One in which nothing is changed, whatever is asked.
    pub(super) fn untouched(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    /// Puts `bytes` in the place of the file at `path`, with owner and mode of the file at `like`.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8], like: &Path) -> Result<(), Error> {
        let like = fs::metadata(like).map_err(Error::io("examine", like))?;
        self.put(path, &mut &*bytes, like.mode() & 0o777, Some(&like))
    }

    /// Puts `bytes` at `path`, for everyone to read.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.put(path, &mut &*bytes, 0o644, None)
    }

    /// Puts the running executable at `path`.
    pub(super) fn replace_executable(&self, path: &Path) -> Result<(), Error> {
        let mut own = File::open(OWN).map_err(Error::io("open", Path::new(OWN)))?;
        self.put(path, &mut own, EXECUTABLE, None)
    }

    fn put(
        &self,
        path: &Path,
        from: &mut impl Read,
        mode: u32,
        owner: Option<&Metadata>,
    ) -> Result<(), Error> {
        let Some((folder, _)) = &self.open else { return Ok(()) };
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or(OsStr::new("autoport")));
        name.push(TEMPORARY);
        let temporary = self.path.join(name);
        let mut write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
            io::copy(from, &mut file)?;
            file.flush()?;
            if let Some(owner) = owner {
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        };
        write().map_err(Error::io("write", &temporary))?;
        fs::rename(&temporary, path).map_err(Error::io("replace", path))?;
        folder.sync_all().map_err(Error::io("sync", &self.path))
    }

    /// Deletes what may be there.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Error> {
        let Some((folder, _)) = &self.open else { return Ok(()) };
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(Error::io("delete", path))?,
        }
        folder.sync_all().map_err(Error::io("sync", &self.path))
    }
}

/// Whether the running executable, as it is, can be started at `path`.
pub(super) fn is_own_executable(path: &Path) -> Result<bool, Error> {
    if !fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o777 == EXECUTABLE)
    {
        return Ok(false);
    }
    let own = regular::open(Path::new(OWN)).map_err(Error::io("open", Path::new(OWN)))?;
    let same = regular::open(path).and_then(|there| regular::are_equal(&own, &there));
    same.map_err(Error::io("compare", path))
}
