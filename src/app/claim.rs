//! A claim: gathered without the lock; decided, recorded and committed under it; finished after it.

use super::decide::{self, Plan};
use super::gather::{Gathered, Scene};
use super::loopback::{self, Opening};
use super::phases::{self, Finished, UnderLock};
use super::{release, tolerate};
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::kernel::{self, Change, Nft};
use crate::model::{Ask, Mapping, Record};
use crate::plan;
use crate::store::{self, Store};

/// The result of a claim.
#[derive(Debug)]
pub struct Claimed {
    /// The record after it.
    pub record: Record,
    /// The record before it.
    before: Option<Record>,
}

/// Takes the host ports that `ask` asks for and maps them. `None` where nothing is asked for, or the
/// container's other networks serve all of it. `is_awaited` says whether anyone still waits for them: it is
/// asked under the lock, for which a claim may have waited long.
///
/// # Errors
/// Why the ports cannot be had; nothing is changed then. [`kernel::Error::Unanswered`]: it is not known
/// whether they are mapped, and the record holds them until [`super::release()`].
pub fn claim(
    store: &Store,
    mut ask: Ask,
    is_awaited: &dyn Fn() -> bool,
    now: u64,
    log: &mut dyn Log,
) -> Result<Option<Claimed>, Error> {
    if ask.is_empty() {
        return Ok(None);
    }
    // First, so that a kernel without netlink leaves nothing recorded.
    let mut nft = Nft::open("")?;
    let gathered = Gathered::of(&ask, Some(&mut nft))?;
    let locked = store.lock(log)?;
    let Finished { done, published } = phases::with(locked, Some(nft), now, log, |command| {
        grant(command, &mut ask, &gathered, is_awaited)
    });
    let Some(claimed) = done.map_err(Error::with_process)? else { return Ok(None) };
    if let Err(error) = published {
        tolerate(undo(store, &claimed, &|| true, now, log), Undone::MappingLeft, log);
        return Err(error);
    }
    Ok(Some(claimed))
}

/// Takes back what a claim got, for a pod that was not told of it, unless the record has changed since.
/// `is_wanted` is as for [`super::release()`].
///
/// # Errors
/// When the store or the kernel refuses.
pub fn undo(
    store: &Store,
    claimed: &Claimed,
    is_wanted: &dyn Fn() -> bool,
    now: u64,
    log: &mut dyn Log,
) -> Result<(), Error> {
    let undone = phases::with(store.lock(log)?, None, now, log, |command| {
        let key = store::Key::of(&claimed.record.owner.holder);
        match command.locked.record(&key) {
            Ok(Some(record))
                if claimed.before.is_none() && record == claimed.record && is_wanted() =>
            {
                release::remove(command, &record)
            }
            _ => Ok(()),
        }
    });
    undone.done
}

fn grant(
    command: &mut UnderLock<'_>,
    ask: &mut Ask,
    gathered: &Gathered,
    is_awaited: &dyn Fn() -> bool,
) -> Result<Option<Claimed>, Error> {
    let locked = command.locked;
    locked.belongs_here()?;
    let scene = Scene { shared: Some(locked), is_real: true, gathered, now: command.now };
    let Some(plan) = decide::decide(&scene, ask, command.log)? else { return Ok(None) };
    let Plan { before, giving_way, wanted, cursors } = plan;
    if !is_awaited() {
        return Err(Error::NotAwaited);
    }
    for (record, reason) in giving_way {
        let (claimant, holder) = (Box::new(wanted.owner.clone()), Box::new(record.owner.clone()));
        command.log.note(Event::Superseded { claimant, holder, reason });
        release::remove(command, &record)?;
    }
    let opening = loopback::towards(Some(locked), &wanted, ask, gathered.towards.as_deref())?;
    let change = decide::change(Some(locked), &wanted, &before)?;
    // What is held from before this change until after it.
    let mappings = before.as_ref().map_or(&[][..], |before| &before.mappings);
    let held = Record { mappings: plan::union(mappings, &wanted.mappings), ..wanted.clone() };
    if let Some(container_id) = wanted.owner.container_id() {
        // Before the container has a directory: mostly it has nothing there.
        command.finish(|locked| locked.leaving(container_id));
    }
    let recorded = locked.save(&held).map_err(Error::from);
    if let Err(error) = recorded.and_then(|()| apply(command, change, opening.as_ref(), &wanted)) {
        if !matches!(error, Error::Kernel(kernel::Error::Unanswered)) {
            let taken_back = locked.take_back(&wanted, before.as_ref());
            tolerate(taken_back, Undone::RecordAhead, command.log);
        }
        return Err(error);
    }
    command.offload(&wanted, before.as_ref());
    let given_up = before.as_ref().map_or(Ok(()), |before| give_up(command, before, &wanted));
    let opened = given_up.and_then(|()| opening.as_ref().map_or(Ok(()), Opening::open));
    // Where the next choices begin.
    let mut cursors = cursors.iter();
    let mut set =
        || cursors.try_for_each(|(range, port)| locked.set_cursor(range.as_deref(), *port));
    if let Err(error) = opened.and_then(|()| Ok(set()?)) {
        if before.is_none() {
            tolerate(release::remove(command, &wanted), Undone::MappingLeft, command.log);
        }
        return Err(error);
    }
    command.publish(&wanted.owner);
    Ok(Some(Claimed { record: wanted, before }))
}

/// Brings the table to what `wanted` asks for, and guards the interface by which the node's own processes
/// reach its pod.
fn apply(
    command: &mut UnderLock<'_>,
    mut change: Change,
    opening: Option<&Opening>,
    wanted: &Record,
) -> Result<(), Error> {
    if change.is_empty() {
        return Ok(());
    }
    if let Some(opening) = opening {
        opening.note(command.locked, &mut change)?;
    }
    let own = store::Key::of(&wanted.owner.holder);
    let applied = command.apply(&change, &[own], Some(wanted))?;
    tolerate(applied.map(drop), Undone::StillMapped, command.log);
    Ok(())
}

/// Records only what is held now, and what is no longer translated as leaving.
fn give_up(command: &mut UnderLock<'_>, before: &Record, wanted: &Record) -> Result<(), Error> {
    let is_gone = |old: &&Mapping| wanted.mappings.binary_search(old).is_err();
    let gone: Vec<_> = before.mappings.iter().filter(is_gone).copied().collect();
    if gone.is_empty() {
        return Ok(());
    }
    let leaving = command.locked.leave(Record { mappings: gone, ..before.clone() })?;
    command.finish(|_| Ok(vec![leaving]));
    Ok(command.locked.save(wanted)?)
}
