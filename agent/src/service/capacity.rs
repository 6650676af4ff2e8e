//! What the node has for Pods, as this agent sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use autoport::app;
use autoport::store::Store;

use super::traced::Traced;
use crate::capacity::{Capacity, Wanted, count};
use crate::config::Plugin;
use crate::metrics::{Health, Metrics};

/// Devices are healthy again only after this time: each change is a write of kubelet to the API server.
const CALM: Duration = Duration::from_secs(2);

/// After a count, the next one comes this much later, if something has changed.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the lock of the store is waited for. Kubelet is not answered meanwhile.
const PATIENCE: Duration = Duration::from_millis(250);

/// Counted is also without a change that could be seen: of the configuration, say.
const ANYWAY: Duration = Duration::from_secs(30);

pub(super) struct Look {
    pub(super) store: Store,
    pub(super) plugin: Plugin,
    pub(super) metrics: Metrics,
    pub(super) health: Arc<Health>,
    /// What the specs of the node's Pods say.
    pub(super) wanted: Arc<Mutex<Wanted>>,
    /// Since when the agent is synchronized with the runtime.
    pub(super) ready: Option<Instant>,
    /// What was counted last.
    pub(super) counted: Option<Counted>,
}

pub(super) struct Counted {
    at: Instant,
    of: Version,
    ports: BTreeMap<String, usize>,
}

/// What the count depends on: when records came and went, and how often the specs have changed.
type Version = ([Option<SystemTime>; 3], u64);

impl Look {
    pub(super) fn capacity(&mut self) -> Capacity {
        let now = Instant::now();
        let is_ready = self.health.ready().is_ok();
        self.ready = self.ready.or(Some(now)).filter(|_| is_ready);
        let leads = self.metrics.leads();
        if !leads {
            self.counted = None;
            self.metrics.capacity(&BTreeMap::new());
            return Capacity::default();
        }
        let version = self.version();
        let is_due = self.counted.as_ref().is_none_or(|last| {
            let pause = if last.of == version { ANYWAY } else { PAUSE };
            last.at.elapsed() >= pause
        });
        if is_due {
            self.recount(now, version);
        }
        let ports = self.counted.as_ref().map(|last| last.ports.clone()).unwrap_or_default();
        let healthy = self.ready.is_some_and(|since| now - since >= CALM);
        Capacity { leads, healthy, ports }
    }

    fn version(&self) -> Version {
        let changed = |name: &str| self.store.dir().join(name).metadata()?.modified();
        let all = ["attachments", "hostpods", "reservations"].map(|name| changed(name).ok());
        (all, self.wanted.lock().unwrap_or_else(PoisonError::into_inner).changes())
    }

    /// Counts, if store and configuration can be read; what was counted before stays otherwise.
    fn recount(&mut self, now: Instant, version: Version) {
        let Ok(config) = self.plugin.read() else { return };
        let store = self.store.clone().waiting(PATIENCE);
        let Ok(listing) = app::list(&store, &mut Traced(&self.metrics)) else { return };
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = count(&config.ports, &listing.unwrap_or_default(), &wanted);
        drop(wanted);
        self.metrics.capacity(&counts);
        let ports = counts.into_iter().map(|(resource, (there, _))| (resource, there)).collect();
        self.counted = Some(Counted { at: now, of: version, ports });
    }
}
