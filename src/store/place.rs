//! What has to be so of the state directory itself before anything in it is believed.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::stat::lstat;
use nix::unistd::geteuid;

use super::error::Error;

/// Returns the permission bits.
pub(super) fn check_owner(path: &Path, dir: &File) -> Result<u32, Error> {
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

pub(super) fn no_directory(path: &Path) -> Error {
    let kind = lstat(path).map_or(0, |found| found.st_mode) & nix::libc::S_IFMT;
    let found = match kind {
        nix::libc::S_IFLNK => "a symbolic link",
        nix::libc::S_IFREG => "a file",
        nix::libc::S_IFDIR => "below something that is a file",
        _ => "something else",
    };
    Error::NotADirectory { path: path.to_owned(), found }
}

pub(super) fn make_parents(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect();
    for dir in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o755).create(dir) {
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755))
                .map_err(Error::io("protect", dir))?,
            // Another command was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", dir)(error)),
        }
    }
    Ok(())
}
