//! What has to be asked about the way of one packet.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::facts::add_legacy;
use super::super::network::own_priority;
use super::super::{Seen, Sysctls, Translation, translations};
use super::Query;
use crate::app::{self, Evidence};
use crate::event::Silent;
use crate::kernel::{
    self, Extent, Hooked, Link, Listener, Listeners, Local, Look, Neighbour, Nft, Others, Path,
    Survey,
};
use crate::model::{Family, HostPort, Masquerade, Record};
use crate::netns;
use crate::ruleset::{
    Data, Digest, Identity, Ruleset, Set, Treatment, hairpin_of, held_at, places_of,
};
use crate::store::{Held, Store, Who};

/// Where the table leads the packet.
#[derive(Debug)]
pub enum Led {
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
pub struct Translated {
    /// The set that the port is in.
    pub held: Set,
    /// The map that says where it goes.
    pub map: Set,
    /// How it is treated.
    pub treatment: Treatment,
    /// Where it goes.
    pub target: SocketAddr,
    /// Whether the pod is known to the hairpins.
    pub hairpin: bool,
}

/// What the pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Whether the target is an address of the pod.
    pub has_address: bool,
    /// Who listens there.
    pub listener: Option<Listener>,
    /// Who listens on the port, on whatever address.
    pub elsewhere: Option<Listener>,
    /// Why the answer has no way back, if it has none.
    pub no_way_back: Option<String>,
}

/// All that was asked about the way of one packet.
#[derive(Debug)]
pub struct Way {
    /// The packet.
    pub query: Query,
    /// Whether it begins on this node.
    pub from_node: bool,
    /// Whether it is for this node.
    pub is_local: bool,
    /// Who translates it before our table does.
    pub before: Seen<Option<Translation>>,
    /// The chains of other programs.
    pub others: Seen<Others>,
    /// What could not be seen of iptables-legacy.
    pub unseen_legacy: Option<String>,
    /// The table.
    pub look: Look,
    /// Where it leads.
    pub led: Led,
    /// Who holds the port by the records.
    pub holders: Seen<Vec<Held>>,
    /// How the table differs from the holder's record.
    pub difference: Option<String>,
    /// Who listens on the node.
    pub listener: Option<String>,
    /// Sysctls.
    pub sysctls: Sysctls,
    /// The interfaces.
    pub links: Vec<Link>,
    /// By which interface the client is, if there is a certain one.
    pub arrives_by: Option<Path>,
    /// The way from here to the pod.
    pub path: Result<Path, io::Error>,
    /// Whether the next hop answers.
    pub neighbour: Neighbour,
    /// The pod.
    pub inside: Seen<Inside>,
}

impl Way {
    /// Asks for it.
    ///
    /// # Errors
    /// When the table cannot be read, which takes `CAP_NET_ADMIN`.
    pub fn ask(
        query: Query,
        store: &Store,
        patience: Duration,
    ) -> Result<Self, crate::error::Error> {
        let family = Family::of(&query.to);
        let local = Local::of(family).unwrap_or_default();
        let from_node = query
            .from
            .map_or(query.to.is_loopback(), |from| from.is_loopback() || local.contains(from));
        let mut nft = Nft::open("")?;
        let survey = nft.survey()?;
        let look = nft.look(Extent::Places(&[]))?;
        let led = survey.as_ref().map_or(Led::Nowhere, |survey| look_up(survey, &query));
        let mut others = Seen::of(Others::list());
        let unseen_legacy = add_legacy(&mut others);
        let before = match &others {
            Seen::Known(others) => Seen::Known(earlier(others, &query, from_node)),
            Seen::Hidden => Seen::Hidden,
            Seen::Failed(why) => Seen::Failed(why.clone()),
        };
        let (holders, difference) = recorded(&query, store, patience);
        let record = match &led {
            Led::To(to) => record_of(&holders, to.target),
            Led::Nowhere | Led::Damaged(_) | Led::Untranslated(_) => None,
        };
        let arrives_by = match query.from {
            Some(from) if !from_node => kernel::path(from, None).ok(),
            Some(_) | None => None,
        };
        let (path, neighbour, inside) = match &led {
            Led::To(to) => {
                let path = way_to(&query, to.target.ip(), arrives_by.as_ref(), from_node);
                let neighbour = path.as_ref().map_or(Neighbour::Unknown, next_hop(to.target.ip()));
                let inside = look_inside(record, to, &query, path.as_ref().ok());
                (path, neighbour, inside)
            }
            Led::Nowhere | Led::Damaged(_) | Led::Untranslated(_) => {
                (Err(io::ErrorKind::NotFound.into()), Neighbour::Unknown, Seen::Hidden)
            }
        };
        let host = HostPort { protocol: query.protocol, address: query.to, port: query.port };
        let listener = Listeners::near(&[host])
            .ok()
            .and_then(|all| Some(kernel::Named(all.find(&host)?).to_string()));
        Ok(Self {
            query,
            from_node,
            is_local: local.contains(query.to),
            before,
            others,
            unseen_legacy,
            look,
            led,
            difference: difference.filter(|_| matches!(holders, Seen::Known(_))),
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
        let overlaps = |host: &HostPort| {
            host.port == self.query.port
                && host.protocol == self.query.protocol
                && (host.is_wildcard() || host.address == self.query.to)
                && Family::of(&host.address) == Family::of(&self.query.to)
        };
        self.holders.known().into_iter().flatten().any(|holder| match &holder.who {
            Who::Record(record) => record
                .mappings
                .iter()
                .any(|mapping| mapping.target.is_some() && overlaps(&mapping.host)),
            Who::Reservation(_) | Who::Unreadable(_) => false,
        })
    }

    /// The record of the pod that the packet is led to.
    pub(super) fn record(&self) -> Option<&Record> {
        let Led::To(to) = &self.led else { return None };
        record_of(&self.holders, to.target)
    }
}

fn record_of(holders: &Seen<Vec<Held>>, target: SocketAddr) -> Option<&Record> {
    holders.known()?.iter().find_map(|holder| match &holder.who {
        Who::Record(record) => {
            let leads = record.mappings.iter().any(|mapping| mapping.target == Some(target));
            leads.then_some(&**record)
        }
        Who::Reservation(_) | Who::Unreadable(_) => None,
    })
}

/// What the rules of the table come to: sets of one address before those of every address, in either
/// the first map that has it.
fn look_up(survey: &Survey, query: &Query) -> Led {
    let at = |address| HostPort { protocol: query.protocol, address, port: query.port };
    let hosts = [at(query.to), at(Family::of(&query.to).wildcard())];
    let digests: Vec<Digest> =
        survey.elements.keys().filter_map(|(set, _)| set.treatment()).collect();
    for host in &hosts {
        let mut held = digests.iter().map(|digest| (held_at(host, *digest), digest));
        let Some(((set, _), digest)) = held.find(|(place, _)| survey.elements.contains_key(place))
        else {
            continue;
        };
        let Some(treatment) = survey.treatments.get(digest) else { return Led::Damaged(set) };
        let counts = treatment.policy(0).counters;
        let maps = hosts.iter().flat_map(places_of).filter(|(set, _)| set.counts() == counts);
        let mut targets = maps.filter_map(|place| match survey.elements.get(&place)?.data {
            Data::Target(target) => Some((place.0, target)),
            Data::None => None,
        });
        let Some((map, target)) = targets.next() else { return Led::Untranslated(set) };
        let hairpin = survey.elements.contains_key(&hairpin_of(host, target));
        let treatment = treatment.clone();
        return Led::To(Box::new(Translated { held: set, map, treatment, target, hairpin }));
    }
    Led::Nowhere
}

fn earlier(others: &Others, query: &Query, from_node: bool) -> Option<Translation> {
    let hook = if from_node { Hooked::OUTPUT } else { Hooked::PREROUTING };
    let host = HostPort { protocol: query.protocol, address: query.to, port: query.port };
    let mut all = translations(others, hook, own_priority()).into_iter();
    all.find(|one| one.meets(&host, |address| address == query.to))
}

/// Who holds the port, and what differs in the table from the first of them that has something there.
fn recorded(query: &Query, store: &Store, patience: Duration) -> (Seen<Vec<Held>>, Option<String>) {
    let host = HostPort { protocol: query.protocol, address: query.to, port: query.port };
    let nothing = || Seen::Failed(format!("nothing is recorded in {}", store.dir().display()));
    let read = || {
        let Some(shared) = store.read(patience, &mut Silent)? else {
            return Ok((nothing(), None));
        };
        shared.belongs_here()?;
        let holders = shared.holders(&[host])?;
        let records = holders.iter().filter_map(|holder| match &holder.who {
            Who::Record(record) => Some(&**record),
            Who::Reservation(_) | Who::Unreadable(_) => None,
        });
        let mut difference = None;
        for record in records {
            let instance = &shared.instance().id;
            let expected = Ruleset::new(Identity::current(instance), [record]);
            if !expected.elements.is_empty() && difference.is_none() {
                difference = Nft::open(instance)?.check(&expected)?;
            }
        }
        Ok::<_, crate::error::Error>((Seen::Known(holders), difference))
    };
    read().unwrap_or_else(|error| (Seen::of(Err(error)), None))
}

/// What the kernel says of the way, from where the packet comes in.
fn way_to(
    query: &Query,
    target: IpAddr,
    arrives_by: Option<&Path>,
    from_node: bool,
) -> io::Result<Path> {
    match (query.from, arrives_by) {
        (Some(from), Some(by)) if !from_node => kernel::path(target, Some((from, by.index))),
        _ => kernel::path(target, None),
    }
}

fn next_hop(target: IpAddr) -> impl Fn(&Path) -> Neighbour {
    move |path| {
        let next = path.gateway.unwrap_or(target);
        kernel::neighbour(next, path.index).unwrap_or(Neighbour::Unknown)
    }
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
        return Seen::Failed("the pod's network namespace was not recorded".to_owned());
    };
    if record.map(|record| app::judge(&record.owner)) == Some(Evidence::Stale) {
        return Seen::Failed(Evidence::Stale.to_string());
    }
    let client = query.from.unwrap_or_else(|| somebody(Family::of(&to.target.ip())));
    // Who is masqueraded is seen as the node's address towards the pod.
    let masked = masquerades(to, query.from).0;
    let client = path.filter(|_| masked).and_then(|path| path.source).unwrap_or(client);
    let (target, protocol) = (to.target, query.protocol);
    let look = move || {
        let port = target.port().try_into().ok()?;
        let at = |address| HostPort { protocol, address, port };
        let wildcard = at(Family::of(&target.ip()).wildcard());
        let listeners = Listeners::near(&[wildcard]).ok()?;
        let local = Local::of(Family::of(&target.ip())).ok()?;
        let back = kernel::path(client, None);
        Some(Inside {
            has_address: local.contains(target.ip()),
            listener: listeners.find(&at(target.ip())).cloned(),
            elsewhere: listeners.find(&wildcard).cloned(),
            no_way_back: back.err().map(|error| format!("no route to {client}: {error}")),
        })
    };
    match netns::inside(netns, look) {
        Ok(Some(inside)) => Seen::Known(inside),
        Ok(None) => Seen::Failed("the kernel does not show its sockets".to_owned()),
        Err(error) => Seen::of(Err(error)),
    }
}

/// Whether the client's address is replaced, and why.
pub(super) fn masquerades(lead: &Translated, from: Option<IpAddr>) -> (bool, &'static str) {
    let subnets = lead.treatment.pod_addresses(&[]);
    match (lead.treatment.policy(0).masquerade, from) {
        (Masquerade::Everybody, _) => (true, "masqAll: the pod sees the node's address"),
        (Masquerade::Nobody, _) => (false, "snat is off: the pod sees the client's address"),
        (Masquerade::Local, Some(from)) if from.is_loopback() => {
            (true, "from this node's loopback: the pod sees the node's address")
        }
        (Masquerade::Local, Some(from)) if from == lead.target.ip() && lead.hairpin => {
            (true, "from the pod itself: it sees the node's address")
        }
        (Masquerade::Local, Some(from)) if subnets.iter().any(|subnet| subnet.contains(from)) => {
            (true, "from the pod's subnet: the pod sees the node's address")
        }
        (Masquerade::Local, _) => (false, "none: the pod sees the client's address"),
    }
}
