//! `autoport status`.

use std::collections::BTreeMap;
use std::io;

use autoport::app::{self, Examined, Listing, Offloaded, Overview};
use autoport::cni::Config;
use autoport::diagnosis::{counted, offloaded};
use autoport::error::{Error, is_denied};
use autoport::event::Silent;
use autoport::kernel::Table;
use autoport::model::{HostPort, PortRange, Protocol, Record, Request};
use autoport::netns::Fate;
use autoport::ruleset::{self, Identity};
use autoport::store::{self, Agent, Store};
use nix::unistd::geteuid;
use serde::Serialize;

use super::Failure;
use super::output::{Answer, BAD, DOUBTFUL, GOOD, Screen};

/// How the node is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    usable: bool,
    error: Option<Refusal>,
    version: &'static str,
    table_layout: u32,
    store_layout: u32,
    /// `null` where it was not seen.
    table: Option<Table>,
    /// How the table differs from the records; `null` where that was not seen.
    differences: Option<Vec<String>>,
    /// `null` where no record asks for it.
    offload: Option<Offloaded>,
    state_dir: String,
    /// `null` where nothing has been recorded, or nothing can be read.
    records: Option<Counts>,
    ranges: Vec<Range>,
    /// `null` where none has been started.
    agent: Option<Agent>,
    /// `null` where no agent has written of any in this boot.
    containers: Option<Counted>,
}

/// Which containers have the variables of their host ports.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counted {
    injected: usize,
    uninjected: usize,
    /// Whether that is so now: an agent is connected, and has examined all containers.
    current: bool,
    #[serde(skip)]
    as_of: String,
}

/// An error as CNI has it.
#[derive(Serialize)]
pub(super) struct Refusal {
    code: u32,
    msg: String,
    details: String,
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        Self { code: error.code(), msg: error.to_string(), details: error.details() }
    }
}

impl Refusal {
    /// In one line.
    pub(super) fn text(&self) -> String {
        let separator = if self.details.is_empty() { "" } else { ": " };
        format!("{} (code {}){separator}{}", self.msg, self.code, self.details)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    instance: String,
    attachments: usize,
    stale: usize,
    unreadable: usize,
    reservations: usize,
    host_ports: usize,
}

/// How full a range is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    name: String,
    ports: String,
    size: usize,
    held: BTreeMap<Protocol, usize>,
}

impl Status {
    fn rules(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let Some(differences) = &self.differences else { return Ok(()) };
        write!(out, "rules       ")?;
        match &**differences {
            [] => out.paint(GOOD, "as recorded")?,
            [first, more @ ..] => {
                let more = match more.len() {
                    0 => String::new(),
                    more => format!(", and {more} more"),
                };
                out.paint(BAD, &format!("{first}{more}"))?;
                write!(out, "; `autoport repair` restores them")?;
            }
        }
        writeln!(out)
    }

    fn offload(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let Some(found) = &self.offload else { return Ok(()) };
        write!(out, "offload     {}", offloaded(found))?;
        let missing = found.missing.first().map(|uplink| format!("{uplink} does not exist"));
        if let Some(doubt) = found.differences.first().cloned().or(missing) {
            write!(out, "; ")?;
            out.paint(DOUBTFUL, &doubt)?;
        }
        writeln!(out)
    }
}

impl Answer for Status {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let (word, style) = if self.usable { ("usable", GOOD) } else { ("unusable", BAD) };
        write!(out, "host ports  ")?;
        out.paint(style, word)?;
        let error = self.error.as_ref().map(|error| format!(": {}", error.text()));
        writeln!(out, "{}", error.unwrap_or_default())?;
        let Self { version, table_layout, store_layout, state_dir, .. } = self;
        writeln!(
            out,
            "autoport    {version}, table layout {table_layout}, store layout {store_layout}"
        )?;
        let table = match &self.table {
            Some(Table::Absent) => "none",
            Some(Table::Foreign) => "not made by autoport",
            Some(Table::Ours(Identity { layout, instance, .. })) => {
                &format!("layout {layout}, instance {instance}")
            }
            None => "not seen",
        };
        writeln!(out, "table       {table}")?;
        self.rules(out)?;
        self.offload(out)?;
        match &self.records {
            None if self.usable => writeln!(out, "store       {state_dir}: nothing recorded")?,
            None => writeln!(out, "store       {state_dir}: not read")?,
            Some(Counts { instance, attachments, stale, unreadable, reservations, host_ports }) => {
                writeln!(out, "store       {state_dir}, instance {instance}")?;
                writeln!(
                    out,
                    "records     {} ({stale} stale, {unreadable} unreadable), {}, {}",
                    counted(*attachments, "attachment"),
                    counted(*reservations, "reservation"),
                    counted(*host_ports, "host port")
                )?;
            }
        }
        for Range { name, ports, size, held } in &self.ranges {
            let [tcp, udp, sctp] = Protocol::ALL.map(|protocol| held[&protocol]);
            write!(out, "range       {name} {ports}: {size} numbers, ")?;
            writeln!(out, "tcp {tcp} held, udp {udp}, sctp {sctp}")?;
        }
        if let Some(Agent { connected, heartbeat_age, .. }) = &self.agent {
            let word = if *connected { "connected" } else { "not connected" };
            match heartbeat_age {
                Some(age) => writeln!(out, "agent       {word}, last heartbeat {age} ms ago")?,
                None => writeln!(out, "agent       {word} since the node was booted")?,
            }
        }
        if let Some(Counted { injected, uninjected, as_of, .. }) = &self.containers {
            write!(out, "containers  {injected} with their variables, ")?;
            out.paint(if *uninjected > 0 { DOUBTFUL } else { GOOD }, &uninjected.to_string())?;
            writeln!(out, " without{as_of}")?;
        }
        Ok(())
    }

    fn is_well(&self) -> bool {
        self.usable && self.differences.iter().all(Vec::is_empty)
    }
}

pub(super) fn run(store: &Store, config: &Config) -> Result<Status, Failure> {
    let Overview { unavailable, table, listing } = app::overview(store, &mut crate::Stderr);
    // What this user may not see says nothing about the node.
    let unavailable = match unavailable {
        Some(error) if is_denied(&error) && !geteuid().is_root() => return Err(error.into()),
        other => other,
    };
    let counts = listing.as_ref().map(|listing| {
        let is_stale = |record: &&Record| Fate::of(&record.owner) == Fate::Gone;
        Counts {
            instance: listing.instance.clone(),
            attachments: listing.attachments.len() + listing.unreadable.len(),
            stale: listing.attachments.iter().filter(is_stale).count(),
            unreadable: listing.unreadable.len(),
            reservations: listing.reservations.len(),
            host_ports: HostPort::count(listing.hosts()),
        }
    });
    let listing = listing.unwrap_or_default();
    let named = config.ports.named_ranges.iter().map(|(name, range)| (name.as_str(), &range.ports));
    let ranges = std::iter::once((Request::DEFAULT_RANGE, &config.ports.ranges)).chain(named);
    let agent = store.agent();
    let containers = agent.and_then(|agent| {
        let found = store.containers()?;
        let as_of = found.as_of(&agent);
        let (injected, uninjected, current) = (found.injected, found.uninjected, as_of.is_empty());
        Some(Counted { injected, uninjected, current, as_of })
    });
    let examined = app::examine(store, &mut Silent).ok().flatten();
    let (differences, offload) = match examined {
        Some(Examined { differences, offload, .. }) => (differences.ok(), offload),
        None => (None, None),
    };
    Ok(Status {
        differences,
        offload,
        usable: unavailable.is_none(),
        error: unavailable.as_ref().map(Refusal::from),
        version: env!("CARGO_PKG_VERSION"),
        table_layout: ruleset::LAYOUT,
        store_layout: store::LAYOUT,
        table,
        state_dir: store.dir().display().to_string(),
        records: counts,
        ranges: ranges.map(|(name, ranges)| range(name, ranges, &listing)).collect(),
        agent,
        containers,
    })
}

fn range(name: &str, ranges: &[PortRange], listing: &Listing) -> Range {
    let held = |protocol| (protocol, listing.held_in(ranges, protocol));
    Range {
        name: name.to_owned(),
        ports: ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        size: ranges.iter().map(PortRange::size).sum(),
        held: Protocol::ALL.map(held).into(),
    }
}
