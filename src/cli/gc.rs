//! `autoport gc`.

use std::io::{self, Write as _};

use autoport::app::{self, Collected, Judged};
use autoport::netns::Fate;
use serde::Serialize;

use super::output::{Answer, Screen};
use super::{Failure, Store, now};

/// What was judged, and how.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Judgements {
    dry_run: bool,
    removed: usize,
    kept: usize,
    holders: Vec<Holder>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    name: String,
    /// `null` of a record that cannot be read.
    host_ports: Option<usize>,
    removed: bool,
    reason: String,
}

impl Answer for Judgements {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let dry = ["would remove", "would be removed"];
        let [verb, total] = if self.dry_run { dry } else { ["removed"; 2] };
        for Holder { name, host_ports, removed, reason } in &self.holders {
            let verb = if *removed { verb } else { "kept" };
            let held = host_ports.map_or(String::new(), |count| format!(" ({count} host ports)"));
            writeln!(out, "{verb} {name}{held}: {reason}")?;
        }
        writeln!(out, "{} {total}, {} kept", self.removed, self.kept)
    }
}

pub(super) fn run(dry_run: bool, store: &Store, screen: &mut Screen<'_>) -> Result<u8, Failure> {
    let log = &mut crate::Stderr;
    let collected = app::collect(store, dry_run, now(), log)?;
    let Some(Collected { judged, mut failure }) = collected else {
        let none = Judgements { dry_run, ..Judgements::default() };
        return Ok(screen.show_nothing(store, &none)?);
    };
    let mut holders = Vec::new();
    for one in judged {
        let (record, removed, reason) = match one {
            Judged::Removed(record) => (Ok(record), true, Fate::Gone.to_string()),
            Judged::Kept(record, evidence) => (Ok(record), false, evidence.to_string()),
            Judged::Failed(record, error) => {
                failure.get_or_insert(error);
                (Ok(record), false, "it could not be removed".to_owned())
            }
            Judged::Unreadable(one) => (Err(one.key.to_string()), false, one.to_string()),
        };
        let host_ports = record.as_ref().ok().map(|record| record.mappings.len());
        let name = record.map_or_else(|key| key, |record| record.owner.to_string());
        holders.push(Holder { name, host_ports, removed, reason });
    }
    let removed = holders.iter().filter(|holder| holder.removed).count();
    let kept = holders.len() - removed;
    let status = screen.show(&Judgements { dry_run, removed, kept, holders })?;
    failure.map_or(Ok(status), |error| Err(error.into()))
}
