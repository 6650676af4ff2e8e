//! `autoport install` and `autoport uninstall`.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use autoport::app::{self, Dismantled};
use autoport::diagnosis::counted;
use autoport::install::{self, Change, Done, Places, Step, Watch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signalfd::SignalFd;
use serde::Serialize;

use super::arguments::{Folders, Install, Runtime, Uninstall};
use super::output::{Answer, Screen};
use super::{Failure, SIGNALS, Store, asked_to_end, note, now};

/// After this time the configurations are looked at again even if no change was noticed.
const AGAIN: Duration = Duration::from_secs(10);

/// Process 1 of the PID namespace.
const INIT: &str = "/proc/1/ns/mnt";

/// What became of the files, and of the node.
#[derive(Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    dry_run: bool,
    changed: bool,
    files: Vec<Step>,
    /// `null` for `install`.
    node: Option<Dismantled>,
}

impl Answer for Outcome {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        for file in &self.files {
            let path = file.path.display();
            let would = if self.dry_run { "would be " } else { "" };
            let how = file.how.as_ref().map_or(String::new(), |how| format!(": {how}"));
            match file.done {
                Done::Unchanged => writeln!(out, "{path}: nothing to do")?,
                Done::Kept => writeln!(out, "{path} kept{how}")?,
                Done::Copied => writeln!(out, "{path} {would}copied")?,
                Done::Linked => writeln!(out, "{path} {would}made{how}")?,
                Done::Changed => writeln!(out, "{path} {would}changed{how}")?,
                Done::Removed => writeln!(out, "{path} {would}removed")?,
            }
            if let Some(backup) = &file.backup {
                writeln!(out, "  original {would}saved as {}", backup.display())?;
            }
            for remark in &file.remarks {
                writeln!(out, "  {remark}")?;
            }
            if let Some(diff) = file.diff.as_ref().filter(|_| self.dry_run) {
                write!(out, "{diff}")?;
            }
        }
        self.node.as_ref().map_or(Ok(()), |node| dismantled(node, self.dry_run, out))
    }

    /// A dry run says whether all is done: the probe of `deploy/kubernetes` asks that.
    fn is_well(&self) -> bool {
        let is_over = self.node.as_ref().is_none_or(Dismantled::is_over);
        !self.dry_run || !self.changed && is_over
    }
}

fn dismantled(node: &Dismantled, dry_run: bool, out: &mut Screen<'_>) -> io::Result<()> {
    if !node.is_over() {
        for holder in &node.holders {
            writeln!(out, "{holder} has host ports")?;
        }
        let left = counted(node.holders.len() + node.unreadable, "attachment");
        let text = "keep working; run this again after these pods were deleted";
        return writeln!(out, "the host ports of {left} {text}");
    }
    let would = if dry_run { "would be " } else { "" };
    if node.table_removed {
        writeln!(out, "table inet autoport {would}deleted")?;
    }
    for interface in &node.loopback {
        writeln!(out, "route_localnet of {interface} {would}set back to 0")?;
    }
    for interface in &node.kept_loopback {
        writeln!(out, "route_localnet of {interface} kept at 1: portmap maps ports there")?;
    }
    Ok(())
}

impl Outcome {
    fn of(dry_run: bool, files: Vec<Step>, node: Option<Dismantled>) -> Self {
        let node_changes =
            node.as_ref().is_some_and(|node| node.table_removed || !node.loopback.is_empty());
        let changed = node_changes || files.iter().any(Step::is_change);
        Self { dry_run, changed, files, node }
    }
}

fn places(folders: Folders, change: Change) -> Places {
    let Folders { runtime, conflist, link, no_link, dry_run, .. } = folders;
    let Runtime { bin_dir, networks } = runtime;
    let link = (!no_link).then_some(link);
    Places { bin_dir, conf_dir: networks.conf_dir, conflist, link, change, dry_run }
}

pub(super) fn install(asked: Install, screen: &mut Screen<'_>) -> Result<u8, Failure> {
    let Install { folders, config, set } = asked;
    let (stay, places) = (folders.stay, places(folders, Change { file: config, set }));
    repeatedly(stay, &places, screen, || {
        Ok(Outcome::of(places.dry_run, install::install(&places, now())?, None))
    })
}

pub(super) fn uninstall(
    Uninstall { folders, host }: Uninstall,
    store: impl FnOnce() -> Result<Store, Failure>,
    screen: &mut Screen<'_>,
) -> Result<u8, Failure> {
    if host {
        enter_host()
            .map_err(|error| Failure::System("enter the mount namespace of process 1", error))?;
    }
    let store = &store()?;
    let (stay, places) = (folders.stay, places(folders, Change::default()));
    repeatedly(stay, &places, screen, || {
        let log = &mut crate::Stderr;
        let dry_run = places.dry_run;
        let mut steps = install::withdraw(&places)?;
        // A runtime that finds portmap in the list calls only that, so their DELs never come.
        let collected = app::collect(store, dry_run, now(), log)?;
        if let Some(failure) = collected.and_then(|collected| collected.failure) {
            return Err(failure.into());
        }
        let left = app::dismantle(store, dry_run, log)?;
        if left.is_over() {
            steps.extend(install::remove_rest(&places)?);
        }
        Ok(Outcome::of(dry_run, steps, Some(left)))
    })
}

/// Does it once and says what came of it; or again and again, and says what has become different.
fn repeatedly(
    stay: bool,
    places: &Places,
    screen: &mut Screen<'_>,
    mut work: impl FnMut() -> Result<Outcome, Failure>,
) -> Result<u8, Failure> {
    if !stay {
        return Ok(screen.show(&work()?)?);
    }
    let stop = asked_to_end()?;
    let (mut shown, mut failed) = (None, String::new());
    loop {
        // Before the work, so that no change is missed. Without it there is the time.
        let watch = places.watch().inspect_err(|errno| {
            note(format_args!(
                "cannot watch the folders, so changes are noticed within 10 s: {errno}"
            ));
        });
        match work() {
            Ok(outcome) => {
                failed.clear();
                if outcome.changed || shown.as_ref() != Some(&outcome) {
                    screen.show(&outcome)?;
                    screen.out.flush()?;
                }
                if !outcome.changed {
                    shown = Some(outcome);
                }
            }
            // The main plugin may not have been here yet.
            Err(error) => {
                let text = error.in_one_line();
                if text != failed {
                    note(&text);
                    failed = text;
                }
            }
        }
        if wait(&stop, watch.ok().as_ref())? {
            return Ok(0);
        }
    }
}

/// Waits for a change, or for the time; gives whether this process is asked to end.
fn wait(stop: &SignalFd, watch: Option<&Watch>) -> Result<bool, Failure> {
    let until = Instant::now() + AGAIN;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let fds = [Some(stop.as_fd()), watch.map(Watch::as_fd)];
        let fds = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut fds: Vec<_> = fds.collect();
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
            Ok(0) => return Ok(false),
            Ok(_) if fds[0].any() == Some(true) => return Ok(true),
            Ok(_) if watch.is_some_and(Watch::has_changed) => return Ok(false),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(Failure::System(SIGNALS, errno.into())),
        }
    }
}

/// The state directory, libcni's memory and the namespaces of the pods are then where the plugin
/// sees them.
fn enter_host() -> io::Result<()> {
    let init = std::fs::File::open(INIT)?;
    Ok(setns(init, CloneFlags::CLONE_NEWNS)?)
}
