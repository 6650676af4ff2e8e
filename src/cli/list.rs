//! `autoport list`.

use std::io;

use autoport::app::{self, Listing};
use autoport::model::HostPort;

use super::holders::{Holders, cells, name_of};
use super::output::{Answer, BAD, Cell, Screen, age};
use super::{Failure, Store, arguments, note, nothing_recorded};

impl Answer for Holders {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let mut rows: Vec<(HostPort, [Cell; 6])> = Vec::new();
        for one in &self.attachments {
            for (mapping, [host, target, choice]) in cells(&one.record) {
                let state = Cell::styled(one.state, one.style);
                let holder = name_of(&one.record.owner).into();
                let age = Cell::or_dash(one.age_seconds.map(age));
                rows.push((mapping.host, [host, target, choice, state, age, holder]));
            }
        }
        let mut add =
            |hosts: &[HostPort], state: fn() -> Cell, seconds: Option<u64>, holder: &str| {
                for host in hosts {
                    let age = Cell::or_dash(seconds.map(age));
                    let cells = [host.into(), "-".into(), "-".into(), state(), age, holder.into()];
                    rows.push((*host, cells));
                }
            };
        for one in &self.reservations {
            add(&one.of.hosts, || "-".into(), one.age_seconds, &one.of.to_string());
        }
        for one in &self.unreadable {
            add(&one.hosts, || Cell::styled("unreadable", BAD), None, &one.name);
        }
        rows.sort_by_key(|(host, _)| (host.port, host.protocol, host.address));
        let names = ["HOST PORT", "TARGET", "CHOICE", "STATE", "AGE", "HOLDER"];
        out.table("", names, rows.into_iter().map(|(_, cells)| cells))
    }
}

pub(super) fn run(asked: &arguments::List, store: &Store) -> Result<Holders, Failure> {
    let listing = app::list(store, &mut crate::Stderr)?;
    let mut listing = listing.unwrap_or_else(|| {
        note(nothing_recorded(store));
        Listing::default()
    });
    for unreadable in &listing.unreadable {
        note(&unreadable.reason);
    }
    if let Some(pod) = &asked.pod {
        listing.narrow_to_name(pod)?;
    }
    if let Some(namespace) = &asked.namespace {
        listing.narrow_to_namespace(namespace);
    }
    if asked.port.is_some() || asked.protocol.is_some() {
        listing.keep_hosts(|host| {
            asked.port.is_none_or(|port| port == host.port)
                && asked.protocol.is_none_or(|protocol| protocol == host.protocol)
        });
    }
    Ok(listing.into())
}
