//! `autoport reserve` and `autoport release`.

use std::io;

use autoport::app;
use autoport::model::HostPort;
use autoport::plan::Spot;
use autoport::store::{Reservation, Store};
use serde::Serialize;

use super::arguments::Ports;
use super::output::{Answer, Screen};
use super::{Failure, arguments, now, rows};

/// A reservation that was made.
#[derive(Serialize)]
pub(super) struct Reserved {
    name: String,
    hosts: Vec<HostPort>,
    persistent: bool,
    /// What the reservation of that name had, and this one has not.
    released: Vec<HostPort>,
}

impl Answer for Reserved {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let Self { name, hosts, persistent, released } = self;
        let until = if *persistent { "kept across reboots" } else { "until the next reboot" };
        writeln!(out, "reserved for {name}: {}, {until}", spots(hosts))?;
        if !released.is_empty() {
            writeln!(out, "no longer reserved for {name}: {}", spots(released))?;
        }
        Ok(())
    }
}

/// A reservation that was ended.
#[derive(Serialize)]
pub(super) struct Released {
    name: String,
    hosts: Vec<HostPort>,
}

impl Answer for Released {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        writeln!(out, "released from {}: {}", self.name, spots(&self.hosts))
    }
}

/// Ports as the command line takes them.
fn spots(hosts: &[HostPort]) -> String {
    let rows = rows::arranged(rows::bare(hosts), false);
    rows.iter().map(rows::Row::spot).collect::<Vec<_>>().join(" ")
}

fn hosts(Ports { protocol, address, range }: &Ports) -> impl Iterator<Item = HostPort> {
    let numbers = range.first.get()..=range.last.get();
    let spots = numbers.filter_map(|number| {
        Some(Spot { protocol: *protocol, address: *address, port: number.try_into().ok()? })
    });
    spots.flat_map(|spot| spot.hosts().collect::<Vec<_>>())
}

pub(super) fn reserve(asked: &arguments::Reserve, store: &Store) -> Result<Reserved, Failure> {
    let mut reservation = Reservation {
        name: asked.name.clone(),
        hosts: asked.ports.iter().flat_map(hosts).collect(),
        created: now(),
        persistent: asked.persist,
    };
    let before = app::reserve(store, &mut reservation, &mut crate::Stderr)?;
    let Reservation { name, hosts, persistent, .. } = reservation;
    let mut released = before.map(|before| before.hosts).unwrap_or_default();
    released.retain(|host| !hosts.contains(host));
    Ok(Reserved { name, hosts, persistent, released })
}

pub(super) fn release(name: &str, store: &Store) -> Result<Released, Failure> {
    let freed = app::unreserve(store, name, &mut crate::Stderr)?;
    let none =
        || format!("there is no reservation {name}; `autoport list` shows the existing ones");
    let freed = freed.ok_or_else(|| Failure::Asked(none()))?;
    Ok(Released { name: name.to_owned(), hosts: freed })
}
