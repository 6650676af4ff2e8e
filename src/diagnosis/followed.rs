//! Whether a client outside reaches the host ports of the pods: some of them are followed as `trace` does it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::facts::Unseen;
use super::trace::{Fate, Node, Query, Trace};
use super::{Facts, Report, State, counted};
use crate::error::Error;
use crate::kernel::{self, Journey};
use crate::model::{Family, HostPort, Record};
use crate::netns;
use crate::store::Store;

/// How many host ports are followed.
const FOLLOWED_MAX: usize = 100;

/// A host port whose packets were followed.
#[derive(Debug)]
pub struct Followed {
    /// The host port, and the pod that holds it.
    what: String,
    trace: Trace,
    /// Whether it is known where the pod's network namespace is. It is not where the record was restored from
    /// the table.
    sees_pod: bool,
}

/// What was followed, or why nothing could be.
pub(super) type Outcome = Result<Vec<Followed>, Error>;

/// Follows a packet to host ports of each pod.
///
/// # Errors
/// When the table cannot be read, which takes `CAP_NET_ADMIN`.
pub fn follow(facts: &Facts, store: &Store) -> Outcome {
    let node = Node::look()?;
    let alive = |record: &&Record| netns::Fate::of(&record.owner) != netns::Fate::Gone;
    let records = facts.records().iter().filter(alive);
    let mut wanted = Vec::new();
    for record in records {
        let translated = record.mappings.iter().filter(|mapping| mapping.target.is_some());
        let mut seen: BTreeMap<_, usize> = BTreeMap::new();
        for host in translated.map(|mapping| mapping.host) {
            let of_kind = seen.entry((Family::of(&host.address), host.protocol)).or_default();
            wanted.push((*of_kind, record, host));
            *of_kind += 1;
        }
    }
    // One of each kind of each pod comes first.
    wanted.sort_by_key(|(number, ..)| *number);
    let mut followed = Vec::new();
    for (_, record, host) in wanted.into_iter().take(FOLLOWED_MAX) {
        for query in queries(record, host) {
            let what = format!("{host}, which {} holds", record.owner);
            let sees_pod = record.owner.netns.is_some();
            followed.push(Followed { what, trace: Trace::on(&node, query, store), sees_pod });
        }
    }
    Ok(followed)
}

/// A client beyond the default route, and one beside the node; where only certain ones may connect, one of these.
fn queries(record: &Record, host: HostPort) -> Vec<Query> {
    let family = Family::of(&host.address);
    let policy = &record.policy;
    let own = kernel::outward_addresses(&policy.host_addresses).unwrap_or_default();
    let own = own.into_iter().find(|own| Family::of(own) == family);
    let asked = if host.is_wildcard() { own } else { Some(host.address) };
    let Some(address) = asked.filter(|address| !address.is_loopback()) else { return Vec::new() };
    let host = HostPort { address, ..host };
    let sources: Vec<IpAddr> = match policy.source_ranges.as_slice() {
        [] => {
            let world = world(family);
            let beyond = kernel::path(Journey::to(world)).is_ok_and(|path| path.interface != "lo");
            Some(world).filter(|_| beyond).into_iter().chain(beside(address)).collect()
        }
        ranges => {
            let ranges = ranges.iter().filter(|range| Family::of(&range.ip()) == family);
            ranges.take(1).map(|range| next(range.network(), 1)).collect()
        }
    };
    sources.into_iter().map(|from| Query { from: Some(from), host }).collect()
}

/// A client that is in no list of reserved networks. Nothing is sent to it.
fn world(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([9, 9, 9, 9]),
        Family::V6 => IpAddr::from([0x2620, 0xfe, 0, 0, 0, 0, 0, 9]),
    }
}

/// An address on the link of `own` that is not this node's, as far as there is a link.
fn beside(own: IpAddr) -> Option<IpAddr> {
    let (link, _) = kernel::interface_with(own)?;
    let is_beside = |other: &IpAddr| {
        let path = kernel::path(Journey::to(*other));
        path.is_ok_and(|path| path.index == link.index && path.gateway.is_none())
    };
    [1, 2, 3, -1, -2, -3].into_iter().map(|by| next(own, by)).find(is_beside)
}

fn next(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().wrapping_add_signed(by.into()).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().wrapping_add_signed(by.into()).into()),
    }
}

/// The checks of the report that already say what a stretch of the way says.
fn said_in(check: &str) -> &[&str] {
    match check {
        "table" | "element" | "record" => &["table", "records"],
        "route" => &["routes", "forwarding", "rp_filter"],
        "FORWARD" => &["FORWARD"],
        "other tables" => &["other tables"],
        "forwarding" => &["forwarding"],
        _ => &[],
    }
}

pub(super) fn judge(outcome: &Outcome, report: &mut Report) {
    report.check("packets");
    let followed = match outcome {
        Ok(followed) => followed,
        Err(error) => {
            return match Unseen::of(error) {
                Unseen::Hidden => report.unseen("whether packets reach the pods"),
                Unseen::Failed(why) => report.failed(why, "see docs/errors.md"),
            };
        }
    };
    let mut told: Vec<(State, String, Option<String>)> = Vec::new();
    for Followed { what, trace, sees_pod } in followed {
        let Some(step) = trace
            .steps
            .iter()
            .filter(|step| step.state != Fate::Passes && (*sees_pod || step.check != "pod"))
            .max_by_key(|step| step.state)
        else {
            continue;
        };
        let is_said = report.findings.iter().any(|finding| {
            finding.state >= State::Warning && said_in(step.check).contains(&finding.check)
        });
        let text = format!("{}: {}", step.check, step.text);
        if is_said || told.iter().any(|(_, known, _)| known.ends_with(&text)) {
            continue;
        }
        if step.state == Fate::Unsure && trace.hidden.contains(&step.check) {
            let text = format!("whether packets from outside reach {what}: {text}");
            told.push((State::Unseen, text, step.remedy.clone()));
            continue;
        }
        let (state, verb) = match step.state {
            Fate::Stops if step.check != "pod" => (State::Failed, "do not reach"),
            Fate::Stops => (State::Warning, "do not reach"),
            Fate::Unsure | Fate::Passes => (State::Warning, "may not reach"),
        };
        let text = format!("packets from outside {verb} {what}: {text}");
        told.push((state, text, step.remedy.clone()));
    }
    told.sort_by_key(|(state, ..)| Reverse(*state));
    for (state, text, remedy) in told.into_iter().take(5) {
        report.add(state, text, remedy);
    }
    report.or_ok(match followed.len() {
        0 => "no pod has a host port for clients outside".to_owned(),
        number => format!("{} from outside followed", counted(number, "packet")),
    });
}
