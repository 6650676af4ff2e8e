//! The phases of a command that changes something. What takes time by what others do (listeners,
//! connection tracking, published files, processes) is gathered before the lock is taken or done after it
//! was released; under the lock there is only what decides, records and commits.

use std::time::Duration;

use super::{end_flows, failed, reconcile, report, table, tolerate};
use crate::error::Error;
use crate::event::{Log, Silent, Undone};
use crate::kernel::{self, Applied, Change, Nft, Redirected};
use crate::model::{Attachment, HostPort, Mapping, Owner, Record};
use crate::ruleset::{Offload, Traffic};
use crate::store::{self, Key, Leaving, Locked, Unlocked};

/// A command that has the lock, with what is left to do when the lock is free.
pub(super) struct UnderLock<'a> {
    pub(super) locked: &'a Locked,
    /// Seconds since the epoch.
    pub(super) now: u64,
    pub(super) log: &'a mut dyn Log,
    nft: Option<Nft>,
    /// Whose flows end: of pods that leave with what is translated only now, and of pods that stay.
    redirected: [Redirected; 2],
    /// What is only kept for its flows.
    leaving: Vec<Leaving>,
    /// The pod whose published files matter to the command, by UID.
    uid: Option<String>,
    /// Whether the published files of pods without a record go.
    clears: bool,
}

/// What came of a command.
pub(super) struct Finished<T> {
    pub(super) done: Result<T, Error>,
    /// Whether the published files that matter to it could be written, or deleted.
    pub(super) published: Result<(), Error>,
}

/// Does `work` under the lock, and what that leaves after it; `nft` is a socket that is there already.
pub(super) fn with<T>(
    locked: Locked,
    nft: Option<Nft>,
    now: u64,
    log: &mut dyn Log,
    work: impl FnOnce(&mut UnderLock<'_>) -> Result<T, Error>,
) -> Finished<T> {
    let nft = nft.map(|nft| nft.of(&locked.instance().id));
    let mut command = UnderLock {
        locked: &locked,
        now,
        log: &mut *log,
        nft,
        redirected: Default::default(),
        leaving: Vec::new(),
        uid: None,
        clears: false,
    };
    let done = work(&mut command);
    let UnderLock { mut nft, redirected, leaving, uid, clears, .. } = command;
    let mut unlocked = locked.unlock();
    let mut again = false;
    if let Some(nft) = &mut nft {
        for change in &redirected {
            again |= end_flows(nft, change, log);
        }
    }
    for one in leaving.iter().filter(|_| !again) {
        tolerate(unlocked.forget(one), Undone::NotCollected, log);
    }
    let published = match &uid {
        Some(uid) => unlocked.publish(uid, PATIENCE, log).map_err(Error::from),
        None if clears => clear_published(&unlocked, log),
        None => Ok(()),
    };
    // A container may have made anything of its directory, and no command fails for that of another pod.
    for error in unlocked.publish_rest(PATIENCE, log) {
        failed(log, Undone::PublicationLeft, error);
    }
    Finished { done, published }
}

impl UnderLock<'_> {
    /// The way to the kernel, opened when it is first needed.
    pub(super) fn nft(&mut self) -> Result<&mut Nft, Error> {
        open(&mut self.nft, self.locked)
    }

    /// Removes the elements that carry the names of the container and its interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn withdraw_by_name(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let Self { locked, nft, log, .. } = self;
        let mappings = withdraw_by_name(open(nft, locked)?, attachment, *log)?;
        self.end_flows(Traffic { mappings, ..Traffic::default() });
        Ok(())
    }

    /// Makes the table equal to the records.
    ///
    /// # Errors
    /// When the store or the kernel refuses, or something that was released may still be there.
    pub(super) fn reconcile(&mut self) -> Result<(), Error> {
        let Self { locked, nft, log, .. } = self;
        let mut applied = reconcile::reconcile(locked, open(nft, locked)?, *log)?;
        self.restored(&mut applied);
        Ok(())
    }

    /// Ends the flows of what a pod that leaves had, when the lock is free.
    pub(super) fn end_flows(&mut self, gone: Traffic) {
        self.redirected[0].gone.push(gone);
    }

    /// Forgets a record whose flows end thus, when they have.
    pub(super) fn retire(&mut self, record: &Record) -> Result<(), Error> {
        let leaving = self.locked.retire(record)?;
        self.leaving.push(leaving);
        Ok(())
    }

    /// Ends the flows of what `listed` lists, which this command or one that was killed has left. Their
    /// containers may be there again. A failure is noted, and keeps the command from nothing.
    pub(super) fn finish(
        &mut self,
        listed: impl FnOnce(&Locked) -> Result<Vec<Leaving>, store::Error>,
    ) {
        let Self { locked, nft, redirected: [_, of_pods_that_stay], .. } = self;
        let finished = listed(locked).map_err(Error::from).and_then(|leaving| {
            if leaving.is_empty() {
                return Ok(());
            }
            open(nft, locked)?;
            let gone =
                leaving.iter().map(|one| Traffic::of(&one.record, one.record.mappings.clone()));
            of_pods_that_stay.gone.extend(gone);
            of_pods_that_stay.pods_stay = true;
            self.leaving.extend(leaving);
            Ok(())
        });
        tolerate(finished, Undone::StaleFlows, self.log);
    }

    /// The same for all containers, and has the published files of pods without a record deleted when the lock
    /// is free: [`Finished`] says what came of that.
    pub(super) fn finish_all(&mut self) {
        self.clears = true;
        self.finish(|locked| locked.all_leaving());
    }

    /// Ends the flows that began before what `applied` has restored was translated.
    pub(super) fn restored(&mut self, applied: &mut Applied) {
        self.redirected[0].new.append(&mut applied.restored);
    }

    /// Has established connections to the pod of `wanted` offloaded, as its record says, and no longer those to what
    /// only `before` has. That they are not fails no command: they take the usual way.
    pub(super) fn offload(&mut self, wanted: &Record, before: Option<&Record>) {
        let more = Offload::of(wanted);
        let mut less = before.map_or_else(Offload::default, Offload::of);
        less.elements.retain(|place, _| !more.elements.contains_key(place));
        if !less.is_empty() {
            self.unoffload(&Offload { devices: [].into(), ..less });
        }
        if more.is_empty() {
            return;
        }
        let Self { locked, nft, log, .. } = self;
        let everything = || Ok(table::ruleset(locked, &[], None, &mut Silent)?.offload);
        let offloaded = open(nft, locked).and_then(|nft| nft.offload(&more, everything));
        tolerate(offloaded, Undone::NotOffloaded, *log);
    }

    /// Has new connections to what is in `less` offloaded no longer.
    pub(super) fn unoffload(&mut self, less: &Offload) {
        if !less.is_empty() {
            let unoffloaded = self.nft().and_then(|nft| Ok(nft.unoffload(less)?));
            tolerate(unoffloaded, Undone::StillOffloaded, self.log);
        }
    }

    /// Has the published files of this owner's pod written when the lock is free, and says in
    /// [`Finished`] what came of it.
    pub(super) fn publish(&mut self, owner: &Owner) {
        self.uid = owner.uid().map(str::to_owned);
    }

    /// Makes `change` true, and builds the table again where it is damaged: from the records but those of
    /// `without`, and with `instead`. Gives what was released and certainly no client has used, or why
    /// something may still be there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn apply(
        &mut self,
        change: &Change,
        without: &[Key],
        instead: Option<&Record>,
    ) -> Result<Result<Vec<HostPort>, Error>, Error> {
        let Self { locked, nft, log, redirected, .. } = self;
        let everything = || table::ruleset(locked, without, instead, *log);
        let mut applied = open(nft, locked)?.apply(change, everything)?;
        let new = &mut redirected[0].new;
        new.append(&mut applied.restored);
        if let Some(wanted) = instead.filter(|_| applied.added > 0) {
            new.push(Traffic::of(wanted, wanted.mappings.clone()));
        }
        let unused = std::mem::take(&mut applied.unused);
        Ok(report(&mut applied, *log).map(|()| unused))
    }
}

fn open<'a>(nft: &'a mut Option<Nft>, locked: &Locked) -> Result<&'a mut Nft, Error> {
    let open = match nft.take() {
        Some(open) => open,
        None => Nft::open(&locked.instance().id)?,
    };
    Ok(nft.insert(open))
}

/// Removes the elements that carry the names of the container and its interface, whatever the network is
/// called and whosever the table is; gives what they mapped.
pub(super) fn withdraw_by_name(
    nft: &mut Nft,
    attachment: &Attachment,
    log: &mut dyn Log,
) -> Result<Vec<Mapping>, Error> {
    match nft.withdraw_container(attachment.container_id(), attachment.ifname()) {
        Err(error @ kernel::Error::NewerLayout { .. }) => {
            failed(log, Undone::NothingRemoved, error);
            Ok(Vec::new())
        }
        done => Ok(done?),
    }
}

/// How long is waited for a pod's directory, in which a command may be held up by its containers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Deletes the published files of pods that have no record. Gives the first failure and notes the others.
fn clear_published(unlocked: &Unlocked, log: &mut dyn Log) -> Result<(), Error> {
    let mut failures = unlocked.clear_published(PATIENCE, log)?.into_iter();
    let first = failures.next();
    for error in failures {
        failed(log, Undone::PublicationLeft, error);
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}
