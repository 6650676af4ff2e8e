//! `autoport list`.

use std::io;
use std::net::SocketAddr;

use autoport::app::{self, Evidence};
use autoport::error::Error;
use autoport::model::{HostPort, Record};
use autoport::plan;
use serde::Serialize;

use super::output::{Answer, Cell, Screen, Table, Text, Tone};
use super::{Failure, Node, Verdict, note};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Allocations {
    allocations: Vec<Allocation>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Allocation {
    #[serde(flatten)]
    host: HostPort,
    target: Option<SocketAddr>,
    chosen: bool,
    state: Option<State>,
    holder: String,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Alive,
    Stale,
    Unknown,
}

impl State {
    fn cell(self) -> Cell {
        match self {
            Self::Alive => Cell::toned("alive", Tone::Good),
            Self::Stale => Cell::toned("stale", Tone::Bad),
            Self::Unknown => Cell::toned("unknown", Tone::Doubtful),
        }
    }
}

impl Answer for Allocations {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        let mut table = Table::headed(["HOST PORT", "TARGET", "CHOICE", "STATE", "HOLDER"]);
        for one in &self.allocations {
            table.row([
                one.host.into(),
                Cell::or_dash(one.target),
                Cell::or_dash(one.chosen.then_some("chosen")),
                one.state.map_or_else(|| "-".into(), State::cell),
                (&one.holder).into(),
            ]);
        }
        table.write(out)
    }
}

pub(super) fn run(node: &Node, screen: &mut Screen<'_>) -> Result<Verdict, Failure> {
    let shared = node.store.read(node.patience, &mut io::stderr()).map_err(Error::from)?;
    let mut allocations = Vec::new();
    let Some(shared) = shared else {
        note(node.nothing_recorded());
        screen.show(&Allocations { allocations })?;
        return Ok(Verdict::Well);
    };
    for read in shared.records().map_err(Error::from)? {
        match read {
            Ok(record) => allocations.extend(allocations_of(&record)),
            Err(unreadable) => note(unreadable),
        }
    }
    for read in shared.reservations().map_err(Error::from)? {
        match read {
            Ok(reservation) => {
                allocations.extend(reservation.hosts.iter().map(|host| Allocation {
                    host: *host,
                    target: None,
                    chosen: false,
                    state: None,
                    holder: reservation.to_string(),
                }));
            }
            Err(unreadable) => note(unreadable),
        }
    }
    // A reader that takes its time, such as a pager, holds up no command of the plugin.
    drop(shared);
    screen.show(&Allocations { allocations })?;
    Ok(Verdict::Well)
}

fn allocations_of(record: &Record) -> impl Iterator<Item = Allocation> {
    let state = match app::judge(&record.owner) {
        Evidence::Alive => State::Alive,
        Evidence::Stale => State::Stale,
        Evidence::Unknown(_) => State::Unknown,
    };
    let chosen = plan::expand(&record.grants, &record.pod_addresses);
    record.mappings.iter().map(move |mapping| Allocation {
        host: mapping.host,
        target: mapping.target,
        // Sorted, and the host port counts first.
        chosen: chosen.binary_search_by(|one| one.host.cmp(&mapping.host)).is_ok(),
        state: Some(state),
        holder: record.owner.to_string(),
    })
}
