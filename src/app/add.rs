//! ADD: record, then kernel, then what the kernel needs besides the table.

use std::collections::BTreeSet;

use super::past::Past;
use super::prepare::{self, Plan, Scene};
use super::{choose, del, everything, failed, forget_flows};
use crate::cni::{Claim, Reply};
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::kernel::{self, Nft, Stale};
use crate::model::{Mapping, Pod, Record};
use crate::plan;
use crate::publication::{self, Entry};
use crate::ruleset::{Key, Set};
use crate::store::{self, Locked};

pub(super) fn add(mut claim: Claim, now: u64, log: &mut dyn Log) -> Result<Reply, Error> {
    if claim.is_empty() {
        return Ok(Reply::Result(claim.result));
    }
    let config = &claim.config.store;
    let locked = super::store(config).lock(config.lock_timeout, log)?;
    locked.belongs_here()?;
    let instance = locked.instance();
    // First, so that a kernel without netlink leaves nothing recorded.
    let mut nft = Nft::open(&instance.id)?;
    let scene = Scene {
        past: Past(Some(&locked)),
        portmap: &nft.portmap()?,
        netns: instance.netns,
        boot_id: &instance.boot_id,
        now,
        aside: &|key| locked.put_aside(key),
    };
    let Some(plan) = prepare::prepare(&scene, &mut claim, log)? else {
        return Ok(Reply::Result(claim.result));
    };
    let Plan { owner, before, giving_way, wanted, cursors } = plan;
    for (record, reason) in giving_way {
        let (claimant, holder) = (Box::new(owner.clone()), Box::new(record.owner.clone()));
        log.note(Event::Superseded { claimant, holder, reason });
        del::remove(&locked, &record, now, log)?;
    }
    let transfer = Transfer::new(&locked, before, wanted)?;
    if let Err(error) = transfer.record().and_then(|()| transfer.apply(&mut nft, log)) {
        if !matches!(error, Error::Kernel(kernel::Error::Unanswered)) {
            transfer.take_back(log);
        }
        return Err(error);
    }
    // While the record still tells a DEL which flows there may be.
    transfer.redirect_flows(&mut nft, log);
    transfer.settle()?;
    let finished = allow_loopback(&locked, &transfer.wanted, &claim.host_interfaces)
        .and_then(|()| choose::move_cursors(&locked, &claim, &cursors))
        .and_then(|()| publish(&locked, &claim, &transfer.wanted));
    if let Err(error) = finished {
        // It can only be done last: the guard must be in force before.
        if transfer.before.is_none()
            && let Err(left) = del::remove(&locked, &transfer.wanted, now, log)
        {
            failed(log, Undone::MappingLeft, left);
        }
        return Err(error);
    }
    Ok(Reply::Result(claim.result))
}

/// Tells the containers of the pod what was chosen for it. A pod that named all its ports knows.
fn publish(locked: &Locked, claim: &Claim, record: &Record) -> Result<(), Error> {
    let attachment = &claim.attachment;
    if let Some((pod, entries)) = entries_of(record) {
        return Ok(locked.publish(pod, attachment, entries)?);
    }
    match record.owner.pod.as_ref().filter(|pod| !pod.uid.is_empty()) {
        // What it published when it had some is true no more.
        Some(pod) => Ok(locked.unpublish(&pod.uid, attachment)?),
        None => Ok(()),
    }
}

/// What is published for the pod of `record`, if anything is.
pub(super) fn entries_of(record: &Record) -> Option<(&Pod, Vec<Entry>)> {
    let pod = record.owner.pod.as_ref().filter(|pod| !pod.uid.is_empty())?;
    if record.grants.is_empty() {
        return None;
    }
    Some((pod, publication::entries_of(record, &kernel::outward_addresses())))
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
            released = prepare::released(locked, before)?;
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

    fn apply(&self, nft: &mut Nft, log: &mut dyn Log) -> Result<(), Error> {
        let wanted = &self.wanted;
        let change = prepare::change(wanted, self.released.clone());
        if change.is_empty() {
            return Ok(());
        }
        let own = [store::Key::of(&wanted.owner.holder)];
        let applied =
            nft.apply(&change, || everything::ruleset(self.locked, &own, Some(wanted), log))?;
        if let Some(error) = super::report(applied, log) {
            failed(log, Undone::StillMapped, error);
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
    fn redirect_flows(&self, nft: &mut Nft, log: &mut dyn Log) {
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
    fn take_back(&self, log: &mut dyn Log) {
        if let Err(error) = self.locked.take_back(&self.wanted, self.before.as_ref()) {
            failed(log, Undone::RecordAhead, error);
        }
    }
}

/// Lets processes of this node reach the pod by 127.0.0.0/8, where the packets are masqueraded.
fn allow_loopback(
    locked: &Locked,
    record: &Record,
    host_interfaces: &[String],
) -> Result<(), Error> {
    let Some(interface) = prepare::closed_to_loopback(record, host_interfaces)? else {
        return Ok(());
    };
    if !interface.is_the_pods {
        locked.note_loopback(&interface.name)?;
    }
    Ok(kernel::allow_loopback(&interface.name)?)
}
