//! The second table: a flowtable, by which the kernel forwards packets of established connections
//! between the listed interfaces before its own routing and filters.
//!
//! It is a table of its own, because a table with a flowtable is refused as a whole by a kernel without
//! them, and because this one can be deleted at any time: connections then continue on the usual way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use super::chain::{BaseChain, Chain, Hook, Rule, Term};
use super::element::{Data, Element, Set, SetKind, comment};
use super::key::{Key, Place};
use crate::model::{Family, Mapping, Protocol, Record, check_ifname};

/// The name of the table, in family `inet`.
pub const OFFLOAD_TABLE: &str = "autoport_offload";

/// The name of its flowtable. nft(8) reads no name that is a word of its language, such as `offload`.
pub const FLOWTABLE: &str = "established";

/// The chain for packets of clients.
const CLIENTS: &str = "clients";

/// After the filters of others, so that what they drop at the beginning of a connection is never offloaded.
const AFTER_FILTERS: i32 = 10;

/// What is offloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The interfaces between which, whether they exist or not.
    pub devices: BTreeSet<String>,
    /// The pods' ports to which.
    pub elements: BTreeMap<Place, Element>,
}

impl Offload {
    /// What a listing shows below the name of the table.
    pub(crate) const COMMENT: &str =
        "established connections of autoport's host ports; can be deleted at any time";

    /// What `record` asks for: nothing without an interface that leads to its pod alone.
    pub fn of(record: &Record) -> Self {
        let Some(asked) = &record.offload else { return Self::default() };
        let of_pod = |mapping: &Mapping| {
            // The kernel offloads nothing else.
            let target = mapping.target.filter(|_| mapping.host.protocol != Protocol::Sctp)?;
            let (set, key) = place(mapping.host.protocol, target)?;
            let (comment, holder) = (comment(&record.owner), String::new());
            let element = Element { set, key, data: Data::None, comment, holder, host: None };
            Some((element.place(), element))
        };
        let elements: BTreeMap<_, _> = record.mappings.iter().filter_map(of_pod).collect();
        if asked.interfaces.is_empty() || elements.is_empty() {
            return Self::default();
        }
        let names = asked.uplinks.iter().chain(&asked.interfaces);
        let devices = names.filter(|name| check_ifname(name).is_ok()).cloned().collect();
        Self { devices, elements }
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Whether this port of a pod is among them.
    pub(crate) fn leads_to(&self, protocol: Protocol, pod: SocketAddr) -> bool {
        place(protocol, pod).is_some_and(|place| self.elements.contains_key(&place))
    }

    /// The sets of the table.
    pub(crate) fn sets() -> impl Iterator<Item = Set> {
        Family::ALL.into_iter().map(|family| Set { kind: SetKind::Offload, family })
    }

    /// The chains of the table. A packet of the client decides: TCP is offloaded with the third packet of
    /// the handshake, UDP with the second datagram.
    pub(crate) fn chains() -> [Chain; 2] {
        let base = BaseChain { is_nat: false, hook: Hook::Forward, priority: AFTER_FILTERS };
        let ask = Rule::new(vec![Term::FromEstablishedClient, Term::Jump(CLIENTS.to_owned())]);
        let forward = Chain::plain("forward".to_owned(), vec![ask]);
        let offload = |set| Rule::new(vec![Term::In(set), Term::Offload]);
        let clients = Chain::plain(CLIENTS.to_owned(), Self::sets().map(offload).collect());
        [Chain { base: Some(base), ..forward }, clients]
    }
}

fn place(protocol: Protocol, pod: SocketAddr) -> Option<Place> {
    let set = Set { kind: SetKind::Offload, family: Family::of(&pod.ip()) };
    let (address, port) = (Some(pod.ip()), NonZeroU16::new(pod.port())?);
    Some((set, Key::Port { address, protocol, port }))
}

impl Extend<Self> for Offload {
    fn extend<I: IntoIterator<Item = Self>>(&mut self, more: I) {
        for Self { devices, elements } in more {
            self.devices.extend(devices);
            self.elements.extend(elements);
        }
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "table inet {OFFLOAD_TABLE} {{\n\tcomment \"{}\"", Self::COMMENT)?;
        for set in Self::sets() {
            write!(out, "{}", set.declaration())?;
        }
        let devices: Vec<String> = self.devices.iter().map(|name| format!("\"{name}\"")).collect();
        writeln!(out, "\n\tflowtable {FLOWTABLE} {{\n\t\thook ingress priority 0")?;
        writeln!(out, "\t\tdevices = {{ {} }}\n\t}}\n", devices.join(", "))?;
        let [forward, clients] = Self::chains();
        writeln!(out, "{forward}\n{clients}}}")?;
        for element in self.elements.values() {
            writeln!(out, "add element inet {OFFLOAD_TABLE} {} {{ {element} }}", element.set)?;
        }
        Ok(())
    }
}
