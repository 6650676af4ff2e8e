//! `autoport repair`.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use autoport::app::{self, Ownership, Repaired};
use autoport::error::Error;
use autoport::kernel::Counts;
use autoport::store::{self, Store};
use serde::Serialize;

use super::output::{Answer, Screen};
use super::{Failure, asked_to_end, nothing_recorded, now};

/// What differed, and was made equal.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    repaired: Repaired,
    /// Why there is none, where nothing is recorded.
    #[serde(skip)]
    nothing: Option<String>,
}

impl Answer for Outcome {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        if let Some(nothing) = &self.nothing {
            return writeln!(out, "{nothing}");
        }
        let Repaired { attachments, adopted, applied, .. } = &self.repaired;
        let Counts { added, removed } = applied.counts;
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
    let nothing = repaired.is_none().then(|| nothing_recorded(store));
    let outcome = Outcome { repaired: repaired.unwrap_or_default(), nothing };
    let status = screen.show(&outcome)?;
    let Repaired { left_alone, applied, .. } = outcome.repaired;
    if let Some(unreadable) = left_alone.into_iter().next() {
        return Err(Error::from(store::Error::from(unreadable)).into());
    }
    applied.unfinished.map_or(Ok(status), |error| Err(Error::from(error).into()))
}

/// Repairs whenever something damages the table, until SIGTERM.
pub(super) fn watch(store: &Store) -> Result<u8, Failure> {
    let stop = asked_to_end()?;
    app::watch(store, stop.as_fd(), &mut crate::Stderr)?;
    Ok(0)
}
