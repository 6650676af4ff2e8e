//! What has to be asked about the way of one packet.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::super::facts::{self, OthersInPart, Seen, Sysctls, Unseen};
use super::Query;
use super::hops::{self, Asked, Hop, Hops, interface};
use super::inside::Inside;
use crate::event::Silent;
use crate::kernel::{
    self, Extent, Interface, Journey, Link, Listeners, Local, Look, Neighbour, Nft, Offloading,
    Packet, Path, Policies, Survey,
};
use crate::model::{Family, HostPort, Masquerade, Record};
use crate::netns::{self, Fate};
use crate::ruleset::{
    Data, Digest, Identity, NetworkPolicy, Ruleset, Set, hairpin_of, held_at, leading_at, places_of,
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

/// What is asked once for all packets.
pub(crate) struct Node {
    pub(super) others: Seen<OthersInPart>,
    survey: Option<Survey>,
    pub(super) look: Look,
    pub(super) offloading: Offloading,
    pub(super) sysctls: Sysctls,
    pub(super) links: Vec<Link>,
    local: Vec<Local>,
}

impl Node {
    /// Looks at the node.
    ///
    /// # Errors
    /// When the table cannot be read, which takes `CAP_NET_ADMIN`.
    pub(crate) fn look() -> Result<Self, crate::error::Error> {
        let mut nft = Nft::open("")?;
        Ok(Self {
            survey: nft.survey()?,
            look: nft.look(Extent::Places(&[]))?,
            offloading: nft.offloading()?,
            others: facts::others(),
            sysctls: Sysctls::gather(),
            links: kernel::links().unwrap_or_default(),
            local: Family::ALL.into_iter().filter_map(|family| Local::of(family).ok()).collect(),
        })
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.local.iter().any(|local| local.contains(address))
    }
}

/// All that was asked about the way of one packet.
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of its own")]
pub(super) struct Way<'a> {
    pub(super) node: &'a Node,
    pub(super) query: Query,
    /// Whether it begins on this node.
    pub(super) from_node: bool,
    /// Whether it is for this node.
    pub(super) is_local: bool,
    pub(super) led: Led,
    /// Who holds the port by the records.
    pub(super) holders: Seen<Vec<Held>>,
    /// How the table differs from the holder's record.
    pub(super) difference: Option<String>,
    pub(super) listener: Option<String>,
    /// By which interface the client is, if there is a certain one.
    pub(super) arrives_by: Option<Path>,
    /// Another interface, whose address is asked, by which it may come as well.
    pub(super) may_arrive_by: Option<Interface>,
    /// What the packet meets before it is translated, and behind that.
    pub(super) early: Vec<Hop>,
    pub(super) onward: Vec<Hop>,
    /// What the answer meets on this node, and what the packets behind it.
    pub(super) back: Vec<Hop>,
    /// The way from here to the pod.
    pub(super) path: io::Result<Path>,
    /// The way of the answer from the pod to the client.
    pub(super) answer: io::Result<Path>,
    /// What the rules of policy routing ask for.
    pub(super) policies: Policies,
    /// Whether the marks are known by which routes are chosen.
    pub(super) is_mark_known: bool,
    pub(super) neighbour: Neighbour,
    /// Whether the pod sees the node's address.
    pub(super) is_masked: bool,
    pub(super) inside: Seen<Inside>,
    /// Interfaces of the way whose packets a program or a filter sees.
    pub(super) programs: Vec<String>,
}

impl<'a> Way<'a> {
    /// Asks for it.
    pub(super) fn ask(query: Query, store: &Store, node: &'a Node) -> Self {
        let host = query.host;
        let from_node = query
            .from
            .map_or(host.address.is_loopback(), |from| from.is_loopback() || node.has(from));
        let led = node.survey.as_ref().map_or(Led::Nowhere, |survey| look_up(survey, &query));
        let (holders, difference) = match recorded(&query, store) {
            Ok((holders, difference)) => (Ok(holders), difference),
            Err(unseen) => (Err(unseen), None),
        };
        let listener = Listeners::near(&[host])
            .ok()
            .and_then(|all| Some(kernel::Named(all.find(&host, &[])?).to_string()));
        let mut way = Self {
            node,
            query,
            from_node,
            is_local: node.has(host.address),
            led,
            difference,
            holders,
            listener,
            arrives_by: None,
            may_arrive_by: None,
            early: Vec::new(),
            onward: Vec::new(),
            back: Vec::new(),
            path: Err(io::ErrorKind::NotFound.into()),
            answer: Err(io::ErrorKind::NotFound.into()),
            policies: kernel::policies(Family::of(&host.address)).unwrap_or_default(),
            is_mark_known: true,
            neighbour: Neighbour::Unknown,
            is_masked: false,
            inside: Err(Unseen::Hidden),
            programs: Vec::new(),
        };
        way.arrive();
        way.follow();
        way
    }

    /// By which interface the packet comes: by that towards the client, unless the address that it asks is on
    /// another one.
    fn arrive(&mut self) {
        if self.from_node {
            return;
        }
        let asked = kernel::interface_with(self.query.host.address);
        let links = &self.node.links;
        let is_cable = |interface: &Interface| {
            links.iter().any(|link| link.index == interface.index && !link.is_deaf)
        };
        let asked = asked.filter(|(interface, _)| is_cable(interface));
        let Some(from) = self.query.from else {
            let path = |(Interface { name: interface, index }, _)| Path {
                interface,
                index,
                ..Path::default()
            };
            self.arrives_by = asked.map(path);
            return;
        };
        self.arrives_by = kernel::path(Journey::to(from)).ok();
        if let (Some(path), Some((asked, network))) = (&self.arrives_by, asked)
            && path.index != asked.index
            && (path.gateway.is_some() || network.contains(from))
        {
            self.may_arrive_by = Some(asked);
        }
    }

    /// Follows the packet to the pod, and the answer back.
    fn follow(&mut self) {
        let Ok((others, _)) = &self.node.others else { return self.onward_unseen() };
        let (query, links) = (self.query, self.node.links.as_slice());
        let input = self.arrives_by.as_ref().map(interface);
        let is_symmetric = (query.from.is_some() && self.may_arrive_by.is_none()).then_some(true);
        let (from, host, from_node) = (query.from, query.host, self.from_node);
        let asked = Asked { from, host, from_node, input, is_symmetric };
        let first = hops::first(&asked);
        let mut sent = Hops::new(others, links, first.clone(), "it");
        sent.begin();
        sent.translations();
        self.early = std::mem::take(&mut sent.met);
        let Led::To(lead) = &self.led else { return };
        let (masked, target) = (masquerades(lead, query.from).0, lead.target);
        sent.translated(target, 1);
        self.path = self.towards(target.ip(), query.from, self.arrives_by.as_ref(), &sent.packet);
        let Ok(path) = &self.path else {
            self.onward = sent.met;
            return;
        };
        let next = path.gateway.unwrap_or(target.ip());
        self.neighbour = kernel::neighbour(next, path.index).unwrap_or(Neighbour::Unknown);
        let is_mark_known = sent.packet.mark.is_some();
        sent.leave(&interface(path), masked, true);
        self.is_masked = masked || sent.is_masqueraded;
        self.onward = sent.met;

        let client = if self.is_masked { path.source } else { query.from };
        let to_node = self.is_masked || from_node;
        let packet = hops::answer(&sent.packet, interface(path), client, to_node);
        let mut answer = Hops::new(others, links, packet, "the answer");
        answer.begin();
        answer.restored(query.from);
        self.is_mark_known = is_mark_known && answer.packet.mark.is_some();
        if from_node {
            answer.end();
        } else {
            self.answer = query.from.map_or(Err(io::ErrorKind::NotFound.into()), |from| {
                self.towards(from, Some(target.ip()), Some(path), &answer.packet)
            });
            let output = self.answer.as_ref().ok().or(self.arrives_by.as_ref());
            answer.leave(&output.map(interface).unwrap_or_default(), true, false);
        }
        self.back = answer.met;
        let packet = hops::second(&first, answer.packet.connection_mark);
        let mut second = Hops::new(others, links, packet, "what follows");
        second.begin();
        second.translated(target, 1);
        second.leave(&interface(path), masked, false);
        self.back.extend(second.met);
        self.programs = self.programs();
        self.inside = self.look_inside(lead, client);
    }

    /// Without privilege, only the way is asked for.
    fn onward_unseen(&mut self) {
        if let Led::To(lead) = &self.led {
            self.path = kernel::path(Journey::to(lead.target.ip()));
        }
    }

    /// The way of `packet`, which comes in by `input` unless it begins here.
    fn towards(
        &self,
        to: IpAddr,
        from: Option<IpAddr>,
        input: Option<&Path>,
        packet: &Packet,
    ) -> io::Result<Path> {
        let both = from.zip(input).filter(|_| !from.is_some_and(|from| self.node.has(from)));
        let (from, by) = both.map(|(from, input)| (from, input.index)).unzip();
        kernel::path(Journey { to, from, by, mark: packet.mark.unwrap_or(0) })
    }

    fn programs(&self) -> Vec<String> {
        let way = [self.arrives_by.as_ref(), self.path.as_ref().ok(), self.answer.as_ref().ok()];
        let on_way = |link: &&Link| {
            let is = |path: &&Path| path.index == link.index || link.controller == Some(path.index);
            way.iter().flatten().any(is)
        };
        let seen =
            |link: &&Link| link.has_program || kernel::is_filtered(link.index).unwrap_or(true);
        let links = self.node.links.iter().filter(on_way).filter(seen);
        links.map(|link| link.name.clone()).collect()
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

    /// Where the table leads the packet, as text.
    pub(super) fn target(&self) -> Option<String> {
        let Led::To(to) = &self.led else { return None };
        Some(to.target.to_string())
    }

    /// Looks into the pod, where `packet` arrives from `client`.
    fn look_inside(&self, to: &Translated, client: Option<IpAddr>) -> Seen<Inside> {
        let record = self.record();
        let Some(netns) = record.and_then(|record| record.owner.netns.as_ref()) else {
            let why = "the pod's network namespace was not recorded";
            return Err(Unseen::Failed(why.to_owned()));
        };
        if record.map(|record| Fate::of(&record.owner)) == Some(Fate::Gone) {
            return Err(Unseen::Failed(Fate::Gone.to_string()));
        }
        let (target, protocol) = (to.target, self.query.host.protocol);
        let host = HostPort {
            protocol,
            address: target.ip(),
            port: target.port().try_into().map_err(|_| Unseen::Hidden)?,
        };
        let asked = Asked { from: client, host, from_node: false, input: None, is_symmetric: None };
        let first = hops::first(&asked);
        let asked = client.unwrap_or_else(|| outsider(Family::of(&target.ip())));
        let look = move || Inside::look(host, asked, &first);
        let unseen = || Unseen::Failed("the kernel does not show its sockets".to_owned());
        netns::inside(netns, look)?.ok_or_else(unseen)
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

/// What the rules of the table come to: sets of one address before those of every address. Behind a gate, either
/// leads to the first map that has it.
fn look_up(survey: &Survey, query: &Query) -> Led {
    let host = query.host;
    let hosts = [host, HostPort { address: Family::of(&query.host.address).wildcard(), ..host }];
    let digests: Vec<Digest> =
        survey.elements.keys().filter_map(|(set, _)| set.network_policy()).collect();
    for host in &hosts {
        let mut held = digests.iter().map(|digest| (held_at(host, *digest), digest));
        let Some(((set, _), digest)) = held.find(|(place, _)| survey.elements.contains_key(place))
        else {
            // It translates, but not as any network wants it.
            let mut maps = places_of(host).filter(|place| survey.elements.contains_key(place));
            match maps.next() {
                Some((map, _)) => return Led::Damaged(map),
                None => continue,
            }
        };
        let Some(network_policy) = survey.network_policies.get(digest) else {
            return Led::Damaged(set);
        };
        let gated = network_policy.has_gates();
        let hosts = hosts.iter().filter(|one| gated || *one == host);
        let mut targets =
            hosts.map(|host| leading_at(host, gated)).filter_map(|place| {
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

/// A client whose address is not known: one for documentation (RFC 5737, RFC 3849).
fn outsider(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([198, 51, 100, 1]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]),
    }
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
