//! `repair --watch`: restores the table whenever another program has damaged it.
//!
//! It sleeps until the kernel reports a transaction of another program that touched our table, waits
//! until the burst is over, and does what GC does with the table: compare it with the records and
//! write what differs. It never writes to the store, so the shared lock is enough: a command that holds
//! the lock exclusively has finished its own change before the look.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::{end_flows, reconcile};
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::kernel::{self, Events, Nft, Redirected, Woken};
use crate::store::{self, Store};

/// A burst of changes is over when this long nothing concerned us.
const QUIET: Duration = Duration::from_millis(5);
/// So long a burst is waited for at most.
const BURST: Duration = Duration::from_millis(50);

/// The pause after a look. It doubles with each look that restored something, so that a program which
/// damages the table again and again cannot keep the node busy, and is short again after [`CALM`]
/// without one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(600);
const CALM: Duration = Duration::from_secs(10);

/// So long after a look, unless another is due, its memory is given back. Longer than any pause: where damage is
/// done again and again, it is needed again.
const REST: Duration = Duration::from_secs(1);

/// When a watch looks: so long after the change, or not at all for now.
type Turn<'a> = dyn Fn() -> Option<Duration> + 'a;

/// How often a watch that stands by looks whether it is its turn.
const STEP: u16 = 500;

/// Restores the table of the store at `store` until `stop` is ready. It leaves another watch of the node the time
/// that `turn` says to come first: two at once would take the processors from each other. While `turn` says nothing,
/// the other watch is known to be there, and this one does not even listen, which would take the kernel's time.
///
/// # Errors
/// When the kernel does not tell about changes. Everything else is noted in `log`, and looked at
/// again when there is reason to.
pub fn watch(
    store: &Store,
    stop: BorrowedFd<'_>,
    turn: &Turn<'_>,
    log: &mut dyn Log,
) -> Result<(), Error> {
    // Before the first look, so that nothing falls between.
    let mut events = Events::open()?;
    let store = &store.clone().recalling();
    let mut pace = Pace::default();
    let mut told = None;
    loop {
        let looked = look(store, &mut events, log);
        // What failed is not tried without pause either.
        pace.looked(Instant::now(), *looked.as_ref().unwrap_or(&true));
        let failed = looked.err();
        // What stays as it is, is said once.
        let text = failed.as_ref().map(ToString::to_string);
        let again = failed.as_ref().is_some_and(may_pass);
        if let Some(error) = failed.filter(|_| told.as_ref() != Some(&text)) {
            super::failed(log, Undone::NotRestored, error);
        }
        if told.is_none() {
            log.note(Event::Watching { state_dir: store.dir().to_owned() });
        }
        told = Some(text);
        let woken = if again { Woken::Changed } else { rest(&mut events, stop, turn)? };
        let quiet = QUIET.max(turn().unwrap_or_default());
        if woken == Woken::Stopped || outlast(&mut events, stop, quiet, &pace)? == Woken::Stopped {
            return Ok(());
        }
    }
}

/// Waits until another program has changed the table, and it is the turn of this watch.
fn rest(
    events: &mut Events,
    stop: BorrowedFd<'_>,
    turn: &Turn<'_>,
) -> Result<Woken, kernel::Error> {
    let mut patience = Some(REST);
    loop {
        match events.wait(stop, patience)? {
            Woken::Elapsed => kernel::give_back_memory(),
            woken @ (Woken::Changed | Woken::Stopped) => return Ok(woken),
        }
        if turn().is_none() && events.without(|| (stand_by(stop, turn), None))? {
            return Ok(Woken::Stopped);
        }
        // Who may get or lose its turn looks now and then.
        patience = Some(REST).filter(|_| turn() != Some(Duration::ZERO));
    }
}

/// Waits until it is the turn of this watch; says whether it was stopped before.
fn stand_by(stop: BorrowedFd<'_>, turn: &Turn<'_>) -> bool {
    let mut stopped = [PollFd::new(stop, PollFlags::POLLIN)];
    while turn().is_none() {
        if poll(&mut stopped, STEP).is_ok_and(|ready| ready > 0) {
            return true;
        }
    }
    false
}

/// Waits until the burst is over that has just begun, so that it is `quiet`, and the pause after the last look.
fn outlast(
    events: &mut Events,
    stop: BorrowedFd<'_>,
    quiet: Duration,
    pace: &Pace,
) -> Result<Woken, kernel::Error> {
    let begun = Instant::now();
    loop {
        let pause = pace.left(Instant::now());
        match events.wait(stop, Some(pause.max(quiet)))? {
            Woken::Changed if begun.elapsed() < BURST || !pause.is_zero() => {}
            woken @ (Woken::Changed | Woken::Elapsed | Woken::Stopped) => return Ok(woken),
        }
    }
}

/// Compares the table with the records and restores it; returns whether that was necessary. Nothing is
/// restored for a store that does not exist: its first ADD builds the table.
fn look(store: &Store, events: &mut Events, log: &mut dyn Log) -> Result<bool, Error> {
    let Some(shared) = store.read(log)? else {
        return reconcile::delete_old_table(log).map(|()| false);
    };
    shared.belongs_here()?;
    let mut nft = Nft::open(&shared.instance().id)?;
    let applied = events.without(|| {
        let applied = reconcile::reconcile(&shared, &mut nft, log);
        let generation = applied.as_ref().ok().and_then(|applied| applied.generation);
        (applied, generation)
    })??;
    drop(shared);
    end_flows(&mut nft, &Redirected { new: applied.restored, ..Redirected::default() }, log);
    Ok(applied.rebuilt.is_some() || !applied.mended.is_empty())
}

/// Whether the same may work in a while although nobody changes the table.
const fn may_pass(error: &Error) -> bool {
    use kernel::Error::{NewerLayout, OtherInstance};
    matches!(error, Error::Store(store::Error::LockTaken { .. }))
        || matches!(error, Error::Kernel(error)
            if !matches!(error, OtherInstance { .. } | NewerLayout { .. }))
}

/// When the next look is due at the earliest.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    /// When something was restored last.
    restored: Option<Instant>,
    pause: Duration,
}

impl Pace {
    /// Takes note of a look that ended at `now` and restored something or not.
    fn looked(&mut self, now: Instant, restored: bool) {
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        if since(self.restored).is_none_or(|since| since > CALM) {
            self.pause = SHORTEST_PAUSE;
        } else if restored {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        if restored {
            self.restored = Some(now);
        }
        self.last = Some(now);
    }

    /// How much of the pause is left at `now`.
    fn left(&self, now: Instant) -> Duration {
        let since = self.last.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        self.pause.saturating_sub(since)
    }
}

#[cfg(test)]
mod tests;
