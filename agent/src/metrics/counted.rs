//! What is counted, under the names of docs/agent.md.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use autoport::store::Deed;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Begins all names.
const PREFIX: &str = "autoport_agent";

/// The bounds of the histogram: an answer usually takes less than a millisecond, and is due in a second.
const SECONDS: [f64; 11] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// What became of an event of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// For a reason of one word.
    Rejected(&'static str),
}

/// What became of the host ports of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    Assigned,
    Rejected,
    Released,
    /// They could not be released, and are still held.
    Kept,
}

impl Allocation {
    const ALL: [Self; 4] = [Self::Assigned, Self::Rejected, Self::Released, Self::Kept];

    const fn labels(self, is_on_host: bool) -> Labels<2> {
        let network = if is_on_host { "host" } else { "pod" };
        let result = match self {
            Self::Assigned => "assigned",
            Self::Rejected => "rejected",
            Self::Released => "released",
            Self::Kept => "kept",
        };
        [("network", network), ("result", result)]
    }
}

/// How the table was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// As a whole.
    Built,
    /// Where it differed.
    Mended,
    Failed,
}

impl Repair {
    const ALL: [Self; 3] = [Self::Built, Self::Mended, Self::Failed];

    const fn labels(self) -> Labels<1> {
        let kind = match self {
            Self::Built => "built",
            Self::Mended => "mended",
            Self::Failed => "failed",
        };
        [("kind", kind)]
    }
}

/// What became of a write to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Written,
    /// The object does not exist any more, or is another one of its name.
    Gone,
    /// By the API server, which is asked again later.
    Rejected,
    /// The API server has not answered, or has too much to do.
    Failed,
}

impl Write {
    const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Gone => "gone",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }
}

/// How many numbers of a range are held in a protocol, and how many may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub range: String,
    pub protocol: String,
    pub held: usize,
    pub free: usize,
}

/// The counters. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    registry: Registry,
    connected: Gauge,
    leader: Gauge,
    requests: Family<Labels<2>, Counter>,
    seconds: Family<Labels<1>, Histogram>,
    rejections: Family<Labels<1>, Counter>,
    injected: Counter,
    uninjected: Counter,
    replaced: Counter,
    allocations: Family<Labels<2>, Counter>,
    repairs: Family<Labels<1>, Counter>,
    plugin: Family<[(&'static str, String); 2], Counter>,
    lock_waits: Counter,
    taken: Counter,
    ports: Family<Vec<(&'static str, String)>, Gauge>,
    capacity: Family<[(&'static str, String); 1], Gauge>,
    unrequested: Family<[(&'static str, String); 1], Gauge>,
    writes: Family<Labels<2>, Counter>,
    waiting: Family<[(&'static str, &'static str); 1], Gauge>,
    slices: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = || Histogram::new(SECONDS);
        let mut counted = Counted {
            registry: Registry::with_prefix(PREFIX),
            connected: Gauge::default(),
            leader: Gauge::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram as fn() -> Histogram),
            rejections: Family::default(),
            injected: Counter::default(),
            uninjected: Counter::default(),
            replaced: Counter::default(),
            allocations: Family::default(),
            repairs: Family::default(),
            plugin: Family::default(),
            lock_waits: Counter::default(),
            taken: Counter::default(),
            ports: Family::default(),
            capacity: Family::default(),
            unrequested: Family::default(),
            writes: Family::default(),
            waiting: Family::default(),
            slices: Gauge::default(),
        };
        counted.register();
        // A counter that appears with its first event has no rate before the second one.
        for allocation in Allocation::ALL {
            drop(counted.allocations.get_or_create(&allocation.labels(true)));
        }
        for repair in Repair::ALL {
            drop(counted.repairs.get_or_create(&repair.labels()));
        }
        Self(Arc::new(counted))
    }
}

impl Counted {
    fn register(&mut self) {
        let Self { registry, connected, leader, requests, seconds, .. } = self;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the agent", version);
        registry.register(
            "nri_connected",
            "Whether the agent is connected to the runtime and synchronized",
            connected.clone(),
        );
        registry.register("leader", "Whether this agent answers the runtime", leader.clone());
        registry.register("nri_requests", "Events of the runtime", requests.clone());
        registry.register(
            "nri_request_seconds",
            "Time from an event of the runtime to the answer",
            seconds.clone(),
        );
        registry.register(
            "rejections",
            "Events that were rejected, by reason",
            self.rejections.clone(),
        );
        registry.register(
            "injected_containers",
            "Containers that were given the variables of their host ports",
            self.injected.clone(),
        );
        registry.register(
            "uninjected_containers",
            "Containers that were found running without the variables of their host ports",
            self.uninjected.clone(),
        );
        registry.register(
            "replaced_variables",
            "Variables of containers that autoport replaced because they had one of its names",
            self.replaced.clone(),
        );
        registry.register(
            "allocations",
            "Assignments and releases of host ports by the agent",
            self.allocations.clone(),
        );
        let repairs = "Times that the nftables table was restored";
        registry.register("repairs", repairs, self.repairs.clone());
        let plugin =
            "Commands that the plugin rejected, by code, and records that it replaced and repaired";
        registry.register("plugin_events", plugin, self.plugin.clone());
        let waits = "Times that another process had the lock of the state directory";
        registry.register("store_lock_waits", waits, self.lock_waits.clone());
        let taken = "Processes found listening on the port of a Pod on the host network";
        registry.register("ports_taken", taken, self.taken.clone());
        registry.register(
            "ports",
            "Host ports of each range, as the leader last counted them",
            self.ports.clone(),
        );
        self.register_cluster();
    }

    /// What is about Kubernetes.
    fn register_cluster(&mut self) {
        let registry = &mut self.registry;
        let capacity = "Host ports offered to the scheduler, for Pods that request the resource";
        registry.register("capacity_ports", capacity, self.capacity.clone());
        let unrequested = "Host ports held by Pods that do not request the resource";
        registry.register("unrequested_ports", unrequested, self.unrequested.clone());
        let writes = "Writes to the API server about the host ports of Pods";
        registry.register("api_writes", writes, self.writes.clone());
        let waiting = "Pods whose host ports are still to be written to the API server";
        registry.register("api_writes_waiting", waiting, self.waiting.clone());
        let slices = "EndpointSlices of Pods of this node";
        registry.register("endpoint_slices", slices, self.slices.clone());
    }
}

impl Metrics {
    /// All of it, in the text format of `OpenMetrics`.
    ///
    /// # Errors
    /// Never: a `String` takes everything.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    pub fn set_connected(&self, connected: bool) {
        self.0.connected.set(connected.into());
    }

    pub fn set_leader(&self, leads: bool) {
        self.0.leader.set(leads.into());
        if !leads {
            // Another agent counts them from now on.
            self.0.ports.clear();
        }
    }

    pub fn leads(&self) -> bool {
        self.0.leader.get() != 0
    }

    /// An event, named as the runtime names it, that took so long.
    pub fn request(&self, method: &'static str, outcome: Outcome, took: Duration) {
        let result = match outcome {
            Outcome::Answered => "answered",
            Outcome::Rejected(reason) => {
                self.0.rejections.get_or_create(&[("reason", reason)]).inc();
                "rejected"
            }
        };
        self.0.requests.get_or_create(&[("method", method), ("result", result)]).inc();
        self.0.seconds.get_or_create(&[("method", method)]).observe(took.as_secs_f64());
    }

    /// A container was given its variables, which replaced so many of its own.
    pub fn injected(&self, replaced: usize) {
        self.0.injected.inc();
        self.0.replaced.inc_by(replaced as u64);
    }

    pub fn uninjected(&self) {
        self.0.uninjected.inc();
    }

    pub fn allocation(&self, allocation: Allocation, is_on_host: bool) {
        self.0.allocations.get_or_create(&allocation.labels(is_on_host)).inc();
    }

    pub fn repair(&self, repair: Repair) {
        self.0.repairs.get_or_create(&repair.labels()).inc();
    }

    /// The plugin did something. Counted by the leader.
    pub fn plugin(&self, deed: Deed, code: u32) {
        if !self.leads() {
            return;
        }
        let labels = [("kind", deed.to_string()), ("code", code.to_string())];
        self.0.plugin.get_or_create(&labels).inc();
    }

    pub fn waits_for_lock(&self) {
        self.0.lock_waits.inc();
    }

    /// A process listens on the port of a pod that it is not in.
    pub fn port_taken(&self) {
        self.0.taken.inc();
    }

    /// What there is of each resource, and what Pods hold of it without having asked, in place of what was known
    /// before.
    pub fn capacity(&self, all: &BTreeMap<String, (usize, usize)>) {
        let (capacity, unrequested) = (&self.0.capacity, &self.0.unrequested);
        capacity.clear();
        unrequested.clear();
        for (resource, (there, held)) in all {
            let labels = [("resource", resource.clone())];
            capacity.get_or_create(&labels).set(*there as i64);
            unrequested.get_or_create(&labels).set(*held as i64);
        }
    }

    /// A write to the API server about this kind of object.
    pub fn write(&self, object: &'static str, outcome: Write) {
        self.0.writes.get_or_create(&[("object", object), ("result", outcome.name())]).inc();
    }

    /// Of so many Pods this kind of object is to be written.
    pub fn writes_waiting(&self, object: &'static str, pods: usize) {
        self.0.waiting.get_or_create(&[("object", object)]).set(pods as i64);
    }

    /// So many slices of Pods of this node there are.
    pub fn endpoint_slices(&self, slices: usize) {
        self.0.slices.set(slices as i64);
    }

    /// What is used of all ranges, in place of what was known before.
    pub fn usage(&self, all: Vec<Usage>) {
        let ports = &self.0.ports;
        ports.clear();
        for Usage { range, protocol, held, free } in all {
            for (state, numbers) in [("held", held), ("free", free)] {
                let state = state.to_owned();
                let labels = [("range", range.clone()), ("protocol", protocol.clone())];
                let labels = labels.into_iter().chain([("state", state)]).collect();
                ports.get_or_create(&labels).set(numbers as i64);
            }
        }
    }
}

#[cfg(test)]
mod tests;
