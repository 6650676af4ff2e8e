//! `autoport repair`.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use autoport::app::{self, Ownership, Repaired};
use autoport::error::Error;
use autoport::kernel::{Applied, Counts};
use autoport::store;
use serde::Serialize;

use super::output::{Answer, Screen, Text};
use super::{Failure, Node, Verdict, arguments, asked_to_end};

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
}

impl Answer for Differences {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        let Self { attachments, adopted, rebuilt, added, removed, differed } = self;
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

pub(super) fn run(
    asked: &arguments::Repair,
    node: &Node,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    if asked.watch {
        return watch(node);
    }
    let ownership = if asked.adopt { Ownership::Adopt } else { Ownership::Respect };
    let repaired = app::repair(&node.store, node.patience, ownership, &mut crate::Stderr)?;
    let Some(Repaired { attachments, adopted, left_alone, applied }) = repaired else {
        screen.show(&node.nothing_yet(Differences::default()))?;
        return Ok(Verdict::Well);
    };
    let differed = applied.summary();
    let Applied { rebuilt, counts: Counts { added, removed }, unfinished, .. } = applied;
    screen.show(&Differences { attachments, adopted, rebuilt, added, removed, differed })?;
    if let Some(unreadable) = left_alone.into_iter().next() {
        return Err(Error::from(store::Error::from(unreadable)).into());
    }
    unfinished.map_or(Ok(Verdict::Well), |error| Err(Error::from(error).into()))
}

fn watch(node: &Node) -> Result<Verdict, Failure> {
    let stop = asked_to_end()?;
    app::watch(&node.store, node.patience, stop.as_fd(), &mut crate::Stderr)?;
    Ok(Verdict::Well)
}
