//! ADD: record, then kernel, then what the kernel needs besides the table.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;

use super::choose::{self, Chooser};
use super::{del, everything, forget_flows, note, note_error, siblings};
use crate::cni::{Claim, Reply};
use crate::error::Error;
use crate::kernel::{self, Change, Loopback, Nft, Stale};
use crate::model::{Grant, HostPort, Mapping, Masquerade, Owner, Record};
use crate::plan::{self, Standing};
use crate::publication::{self, Dialect};
use crate::ruleset::{Key, Set, chains_of, elements_of};
use crate::store::{Holder, Instance, Locked, Who};
use crate::{netns, store};

/// Who asks, as the node sees it now.
pub(super) fn owner(claim: &Claim) -> Owner {
    Owner {
        attachment: claim.attachment.clone(),
        pod: claim.pod.clone(),
        netns: netns::observe(&claim.netns),
    }
}

/// Whether the pod is on the node's own network, where it listens on the host port itself.
fn on_host(owner: &Owner, instance: &Instance) -> bool {
    owner.netns.as_ref().is_some_and(|netns| netns.id == instance.netns)
}

/// The record that `claim` asks for, with these grants for its wishes.
pub(super) fn wanted(claim: &Claim, grants: Vec<Grant>, now: u64, instance: &Instance) -> Record {
    let owner = owner(claim);
    let on_host = on_host(&owner, instance);
    let mut mappings = claim.mappings.clone();
    mappings.extend(plan::expand(&grants, &claim.pod_addresses));
    mappings.sort_unstable();
    if on_host {
        for mapping in &mut mappings {
            mapping.target = None;
        }
    }
    Record {
        owner,
        pod_addresses: claim.pod_addresses.clone(),
        policy: claim.config.policy.clone(),
        mappings,
        grants,
        created: now,
        boot_id: instance.boot_id.clone(),
    }
}

pub(super) fn add(mut claim: Claim, now: u64, log: &mut dyn Write) -> Result<Reply, Error> {
    if claim.is_empty() {
        return Ok(Reply::Result(claim.result));
    }
    let config = &claim.config.store;
    let locked = super::store(config).lock(config.lock_timeout, log)?;
    locked.belongs_here()?;
    let before = match locked.load(&claim.attachment) {
        Err(store::Error::Unreadable(source)) => {
            let what = format!("what {} holds", claim.attachment);
            return Err(unreadable(&locked, what, source));
        }
        loaded => loaded?,
    };
    let owner = owner(&claim);
    let holders = locked.holders(&hosts_of(&claim.mappings))?;
    for sibling in siblings::leave(&holders, &owner, &mut claim.mappings) {
        note(log, &format!("{sibling} maps host ports that {} asks for too", claim.attachment));
    }
    if claim.is_empty() && before.is_none() {
        return Ok(Reply::Result(claim.result));
    }
    if claim.pod_addresses.is_empty() && !on_host(&owner, locked.instance()) {
        let ifname = claim.attachment.ifname();
        let why = format!("prevResult has no address of {ifname}, so its host ports lead nowhere");
        note(log, &format!("{why}; autoport goes after the plugin that makes {ifname}"));
    }
    let chooser = Chooser::new(&locked, &claim, &owner, before.as_ref(), now)?;
    chooser.permit()?;
    let mut giving_way = superseded(&locked, &owner, holders, &claim.mappings)?;
    chooser.find_listeners()?;
    let granted = chooser.choose()?;
    let mut wanted = wanted(&claim, granted.grants, now, locked.instance());
    if !wanted.grants.is_empty() {
        let holders = locked.holders(&hosts_of(&wanted.mappings))?;
        giving_way = superseded(&locked, &owner, holders, &wanted.mappings)?;
    }
    if let Some(before) = &before {
        wanted.created = before.created;
    }
    for (record, reason) in giving_way {
        note(log, &format!("{owner} takes the host ports of {} over: {reason}", record.owner));
        del::remove(&locked, &record, now, log)?;
    }
    let transfer = Transfer::new(&locked, before, wanted)?;
    // First, so that a kernel without netlink leaves nothing recorded.
    let mut nft = Nft::open(&locked.instance().id)?;
    if let Err(error) = transfer.record().and_then(|()| transfer.apply(&mut nft, log)) {
        if !matches!(error, Error::Kernel(kernel::Error::Unanswered)) {
            transfer.take_back(log);
        }
        return Err(error);
    }
    // While the record still tells a DEL which flows there may be.
    transfer.redirect_flows(&mut nft, log);
    transfer.settle()?;
    let finished = allow_loopback(&transfer.wanted, &claim.host_interfaces)
        .and_then(|()| choose::move_cursors(&locked, &claim, &granted.cursors))
        .and_then(|()| publish(&locked, &claim, &transfer.wanted));
    if let Err(error) = finished {
        // It can only be done last: the guard must be in force before.
        if transfer.before.is_none() {
            del::remove(&locked, &transfer.wanted, now, log)?;
        }
        return Err(error);
    }
    Ok(Reply::Result(claim.result))
}

/// Tells the containers of the pod what was chosen for it. A pod that named all its ports knows.
fn publish(locked: &Locked, claim: &Claim, record: &Record) -> Result<(), Error> {
    let Some(pod) = record.owner.pod.as_ref().filter(|pod| !pod.uid.is_empty()) else {
        return Ok(());
    };
    if record.grants.is_empty() {
        // What it published when it had some is true no more.
        return Ok(locked.unpublish(&pod.uid, &record.owner.attachment)?);
    }
    let used = [(claim.dialects.kubewharf, Dialect::KubeWharf), (claim.dialects.bcs, Dialect::Bcs)];
    let dialects = used.into_iter().filter_map(|(used, dialect)| used.then_some(dialect)).collect();
    let entries = publication::entries_of(record, &kernel::outward_addresses(), &dialects);
    Ok(locked.publish(pod, &record.owner.attachment, entries)?)
}

pub(super) fn hosts_of(mappings: &[Mapping]) -> Vec<HostPort> {
    mappings.iter().map(|mapping| mapping.host).collect()
}

/// Those of `holders` who hold a wanted port and give way, and why.
///
/// # Errors
/// [`Error::Taken`], [`Error::Unreadable`] for the first who does not.
fn superseded(
    locked: &Locked,
    claimant: &Owner,
    holders: Vec<Holder>,
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
        let record = match holder.who {
            Who::Attachment(record) => record,
            Who::Reservation(reservation) => {
                let holder = reservation.to_string();
                return Err(Error::Taken { wanted: wanted_host, held, holder });
            }
            Who::Unreadable(source) => {
                return Err(unreadable(locked, format!("host port {wanted_host}"), source));
            }
        };
        match plan::standing(claimant, &record.owner, netns::is_gone) {
            Standing::Same => {}
            Standing::Holds | Standing::Sibling => {
                let holder = record.owner.to_string();
                return Err(Error::Taken { wanted: wanted_host, held, holder });
            }
            Standing::Superseded(reason) => superseded.push((*record, reason)),
        }
    }
    Ok(superseded)
}

/// Puts a copy of a record that cannot be read aside, and says so.
fn unreadable(locked: &Locked, what: String, source: store::Unreadable) -> Error {
    Error::Unreadable { what, aside: locked.put_aside(&source.key), source }
}

/// One attachment's host ports on their way from what it held to what it wants.
struct Transfer<'a> {
    locked: &'a Locked,
    before: Option<Record>,
    wanted: Record,
    /// Where the elements are of what it held.
    released: BTreeSet<(Set, Key)>,
}

impl<'a> Transfer<'a> {
    fn new(locked: &'a Locked, before: Option<Record>, wanted: Record) -> Result<Self, Error> {
        let mut released = BTreeSet::new();
        if let Some(before) = &before {
            // What somebody else has taken over since is not its own to give.
            released = super::places(locked, before, &locked.owned(before)?)?;
        }
        Ok(Self { locked, before, wanted, released })
    }

    fn before_mappings(&self) -> &[Mapping] {
        self.before.as_ref().map_or(&[], |before| &before.mappings)
    }

    /// Records what is held from before this change until after it.
    fn record(&self) -> Result<(), Error> {
        let mappings = plan::union(self.before_mappings(), &self.wanted.mappings);
        Ok(self.locked.save(&Record { mappings, ..self.wanted.clone() })?)
    }

    fn apply(&self, nft: &mut Nft, log: &mut dyn Write) -> Result<(), Error> {
        let wanted = &self.wanted;
        let mut change = Change {
            wanted: elements_of(wanted, &wanted.mappings).map(|e| (e.place(), e)).collect(),
            released: self.released.clone(),
            ..Change::default()
        };
        if change.is_empty() {
            return Ok(());
        }
        if !change.wanted.is_empty() {
            change.chains = chains_of(wanted);
        }
        let own = [store::Key::of(&wanted.owner.attachment)];
        let applied =
            nft.apply(&change, || everything::ruleset(self.locked, &own, Some(wanted), log))?;
        if let Some(error) = super::report(applied, log) {
            note_error(log, "a host port that was given up may still be mapped", &error.into());
        }
        Ok(())
    }

    /// Records what is held now that the change is made.
    fn settle(&self) -> Result<(), Error> {
        let held = plan::union(self.before_mappings(), &self.wanted.mappings);
        if held != self.wanted.mappings {
            self.locked.save(&self.wanted)?;
        }
        Ok(())
    }

    /// Ends the UDP flows that still go where they went before.
    fn redirect_flows(&self, nft: &mut Nft, log: &mut dyn Write) {
        let wanted = &self.wanted.mappings;
        if let Some(before) = &self.before {
            let kept = |old: &&Mapping| wanted.binary_search(old).is_ok();
            let gone: Vec<Mapping> =
                before.mappings.iter().filter(|old| !kept(old)).copied().collect();
            forget_flows(nft, &gone, Stale::Target, log);
        }
        forget_flows(nft, wanted, Stale::Elsewhere, log);
    }

    /// Records what was held before the change that was not made.
    fn take_back(&self, log: &mut dyn Write) {
        if let Err(error) = self.locked.take_back(&self.wanted, self.before.as_ref()) {
            note_error(log, "the record may name ports that are not mapped", &error.into());
        }
    }
}

/// Lets processes of this node reach the pod by 127.0.0.0/8, where the packets are masqueraded.
///
/// The interface towards the pod is looked up only if none that an earlier plugin made is set
/// already: on a bridge that is once per boot, with a cable of its own once per pod.
fn allow_loopback(record: &Record, host_interfaces: &[String]) -> Result<(), Error> {
    let masquerades = match record.policy.masquerade {
        Masquerade::Nobody => false,
        Masquerade::Local | Masquerade::Everybody => true,
    };
    let mut pods = record.mappings.iter().filter_map(|mapping| mapping.target).map(|t| t.ip());
    let Some(pod) = pods.find(IpAddr::is_ipv4).filter(|_| masquerades) else {
        return Ok(());
    };
    if host_interfaces.iter().any(|name| Loopback::of(name) == Loopback::Allowed) {
        return Ok(());
    }
    if let Some(interface) = kernel::interface_towards(pod)?
        && Loopback::of(&interface) == Loopback::Refused
    {
        kernel::allow_loopback(&interface)?;
    }
    Ok(())
}
