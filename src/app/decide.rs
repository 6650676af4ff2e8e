//! What a claim comes to, before anything is changed: what `claim` then does, and `explain` only says.

use std::collections::BTreeSet;

use super::choose::Chooser;
use super::gather::Scene;
use super::survey::standing;
use super::table;
use crate::error::Error;
use crate::event::{Event, Log};
use crate::kernel::{Change, Portmap};
use crate::model::{Ask, Grant, HostPort, Mapping, NamespaceId, Owner, Record};
use crate::netns;
use crate::plan::{self, Cursors, Standing};
use crate::ruleset::{chains_of, elements_of};
use crate::store::{Held, Key, Shared, Who};

/// What is to be done.
pub(super) struct Plan {
    /// What the attachment held before.
    pub(super) before: Option<Record>,
    /// Holders that lose their ports to the claim, and why.
    pub(super) giving_way: Vec<(Record, &'static str)>,
    /// What it is to hold.
    pub(super) wanted: Record,
    /// Where the next choices begin.
    pub(super) cursors: Cursors,
}

/// Who asks, as the node sees it now; with its network namespace, or why that does not exist.
pub(super) fn owner(ask: &Ask) -> (Owner, Option<netns::Missing>) {
    let (netns, missing) = match ask.netns.as_deref().map(netns::observe) {
        Some(Ok(netns)) => (netns, None),
        Some(Err(missing)) => (None, Some(missing)),
        None => (None, None),
    };
    (Owner { holder: ask.holder.clone(), pod: ask.pod.clone(), netns }, missing)
}

/// Whether the pod is on the node's own network, where it listens on the host port itself.
fn on_host(owner: &Owner, netns: NamespaceId) -> bool {
    owner.attachment().is_none() || owner.netns.as_ref().is_some_and(|own| own.id == netns)
}

/// What `ask` of `owner` is to hold, sorted, with these grants for its requests; `netns` is the node's own
/// network namespace.
pub(super) fn mappings(
    ask: &Ask,
    owner: &Owner,
    grants: &[Grant],
    netns: NamespaceId,
) -> Vec<Mapping> {
    let mut mappings = ask.fixed.clone();
    mappings.extend(plan::expand(grants, &ask.pod_addresses));
    mappings.sort_unstable();
    if on_host(owner, netns) {
        for mapping in &mut mappings {
            mapping.target = None;
        }
    }
    mappings
}

/// Decides who gets what. What the container's other networks map already is taken out of `ask`;
/// `None` where nothing is left to do then.
///
/// # Errors
/// Whatever an ADD is refused for before it asks the kernel.
pub(super) fn decide(
    scene: &Scene<'_>,
    ask: &mut Ask,
    log: &mut dyn Log,
) -> Result<Option<Plan>, Error> {
    let Scene { shared, gathered, now, .. } = *scene;
    let (netns, boot_id) = scene.place()?;
    let before = shared.map_or(Ok(None), |shared| shared.record(&Key::of(&ask.holder)));
    let what = || format!("what {} holds", ask.holder);
    let before = before.map_err(|source| Error::Unreadable { what: what(), source })?;
    let (owner, missing) = owner(ask);
    if let Some(missing) = missing.filter(|_| scene.is_real) {
        return Err(Error::NoNamespace(missing));
    }
    let holders = holders_of(shared, &ask.fixed)?;
    for sibling in leave_to_siblings(&holders, &owner, &mut ask.fixed) {
        let (claimant, sibling) = (ask.holder.clone(), Box::new(sibling.clone()));
        log.note(Event::LeftToSibling { claimant, sibling });
    }
    if ask.is_empty() && before.is_none() {
        return Ok(None);
    }
    if ask.pod_addresses.is_empty() && !on_host(&owner, netns) {
        log.note(Event::NoAddress(Box::new(owner.clone())));
    }
    let chooser = Chooser::new(scene, ask, &owner, before.as_ref())?;
    plan::permit(ask, chooser.chosen_already()?)?;
    let mut giving_way = superseded(&owner, holders, &ask.fixed)?;
    chooser.find_listeners()?;
    let granted = chooser.choose()?;
    let mappings = mappings(ask, &owner, &granted.grants, netns);
    if !granted.grants.is_empty() {
        giving_way = superseded(&owner, holders_of(shared, &mappings)?, &mappings)?;
    }
    let wanted = Record {
        owner,
        pod_addresses: ask.pod_addresses.clone(),
        policy: ask.policy.clone(),
        mappings,
        grants: granted.grants,
        dialects: ask.dialects.clone(),
        advertised: gathered.advertised.clone(),
        offload: gathered.offload.clone(),
        created: before.as_ref().map_or(now, |before| before.created),
        boot_id: boot_id.to_owned(),
    };
    warn_of_portmap(&gathered.portmap, &wanted, log);
    Ok(Some(Plan { before, giving_way, wanted, cursors: granted.cursors }))
}

/// Says which host ports portmap translates too: its rules come first, so they never get here.
fn warn_of_portmap(portmap: &Portmap, wanted: &Record, log: &mut dyn Log) {
    for host in hosts_of(&wanted.mappings) {
        let Some(chain) = portmap.chain_of(&host) else { continue };
        let (owner, chain) = (Box::new(wanted.owner.clone()), chain.clone());
        log.note(Event::MappedByPortmap { host, owner, chain });
    }
}

fn holders_of(shared: Option<&Shared>, wanted: &[Mapping]) -> Result<Vec<Held>, Error> {
    shared.map_or(Ok(Vec::new()), |shared| Ok(shared.holders(&hosts_of(wanted))?))
}

pub(super) fn hosts_of(mappings: &[Mapping]) -> Vec<HostPort> {
    mappings.iter().map(|mapping| mapping.host).collect()
}

/// Takes out of `wanted` what another network of the same container maps to the same container port
/// already; gives those who do. `holders` are all who hold something of it.
///
/// podman and nerdctl ask for a container's host ports in each of its networks. A host port leads to
/// one address, and either network's will do: the first has it.
pub(super) fn leave_to_siblings<'a>(
    holders: &'a [Held],
    claimant: &Owner,
    wanted: &mut Vec<Mapping>,
) -> Vec<&'a Owner> {
    let mut siblings = Vec::new();
    for holder in holders {
        let Who::Record(record) = &holder.who else { continue };
        if standing(claimant, &holder.who) != Standing::Sibling {
            continue;
        }
        let before = wanted.len();
        wanted.retain(|wanted| {
            let serves = |held: &Mapping| {
                (held.host, held.container_port) == (wanted.host, wanted.container_port)
            };
            !record.mappings.iter().any(serves)
        });
        if wanted.len() < before {
            siblings.push(&record.owner);
        }
    }
    siblings
}

/// Those of `holders` who hold a wanted port and give way, and why.
///
/// # Errors
/// [`Error::Taken`], [`Error::Unreadable`] for the first who does not.
fn superseded(
    claimant: &Owner,
    holders: Vec<Held>,
    wanted: &[Mapping],
) -> Result<Vec<(Record, &'static str)>, Error> {
    let hosts = hosts_of(wanted);
    let mut superseded = Vec::new();
    for holder in holders {
        let mut overlaps = holder.hosts.iter().filter_map(|held| {
            hosts.iter().find(|host| host.overlaps(held)).map(|wanted| (*wanted, *held))
        });
        // What was left to a sibling is not wanted any more.
        let Some((wanted_host, held)) = overlaps.next() else { continue };
        let standing = standing(claimant, &holder.who);
        match (holder.who, standing) {
            (Who::Record(_), Standing::Same) => {}
            (Who::Record(record), Standing::Superseded(reason)) => {
                superseded.push((*record, reason));
            }
            (who, _) => return Err(refused(wanted_host, held, who)),
        }
    }
    Ok(superseded)
}

/// Why `wanted` cannot be had of a holder who keeps `held`.
pub(super) fn refused(wanted: HostPort, held: HostPort, holder: Who) -> Error {
    let holder = match holder {
        Who::Record(record) => record.owner.to_string(),
        Who::Reservation(reservation) => reservation.to_string(),
        Who::Unreadable(source) => {
            return Error::Unreadable { what: format!("host port {wanted}"), source };
        }
    };
    Error::Taken { wanted, held, holder }
}

/// What brings the table to what `wanted` asks for, in place of what the records `going` have there. A port
/// that another holder has taken over since stays with that one.
pub(super) fn change<'a>(
    shared: Option<&Shared>,
    wanted: &Record,
    going: impl IntoIterator<Item = &'a Record>,
) -> Result<Change, Error> {
    let mut change = Change {
        wanted: elements_of(wanted, &wanted.mappings).map(|e| (e.place(), e)).collect(),
        is_new: true,
        ..Change::default()
    };
    for record in going {
        change.is_new = false;
        let places = |shared: &Shared| table::places(shared, record, &shared.owned(record)?);
        change.released.append(&mut shared.map_or(Ok(BTreeSet::new()), places)?);
    }
    if !change.wanted.is_empty() {
        change.chains = chains_of(wanted);
    }
    Ok(change)
}
