//! What has to be asked about the way of one packet.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::super::facts::{self, OthersInPart, Seen, Sysctls, Unseen};
use super::Query;
use crate::event::Silent;
use crate::kernel::{
    self, Extent, Link, Listener, Listeners, Local, Look, Neighbour, Nft, Path, Survey,
};
use crate::model::{Family, HostPort, Masquerade, Record};
use crate::netns::{self, Fate};
use crate::ruleset::{
    Data, Digest, Identity, NetworkPolicy, Ruleset, Set, hairpin_of, held_at, place_of,
};
use crate::store::{Held, Store, Who};

/// Where the table leads the packet.
#[derive(Debug)]
pub(super) enum Led {
    /// Nobody has it in the table.
    Nowhere,
    /// It is in this set, whose chains are not what they should be.
    Damaged(Set),
    /// It is in this set, and in no map.
    Untranslated(Set),
    /// To a pod.
    To(Box<Translated>),
}

/// How the table leads the packet to a pod.
#[derive(Debug)]
pub(super) struct Translated {
    /// The set that the port is in.
    pub(super) held: Set,
    /// The map that says where it goes.
    pub(super) map: Set,
    pub(super) network_policy: NetworkPolicy,
    pub(super) target: SocketAddr,
    /// Whether the pod is known to the hairpins.
    pub(super) hairpin: bool,
}

/// What the pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    /// Whether the target is an address of the pod.
    pub(super) has_address: bool,
    pub(super) listener: Option<Listener>,
    /// Who listens on the port, on whatever address.
    pub(super) elsewhere: Option<Listener>,
    /// Why the answer has no way back, if it has none.
    pub(super) no_way_back: Option<String>,
}

/// All that was asked about the way of one packet.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) query: Query,
    /// Whether it begins on this node.
    pub(super) from_node: bool,
    /// Whether it is for this node.
    pub(super) is_local: bool,
    pub(super) others: Seen<OthersInPart>,
    pub(super) look: Look,
    pub(super) led: Led,
    /// Who holds the port by the records.
    pub(super) holders: Seen<Vec<Held>>,
    /// How the table differs from the holder's record.
    pub(super) difference: Option<String>,
    pub(super) listener: Option<String>,
    pub(super) sysctls: Sysctls,
    pub(super) links: Vec<Link>,
    /// By which interface the client is, if there is a certain one.
    pub(super) arrives_by: Option<Path>,
    /// The way from here to the pod.
    pub(super) path: Result<Path, io::Error>,
    pub(super) neighbour: Neighbour,
    pub(super) inside: Seen<Inside>,
}

impl Way {
    /// Asks for it.
    pub(super) fn ask(query: Query, store: &Store) -> Result<Self, crate::error::Error> {
        let family = Family::of(&query.host.address);
        let local = Local::of(family).unwrap_or_default();
        let from_node = query.from.map_or(query.host.address.is_loopback(), |from| {
            from.is_loopback() || local.contains(from)
        });
        let mut nft = Nft::open("")?;
        let survey = nft.survey()?;
        let look = nft.look(Extent::Places(&[]))?;
        let led = survey.as_ref().map_or(Led::Nowhere, |survey| look_up(survey, &query));
        let (holders, difference) = match recorded(&query, store) {
            Ok((holders, difference)) => (Ok(holders), difference),
            Err(unseen) => (Err(unseen), None),
        };
        let arrives_by = query.from.filter(|_| !from_node);
        let arrives_by = arrives_by.and_then(|from| kernel::path(from, None).ok());
        let (path, neighbour, inside) = match &led {
            Led::To(to) => onward(&query, to, &holders, arrives_by.as_ref()),
            Led::Nowhere | Led::Damaged(_) | Led::Untranslated(_) => {
                (Err(io::ErrorKind::NotFound.into()), Neighbour::Unknown, Err(Unseen::Hidden))
            }
        };
        let host = query.host;
        let listener = Listeners::near(&[host])
            .ok()
            .and_then(|all| Some(kernel::Named(all.find(&host, &[])?).to_string()));
        Ok(Self {
            query,
            from_node,
            is_local: local.contains(query.host.address),
            others: facts::others(),
            look,
            led,
            difference,
            holders,
            listener,
            sysctls: Sysctls::gather(),
            links: kernel::links().unwrap_or_default(),
            arrives_by,
            path,
            neighbour,
            inside,
        })
    }

    /// Whether some attachment's record has the port translated.
    pub(super) fn holds(&self) -> bool {
        let host = self.query.host;
        let mappings =
            self.holders.iter().flat_map(|held| records(held)).flat_map(|it| &it.mappings);
        mappings.filter(|one| one.target.is_some()).any(|one| one.host.overlaps(&host))
    }

    /// Whether the client is a program of this node that connects from a loopback address.
    pub(super) fn is_from_loopback(&self) -> bool {
        self.query.from.is_some_and(|from| from.is_loopback())
    }

    /// The record of the pod that the packet is led to.
    pub(super) fn record(&self) -> Option<&Record> {
        let Led::To(to) = &self.led else { return None };
        record_of(&self.holders, to.target)
    }
}

fn records(holders: &[Held]) -> impl Iterator<Item = &Record> {
    holders.iter().filter_map(|holder| match &holder.who {
        Who::Record(record) => Some(&**record),
        Who::Reservation(_) | Who::Unreadable(_) => None,
    })
}

fn record_of(holders: &Seen<Vec<Held>>, target: SocketAddr) -> Option<&Record> {
    let leads = |record: &&Record| record.mappings.iter().any(|it| it.target == Some(target));
    records(holders.as_ref().ok()?).find(leads)
}

/// What the rules of the table come to: sets of one address before those of every address, in either
/// the first map that has it.
fn look_up(survey: &Survey, query: &Query) -> Led {
    let host = query.host;
    let hosts = [host, HostPort { address: Family::of(&query.host.address).wildcard(), ..host }];
    let digests: Vec<Digest> =
        survey.elements.keys().filter_map(|(set, _)| set.network_policy()).collect();
    for host in &hosts {
        let mut held = digests.iter().map(|digest| (held_at(host, *digest), digest));
        let Some(((set, _), digest)) = held.find(|(place, _)| survey.elements.contains_key(place))
        else {
            continue;
        };
        let Some(network_policy) = survey.network_policies.get(digest) else {
            return Led::Damaged(set);
        };
        let mut targets = hosts.iter().map(place_of).filter_map(|place| {
            match survey.elements.get(&place)?.data {
                Data::Target(target) => Some((place.0, target)),
                Data::None => None,
            }
        });
        let Some((map, target)) = targets.next() else { return Led::Untranslated(set) };
        let hairpin = survey.elements.contains_key(&hairpin_of(host, target));
        let network_policy = network_policy.clone();
        return Led::To(Box::new(Translated { held: set, map, network_policy, target, hairpin }));
    }
    Led::Nowhere
}

/// Who holds the port, and what differs in the table from the first of them that has something there.
fn recorded(query: &Query, store: &Store) -> Seen<(Vec<Held>, Option<String>)> {
    let Some(shared) = store.read(&mut Silent)? else {
        let dir = store.dir().display();
        return Err(Unseen::Failed(format!("nothing is recorded in {dir}")));
    };
    shared.belongs_here()?;
    let holders = shared.holders(&[query.host])?;
    let instance = &shared.instance().id;
    let mut difference = None;
    for record in records(&holders) {
        let expected = Ruleset::new(Identity::current(instance), [record]);
        if !expected.elements.is_empty() && difference.is_none() {
            difference = Nft::open(instance)?.check(&expected)?;
        }
    }
    Ok((holders, difference))
}

/// The way from where the packet comes in, its next hop, and the pod.
fn onward(
    query: &Query,
    to: &Translated,
    holders: &Seen<Vec<Held>>,
    arrives_by: Option<&Path>,
) -> (io::Result<Path>, Neighbour, Seen<Inside>) {
    let pod = to.target.ip();
    let path = kernel::path(pod, query.from.zip(arrives_by.map(|path| path.index)));
    let neighbour = path.as_ref().ok().and_then(|path| {
        let next = path.gateway.unwrap_or(pod);
        kernel::neighbour(next, path.index).ok()
    });
    let inside = look_inside(record_of(holders, to.target), to, query, path.as_ref().ok());
    (path, neighbour.unwrap_or(Neighbour::Unknown), inside)
}

/// A client whose address is not known: one for documentation (RFC 5737, RFC 3849).
fn somebody(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([198, 51, 100, 1]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]),
    }
}

fn look_inside(
    record: Option<&Record>,
    to: &Translated,
    query: &Query,
    path: Option<&Path>,
) -> Seen<Inside> {
    let Some(netns) = record.and_then(|record| record.owner.netns.as_ref()) else {
        return Err(Unseen::Failed("the pod's network namespace was not recorded".to_owned()));
    };
    if record.map(|record| Fate::of(&record.owner)) == Some(Fate::Gone) {
        return Err(Unseen::Failed(Fate::Gone.to_string()));
    }
    let client = query.from.unwrap_or_else(|| somebody(Family::of(&to.target.ip())));
    // Who is masqueraded is seen as the node's address towards the pod.
    let masked = masquerades(to, query.from).0;
    let client = path.filter(|_| masked).and_then(|path| path.source).unwrap_or(client);
    let (target, protocol) = (to.target, query.host.protocol);
    let look = move || {
        let port = target.port().try_into().ok()?;
        let at = |address| HostPort { protocol, address, port };
        let wildcard = at(Family::of(&target.ip()).wildcard());
        let listeners = Listeners::near(&[wildcard]).ok()?;
        let local = Local::of(Family::of(&target.ip())).ok()?;
        let back = kernel::path(client, None);
        Some(Inside {
            has_address: local.contains(target.ip()),
            listener: listeners.find(&at(target.ip()), &[]).cloned(),
            elsewhere: listeners.find(&wildcard, &[]).cloned(),
            no_way_back: back.err().map(|error| format!("no route to {client}: {error}")),
        })
    };
    let unseen = || Unseen::Failed("the kernel does not show its sockets".to_owned());
    netns::inside(netns, look)?.ok_or_else(unseen)
}

/// Whether the client's address is replaced, and why.
pub(super) fn masquerades(lead: &Translated, from: Option<IpAddr>) -> (bool, &'static str) {
    let policy = &lead.network_policy;
    let is_neighbour = |from: IpAddr| policy.pod_addresses(&[]).iter().any(|it| it.contains(from));
    match (policy.policy().masquerade, from) {
        (Masquerade::Everybody, _) => (true, "masqAll: the pod sees the node's address"),
        (Masquerade::Nobody, _) => (false, "snat is off: the pod sees the client's address"),
        (Masquerade::Local, Some(from)) if from.is_loopback() => {
            (true, "from this node's loopback: the pod sees the node's address")
        }
        (Masquerade::Local, Some(from)) if from == lead.target.ip() && lead.hairpin => {
            (true, "from the pod itself: it sees the node's address")
        }
        (Masquerade::Local, Some(from)) if is_neighbour(from) => {
            (true, "from the pod's subnet: the pod sees the node's address")
        }
        (Masquerade::Local, _) => (false, "none: the pod sees the client's address"),
    }
}
