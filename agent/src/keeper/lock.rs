//! A lock of a file in the state directory, which ends with the process that holds it.

#![expect(clippy::disallowed_methods, reason = "the agent's own files in the state directory")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use autoport::store;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use rustix::io::fcntl_dupfd_cloexec;

use super::error::Error;

/// Above the number of each other descriptor of an agent, which has some 30, and below the usual limit of 1024.
const ABOVE_SESSION: i32 = 512;

/// What came of trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Taken,
    HeldByOther,
}

#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    held: Option<Flock<File>>,
}

impl Lock {
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path, held: None }
    }

    pub(super) const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Opens the file, and makes it if it is missing. Its descriptor has a number above that of the session: of the
    /// files that a process leaves open when it is killed, the kernel releases those with the highest numbers first.
    /// The other agents must find the lock free when the runtime sees the end of the session and asks them.
    pub(super) fn open(&self) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits());
        let file = options.open(&self.path).map_err(Error::of("open", &self.path))?;
        // Where the limit of open files is lower, the number stays as it is.
        Ok(fcntl_dupfd_cloexec(&file, ABOVE_SESSION).map_or(file, File::from))
    }

    /// Takes the lock, or sees that it is taken; never waits.
    pub(super) fn attempt(&mut self) -> Result<Attempt, Error> {
        self.attempt_as(FlockArg::LockExclusiveNonblock)
    }

    /// The same for a lock that several agents have.
    pub(super) fn share(&mut self) -> Result<Attempt, Error> {
        self.attempt_as(FlockArg::LockSharedNonblock)
    }

    fn attempt_as(&mut self, kind: FlockArg) -> Result<Attempt, Error> {
        while self.held.is_none() {
            match Flock::lock(self.open()?, kind) {
                Ok(held) => self.held = Some(held),
                Err((_, Errno::EWOULDBLOCK)) => return Ok(Attempt::HeldByOther),
                Err((_, errno)) => return Err(Error::of("lock", &self.path)(errno.into())),
            }
            if !self.guards()? {
                // It was deleted between the two.
                self.held = None;
            }
        }
        Ok(Attempt::Taken)
    }

    /// Whether the file that is locked is still the one that others would lock.
    pub(super) fn guards(&self) -> Result<bool, Error> {
        let guards = self.held.as_ref().map(|held| store::guards(held, &self.path));
        guards.unwrap_or(Ok(false)).map_err(Error::of("examine", &self.path))
    }

    pub(super) fn release(&mut self) {
        self.held = None;
    }
}
