//! ADD: record, then kernel, then what the kernel needs besides the table.

use std::collections::BTreeSet;
use std::time::Duration;

use super::loopback::{self, Opening};
use super::past::Past;
use super::prepare::{self, Plan, Scene};
use super::{choose, del, end_flows, everything, failed};
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::kernel::{self, Nft, Redirected};
use crate::model::{Ask, Mapping, Record};
use crate::plan;
use crate::ruleset::{Key, Set, Traffic};
use crate::store::{self, Locked, Store};

/// Takes the host ports that `ask` asks for and maps them. Gives what is held then; `None` where nothing
/// is asked for, or the container's other networks serve all of it.
///
/// # Errors
/// Why the ports cannot be had; nothing is changed then. [`kernel::Error::Unanswered`]: it is not known
/// whether they are mapped, and the record holds them until [`super::release`].
pub fn claim(
    store: &Store,
    patience: Duration,
    mut ask: Ask,
    now: u64,
    log: &mut dyn Log,
) -> Result<Option<Record>, Error> {
    if ask.is_empty() {
        return Ok(None);
    }
    let locked = store.lock(patience, log)?;
    let claimed = under_lock(&locked, &mut ask, now, log);
    let mut unlocked = locked.unlock();
    let uid = claimed.as_ref().ok().and_then(|held| held.as_ref()?.owner.uid());
    let published = match uid {
        Some(uid) => unlocked.publish(uid, patience, &kernel::outward_addresses, log),
        None => Ok(()),
    };
    super::publish_rest(unlocked, log);
    claimed.and_then(|held| Ok(published.map(|()| held)?)).map_err(Error::with_process)
}

fn under_lock(
    locked: &Locked,
    ask: &mut Ask,
    now: u64,
    log: &mut dyn Log,
) -> Result<Option<Record>, Error> {
    locked.belongs_here()?;
    let instance = locked.instance();
    // First, so that a kernel without netlink leaves nothing recorded.
    let mut nft = Nft::open(&instance.id)?;
    let scene = Scene {
        past: Past(Some(locked)),
        portmap: &nft.portmap()?,
        netns: instance.netns,
        boot_id: &instance.boot_id,
        now,
        aside: &|key| locked.put_aside(key),
    };
    let Some(plan) = prepare::prepare(&scene, ask, log)? else { return Ok(None) };
    let Plan { owner, before, giving_way, wanted, cursors } = plan;
    for (record, reason) in giving_way {
        let (claimant, holder) = (Box::new(owner.clone()), Box::new(record.owner.clone()));
        log.note(Event::Superseded { claimant, holder, reason });
        del::remove(locked, &record, now, log)?;
    }
    let opening =
        loopback::towards(Some(locked), &wanted, &ask.host_interfaces, &ask.guard_except)?;
    let transfer = Transfer::new(locked, before, wanted, opening)?;
    let new = match transfer.record().and_then(|()| transfer.apply(&mut nft, log)) {
        Ok(new) => new,
        Err(error) => {
            if !matches!(error, Error::Kernel(kernel::Error::Unanswered)) {
                transfer.take_back(log);
            }
            return Err(error);
        }
    };
    // While the record still tells a DEL which flows there may be.
    end_flows(&mut nft, &Redirected { gone: transfer.gone(), new, pods_stay: true }, log);
    transfer.settle()?;
    let opened = transfer.opening.as_ref().map_or(Ok(()), Opening::open);
    let finished = opened.and_then(|()| choose::move_cursors(locked, ask, &cursors));
    if let Err(error) = finished {
        if transfer.before.is_none()
            && let Err(left) = del::remove(locked, &transfer.wanted, now, log)
        {
            failed(log, Undone::MappingLeft, left);
        }
        return Err(error);
    }
    Ok(Some(transfer.wanted))
}

/// One attachment's host ports on their way from what it held to what it wants.
struct Transfer<'a> {
    locked: &'a Locked,
    before: Option<Record>,
    wanted: Record,
    /// Where the elements are of what it held.
    released: BTreeSet<(Set, Key)>,
    /// The interface by which the node's own processes reach it.
    opening: Option<Opening>,
}

impl<'a> Transfer<'a> {
    fn new(
        locked: &'a Locked,
        before: Option<Record>,
        wanted: Record,
        opening: Option<Opening>,
    ) -> Result<Self, Error> {
        let mut released = BTreeSet::new();
        if let Some(before) = &before {
            released = prepare::released(locked, before)?;
        }
        Ok(Self { locked, before, wanted, released, opening })
    }

    fn before_mappings(&self) -> &[Mapping] {
        self.before.as_ref().map_or(&[], |before| &before.mappings)
    }

    /// Records what is held from before this change until after it.
    fn record(&self) -> Result<(), Error> {
        let mappings = plan::union(self.before_mappings(), &self.wanted.mappings);
        Ok(self.locked.save(&Record { mappings, ..self.wanted.clone() })?)
    }

    /// Changes the table, and says what it translates only now.
    fn apply(&self, nft: &mut Nft, log: &mut dyn Log) -> Result<Vec<Traffic>, Error> {
        let wanted = &self.wanted;
        let mut change = prepare::change(wanted, self.released.clone());
        if change.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(opening) = &self.opening {
            opening.note(self.locked, &mut change)?;
        }
        let own = [store::Key::of(&wanted.owner.holder)];
        let mut applied =
            nft.apply(&change, || everything::ruleset(self.locked, &own, Some(wanted), log))?;
        let mut new = std::mem::take(&mut applied.restored);
        if applied.counts.added > 0 {
            new.push(Traffic::of(wanted, wanted.mappings.clone()));
        }
        if let Some(error) = super::report(applied, log) {
            failed(log, Undone::StillMapped, error);
        }
        Ok(new)
    }

    /// Records what is held now that the change is made.
    fn settle(&self) -> Result<(), Error> {
        let held = plan::union(self.before_mappings(), &self.wanted.mappings);
        if held != self.wanted.mappings {
            self.locked.save(&self.wanted)?;
        }
        Ok(())
    }

    /// What is no longer translated.
    fn gone(&self) -> Vec<Traffic> {
        let gone = |old: &&Mapping| self.wanted.mappings.binary_search(old).is_err();
        let gone = |before: &Record| {
            let mappings = before.mappings.iter().filter(gone).copied().collect();
            Traffic::of(before, mappings)
        };
        self.before.iter().map(gone).collect()
    }

    /// Records what was held before the change that was not made.
    fn take_back(&self, log: &mut dyn Log) {
        if let Err(error) = self.locked.take_back(&self.wanted, self.before.as_ref()) {
            failed(log, Undone::RecordAhead, error);
        }
    }
}
