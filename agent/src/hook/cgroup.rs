//! A cgroup that programs are attached to, and what is noted at it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use super::door;

/// A cgroup that is open.
pub(super) struct Cgroup {
    /// From the root.
    pub(super) path: PathBuf,
    directory: File,
}

/// Why programs are not attached to a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Unattached {
    #[error(
        "cannot note at cgroup {} what is attached: {error}. The agent needs the directory mounted writable, as \
         the component deploy/kubernetes/bind-hook does", path.display()
    )]
    Note { path: PathBuf, error: io::Error },
    #[error("the kernel rejects it for cgroup {}: {error}", path.display())]
    Kernel { path: PathBuf, error: io::Error },
}

impl Cgroup {
    /// The one at this path below the root.
    pub(super) fn new(path: &Path, directory: File) -> Self {
        Self { path: rooted(path), directory }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(super) fn kernel(&self, error: io::Error) -> Unattached {
        Unattached::Kernel { path: self.path.clone(), error }
    }

    fn noting(&self, error: io::Error) -> Unattached {
        Unattached::Note { path: self.path.clone(), error }
    }

    /// What is noted at it.
    ///
    /// # Errors
    /// [`Unattached::Note`].
    pub(super) fn note(&self) -> Result<Option<Vec<u8>>, Unattached> {
        door::note(self.fd()).map_err(|error| self.noting(error))
    }

    /// Notes this in place of it.
    ///
    /// # Errors
    /// [`Unattached::Note`].
    pub(super) fn set_note(&self, note: &[u8]) -> Result<(), Unattached> {
        door::set_note(self.fd(), note).map_err(|error| self.noting(error))
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`Unattached::Note`].
    pub(super) fn remove_note(&self) -> Result<(), Unattached> {
        door::remove_note(self.fd()).map_err(|error| self.noting(error))
    }
}

/// A path below the root as people write it.
pub(super) fn rooted(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}
