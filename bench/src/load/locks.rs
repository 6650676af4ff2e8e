//! How long each command waits for the lock of a store and how long it holds it, without slowing it
//! down: the kernel's trace point `filelock:flock_lock_inode`, in a buffer of our own.
//!
//! The kernel writes the time at which a lock is granted and released, so it does not matter when this
//! program comes to read it. strace stops a process that holds the lock twice, and everybody else waits
//! meanwhile. tracefs belongs to root of the machine: in a user namespace the list of all locks
//! (`/proc/locks`) is read again and again instead. That misses what is shorter than a step, knows no
//! waits, and is longer where the reader has to wait for a processor.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{major, minor};

use crate::fill::STATE;
use crate::node::Space;

/// Where tracefs is mounted, in the mount namespace of one node.
const TRACEFS: &str = "/run/trace";
/// The name of our buffer, which the whole machine sees.
const BUFFER: &str = "autoport-bench";
/// For each processor.
const BUFFER_KIB: &str = "32768";
/// Between two looks at the list of locks.
const STEP: Duration = Duration::from_micros(200);

/// One time that a process had the lock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hold {
    pub(crate) pid: u32,
    /// Which file, as `/proc/locks` has it.
    pub(crate) place: Place,
    /// When it was asked for, on the monotonic clock; `None` if that is not known.
    pub(crate) asked: Option<f64>,
    /// When it was granted.
    pub(crate) granted: f64,
    /// When it was let go.
    pub(crate) released: f64,
}

/// A file: major and minor number of the file system, inode.
pub(crate) type Place = (u64, u64, u64);

/// The lock file of the node in whose mount namespace the calling thread is.
pub(crate) fn place() -> Place {
    let path = Path::new(STATE).join("lock");
    let found = fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (major(found.dev()), minor(found.dev()), found.ino())
}

/// What watches the locks.
pub(crate) enum Locks<'a> {
    Traced(Traced<'a>),
    Polled(Polled),
}

impl<'a> Locks<'a> {
    /// Watches the locks at these places from now on.
    pub(crate) fn watch(space: &'a Space, places: &[Place]) -> Self {
        match Traced::begin(space, places) {
            Ok(traced) => Self::Traced(traced),
            Err(why) => {
                eprintln!("bench: tracefs cannot be used ({why}): /proc/locks is read instead");
                Self::Polled(Polled::begin(places))
            }
        }
    }

    /// How it is done, for people.
    pub(crate) const fn how(&self) -> &'static str {
        match self {
            Self::Traced(_) => "the kernel's trace point flock_lock_inode",
            Self::Polled(_) => "looks at /proc/locks every 0.2 ms; nothing is known of waits",
        }
    }

    /// What was seen since the last time.
    pub(crate) fn take(&self) -> Vec<Hold> {
        match self {
            Self::Traced(traced) => traced.take(),
            Self::Polled(polled) => polled.take(),
        }
    }
}

/// A trace buffer of our own, which goes with it.
pub(crate) struct Traced<'a> {
    space: &'a Space,
    places: Vec<Place>,
}

fn buffer() -> PathBuf {
    Path::new(TRACEFS).join("instances").join(BUFFER)
}

fn put(name: &str, value: &str) -> Result<(), String> {
    let path = buffer().join(name);
    fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()))
}

impl<'a> Traced<'a> {
    fn begin(space: &'a Space, places: &[Place]) -> Result<Self, String> {
        let filter: Vec<_> = places.iter().map(|(.., inode)| format!("i_ino == {inode}")).collect();
        space.run(|| {
            fs::create_dir_all(TRACEFS).expect("a folder in /run");
            mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), None::<&str>)
                .map_err(|error| error.to_string())?;
            // An interrupted run leaves its own behind.
            let _ = fs::remove_dir(buffer());
            fs::create_dir(buffer()).map_err(|error| error.to_string())?;
            // That of Instant.
            put("trace_clock", "mono")?;
            put("buffer_size_kb", BUFFER_KIB)?;
            put("events/filelock/flock_lock_inode/filter", &filter.join(" || "))?;
            put("events/filelock/flock_lock_inode/enable", "1")
        })?;
        Ok(Self { space, places: places.to_owned() })
    }

    fn take(&self) -> Vec<Hold> {
        self.space.run(|| {
            let lost = lost();
            assert_eq!(lost, 0, "the trace buffer was too small: {lost} events were lost");
            let text = fs::read_to_string(buffer().join("trace")).expect("the trace can be read");
            put("trace", "").expect("the trace can be emptied");
            let mut holds = holds(&text);
            holds.retain(|hold| self.places.contains(&hold.place));
            holds
        })
    }
}

impl Drop for Traced<'_> {
    fn drop(&mut self) {
        self.space.run(|| {
            let _ = put("events/filelock/flock_lock_inode/enable", "0");
            let _ = fs::remove_dir(buffer());
        });
    }
}

/// How many events did not fit.
fn lost() -> u64 {
    let folders = fs::read_dir(buffer().join("per_cpu")).into_iter().flatten().flatten();
    let lost = folders.filter_map(|folder| {
        let text = fs::read_to_string(folder.path().join("stats")).ok()?;
        let number = text.lines().find_map(|line| line.strip_prefix("overrun:"))?;
        number.trim().parse::<u64>().ok()
    });
    lost.sum()
}

/// Reads holds out of lines such as `autoport-4711 [001] ..... 740.288975: flock_lock_inode: fl=… dev=0x0:0x2f
/// ino=0x5 … fl_owner=… fl_pid=4711 … fl_type=F_WRLCK … ret=0`. An open file, its `fl_owner`, asks
/// (`ret` is 1 while it waits, -11 where it does not want to), is granted (0) and unlocks.
fn holds(text: &str) -> Vec<Hold> {
    let mut asked: HashMap<(Place, &str), f64> = HashMap::new();
    let mut granted: HashMap<(Place, &str), (f64, f64)> = HashMap::new();
    let mut holds = Vec::new();
    for line in text.lines() {
        let Some((before, after)) = line.split_once(": flock_lock_inode: ") else { continue };
        let time = before.rsplit(' ').next().and_then(|word| word.parse::<f64>().ok());
        let fields: HashMap<&str, &str> =
            after.split(' ').filter_map(|word| word.split_once('=')).collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let read = || {
            let (major, minor) = field("dev").split_once(':')?;
            let place = (hex(major)?, hex(minor)?, hex(field("ino"))?);
            Some((time?, place, field("fl_pid").parse().ok()?))
        };
        let (time, place, pid) = read().unwrap_or_else(|| panic!("not understood: {line}"));
        let key = (place, field("fl_owner"));
        if field("fl_type") == "F_UNLCK" {
            asked.remove(&key);
            if let Some((asked, granted)) = granted.remove(&key) {
                holds.push(Hold { pid, place, asked: Some(asked), granted, released: time });
            }
        } else {
            let since = *asked.entry(key).or_insert(time);
            if field("ret") == "0" {
                granted.insert(key, (since, time));
            }
        }
    }
    holds
}

/// A thread that reads the list of all locks.
pub(crate) struct Polled {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Hold>>>,
    thread: Option<JoinHandle<()>>,
}

impl Polled {
    fn begin(places: &[Place]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stopped, found, places) = (Arc::clone(&stop), Arc::clone(&seen), places.to_owned());
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            let mut last: HashMap<(Place, u32), f64> = HashMap::new();
            while !stopped.load(Ordering::Relaxed) {
                let text = fs::read_to_string("/proc/locks").unwrap_or_default();
                let now = begun.elapsed().as_secs_f64();
                let holders: Vec<_> = text
                    .lines()
                    .filter_map(holder)
                    .filter(|(place, _)| places.contains(place))
                    .collect();
                last.retain(|key, since| {
                    let stays = holders.contains(key);
                    if !stays {
                        let (place, pid) = *key;
                        let hold = Hold { pid, place, asked: None, granted: *since, released: now };
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(hold);
                    }
                    stays
                });
                for key in holders {
                    last.entry(key).or_insert(now);
                }
                thread::sleep(STEP);
            }
        });
        Self { stop, seen, thread: Some(thread) }
    }

    fn take(&self) -> Vec<Hold> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 4711 00:2f:5 0 EOF`; not one of who waits.
fn holder(line: &str) -> Option<(Place, u32)> {
    let mut words = line.split_whitespace();
    if words.nth(1)? != "FLOCK" {
        return None;
    }
    let pid = words.nth(2)?.parse().ok()?;
    let mut place = words.next()?.split(':');
    let mut number = |radix| u64::from_str_radix(place.next()?, radix).ok();
    Some(((number(16)?, number(16)?, number(10)?), pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_from_granted_to_unlocked() {
        let line = |time: &str, owner: &str, pid: u32, kind: &str, ret: i32| {
            format!(
                "  a b-{pid} [000] ..... {time}: flock_lock_inode: fl=1 dev=0xfe:0x0 ino=0x1f \
                 fl_blocker=0 fl_owner={owner} fl_pid={pid} fl_flags=FL_FLOCK|FL_SLEEP \
                 fl_type={kind} fl_start=0 fl_end=9 ret={ret}\n"
            )
        };
        let text = [
            "# tracer: nop\n".to_owned(),
            line("1.0", "a", 7, "F_WRLCK", 0),
            line("1.5", "b", 8, "F_WRLCK", -11),
            line("1.6", "b", 8, "F_WRLCK", 1),
            line("1.7", "c", 9, "F_WRLCK", 1),
            // Gives up.
            line("1.8", "c", 9, "F_UNLCK", 0),
            line("2.0", "a", 7, "F_UNLCK", 0),
            line("2.1", "b", 8, "F_WRLCK", 0),
            line("2.5", "b", 8, "F_UNLCK", 0),
        ];
        let place = (0xfe, 0, 0x1f);
        let hold = |pid, asked, granted, released| Hold {
            pid,
            place,
            asked: Some(asked),
            granted,
            released,
        };
        assert_eq!(holds(&text.concat()), [hold(7, 1.0, 1.0, 2.0), hold(8, 1.5, 2.1, 2.5)]);
    }

    #[test]
    fn who_waits_holds_nothing() {
        assert_eq!(
            holder("1: FLOCK  ADVISORY  WRITE 4711 00:2f:5 0 EOF"),
            Some(((0, 0x2f, 5), 4711))
        );
        assert_eq!(holder("1: -> FLOCK  ADVISORY  WRITE 4712 00:2f:5 0 EOF"), None);
        assert_eq!(holder("2: POSIX  ADVISORY  WRITE 4711 00:2f:5 0 EOF"), None);
    }
}
