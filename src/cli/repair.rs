//! `autoport repair`.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use autoport::app::{self, Ownership, Repaired};
use autoport::error::Error;
use autoport::kernel::Applied;
use autoport::store::{self, Store};

use super::output::{Answer, Screen};
use super::{Failure, asked_to_end, now};

impl Answer for Repaired {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let Self { attachments, adopted, applied, .. } = self;
        let Applied { added, removed, .. } = applied;
        let differed = applied.summary();
        if *adopted > 0 {
            writeln!(out, "restored {adopted} records from the table")?;
        }
        let whose = format!("the records of {attachments} attachments");
        if let Some(reason) = &applied.rebuilt {
            return writeln!(out, "rebuilt table inet autoport from {whose}: {reason}");
        }
        if added + removed == 0 && differed.is_none() {
            return writeln!(out, "table inet autoport equals {whose}");
        }
        write!(out, "updated table inet autoport from {whose}: ")?;
        write!(out, "{added} elements added, {removed} removed")?;
        match differed {
            Some(text) => writeln!(out, ": {text}"),
            None => writeln!(out),
        }
    }
}

pub(super) fn run(adopt: bool, store: &Store, screen: &mut Screen<'_>) -> Result<u8, Failure> {
    let ownership = if adopt { Ownership::Adopt } else { Ownership::Respect };
    let repaired = app::repair(store, ownership, now(), &mut crate::Stderr)?;
    let Some(repaired) = repaired else {
        return screen.show_nothing(store, &Repaired::default());
    };
    let status = screen.show(&repaired)?;
    if let Some(unreadable) = repaired.left_alone.into_iter().next() {
        return Err(Error::from(store::Error::from(unreadable)).into());
    }
    repaired.applied.unfinished.map_or(Ok(status), |error| Err(Error::from(error).into()))
}

/// Repairs whenever something damages the table, until SIGTERM.
pub(super) fn watch(store: &Store) -> Result<u8, Failure> {
    let stop = asked_to_end()?;
    app::watch(store, stop.as_fd(), &|| Some(Duration::ZERO), &mut crate::Stderr)?;
    Ok(0)
}
