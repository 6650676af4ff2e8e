//! `autoport install` and `autoport uninstall`.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use autoport::app::{self, Dismantled};
use autoport::diagnosis::counted;
use autoport::install::{self, CACHE_DIR, Done, Places, Step};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, setns};
use serde::Serialize;

use super::output::{Answer, Screen, Text};
use super::{Failure, Node, Verdict, arguments, asked_to_end, note, now};

/// Milliseconds until the configurations are looked at again: a main plugin may have written its own.
const AGAIN: u16 = 10_000;

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
    node: Option<Remains>,
}

/// What is left of autoport on the node.
#[derive(Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Remains {
    holders: Vec<String>,
    unreadable: usize,
    table_removed: bool,
    /// The interfaces on which `route_localnet` is 0 again.
    loopback: Vec<String>,
    /// Those on which it stays 1 for portmap.
    kept_loopback: Vec<String>,
}

impl Answer for Outcome {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        for file in &self.files {
            let path = file.path.display();
            let would = if self.dry_run { "would be " } else { "" };
            let how = file.how.as_ref().map_or(String::new(), |how| format!(": {how}"));
            match file.done {
                Done::Unchanged => writeln!(out, "{path}: nothing to do")?,
                Done::Kept => writeln!(out, "{path} kept{how}")?,
                Done::Copied => writeln!(out, "{path} {would}copied")?,
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
        self.node.as_ref().map_or(Ok(()), |node| node.text(self.dry_run, out))
    }
}

impl Remains {
    /// How many attachments have host ports.
    fn left(&self) -> usize {
        self.holders.len() + self.unreadable
    }

    fn text(&self, dry_run: bool, out: &mut Text<'_>) -> io::Result<()> {
        let left = self.left();
        if left > 0 {
            for holder in &self.holders {
                writeln!(out, "{holder} has host ports")?;
            }
            let text = "keep working; run this again when those pods are gone";
            return writeln!(out, "the host ports of {} {text}", counted(left, "attachment"));
        }
        let would = if dry_run { "would be " } else { "" };
        if self.table_removed {
            writeln!(out, "table inet autoport {would}deleted")?;
        }
        for interface in &self.loopback {
            writeln!(out, "route_localnet of {interface} {would}set back to 0")?;
        }
        for interface in &self.kept_loopback {
            writeln!(out, "route_localnet of {interface} kept at 1: portmap maps ports there")?;
        }
        Ok(())
    }
}

impl Outcome {
    fn of(dry_run: bool, steps: Vec<Step>, node: Option<Dismantled>) -> Self {
        let steps_change = steps.iter().any(Step::is_change);
        let node = node.map(|node| Remains {
            holders: node.holders.iter().map(ToString::to_string).collect(),
            unreadable: node.unreadable,
            table_removed: node.table,
            loopback: node.loopback,
            kept_loopback: node.kept_loopback,
        });
        let node_changes =
            node.as_ref().is_some_and(|node| node.table_removed || !node.loopback.is_empty());
        Self { dry_run, changed: steps_change || node_changes, files: steps, node }
    }

    /// A dry run says whether all is done: the probe of `deploy/kubernetes` asks that.
    fn verdict(&self) -> Verdict {
        let is_held = self.node.as_ref().is_some_and(|node| node.left() > 0);
        if self.dry_run && (self.changed || is_held) { Verdict::Unwell } else { Verdict::Well }
    }
}

impl From<&arguments::Folders> for Places {
    fn from(asked: &arguments::Folders) -> Self {
        Self {
            bin_dir: asked.bin_dir.clone(),
            conf_dir: asked.conf_dir.clone(),
            conflist: asked.conflist.clone(),
            cache_dir: CACHE_DIR.into(),
            dry_run: asked.dry_run,
        }
    }
}

pub(super) fn install(
    asked: &arguments::Install,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    let places = Places::from(&asked.folders);
    repeatedly(asked.folders.stay, screen, || {
        Ok(Outcome::of(places.dry_run, install::install(&places)?, None))
    })
}

pub(super) fn uninstall(
    asked: &arguments::Uninstall,
    node: impl FnOnce() -> Result<Node, Failure>,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    if asked.host {
        enter_host().map_err(Failure::Host)?;
    }
    let node = node()?;
    let places = Places::from(&asked.folders);
    repeatedly(asked.folders.stay, screen, || {
        let log = &mut crate::Stderr;
        let dry_run = places.dry_run;
        let mut steps = install::withdraw(&places)?;
        // A runtime that finds portmap in the list calls only that, so their DELs never come.
        let collected = app::collect(&node.store, node.patience, dry_run, now(), log)?;
        if let Some(failure) = collected.and_then(|collected| collected.failure) {
            return Err(failure.into());
        }
        let left = app::dismantle(&node.store, node.patience, dry_run, log)?;
        if left.is_over() {
            steps.push(install::remove_executable(&places)?);
        }
        Ok(Outcome::of(dry_run, steps, Some(left)))
    })
}

/// Does it once and says what came of it; or again and again, and says what has become different.
fn repeatedly(
    stay: bool,
    screen: &mut Screen<'_>,
    mut work: impl FnMut() -> Result<Outcome, Failure>,
) -> Result<Verdict, Failure> {
    if !stay {
        let outcome = work()?;
        screen.show(&outcome)?;
        return Ok(outcome.verdict());
    }
    let stop = asked_to_end()?;
    let (mut shown, mut failed) = (None, String::new());
    loop {
        match work() {
            Ok(outcome) => {
                failed.clear();
                if shown.as_ref().is_none_or(|last| *last != outcome) {
                    screen.show(&outcome)?;
                    screen.out.flush()?;
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
        let mut waiting = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, AGAIN) {
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(Verdict::Well),
            Err(errno) => return Err(Failure::Signals(errno.into())),
        }
    }
}

/// The state directory, libcni's memory and the namespaces of the pods are then where the plugin
/// sees them.
fn enter_host() -> io::Result<()> {
    let init = std::fs::File::open(INIT)?;
    Ok(setns(init, CloneFlags::CLONE_NEWNS)?)
}
