//! `autoport show`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use autoport::app::{self, InKernel, Listing, Subject};
use autoport::model::{Masquerade, Netns, Policy, Protocol, Record};
use serde::Serialize;

use super::allocation::{Holder, Mapped, Place, State};
use super::output::{Answer, Cell, Screen, Table, Text, Tone, age, timestamp};
use super::{Failure, Node, Verdict, arguments, now, subject_named};

/// All that is known of somebody.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    attachments: Vec<Attachment>,
    reservations: Vec<Reservation>,
    unreadable: Vec<Damaged>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attachment {
    #[serde(flatten)]
    holder: Holder,
    state: State,
    evidence: String,
    created: Option<u64>,
    age_seconds: Option<u64>,
    netns: Option<Namespace>,
    pod_addresses: Vec<String>,
    policy: NetworkPolicy,
    record: PathBuf,
    /// Where its pod's containers read about it.
    published: Option<PathBuf>,
    host_ports: Vec<Traced>,
    kernel: Kernel,
}

#[derive(Serialize)]
struct Namespace {
    path: String,
    device: u64,
    inode: u64,
}

/// In the words of the configuration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NetworkPolicy {
    snat: bool,
    masq_all: bool,
    mark_masq_bit: u8,
    source_ranges: Vec<String>,
    host_addresses: Vec<String>,
    counters: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Traced {
    #[serde(flatten)]
    mapped: Mapped,
    /// How many elements it takes, and how many are there; `null` where the kernel was not seen.
    elements: Option<usize>,
    elements_present: Option<usize>,
    connections: Option<u64>,
    flows: Option<usize>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    /// `null` where it was not seen.
    as_recorded: Option<bool>,
    difference: Option<String>,
    error: Option<String>,
    chains: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    #[serde(rename = "reservation")]
    name: String,
    created: u64,
    age_seconds: u64,
    persistent: bool,
    host_ports: Vec<Place>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Damaged {
    unreadable: String,
    reason: String,
    host_ports: Vec<Place>,
    #[serde(skip)]
    text: String,
}

impl From<&Policy> for NetworkPolicy {
    fn from(policy: &Policy) -> Self {
        let list =
            |networks: &[ipnetwork::IpNetwork]| networks.iter().map(ToString::to_string).collect();
        Self {
            snat: policy.masquerade != Masquerade::Nobody,
            masq_all: policy.masquerade == Masquerade::Everybody,
            mark_masq_bit: policy.mark_bit,
            source_ranges: list(&policy.source_ranges),
            host_addresses: list(&policy.host_addresses),
            counters: policy.counters,
        }
    }
}

impl NetworkPolicy {
    fn text(&self) -> String {
        let mut words = vec![format!("snat {}", self.snat), format!("masqAll {}", self.masq_all)];
        words.push(format!("markMasqBit {}", self.mark_masq_bit));
        let lists =
            [("sourceRanges", &self.source_ranges), ("hostAddresses", &self.host_addresses)];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            words.push(format!("{name} {}", list.join(" ")));
        }
        words.push(format!("counters {}", self.counters));
        words.join(", ")
    }
}

impl Answer for Shown {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        let mut first = true;
        let mut gap = |out: &mut Text<'_>| {
            if std::mem::take(&mut first) { Ok(()) } else { writeln!(out) }
        };
        for one in &self.attachments {
            gap(out)?;
            one.text(out)?;
        }
        for one in &self.reservations {
            gap(out)?;
            out.paint(Tone::Heading, &format!("reservation {}", one.name))?;
            let kept = if one.persistent { "kept across reboots" } else { "until the next reboot" };
            writeln!(out, "\n  made        {}, {kept}", since(one.created, one.age_seconds))?;
            writeln!(out, "  host ports  {}", one.text)?;
        }
        for one in &self.unreadable {
            gap(out)?;
            out.paint(Tone::Bad, &one.unreadable)?;
            writeln!(out, "\n  {}", one.reason)?;
            writeln!(out, "  host ports  {}", one.text)?;
        }
        Ok(())
    }
}

fn since(created: u64, seconds: u64) -> String {
    format!("{}, {} ago", timestamp(created), age(seconds))
}

impl Attachment {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        out.paint(Tone::Heading, &self.holder.name())?;
        writeln!(out)?;
        let (word, tone) = self.state.word();
        write!(out, "  state       ")?;
        out.paint(tone, word)?;
        writeln!(out, ": {}", self.evidence)?;
        let known = self.created.zip(self.age_seconds);
        let recorded = known.map_or("time unknown".to_owned(), |(at, age)| since(at, age));
        let netns = self.netns.as_ref().map_or("not examined".to_owned(), |netns| {
            format!("{} ({}:{})", netns.path.escape_debug(), netns.device, netns.inode)
        });
        let published = self.published.as_ref().map(|path| path.display().to_string());
        let rows = [
            ("recorded", recorded),
            ("attachment", self.holder.attachment()),
            ("netns", netns),
            ("addresses", self.pod_addresses.join(" ")),
            ("treatment", self.policy.text()),
            ("record", self.record.display().to_string()),
            ("published", published.unwrap_or_else(|| "-".to_owned())),
        ];
        for (name, value) in rows {
            writeln!(out, "  {name:10}  {}", if value.is_empty() { "-" } else { &value })?;
        }
        write!(out, "  kernel      ")?;
        match (&self.kernel.error, &self.kernel.difference) {
            (Some(error), _) => out.paint(Tone::Doubtful, &format!("not seen: {error}"))?,
            (None, Some(difference)) => out.paint(Tone::Bad, difference)?,
            (None, None) => out.paint(Tone::Good, "as recorded")?,
        }
        writeln!(out, "\n")?;
        self.table().write_after("  ", out)?;
        for line in self.kernel.chains.iter().flat_map(|chains| chains.lines()) {
            writeln!(out, "{}{line}", if line.starts_with("\tchain") { "\n" } else { "" })?;
        }
        Ok(())
    }

    fn table(&self) -> Table<6> {
        let names = ["HOST PORT", "TARGET", "CHOICE", "IN KERNEL", "CONNECTIONS", "FLOWS"];
        let mut table = Table::headed(names);
        for one in &self.host_ports {
            let [host, target, choice] = one.mapped.cells();
            let kernel = match one.elements.zip(one.elements_present) {
                None | Some((0, _)) => "-".into(),
                Some((all, present)) if all == present => Cell::toned("yes", Tone::Good),
                Some((all, present)) => Cell::toned(format!("{present} of {all}"), Tone::Bad),
            };
            let connections = Cell::or_dash(one.connections);
            table.row([host, target, choice, kernel, connections, Cell::or_dash(one.flows)]);
        }
        table
    }
}

pub(super) fn run(
    asked: &arguments::Show,
    node: &Node,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    let log = &mut crate::Stderr;
    let (subject, name) = match &asked.what {
        arguments::Subject::Name(name) => (subject_named(name), name.clone()),
        arguments::Subject::Port(port, protocol) => {
            let protocol = protocol.map(Protocol::from);
            let suffix = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
            (Subject::Port(*port, protocol), format!("host port {port}{suffix}"))
        }
    };
    let nobody = || match subject {
        Subject::Port(..) => Failure::NobodyHolds(name.clone()),
        Subject::Pod { .. } | Subject::Name(_) => Failure::Nobody(name.clone()),
    };
    let mut listing = app::list(&node.store, node.patience, log)?.ok_or_else(nobody)?;
    listing.narrow(&subject)?;
    if listing.is_empty() {
        return Err(nobody());
    }
    let shown = shown(&listing, node, now())?;
    let differs = shown.attachments.iter().any(|one| one.kernel.as_recorded == Some(false));
    screen.show(&shown)?;
    Ok(if differs { Verdict::Unwell } else { Verdict::Well })
}

fn shown(listing: &Listing, node: &Node, now: u64) -> Result<Shown, Failure> {
    let list = |hosts: &[autoport::model::HostPort]| {
        hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let reservation = |one: &autoport::store::Reservation| Reservation {
        name: one.name.clone(),
        created: one.created,
        age_seconds: now.saturating_sub(one.created),
        persistent: one.persistent,
        host_ports: one.hosts.iter().map(Place::from).collect(),
        text: list(&one.hosts),
    };
    let damaged = |(one, hosts): &(autoport::store::Unreadable, Vec<_>)| Damaged {
        unreadable: one.key.to_string(),
        reason: one.to_string(),
        host_ports: hosts.iter().map(Place::from).collect(),
        text: list(hosts),
    };
    let mut attachments = Vec::new();
    for record in &listing.attachments {
        attachments.push(attachment(record, &listing.instance, node, now)?);
    }
    Ok(Shown {
        attachments,
        reservations: listing.reservations.iter().map(reservation).collect(),
        unreadable: listing.unreadable.iter().map(damaged).collect(),
    })
}

fn attachment(
    record: &Record,
    instance: &str,
    node: &Node,
    now: u64,
) -> Result<Attachment, Failure> {
    let owner = &record.owner;
    let (state, evidence) = State::of(owner);
    let uid = owner.pod.as_ref().map(|pod| pod.uid.as_str()).filter(|uid| !uid.is_empty());
    let told = |uid| app::told(&node.store, node.patience, uid, &mut crate::Stderr);
    let published = uid.map(told).transpose()?.flatten().map(|told| told.directory);
    let seen = app::in_kernel(instance, record);
    let per_mapping =
        |at: usize| seen.as_ref().ok().and_then(|seen| seen.mappings.get(at)).copied();
    let host_ports = Mapped::of(record).enumerate().map(|(at, mapped)| {
        let found = per_mapping(at);
        Traced {
            mapped,
            elements: found.map(|found| found.elements),
            elements_present: found.map(|found| found.present),
            connections: found.and_then(|found| found.connections),
            flows: found.and_then(|found| found.flows),
        }
    });
    let host_ports = host_ports.collect();
    let created = (record.created > 0).then_some(record.created);
    Ok(Attachment {
        holder: Holder::of(owner),
        state,
        evidence: evidence.to_string(),
        created,
        age_seconds: created.map(|created| now.saturating_sub(created)),
        netns: owner.netns.as_ref().map(|Netns { path, id, .. }| Namespace {
            path: path.clone(),
            device: id.device,
            inode: id.inode,
        }),
        pod_addresses: record.pod_addresses.iter().map(ToString::to_string).collect(),
        policy: (&record.policy).into(),
        record: node.store.path_of(&owner.holder),
        published,
        host_ports,
        kernel: match seen {
            Ok(InKernel { difference, chains, .. }) => Kernel {
                as_recorded: Some(difference.is_none()),
                difference,
                chains: Some(chains),
                ..Kernel::default()
            },
            Err(error) => Kernel { error: Some(error.in_one_line()), ..Kernel::default() },
        },
    })
}
