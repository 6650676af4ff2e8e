//! Cgroups of version 2 of the test's own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

/// Where the thread sees the tree.
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup with those in it; they are removed with the test. Where the thread takes it for the root, its own path is
/// the second one.
pub(crate) struct Cgroup(PathBuf, Option<PathBuf>);

impl Cgroup {
    /// Has the thread see the cgroups of version 2, which a machine may not have mounted.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        for words in ["--make-rprivate /", "-t cgroup2 none /sys/fs/cgroup"] {
            let mounted = Command::new("mount").args(words.split(' ')).status();
            assert!(mounted.is_ok_and(|done| done.success()), "mount {words}");
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let own = Path::new(ROOT).join(format!("autoport-test-{}-{number}", id()));
        fs::create_dir(&own).expect("a cgroup");
        Self(own, None)
    }

    /// One that the thread takes for the root of the tree, as on a node that is a container.
    pub(crate) fn of_node() -> Self {
        let mut cgroup = Self::new();
        let own = std::mem::replace(&mut cgroup.0, ROOT.into());
        let bound = Command::new("mount").arg("--bind").arg(&own).arg(ROOT).status();
        assert!(bound.is_ok_and(|done| done.success()), "the root is mounted");
        cgroup.1 = Some(own);
        cgroup
    }

    /// The same as systemd nests slices, below the root: the name of the innermost ends with `-burstable-` and this.
    pub(crate) fn slices(end: &str) -> (Self, String) {
        let cgroup = Self::new();
        remove(&cgroup.0);
        let name = format!("autoporttest{}", id());
        let own = Path::new(ROOT).join(format!("{name}.slice"));
        let slice = format!("{name}-burstable-{end}.slice");
        let inner = own.join(format!("{name}-burstable.slice")).join(&slice);
        fs::create_dir_all(inner).expect("slices");
        (Self(own, None), slice)
    }

    /// An inner cgroup, as the runtime gives it.
    pub(crate) fn parent(&self, path: &str) -> String {
        let dir = self.0.join(path);
        fs::create_dir_all(&dir).expect("an inner cgroup");
        dir.to_str().and_then(|dir| dir.strip_prefix(ROOT)).expect("below the root").to_owned()
    }

    /// The directory of an inner cgroup.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A program that will run in an inner cgroup.
    pub(crate) fn command(&self, path: &str, program: impl AsRef<OsStr>) -> Command {
        let dir = self.0.join(path);
        fs::create_dir_all(&dir).expect("an inner cgroup");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > $0/cgroup.procs && exec \"$@\""]).arg(dir).arg(program);
        command
    }

    /// Removes an inner cgroup, whose processes have ended, and those in it.
    pub(crate) fn remove(&self, path: &str) {
        remove(&self.0.join(path));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(own) = &self.1 {
            remove_below(&self.0);
            let _ = Command::new("umount").args(["-l", ROOT]).status();
            return remove(own);
        }
        remove(&self.0);
    }
}

/// The kernel takes a moment to notice that a cgroup has no process any more.
fn remove(dir: &Path) {
    remove_below(dir);
    for _ in 0..100 {
        if fs::remove_dir(dir).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn remove_below(dir: &Path) {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    let inner = inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    inner.for_each(|entry| remove(&entry.path()));
}
