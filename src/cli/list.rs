//! `autoport list`.

use std::io;

use autoport::app::{self, Listing};
use autoport::model::Protocol;
use serde::Serialize;

use super::allocation::{Holder, Mapped, State};
use super::output::{Answer, Cell, Screen, Table, Text, age};
use super::{Failure, Node, Verdict, arguments, note, now, subject_named};

/// The host ports that are held.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Allocations {
    allocations: Vec<Allocation>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Allocation {
    #[serde(flatten)]
    mapped: Mapped,
    state: State,
    /// `null` where nobody knows.
    created: Option<u64>,
    age_seconds: Option<u64>,
    #[serde(flatten)]
    holder: Holder,
}

impl Answer for Allocations {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        let mut table = Table::headed(["HOST PORT", "TARGET", "CHOICE", "STATE", "AGE", "HOLDER"]);
        for one in &self.allocations {
            let [host, target, choice] = one.mapped.cells();
            let age = Cell::or_dash(one.age_seconds.map(age));
            table.row([host, target, choice, one.state.cell(), age, one.holder.name().into()]);
        }
        table.write(out)
    }
}

pub(super) fn run(
    asked: &arguments::List,
    node: &Node,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    let listing = app::list(&node.store, node.patience, &mut crate::Stderr)?;
    let mut listing = listing.unwrap_or_else(|| {
        note(node.nothing_recorded());
        Listing::default()
    });
    for (unreadable, _) in &listing.unreadable {
        note(unreadable);
    }
    if let Some(pod) = &asked.pod {
        listing.narrow(&subject_named(pod))?;
    }
    let mut allocations = allocations_of(&listing, now());
    allocations.sort_by_key(|one| one.mapped.order());
    let protocol = asked.protocol.map(Protocol::from);
    allocations.retain(|one| {
        asked.namespace.as_ref().is_none_or(|namespace| one.holder.is_in_namespace(namespace))
            && asked.port.is_none_or(|port| one.mapped.port() == port)
            && protocol.is_none_or(|protocol| one.mapped.protocol() == protocol)
    });
    screen.show(&Allocations { allocations })?;
    Ok(Verdict::Well)
}

fn allocations_of(listing: &Listing, now: u64) -> Vec<Allocation> {
    let attached = listing.attachments.iter().flat_map(|record| {
        let (state, _) = State::of(&record.owner);
        let holder = Holder::of(&record.owner);
        Mapped::of(record)
            .map(move |mapped| Allocation::new(mapped, state, record.created, now, holder.clone()))
    });
    let reserved = listing.reservations.iter().flat_map(|one| {
        let holder = Holder::reservation(&one.name);
        one.hosts.iter().map(move |host| {
            let mapped = Mapped::reserved(host);
            Allocation::new(mapped, State::Reserved, one.created, now, holder.clone())
        })
    });
    let unreadable = listing.unreadable.iter().flat_map(|(one, hosts)| {
        let holder = Holder::unreadable(&one.key);
        hosts.iter().map(move |host| {
            Allocation::new(Mapped::unknown(host), State::Unreadable, 0, now, holder.clone())
        })
    });
    attached.chain(reserved).chain(unreadable).collect()
}

impl Allocation {
    fn new(mapped: Mapped, state: State, created: u64, now: u64, holder: Holder) -> Self {
        // Of a record made again from the table the time is not known.
        let created = (created > 0).then_some(created);
        let age_seconds = created.map(|created| now.saturating_sub(created));
        Self { mapped, state, created, age_seconds, holder }
    }
}
