//! `autoport trace`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use autoport::diagnosis::{self, Fate, Finding, Probe, Query, Trace};
use autoport::kernel;
use autoport::model::{HostPort, Protocol};
use autoport::plan::Spot;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use serde::Serialize;

use super::arguments::{self, Cli};
use super::output::{Answer, BAD, DOUBTFUL, GOOD, Screen, Style};
use super::{Failure, Store};

pub(super) fn run(asked: &arguments::Trace, store: &Store) -> Result<Told, Failure> {
    let to = asked.to.unwrap_or_else(|| known_by(asked.from));
    let Spot { protocol, port, .. } = asked.port;
    let host = HostPort { protocol, address: to, port };
    let query = Query { from: asked.from, host };
    if let Some(from) = query.from.filter(|from| from.is_ipv6() != to.is_ipv6()) {
        wrong(&format!("{from} and the destination {to} are of different IP versions: set --to"));
    }
    if asked.probe && host.protocol == Protocol::Sctp {
        wrong("--probe supports tcp and udp only");
    }
    let trace = Trace::of(query, store)?;
    let probe = asked.probe.then(|| diagnosis::probe(&query));
    Ok(Told { trace, probe })
}

/// Ends as wrong arguments do.
fn wrong(why: &str) -> ! {
    Cli::command().error(ErrorKind::ArgumentConflict, why).exit()
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
    let towards = |from| kernel::path(from, None).ok().and_then(|path| path.source);
    own.or_else(|| from.and_then(towards)).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[derive(Serialize)]
pub(super) struct Told {
    #[serde(flatten)]
    trace: Trace,
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
