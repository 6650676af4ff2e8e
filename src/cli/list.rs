//! `autoport list`.

use std::io;

use autoport::app::{self, Listing};
use autoport::model::{HostPort, Protocol};
use serde::Serialize;

use super::allocation::{Age, Holder, Mapped, State};
use super::output::{Answer, Cell, Screen, Table, age};
use super::{Failure, Store, arguments, note, nothing_recorded, subject_named};

/// The host ports that are held.
#[derive(Serialize)]
pub(super) struct Allocations {
    allocations: Vec<Allocation>,
}

#[derive(Serialize)]
struct Allocation {
    #[serde(flatten)]
    mapped: Mapped,
    state: State,
    #[serde(flatten)]
    age: Age,
    #[serde(flatten)]
    holder: Holder,
}

impl Answer for Allocations {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let mut table = Table::headed(["HOST PORT", "TARGET", "CHOICE", "STATE", "AGE", "HOLDER"]);
        for one in &self.allocations {
            let [host, target, choice] = one.mapped.cells();
            let age = Cell::or_dash(one.age.age_seconds.map(age));
            table.row([host, target, choice, one.state.cell(), age, one.holder.name().into()]);
        }
        table.write("", out)
    }
}

pub(super) fn run(asked: &arguments::List, store: &Store) -> Result<Allocations, Failure> {
    let listing = app::list(store, &mut crate::Stderr)?;
    let mut listing = listing.unwrap_or_else(|| {
        note(nothing_recorded(store));
        Listing::default()
    });
    for (unreadable, _) in &listing.unreadable {
        note(unreadable);
    }
    if let Some(pod) = &asked.pod {
        listing.narrow(&subject_named(pod))?;
    }
    let mut allocations = allocations_of(&listing);
    let order = |one: &Allocation| {
        let host = one.mapped.place.host;
        (host.port, host.protocol, host.address)
    };
    allocations.sort_by_key(order);
    let protocol = asked.protocol.map(Protocol::from);
    allocations.retain(|one| {
        asked.namespace.as_ref().is_none_or(|namespace| one.holder.is_in_namespace(namespace))
            && asked.port.is_none_or(|port| one.mapped.place.host.port == port)
            && protocol.is_none_or(|protocol| one.mapped.place.host.protocol == protocol)
    });
    Ok(Allocations { allocations })
}

fn allocations_of(listing: &Listing) -> Vec<Allocation> {
    let mut allocations = Vec::new();
    let mut add = |mapped: Vec<Mapped>, state, age, holder: &Holder| {
        let of = |mapped| Allocation { mapped, state, age, holder: holder.clone() };
        allocations.extend(mapped.into_iter().map(of));
    };
    let bare = |hosts: &[HostPort], choice| -> Vec<Mapped> {
        hosts.iter().map(|host| Mapped::bare(*host, choice)).collect()
    };
    for record in &listing.attachments {
        let (state, _) = State::of(&record.owner);
        let holder = Holder::of(&record.owner);
        add(Mapped::of(record).collect(), state, Age::since(record.created), &holder);
    }
    for one in &listing.reservations {
        let holder = Holder::reservation(&one.name);
        add(bare(&one.hosts, "reserved"), State::Reserved, Age::since(one.created), &holder);
    }
    for (one, hosts) in &listing.unreadable {
        let holder = Holder::unreadable(&one.key);
        add(bare(hosts, "unknown"), State::Unreadable, Age::default(), &holder);
    }
    allocations
}
