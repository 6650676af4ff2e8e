//! `autoport show`.

use std::io::{self, Write as _};
use std::iter;
use std::path::PathBuf;

use autoport::app::{self, InKernel, Listing, MappingInKernel, Subject};
use autoport::model::{HostPort, Masquerade, NamespaceId, Netns, Policy, Protocol, Record};
use autoport::store::{self, Store};
use ipnetwork::IpNetwork;
use serde::Serialize;

use super::allocation::{Age, Holder, Mapped, Place, State};
use super::output::{Answer, Cell, Screen, Table, Tone};
use super::{Failure, arguments, subject_named};

/// All that is known of somebody.
#[derive(Serialize)]
pub(super) struct Shown {
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
    #[serde(flatten)]
    age: Age,
    netns: Option<Namespace>,
    pod_addresses: Vec<IpNetwork>,
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
    #[serde(flatten)]
    id: NamespaceId,
}

/// In the words of the configuration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NetworkPolicy {
    snat: bool,
    masq_all: bool,
    mark_masq_bit: u8,
    source_ranges: Vec<IpNetwork>,
    host_addresses: Vec<IpNetwork>,
    counters: bool,
}

#[derive(Serialize)]
struct Traced {
    #[serde(flatten)]
    mapped: Mapped,
    #[serde(flatten)]
    found: MappingInKernel,
}

#[derive(Serialize)]
struct Kernel {
    #[serde(flatten)]
    seen: InKernel,
    /// Why it was not seen.
    error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    #[serde(rename = "reservation")]
    name: String,
    #[serde(flatten)]
    age: Age,
    persistent: bool,
    host_ports: Vec<Place>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Damaged {
    unreadable: String,
    reason: String,
    host_ports: Vec<Place>,
}

impl From<&Policy> for NetworkPolicy {
    fn from(policy: &Policy) -> Self {
        Self {
            snat: policy.masquerade != Masquerade::Nobody,
            masq_all: policy.masquerade == Masquerade::Everybody,
            mark_masq_bit: policy.mark_bit,
            source_ranges: policy.source_ranges.clone(),
            host_addresses: policy.host_addresses.clone(),
            counters: policy.counters,
        }
    }
}

impl NetworkPolicy {
    fn text(&self) -> String {
        let Self { snat, masq_all, mark_masq_bit, counters, .. } = self;
        let lists =
            [("sourceRanges", &self.source_ranges), ("hostAddresses", &self.host_addresses)];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let lists = lists.map(|(name, list)| format!(", {name} {}", words(list)));
        let lists = lists.collect::<Vec<_>>().concat();
        format!(
            "snat {snat}, masqAll {masq_all}, markMasqBit {mark_masq_bit}{lists}, counters {counters}"
        )
    }
}

impl Answer for Shown {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let mut gap = iter::once("").chain(iter::repeat("\n"));
        let mut begin = |out: &mut Screen<'_>, tone, title: &str| {
            write!(out, "{}", gap.next().unwrap_or_default())?;
            out.paint(tone, title)?;
            writeln!(out)
        };
        for one in &self.attachments {
            begin(out, Tone::Heading, &one.holder.name())?;
            one.text(out)?;
        }
        for one in &self.reservations {
            begin(out, Tone::Heading, &format!("reservation {}", one.name))?;
            let kept = if one.persistent { "kept across reboots" } else { "until the next reboot" };
            writeln!(out, "  made        {}, {kept}", one.age)?;
            writeln!(out, "  host ports  {}", words(&one.host_ports))?;
        }
        for one in &self.unreadable {
            begin(out, Tone::Bad, &one.unreadable)?;
            writeln!(out, "  {}", one.reason)?;
            writeln!(out, "  host ports  {}", words(&one.host_ports))?;
        }
        Ok(())
    }

    fn is_well(&self) -> bool {
        self.attachments.iter().all(|one| one.kernel.seen.as_recorded != Some(false))
    }
}

impl Attachment {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        write!(out, "  state       ")?;
        let (word, tone) = self.state.word();
        out.paint(tone, word)?;
        writeln!(out, ": {}", self.evidence)?;
        let netns =
            self.netns.as_ref().map_or("not examined".to_owned(), |Namespace { path, id }| {
                format!("{} ({}:{})", path.escape_debug(), id.device, id.inode)
            });
        let published = self.published.as_ref().map(|path| path.display().to_string());
        let rows = [
            ("recorded", self.age.to_string()),
            ("attachment", self.holder.attachment()),
            ("netns", netns),
            ("addresses", words(&self.pod_addresses)),
            ("policy", self.policy.text()),
            ("record", self.record.display().to_string()),
            ("published", published.unwrap_or_default()),
        ];
        for (name, value) in rows {
            writeln!(out, "  {name:10}  {}", if value.is_empty() { "-" } else { &value })?;
        }
        write!(out, "  kernel      ")?;
        match (&self.kernel.error, &self.kernel.seen.difference) {
            (Some(error), _) => out.paint(Tone::Doubtful, &format!("not seen: {error}"))?,
            (None, Some(difference)) => out.paint(Tone::Bad, difference)?,
            (None, None) => out.paint(Tone::Good, "as recorded")?,
        }
        writeln!(out, "\n")?;
        self.table().write("  ", out)?;
        for line in self.kernel.seen.chains.iter().flat_map(|chains| chains.lines()) {
            writeln!(out, "{}{line}", if line.starts_with("\tchain") { "\n" } else { "" })?;
        }
        Ok(())
    }

    fn table(&self) -> Table<6> {
        let names = ["HOST PORT", "TARGET", "CHOICE", "IN KERNEL", "CONNECTIONS", "FLOWS"];
        let mut table = Table::headed(names);
        for one in &self.host_ports {
            let [host, target, choice] = one.mapped.cells();
            let found = one.found;
            let kernel = match found.elements.zip(found.elements_present) {
                None | Some((0, _)) => "-".into(),
                Some((all, present)) if all == present => Cell::toned("yes", Tone::Good),
                Some((all, present)) => Cell::toned(format!("{present} of {all}"), Tone::Bad),
            };
            let connections = Cell::or_dash(found.connections);
            table.row([host, target, choice, kernel, connections, Cell::or_dash(found.flows)]);
        }
        table
    }
}

fn words<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(super) fn run(asked: &arguments::Subject, store: &Store) -> Result<Shown, Failure> {
    let (subject, nobody) = match asked {
        arguments::Subject::Name(name) => (subject_named(name), Failure::nobody(name)),
        arguments::Subject::Port(port, protocol) => {
            let protocol = protocol.map(Protocol::from);
            let suffix = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
            let nobody = format!(
                "host port {port}{suffix} is not in use; `autoport list` shows all host ports in use"
            );
            (Subject::Port(*port, protocol), Failure::Asked(nobody))
        }
    };
    let listing = app::list(store, &mut crate::Stderr)?;
    let Some(mut listing) = listing else { return Err(nobody) };
    listing.narrow(&subject)?;
    if listing.is_empty() {
        return Err(nobody);
    }
    let Listing { instance, attachments, reservations, unreadable } = &listing;
    let attachments = attachments.iter().map(|record| attachment(record, instance, store));
    Ok(Shown {
        attachments: attachments.collect::<Result<_, _>>()?,
        reservations: reservations.iter().map(Reservation::from).collect(),
        unreadable: unreadable.iter().map(Damaged::from).collect(),
    })
}

impl From<&store::Reservation> for Reservation {
    fn from(one: &store::Reservation) -> Self {
        Self {
            name: one.name.clone(),
            age: Age::since(one.created),
            persistent: one.persistent,
            host_ports: one.hosts.iter().copied().map(Place::from).collect(),
        }
    }
}

impl From<&(store::Unreadable, Vec<HostPort>)> for Damaged {
    fn from((one, hosts): &(store::Unreadable, Vec<HostPort>)) -> Self {
        Self {
            unreadable: one.key.to_string(),
            reason: one.to_string(),
            host_ports: hosts.iter().copied().map(Place::from).collect(),
        }
    }
}

fn attachment(record: &Record, instance: &str, store: &Store) -> Result<Attachment, Failure> {
    let owner = &record.owner;
    let (state, evidence) = State::of(owner);
    let uid = owner.pod.as_ref().map(|pod| pod.uid.as_str()).filter(|uid| !uid.is_empty());
    let told = |uid| app::told(store, uid, &mut crate::Stderr);
    let published = uid.map(told).transpose()?.flatten().map(|told| told.directory);
    let (seen, error) = match app::in_kernel(instance, record) {
        Ok(seen) => (seen, None),
        Err(error) => (InKernel::default(), Some(error.in_one_line())),
    };
    let found = seen.mappings.iter().copied();
    let found = found.chain(iter::repeat(MappingInKernel::default()));
    let traced = Mapped::of(record).zip(found).map(|(mapped, found)| Traced { mapped, found });
    let host_ports = traced.collect();
    Ok(Attachment {
        holder: Holder::of(owner),
        state,
        evidence: evidence.to_string(),
        age: Age::since(record.created),
        netns: owner
            .netns
            .as_ref()
            .map(|Netns { path, id, .. }| Namespace { path: path.clone(), id: *id }),
        pod_addresses: record.pod_addresses.clone(),
        policy: (&record.policy).into(),
        record: store.path_of(&owner.holder),
        published,
        host_ports,
        kernel: Kernel { seen, error },
    })
}
