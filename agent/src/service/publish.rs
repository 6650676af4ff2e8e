//! Writes to the API server which host ports the Pods of the node have. Nothing on the node waits for it; of each Pod
//! the newest state counts, found out just before it is written.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use autoport::app;
use autoport::publication::Publication;
use autoport::store::Store;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::time::sleep;

use super::desk::Desk;
use super::traced::Traced;
use crate::cluster::{Failure, Writer};
use crate::metrics::{Metrics, Write};

/// The pause after each write: at most 20 in a second.
const PAUSE: Duration = Duration::from_millis(50);

/// Where nothing changes, it is looked so often whether the records have.
const STEP: Duration = Duration::from_secs(1);

/// What asks for ports is looked at this often, also without a change that could be seen.
const ANYWAY: Duration = Duration::from_secs(30);

/// How long the lock of the store is waited for. Commands wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(250);

/// The pause after a failure of the API server, doubled each time: least and most.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The same after it has rejected the change of a Pod.
const REJECTED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));

/// When records came and went.
type Version = [Option<SystemTime>; 2];

pub(super) struct Publisher {
    desk: Rc<Desk>,
    store: Store,
    metrics: Metrics,
    writer: Writer,
    /// The records as they were at the last look.
    version: Option<Version>,
    /// When all were looked at, and when those without ports were.
    looked: (Option<Instant>, Option<Instant>),
    queue: BTreeMap<String, Job>,
    /// No write before this time, and the next pause.
    away: (Instant, Duration),
    /// The failure that the log has.
    told: String,
}

/// A Pod that is to be written.
struct Job {
    /// Not before this time, and the next pause.
    next: (Instant, Duration),
}

impl Publisher {
    pub(super) fn new(desk: Rc<Desk>, store: Store, metrics: Metrics, writer: Writer) -> Self {
        Self {
            desk,
            store: store.waiting(PATIENCE),
            metrics,
            writer,
            version: None,
            looked: (None, None),
            queue: BTreeMap::new(),
            away: (Instant::now(), AWAY.0),
            told: String::new(),
        }
    }

    /// Writes for ever, while this agent leads.
    pub(super) async fn run(mut self) {
        loop {
            self.look();
            self.metrics.writes_waiting("pod", self.queue.len());
            let now = Instant::now();
            let is_due = |(_, job): &(&String, &Job)| job.next.0 <= now;
            let due = self.queue.iter().filter(is_due).min_by_key(|(_, job)| job.next.0);
            match due.map(|(uid, _)| uid.clone()).filter(|_| self.away.0 <= now) {
                Some(uid) => {
                    self.write(&uid).await;
                    sleep(PAUSE).await;
                }
                None => self.desk.changed.wait(STEP).await,
            }
        }
    }

    /// Looks which Pods have to be written.
    fn look(&mut self) {
        if !self.metrics.leads() {
            // The agent that leads looks at all of them.
            self.queue.clear();
            self.looked = (None, None);
            drop(self.desk.changed.take());
            return;
        }
        let mut uids = self.desk.changed.take();
        let is_over = |last: Option<Instant>, pause| last.is_none_or(|at| at.elapsed() >= pause);
        if is_over(self.looked.0, ANYWAY) {
            uids.extend(self.desk.asking(false));
            self.looked = (Some(Instant::now()), Some(Instant::now()));
        } else if is_over(self.looked.1, STEP) {
            let changed = |name: &str| self.store.dir().join(name).metadata()?.modified();
            let version = ["attachments", "hostpods"].map(|name| changed(name).ok());
            if self.version.replace(version) != Some(version) {
                uids.extend(self.desk.asking(true));
            }
            self.looked.1 = Some(Instant::now());
        }
        while let Some(uid) = uids.pop_first() {
            let Ok(held) = self.held(&uid) else {
                // The lock is taken: later.
                uids.insert(uid);
                return self.desk.changed.put_back(uids);
            };
            self.desk.hold(&uid, held);
            let now = Time(Timestamp::now());
            if self.desk.patch(&uid, self.writer.node(), &now).is_some() {
                let first = || Job { next: (Instant::now(), REJECTED.0) };
                self.queue.entry(uid).or_insert_with(first);
            } else {
                self.queue.remove(&uid);
            }
        }
    }

    /// What the Pod holds that the node has chosen for it.
    fn held(&self, uid: &str) -> Result<Option<Publication>, autoport::error::Error> {
        let records = app::records_of_pod(&self.store, uid, &mut Traced(&self.metrics));
        Ok(Publication::of(&records?))
    }

    async fn write(&mut self, uid: &str) {
        let now = Time(Timestamp::now());
        let Some((namespace, name, patch)) = self.desk.patch(uid, self.writer.node(), &now) else {
            self.queue.remove(uid);
            return;
        };
        let written = self.writer.patch_status(&namespace, &name, &patch).await;
        let node = self.writer.node();
        let written = written.and_then(|pod| {
            self.desk.note(&pod);
            let left = self.desk.patch(uid, node, &now);
            let is_dropped = left.is_some_and(|(_, _, left)| left == patch);
            let dropped = "the API server has taken the change and dropped it";
            if is_dropped { Err(Failure::Rejected(dropped.to_owned())) } else { Ok(()) }
        });
        let (outcome, reason) = match written {
            Ok(()) => {
                self.queue.remove(uid);
                self.away.1 = AWAY.0;
                self.told.clear();
                (Write::Written, None)
            }
            // If it is still there, the next look finds it.
            Err(Failure::Gone(_)) => {
                self.queue.remove(uid);
                (Write::Gone, None)
            }
            Err(Failure::Rejected(reason)) => {
                if let Some(job) = self.queue.get_mut(uid) {
                    delay(&mut job.next, REJECTED.1);
                }
                (Write::Rejected, Some(reason))
            }
            Err(Failure::Passing(reason)) => {
                delay(&mut self.away, AWAY.1);
                (Write::Failed, Some(reason))
            }
        };
        self.metrics.write("pod", outcome);
        // The same failure over and over is one line.
        if let Some(reason) = reason.filter(|reason| self.told != *reason) {
            tracing::warn!(
                namespace,
                pod = name,
                "cannot write the status of the Pod: {reason}; trying again"
            );
            self.told = reason;
        }
    }
}

/// Sets the next time, never the same for two nodes, and doubles the pause.
pub(super) fn delay((next, pause): &mut (Instant, Duration), most: Duration) {
    *next = Instant::now() + pause.mul_f64(0.5 + fastrand::f64());
    *pause = (*pause * 2).min(most);
}
