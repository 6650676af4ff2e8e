//! The thread that uses the API server. It follows the node's Pods and writes which ports they declare, for the plugin.
//! Every agent of the node does, leader or not: they write the same, one after the other, and what one of them has
//! written is there when the other has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use autoport::model::Pod;
use autoport::regular;
use autoport::store::{Locked, Ports, Store};
use k8s_openapi::api::core::v1;

use super::desk::Desk;
use super::discover::Discoverer;
use super::gates;
use super::publish::Publisher;
use super::startup::Startup;
use super::traced::Traced;
use crate::capacity::Wanted;
use crate::cluster::{Cluster, Pods, Waiting, Warnings, Writer};
use crate::metrics::Metrics;
use crate::requests::{self, Declared};

/// How long the store's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A file of a Pod that is not known is deleted after this time: the other agent may know more.
const STRANGE: Duration = Duration::from_mins(1);

/// Starts the thread, which ends with the process. With `startup` it also removes the node's taint, and with `slices` it
/// makes so many `EndpointSlices` at most.
pub(super) fn start(
    store: Store,
    cluster: Cluster,
    metrics: Metrics,
    wanted: Arc<Mutex<Wanted>>,
    warnings: Waiting,
    (startup, slices): (Option<Startup>, Option<(usize, Warnings)>),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        let desk = Rc::new(Desk::new(slices.is_some()));
        let writer = Writer::new(cluster.clone());
        let publisher = Publisher::new(desk.clone(), store.clone(), metrics.clone(), writer);
        let gates = gates::watch(desk.clone(), metrics.clone());
        let mut book = Book::new(store, metrics.clone(), wanted, desk.clone());
        // From now on an ADD waits for what is to come, also if the API server is not there yet.
        if let Err(reason) = book.lock().and_then(|locked| names(&locked)) {
            tracing::warn!("cannot use the state directory: {reason}");
        }
        runtime.block_on(async {
            let untaint = async {
                if let Some(startup) = startup {
                    cluster.untaint(|| startup.pending()).await;
                }
            };
            let discover = async {
                if let Some((most, warnings)) = slices {
                    let writer = Writer::new(cluster.clone());
                    Discoverer::new(desk, metrics, writer, warnings, most).run().await;
                }
            };
            let report = cluster.report(warnings);
            let publish = publisher.run();
            tokio::join!(cluster.watch(&mut book), untaint, report, publish, gates, discover);
        });
    };
    thread::Builder::new().name("cluster".to_owned()).spawn(run).map(drop)
}

/// What is written. The specs themselves are not kept.
struct Book {
    store: Store,
    metrics: Metrics,
    known: BTreeMap<String, Known>,
    /// Files of Pods that are not known, each with the time of the first look.
    strange: BTreeMap<String, Instant>,
    /// The Pods that were told of since the list began.
    seen: BTreeSet<String>,
    /// How many host ports the specs ask for.
    wanted: Arc<Mutex<Wanted>>,
    /// For what is written to the API server.
    desk: Rc<Desk>,
}

struct Known {
    pod: Pod,
    /// What was written, and the file as it was then.
    ports: u64,
    file: Option<u64>,
}

impl Book {
    fn new(store: Store, metrics: Metrics, wanted: Arc<Mutex<Wanted>>, desk: Rc<Desk>) -> Self {
        let (store, seen) = (store.waiting(PATIENCE), BTreeSet::new());
        let (known, strange) = (BTreeMap::new(), BTreeMap::new());
        Self { store, metrics, known, strange, seen, wanted, desk }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> Result<Locked, String> {
        self.store
            .lock(&mut Traced(&self.metrics))
            .map_err(|error| autoport::error::in_one_line(&error))
    }

    /// The file of a Pod, in one number.
    fn file(&self, uid: &str) -> Option<u64> {
        let path = self.store.dir().join("requests").join(format!("{uid}.json"));
        regular::read(&path).ok().map(|bytes| hash(&bytes))
    }

    /// Writes what a Pod declares. The lock is taken for each: commands of others wait for it.
    fn write(&mut self, declared: Declared) -> Result<(), String> {
        let Declared { pod, ports } = declared;
        let (uid, written) = (pod.uid.clone(), hash(&ports));
        if let Ports::Rejected(reason) = &ports {
            tracing::warn!("{reason}, so its ADD is rejected");
        }
        let declared = self.lock()?.declare(&pod, Some(ports));
        declared.map_err(|error| autoport::error::in_one_line(&error))?;
        let file = self.file(&uid);
        self.known.insert(uid, Known { pod, ports: written, file });
        Ok(())
    }

    fn forget(&mut self, uid: &str) -> Result<(), String> {
        let Some(known) = self.known.get(uid) else { return Ok(()) };
        let forgotten = self.lock()?.declare(&known.pod, None);
        forgotten.map_err(|error| autoport::error::in_one_line(&error))?;
        self.known.remove(uid);
        Ok(())
    }
}

impl Pods for Book {
    /// What is written is not deleted: the list that follows may be older than it.
    fn begin(&mut self) {
        self.known.clear();
        self.seen.clear();
        self.desk.begin();
    }

    fn changed(&mut self, pod: &v1::Pod) -> Result<(), String> {
        self.desk.note(pod);
        if let Some(known) = requests::identify(pod) {
            self.wanted().note(&known.uid, pod.spec.as_ref());
            self.seen.insert(known.uid);
        }
        let Some(found) = requests::declared(pod) else {
            return requests::identify(pod).map_or(Ok(()), |pod| self.forget(&pod.uid));
        };
        let known = self.known.get(&found.pod.uid);
        if known.is_some_and(|known| known.ports == hash(&found.ports)) {
            return Ok(());
        }
        self.write(found)
    }

    fn deleted(&mut self, pod: &v1::Pod) -> Result<(), String> {
        let Some(pod) = requests::identify(pod) else { return Ok(()) };
        self.wanted().keep(|uid| uid != pod.uid);
        self.desk.keep(|uid| uid != pod.uid);
        self.seen.remove(&pod.uid);
        self.forget(&pod.uid)
    }

    /// Writes again what was damaged or deleted, by having it listed, and deletes what is of no Pod.
    fn check(&mut self) -> Result<(), String> {
        self.wanted().keep(|uid| self.seen.contains(uid));
        self.desk.keep(|uid| self.seen.contains(uid));
        let is_changed =
            |(uid, known): &(&String, &Known)| known.file.is_none() || known.file != self.file(uid);
        if let Some((uid, _)) = self.known.iter().find(is_changed) {
            return Err(format!("requests/{uid}.json was changed by another program"));
        }
        let locked = self.lock()?;
        let names = names(&locked)?;
        let now = Instant::now();
        let others = names.iter().filter_map(|name| name.strip_suffix(".json"));
        let others = others.filter(|uid| !self.known.contains_key(*uid)).map(str::to_owned);
        let since = |uid: String| (uid.clone(), self.strange.get(&uid).copied().unwrap_or(now));
        self.strange = others.map(since).collect();
        for (uid, _) in self.strange.iter().filter(|(_, since)| now - **since >= STRANGE) {
            let (namespace, name) = (String::new(), String::new());
            let deleted = locked.declare(&Pod { namespace, name, uid: uid.clone() }, None);
            deleted.map_err(|error| autoport::error::in_one_line(&error))?;
        }
        Ok(())
    }
}

fn names(locked: &Locked) -> Result<Vec<String>, String> {
    locked.declaring().map_err(|error| autoport::error::in_one_line(&error))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
