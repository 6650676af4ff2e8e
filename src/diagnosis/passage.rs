//! What the chains of other programs do with a packet: who translates it first, and whether it is
//! forwarded.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::kernel::{ChainName, Conditions, Does, Hooked, Others};
use crate::model::{Family, HostPort};
use crate::ruleset::is_host;

/// Chains that call each other deeper than the kernel allows.
const DEPTH: usize = 16;

/// More than this is not a node that somebody reads a report about.
const TRANSLATIONS_MAX: usize = 200_000;

/// A rule, with the chains that lead to it, that gives packets another destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) conditions: Conditions,
    pub(super) to: String,
    /// From the base chain to the one with the rule.
    pub(super) via: Vec<ChainName>,
}

impl Translation {
    /// Whether it could be for a packet to `host`, one of whose addresses is a wildcard's; `local` says
    /// which addresses are this node's.
    pub(super) fn meets(&self, host: &HostPort, local: impl Fn(IpAddr) -> bool) -> bool {
        let Conditions { ports, destination, .. } = &self.conditions;
        let family = Family::of(&host.address);
        let (protocol, port) = (Some(host.protocol.number()), Some(host.port.get()));
        let packet = Packet { family, protocol, port, destination: None };
        let is_meant = |network: IpNetwork| {
            if host.is_wildcard() {
                !is_host(&network) || local(network.ip())
            } else {
                network.contains(host.address)
            }
        };
        ports.is_some()
            && self.via.first().is_some_and(|base| base.space.has(family))
            && meets(&self.conditions, &packet) != Some(false)
            && destination.is_none_or(|to| Family::of(&to.ip()) == family && is_meant(to))
    }
}

/// The base chains in `hook`, and how each is hooked.
pub(super) fn hooked_at(others: &Others, hook: u32) -> impl Iterator<Item = (&ChainName, &Hooked)> {
    let chains = others.chains.iter();
    let bases = chains.filter_map(|(name, chain)| Some((name, chain.hooked.as_ref()?)));
    bases.filter(move |(_, hooked)| hooked.hook == hook)
}

/// The translations in the nat chains of `hook` that come before the priority `before`.
pub(super) fn translations(others: &Others, hook: u32, before: i32) -> Vec<Translation> {
    let earlier = |hooked: &Hooked| hooked.kind == "nat" && hooked.priority < before;
    let mut bases: Vec<_> = hooked_at(others, hook).filter(|(_, hooked)| earlier(hooked)).collect();
    bases.sort_by_key(|(_, hooked)| hooked.priority);
    let mut found = Vec::new();
    for (name, _) in bases {
        gather(others, std::slice::from_ref(name), &Conditions::default(), &mut found);
    }
    found
}

fn gather(others: &Others, via: &[ChainName], so_far: &Conditions, found: &mut Vec<Translation>) {
    let Some(chain) = via.last().and_then(|name| others.chains.get(name)) else { return };
    for rule in &chain.rules {
        let Some(conditions) = both(so_far, &rule.conditions) else { continue };
        if found.len() >= TRANSLATIONS_MAX {
            return;
        }
        if let Does::Translate(to) = &rule.does {
            found.push(Translation { conditions, to: to.clone(), via: via.to_vec() });
        } else if let Does::Jump(next) | Does::Goto(next) = &rule.does
            && via.len() < DEPTH
        {
            let next = ChainName { chain: next.clone(), ..via[0].clone() };
            gather(others, &[via, &[next]].concat(), &conditions, found);
        }
    }
}

/// What meets both; `None` where nothing can.
fn both(one: &Conditions, other: &Conditions) -> Option<Conditions> {
    let mut both = one.clone();
    if let Some(ports) = &other.ports {
        both.narrow(ports.clone());
    }
    let is_nowhere = both.ports.as_ref().is_some_and(Vec::is_empty);
    if is_nowhere || differ(one.family, other.family) || differ(one.protocol, other.protocol) {
        return None;
    }
    both.destination = match (one.destination, other.destination) {
        (Some(one), Some(other)) if one.contains(other.ip()) => Some(other),
        (Some(one), Some(other)) if other.contains(one.ip()) => Some(one),
        (Some(_), Some(_)) => return None,
        (destination, None) | (None, destination) => destination,
    };
    both.family = one.family.or(other.family);
    both.protocol = one.protocol.or(other.protocol);
    both.translated |= other.translated;
    both.unknown |= other.unknown;
    Some(both)
}

fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// A packet whose destination has been translated, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) family: Family,
    pub(super) protocol: Option<u8>,
    pub(super) port: Option<u16>,
    pub(super) destination: Option<IpAddr>,
}

/// What becomes of a packet in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It passes, unless a rule that is not understood drops it.
    Passes,
    /// It passes only if a rule accepts it that is not understood.
    Depends,
    /// It is dropped.
    Drops,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    Accepted,
    Dropped,
    Returned,
}

/// What becomes of `packet` in the base chain `name`.
pub(super) fn passage(others: &Others, name: &ChainName, packet: &Packet) -> Passage {
    let Some(hooked) = others.chains.get(name).and_then(|chain| chain.hooked.as_ref()) else {
        return Passage::Passes;
    };
    let mut perhaps_accepted = false;
    let drops = match decide(others, name, packet, DEPTH, &mut perhaps_accepted) {
        Decision::Accepted => false,
        Decision::Dropped => true,
        Decision::Returned => hooked.drops,
    };
    match (drops, perhaps_accepted) {
        (false, _) => Passage::Passes,
        (true, true) => Passage::Depends,
        (true, false) => Passage::Drops,
    }
}

fn decide(
    others: &Others,
    name: &ChainName,
    packet: &Packet,
    depth: usize,
    perhaps_accepted: &mut bool,
) -> Decision {
    let Some(chain) = others.chains.get(name).filter(|_| depth > 0) else {
        return Decision::Returned;
    };
    for rule in &chain.rules {
        let certain = match meets(&rule.conditions, packet) {
            Some(false) => continue,
            Some(true) => true,
            None => false,
        };
        let decision = match &rule.does {
            Does::Accept => Decision::Accepted,
            Does::Drop => Decision::Dropped,
            Does::Return if certain => return Decision::Returned,
            Does::Jump(next) | Does::Goto(next) => {
                let next = ChainName { chain: next.clone(), ..name.clone() };
                let decision = decide(others, &next, packet, depth - 1, perhaps_accepted);
                if certain && matches!(rule.does, Does::Goto(_)) {
                    return decision;
                }
                decision
            }
            Does::Return | Does::Translate(_) | Does::Nothing => Decision::Returned,
        };
        match decision {
            Decision::Returned => {}
            Decision::Accepted if !certain => *perhaps_accepted = true,
            // What is only perhaps dropped is a rule against somebody, not against host ports.
            Decision::Dropped if !certain => {}
            Decision::Accepted | Decision::Dropped => return decision,
        }
    }
    Decision::Returned
}

/// Whether the packet meets the conditions; `None` where that cannot be told.
fn meets(conditions: &Conditions, packet: &Packet) -> Option<bool> {
    let Conditions { family, protocol, ports, destination, unknown, translated: _ } = conditions;
    if family.is_some_and(|family| family != packet.family) {
        return Some(false);
    }
    let protocol = protocol.map(|wanted| packet.protocol.map(|has| has == wanted));
    let port =
        ports.as_ref().map(|runs| packet.port.map(|has| runs.iter().any(|run| run.contains(&has))));
    let address = destination.map(|network| packet.destination.map(|has| network.contains(has)));
    let answers = [protocol, port, address];
    if answers.contains(&Some(Some(false))) {
        return Some(false);
    }
    if *unknown || answers.contains(&Some(None)) { None } else { Some(true) }
}
