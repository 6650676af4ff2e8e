//! Host ports as rows of a table: adjacent ports of one holder are one row, and a row without a pod is left
//! out if the other family's has one.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use autoport::app::MappingInKernel;
use autoport::model::{HostPort, PortRange, Record};
use autoport::plan;

use super::output::{BAD, Cell, GOOD};

/// A host port, or a run of them.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The first.
    pub(super) host: HostPort,
    last: NonZeroU16,
    /// Of the first.
    target: Option<SocketAddr>,
    name: Option<String>,
    choice: &'static str,
    /// How many elements it needs in the kernel's table, and how many of them are there.
    elements: Option<[usize; 2]>,
    connections: Option<u64>,
    flows: Option<usize>,
}

impl Row {
    fn of(host: HostPort) -> Self {
        let (last, choice) = (host.port, "-");
        let (target, name, elements, connections, flows) = (None, None, None, None, None);
        Self { host, last, target, name, choice, elements, connections, flows }
    }

    /// Host port, target, name, and who chose.
    pub(super) fn cells(&self) -> [Cell; 4] {
        let count = self.last.get() - self.host.port.get();
        let host = ranged(SocketAddr::new(self.host.address, self.host.port.get()), count);
        let host = format!("{host}/{}", self.host.protocol);
        let target = self.target.map(|target| ranged(target, count));
        [host.into(), Cell::or_dash(target), Cell::or_dash(self.name.as_ref()), self.choice.into()]
    }

    /// Whether it is one port, no run.
    pub(super) fn is_one(&self) -> bool {
        self.host.port == self.last
    }

    /// `PORT[-LAST]/PROTO[@ADDRESS]`.
    pub(super) fn spot(&self) -> String {
        let HostPort { protocol, address, port } = self.host;
        let ports = PortRange { first: port, last: self.last };
        let suffix = if self.host.is_wildcard() { String::new() } else { format!("@{address}") };
        format!("{ports}/{protocol}{suffix}")
    }

    /// Whether it is in the kernel, its connections and its flows.
    pub(super) fn in_kernel(&self) -> [Cell; 3] {
        let kernel = match self.elements {
            None | Some([0, _]) => "-".into(),
            Some([all, present]) if all == present => Cell::styled("yes", GOOD),
            Some([all, present]) => Cell::styled(format!("{present} of {all}"), BAD),
        };
        [kernel, Cell::or_dash(self.connections), Cell::or_dash(self.flows)]
    }

    /// Whether `next` continues it.
    fn goes_on_with(&self, next: &Self) -> bool {
        let distance = next.host.port.get().checked_sub(self.host.port.get());
        let follows = |target: SocketAddr| {
            let port = distance.and_then(|distance| target.port().checked_add(distance));
            port.map(|port| SocketAddr::new(target.ip(), port))
        };
        self.last.checked_add(1) == Some(next.host.port)
            && self.host.protocol == next.host.protocol
            && self.host.address == next.host.address
            && self.target.map(follows) == next.target.map(Some)
            && (&self.name, self.choice) == (&next.name, next.choice)
    }

    fn take(&mut self, next: &Self) {
        self.last = next.last;
        let elements = self.elements.zip(next.elements);
        self.elements =
            elements.map(|([all, present], [more, others])| [all + more, present + others]);
        self.connections = self.connections.zip(next.connections).map(|(one, other)| one + other);
        self.flows = self.flows.zip(next.flows).map(|(one, other)| one + other);
    }
}

/// A port, or the run of ports that ends so many later.
fn ranged(first: SocketAddr, more: u16) -> String {
    let last = first.port().saturating_add(more);
    if more == 0 { first.to_string() } else { format!("{first}-{last}") }
}

/// What the pod calls this port, if it has a name for it.
pub(super) fn name_of<'a>(record: &'a Record, host: &HostPort) -> Option<&'a str> {
    let is_its = |address| address == host.address;
    let grant = record.grants.iter().find(|grant| {
        grant.numbers().contains(&host.port.get())
            && grant.request.protocols.contains(&host.protocol)
            && grant.request.address.map_or(host.is_wildcard(), is_its)
    });
    grant?.request.name.as_deref()
}

/// A row for each mapping of `record`, with what the kernel has of it, if that is known.
pub(super) fn of(record: &Record, found: &[MappingInKernel]) -> Vec<Row> {
    let chosen = plan::expand(&record.grants, &record.pod_addresses);
    let row = |(index, mapping): (usize, &autoport::model::Mapping)| {
        // Sorted, and the host port counts first.
        let is_chosen = chosen.binary_search_by(|one| one.host.cmp(&mapping.host)).is_ok();
        let found = found.get(index);
        Row {
            target: mapping.target,
            name: name_of(record, &mapping.host).map(str::to_owned),
            choice: if is_chosen { "chosen" } else { "static" },
            elements: found.map(|found| [found.elements, found.elements_present]),
            connections: found.and_then(|found| found.connections),
            flows: found.and_then(|found| found.flows),
            ..Row::of(mapping.host)
        }
    };
    record.mappings.iter().enumerate().map(row).collect()
}

/// A row for each port of a holder that is no attachment.
pub(super) fn bare(hosts: &[HostPort]) -> Vec<Row> {
    hosts.iter().copied().map(Row::of).collect()
}

/// Sorts the rows of one holder by number. Unless all are wanted, joins adjacent ones, and leaves out those
/// of `0.0.0.0` and `[::]` that lead nowhere, if there is the other.
pub(super) fn arranged(mut rows: Vec<Row>, all: bool) -> Vec<Row> {
    if !all {
        let other = |row: &Row, one: &Row| {
            one.host.is_wildcard()
                && (one.host.protocol, one.host.port) == (row.host.protocol, row.host.port)
                && one.host.address.is_ipv4() != row.host.address.is_ipv4()
        };
        rows.sort_by_key(|row| (row.host.protocol, row.host.port, row.host.address));
        let goes = |row: &Row, same: &[Row]| {
            let other = same.iter().find(|one| other(row, one));
            let is_better = |one: &Row| one.target.is_some() || row.host.address.is_ipv6();
            row.host.is_wildcard() && row.target.is_none() && other.is_some_and(is_better)
        };
        let same = |one: &Row, next: &Row| {
            (one.host.protocol, one.host.port) == (next.host.protocol, next.host.port)
        };
        let kept = rows.chunk_by(same).flat_map(|same| {
            let kept = same.iter().filter(|row| !goes(row, same));
            kept.cloned().collect::<Vec<_>>()
        });
        rows = kept.collect();
        rows.sort_by_key(|row| (row.host.protocol, row.host.address, row.host.port));
        rows.dedup_by(|next, row| {
            let joins = row.goes_on_with(next);
            if joins {
                row.take(next);
            }
            joins
        });
    }
    rows.sort_by_key(|row| (row.host.port, row.host.protocol, row.host.address));
    rows
}

/// Whether a port is among those that were asked for, if any were.
pub(super) fn is_among(ports: Option<PortRange>, host: &HostPort) -> bool {
    ports.is_none_or(|ports| ports.contains(host.port))
}

#[cfg(test)]
mod tests;
