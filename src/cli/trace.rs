//! `autoport trace`.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use autoport::app;
use autoport::diagnosis::{self, Fate, Finding, Probe, Query, Trace};
use autoport::event::Silent;
use autoport::kernel::{self, Journey};
use autoport::model::{HostPort, Protocol};
use autoport::plan::Spot;
use serde::Serialize;

use super::arguments::{self, Traced};
use super::output::{Answer, BAD, DOUBTFUL, GOOD, Screen, Style};
use super::{Failure, Store, note, rows};

pub(super) fn run(asked: &arguments::Trace, store: &Store) -> Result<Told, Failure> {
    let Spot { protocol, address, port } = match &asked.what {
        Traced::Port(spot) => *spot,
        Traced::Pod(name) => only_port(name, store)?,
    };
    let to = asked.to.or(address).unwrap_or_else(|| known_by(asked.from));
    let host = HostPort { protocol, address: to, port };
    let query = Query { from: asked.from, host };
    if let Some(from) = query.from.filter(|from| from.is_ipv6() != to.is_ipv6()) {
        let text =
            format!("{from} and the destination {to} are of different IP versions: set --to");
        return Err(Failure::Usage(text));
    }
    if asked.probe && host.protocol == Protocol::Sctp {
        return Err(Failure::Usage("--probe supports tcp and udp only".to_owned()));
    }
    let trace = Trace::of(query, store)?;
    if let Some(other) = other_protocol(host, store) {
        note(other);
    }
    let probe = asked.probe.then(|| diagnosis::probe(&query));
    Ok(Told { fate: trace.state, trace, probe })
}

/// That the port is held in another protocol only, in words.
fn other_protocol(host: HostPort, store: &Store) -> Option<String> {
    let listing = app::list(store, &mut Silent).ok()??;
    let held = listing.hosts().filter(|one| one.port == host.port).map(|one| one.protocol);
    let held: BTreeSet<_> = held.collect();
    let other = held.first().filter(|_| !held.contains(&host.protocol))?;
    let HostPort { port, protocol, .. } = host;
    Some(format!(
        "{port}/{protocol} is not in use, {port}/{other} is: try `autoport trace {port}/{other}`"
    ))
}

/// The host port of a pod that has one.
fn only_port(name: &str, store: &Store) -> Result<Spot, Failure> {
    let mut listing = app::list(store, &mut crate::Stderr)?.unwrap_or_default();
    listing.narrow_to_name(name)?;
    let mut rows: Vec<_> =
        listing.attachments.iter().flat_map(|record| rows::of(record, &[])).collect();
    rows = rows::arranged(rows, false);
    rows.dedup_by_key(|row| (row.host.port, row.host.protocol, row.host.is_wildcard()));
    match &*rows {
        [] => Err(Failure::nobody(name)),
        [row] if row.is_one() => {
            let HostPort { protocol, address, port } = row.host;
            let address = Some(address).filter(|_| !row.host.is_wildcard());
            Ok(Spot { protocol, address, port })
        }
        rows => {
            let spots = rows.iter().map(rows::Row::spot).collect::<Vec<_>>().join(", ");
            Err(Failure::Asked(format!("{name} has several host ports, name one of them: {spots}")))
        }
    }
}

/// The address that a client of this sort would ask.
fn known_by(from: Option<IpAddr>) -> IpAddr {
    let v6 = from.is_some_and(|from| from.is_ipv6());
    if from.is_some_and(|from| from.is_loopback()) {
        return if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    }
    let mut own = kernel::outward_addresses(&[]).unwrap_or_default().into_iter();
    let own = own.find(|own| from.is_none() || own.is_ipv6() == v6);
    // A node without a default route is still asked by its neighbours.
    let towards = |from| kernel::path(Journey::to(from)).ok().and_then(|path| path.source);
    own.or_else(|| from.and_then(towards)).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[derive(Serialize)]
pub(super) struct Told {
    #[serde(flatten)]
    trace: Trace,
    /// The same as `state`, by the name that it had first.
    fate: Fate,
    probe: Option<Probe>,
}

/// As wide as the longest of them, and two.
const WIDTHS: [usize; 2] = [8, 15];

impl Answer for Told {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        for step in &self.trace.steps {
            out.finding(shown(step.state), WIDTHS, step)?;
        }
        if let Some(Probe { answered, said }) = &self.probe {
            let state = if *answered { ("ok", GOOD) } else { ("fails", BAD) };
            let text = format!("sent from this node: {said}");
            let finding = Finding { check: "probe", state: (), text, remedy: None };
            out.finding(state, WIDTHS, &finding)?;
        }
        let mut sentence = self.trace.verdict.clone();
        if let Some(first) = sentence.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        writeln!(out, "{sentence}.")
    }

    fn is_well(&self) -> bool {
        let missed = self.probe.as_ref().is_some_and(|probe| !probe.answered);
        self.trace.state == Fate::Passes && !missed
    }
}

const fn shown(fate: Fate) -> (&'static str, Style) {
    match fate {
        Fate::Passes => ("ok", GOOD),
        Fate::Unsure => ("unsure", DOUBTFUL),
        Fate::Stops => ("stops", BAD),
    }
}
