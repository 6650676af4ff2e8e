//! Time as it passes for the node, and whether it passed for this process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// An agent whose heart did not beat for so long gives the lead up before it writes or answers anything.
pub(super) const STALL: Duration = Duration::from_secs(1);

/// An agent answers for a leader whose heart did not beat for so long. Longer than [`STALL`], so that not
/// both answer; shorter than the 2 s for which the runtime waits for a leader that is stopped.
pub(super) const STOPPED: Duration = Duration::from_millis(1500);

/// A point in time: nanoseconds of `CLOCK_BOOTTIME`, which all processes of the node share and which does
/// not stop while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// How long ago that was; nothing for a time to come.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the time; tests have their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    pub fn new(tell: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The time of the node.
    pub fn of_node() -> Self {
        Self::new(|| {
            // Linux has had this clock since 2.6.39; without it every heartbeat would be at zero, and stale.
            let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
            Instant(time.map_or(0, |time| time.as_nanos() as u64))
        })
    }

    pub fn now(&self) -> Instant {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Clock")
    }
}

/// The last beat of this process, and how often it has lost its role. Both threads know it: the one that
/// writes to the store must not go on with what it began before the process was stopped.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    last: AtomicU64,
    lost: AtomicU64,
}

/// A role at one moment, for [`Pulse::has_still`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role(u64);

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self(Arc::new(Beats { last: AtomicU64::new(now.0), lost: AtomicU64::new(0) }))
    }

    pub(super) fn beat(&self, now: Instant) {
        self.0.last.store(now.0, Ordering::SeqCst);
    }

    /// Notes that the role is lost, before the files of the state directory tell.
    pub fn lose(&self) {
        self.0.lost.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn is_stalled(&self, now: Instant, limit: Duration) -> bool {
        now.since(Instant(self.0.last.load(Ordering::SeqCst))) > limit
    }

    /// The role that it has now.
    pub fn role(&self) -> Role {
        Role(self.0.lost.load(Ordering::SeqCst))
    }

    /// Whether the role was not lost since, and the process has run all the time.
    pub fn has_still(&self, role: Role, now: Instant) -> bool {
        self.role() == role && !self.is_stalled(now, STALL)
    }
}
