//! `autoport repair`.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use autoport::app::{self, Ownership, Repaired};
use autoport::error::Error;
use autoport::kernel::{Applied, Counts};
use autoport::store::{self, Store};
use serde::Serialize;

use super::output::{Answer, Screen};
use super::{Failure, asked_to_end, nothing_recorded};

/// What differed, and was made equal.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Differences {
    attachments: usize,
    adopted: usize,
    /// Why the table was built again as a whole.
    rebuilt: Option<String>,
    added: usize,
    removed: usize,
    differed: Option<String>,
    /// Why there is none, where nothing is recorded.
    #[serde(skip)]
    nothing: Option<String>,
}

impl Answer for Differences {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let Self { attachments, adopted, rebuilt, added, removed, differed, nothing } = self;
        if let Some(nothing) = nothing {
            return writeln!(out, "{nothing}");
        }
        if *adopted > 0 {
            writeln!(out, "restored {adopted} records from the table")?;
        }
        let whose = format!("the records of {attachments} attachments");
        if let Some(reason) = rebuilt {
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
    let repaired = app::repair(store, ownership, &mut crate::Stderr)?;
    let Some(Repaired { attachments, adopted, left_alone, applied }) = repaired else {
        let nothing = Some(nothing_recorded(store));
        return Ok(screen.show(&Differences { nothing, ..Differences::default() })?);
    };
    let differed = applied.summary();
    let Applied { rebuilt, counts: Counts { added, removed }, unfinished, .. } = applied;
    let nothing = None;
    let differences =
        Differences { attachments, adopted, rebuilt, added, removed, differed, nothing };
    let status = screen.show(&differences)?;
    if let Some(unreadable) = left_alone.into_iter().next() {
        return Err(Error::from(store::Error::from(unreadable)).into());
    }
    unfinished.map_or(Ok(status), |error| Err(Error::from(error).into()))
}

/// Repairs whenever something damages the table, until SIGTERM.
pub(super) fn watch(store: &Store) -> Result<u8, Failure> {
    let stop = asked_to_end()?;
    app::watch(store, stop.as_fd(), &mut crate::Stderr)?;
    Ok(0)
}
