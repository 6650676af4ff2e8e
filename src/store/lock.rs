//! Waiting for the lock, and saying whom it is waited for.

#![expect(clippy::disallowed_methods, reason = "the store is the door to files")]

use crate::event::{Event, LockHolder, Log};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::Error;
use super::real_time::RealTime;

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

/// The lock, until this is dropped: first the file, for which others wait.
pub(super) type Lock = (File, RealTime);

/// Since when, for how long, and who is told.
pub(super) struct Wait<'a> {
    begun: Instant,
    until: Instant,
    log: &'a mut dyn Log,
}

impl<'a> Wait<'a> {
    pub(super) fn new(patience: Duration, deadline: Option<Instant>, log: &'a mut dyn Log) -> Self {
        let begun = Instant::now();
        let until = begun + patience;
        Self { begun, until: deadline.map_or(until, |deadline| deadline.min(until)), log }
    }

    /// Takes the lock on `file`, or gives up when the patience is used up. Gives the file that has the
    /// lock: it may be another opening of the same one. `prepare` makes what goes with it, before it
    /// is taken.
    pub(super) fn take<T>(
        &mut self,
        file: File,
        path: &Path,
        mode: Mode,
        prepare: fn() -> T,
    ) -> Result<(File, T), Error> {
        let ready = prepare();
        if attempt(&file, mode).map_err(Error::io("lock", path))? {
            return Ok((file, ready));
        }
        // Naming the holder takes as long as others have locks.
        drop(ready);
        let left = self.until.saturating_duration_since(Instant::now());
        let taken = if left.is_zero() {
            None
        } else {
            let (lock, holder) = (path.to_owned(), holder_of(&file));
            self.log.note(Event::Waiting { lock, patience: left, holder });
            let ready = prepare();
            let taken = Waiter::wait(&file, mode, self.until).map_err(Error::io("lock", path))?;
            taken.map(|file| (file, ready))
        };
        taken.ok_or_else(|| {
            let (waited, holder) = (self.begun.elapsed(), holder_of(&file));
            Error::LockTaken { path: path.to_owned(), waited, holder }
        })
    }

    /// Where the operator is told what happens.
    pub(super) fn log(&mut self) -> &mut dyn Log {
        self.log
    }
}

/// A thread that sleeps in the kernel until it has the lock.
///
/// The kernel wakes one waiter at a time and in the order they came: trying again and again would leave
/// the lock free between two tries, and the longer the more wait. A blocked flock(2) could otherwise
/// only be bounded by a signal, and signals belong to the process, not to a library. So the thread of a
/// waiter that gave up stays in the queue, and who waits for the same lock next takes it over: a
/// process that tries for ever has one such thread, not one for each try.
struct Waiter {
    /// Device and inode of the lock.
    place: (u64, u64),
    mode: Mode,
    told: Receiver<io::Result<File>>,
}

/// Those that gave up, and those of them that are over.
static GAVE_UP: Mutex<Vec<Waiter>> = Mutex::new(Vec::new());

impl Waiter {
    /// Gives a file with the lock; `None` where it stays taken until then.
    fn wait(file: &File, mode: Mode, until: Instant) -> io::Result<Option<File>> {
        loop {
            let waiter = Self::on(file, mode)?;
            match waiter.told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(taken) => return taken.map(Some),
                Err(RecvTimeoutError::Timeout) => {
                    GAVE_UP.lock().unwrap_or_else(PoisonError::into_inner).push(waiter);
                    return Ok(None);
                }
                // It had the lock when nobody listened; that of the same opening is there still.
                Err(RecvTimeoutError::Disconnected) if attempt(file, mode)? => {
                    return file.try_clone().map(Some);
                }
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn on(file: &File, mode: Mode) -> io::Result<Self> {
        let found = file.metadata()?;
        let place = (found.dev(), found.ino());
        let mut gave_up = GAVE_UP.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = gave_up.iter().position(|it| (it.place, it.mode) == (place, mode)) {
            return Ok(gave_up.swap_remove(at));
        }
        drop(gave_up);
        // Without a place to put the file, it reaches only who listens just now.
        let (tell, told) = mpsc::sync_channel(0);
        let file = file.try_clone()?;
        thread::Builder::new().stack_size(STACK).spawn(move || {
            // Where nobody does, closing it lets the lock go.
            let _ = tell.try_send(block(&file, mode).map(|()| file));
        })?;
        Ok(Self { place, mode, told })
    }
}

fn block(file: &File, mode: Mode) -> io::Result<()> {
    loop {
        let taken = match mode {
            Mode::Exclusive => fs2::FileExt::lock_exclusive(file),
            Mode::Shared => fs2::FileExt::lock_shared(file),
        };
        if !matches!(&taken, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
            return taken;
        }
    }
}

/// The full path of each call matters: `std::fs::File` has methods of the same names.
pub(super) fn attempt(file: &File, mode: Mode) -> io::Result<bool> {
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

/// Whether the lock is on the file that the next process will open. It is not when the state directory
/// was deleted or moved while we waited; a lock on such a file guards nothing.
///
/// # Errors
/// When one of the two cannot be examined.
pub fn guards(file: &File, path: &Path) -> io::Result<bool> {
    let locked = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (locked.dev(), locked.ino())),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `ENOTDIR` too: there is nothing below a file.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// flock(2) has no way to ask, so this reads the kernel's list of all locks, and only when the lock
/// is taken. Nobody is named when the holder lives in another PID namespace.
pub(crate) fn holder_of(file: &File) -> Option<LockHolder> {
    let pid = pid_of_holder(file)?.parse().ok().filter(|pid| *pid != 0)?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    Some(LockHolder { pid, command: command.trim_end().to_owned(), stopped: is_stopped(&stat) })
}

/// Whether any process has the lock, also one of another PID namespace.
pub(super) fn is_taken(file: &File) -> bool {
    pid_of_holder(file).is_some()
}

fn pid_of_holder(file: &File) -> Option<String> {
    let found = file.metadata().ok()?;
    let (major, minor) = (nix::sys::stat::major(found.dev()), nix::sys::stat::minor(found.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", found.ino());
    pid_in(&fs::read_to_string("/proc/locks").ok()?, &place).map(str::to_owned)
}

/// The state follows the command, which may contain anything: `T` is stopped, `t` stopped by a tracer.
fn is_stopped(stat: &str) -> bool {
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Lines are `1: FLOCK  ADVISORY  WRITE 4711 00:1b:4242 0 EOF`; waiters have `->` after the number, and the
/// PID is 0 in another PID namespace.
fn pid_in<'a>(locks: &'a str, place: &str) -> Option<&'a str> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == place => Some(pid),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests;
