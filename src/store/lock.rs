//! Waiting for the lock, and saying whom it is waited for.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use crate::event::{Event, LockHolder, Log};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::Error;

/// Of the thread that waits: it makes one system call.
const STACK: usize = 32 << 10;

/// Who may hold the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nobody else: something may be written.
    Exclusive,
    /// Other readers.
    Shared,
}

/// Since when, for how long, and who is told.
pub(super) struct Wait<'a> {
    begun: Instant,
    patience: Duration,
    log: &'a mut dyn Log,
}

impl<'a> Wait<'a> {
    pub(super) fn new(patience: Duration, log: &'a mut dyn Log) -> Self {
        Self { begun: Instant::now(), patience, log }
    }

    /// Takes the lock on `file`, or gives up when the patience is used up.
    ///
    /// A thread of its own sleeps in the kernel, which wakes one waiter at a time and in the order
    /// they came: trying again and again would leave the lock free between two tries, and the longer
    /// the more wait. A blocked flock(2) could otherwise only be bounded by a signal, and signals
    /// belong to the process, not to a library. The thread shares the open file, so the lock it gets
    /// is ours; one that comes too late goes with its file.
    pub(super) fn take(&mut self, file: &File, path: &Path, mode: Mode) -> Result<(), Error> {
        if attempt(file, mode).map_err(Error::io("lock", path))? {
            return Ok(());
        }
        let left = self.patience.saturating_sub(self.begun.elapsed());
        let taken = if left.is_zero() {
            None
        } else {
            let (lock, holder) = (path.to_owned(), holder_of(file));
            self.log.note(Event::Waiting { lock, patience: left, holder });
            sleep_until_taken(file, mode, left).map_err(Error::io("lock", path))?
        };
        taken.ok_or_else(|| {
            let (waited, holder) = (self.begun.elapsed(), holder_of(file));
            Error::LockTaken { path: path.to_owned(), waited, holder }
        })
    }

    /// Where the operator is told what happens.
    pub(super) fn log(&mut self) -> &mut dyn Log {
        self.log
    }
}

/// Waits for the lock, up to `patience`; `None` when that is used up.
fn sleep_until_taken(file: &File, mode: Mode, patience: Duration) -> io::Result<Option<()>> {
    let (tell, told) = mpsc::channel();
    let file = file.try_clone()?;
    thread::Builder::new().stack_size(STACK).spawn(move || {
        let taken = loop {
            let taken = match mode {
                Mode::Exclusive => fs2::FileExt::lock_exclusive(&file),
                Mode::Shared => fs2::FileExt::lock_shared(&file),
            };
            if !matches!(&taken, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                break taken;
            }
        };
        // First, so that the lock goes when whoever asked lets it go.
        drop(file);
        // Whoever asked may have given up.
        let _ = tell.send(taken);
    })?;
    match told.recv_timeout(patience) {
        Ok(taken) => taken.map(Some),
        Err(_) => Ok(None),
    }
}

/// The full path of each call matters: `std::fs::File` has methods of the same names.
fn attempt(file: &File, mode: Mode) -> io::Result<bool> {
    let tried = match mode {
        Mode::Exclusive => fs2::FileExt::try_lock_exclusive(file),
        Mode::Shared => fs2::FileExt::try_lock_shared(file),
    };
    match tried {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether the lock is on the file that the next process will open. It is not when the state
/// directory was deleted while we waited; a lock on a deleted file guards nothing.
pub(super) fn guards(file: &File, path: &Path) -> Result<bool, Error> {
    let found = file.metadata().map_err(Error::io("examine", path))?;
    Ok(found.nlink() > 0)
}

/// flock(2) has no way to ask, so this reads the kernel's list of all locks, and only when the lock
/// is taken. Nobody is named when the holder lives in another PID namespace.
pub(crate) fn holder_of(file: &File) -> Option<LockHolder> {
    let found = file.metadata().ok()?;
    let (major, minor) = (nix::sys::stat::major(found.dev()), nix::sys::stat::minor(found.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let pid = holder_in(&fs::read_to_string("/proc/locks").ok()?, &place)?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    Some(LockHolder { pid, command: command.trim_end().to_owned(), stopped: is_stopped(&stat) })
}

/// The state follows the command, which may contain anything: `T` is stopped, `t` stopped by a tracer.
fn is_stopped(stat: &str) -> bool {
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Lines are `1: FLOCK  ADVISORY  WRITE 4711 00:1b:4242 0 EOF`; waiters have `->` after the number.
fn holder_in(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == place => {
                pid.parse().ok().filter(|pid| *pid != 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_holder_in_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  READ  1 fd:00:7 128 128\n\
                     2: FLOCK  ADVISORY  WRITE 4711 fd:00:7 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 4712 fd:00:7 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE -1 fd:00:8 0 EOF\n";
        assert_eq!(holder_in(locks, "fd:00:7"), Some(4711));
        assert_eq!(holder_in(locks, "fd:00:8"), None);
        assert_eq!(holder_in(locks, "fd:00:9"), None);
    }

    #[test]
    fn knows_a_stopped_process() {
        assert!(is_stopped("4711 (auto) T port) T 1 4711"));
        assert!(is_stopped("4711 (autoport) t 1 4711"));
        assert!(!is_stopped("4711 (x) T 1) S 1 4711"));
        assert!(!is_stopped(""));
    }
}
