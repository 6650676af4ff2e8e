//! Keeps the `EndpointSlices` of the node's Pods as they should be. Nothing on the node waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::time::sleep;

use super::desk::Desk;
use super::publish::delay;
use crate::cluster::{Failure, Reason, Warnings, Writer};
use crate::discovery::{self, Wanted};
use crate::metrics::{Metrics, Write};
use crate::status::Facts;

/// The pause after each request: at most 20 in a second.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it waits for a change.
const STEP: Duration = Duration::from_secs(1);

/// Every Pod with a Service is looked at this often, also without a change.
const ANYWAY: Duration = Duration::from_secs(30);

/// So long a Service counts as it was found, if it permits slices: each agent with such Pods asks for it.
const PERMITTED: Duration = Duration::from_mins(2);

/// The same if it does not.
const REFUSED: Duration = Duration::from_secs(20);

/// The pause after a failure of the API server, doubled each time: least and most.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The slices of a Pod on the API server, by name.
type Slices = BTreeMap<String, EndpointSlice>;

pub(super) struct Discoverer {
    desk: Rc<Desk>,
    metrics: Metrics,
    writer: Writer,
    warnings: Warnings,
    /// No more slices are made on this node.
    most: usize,
    /// By namespace and name: whether the Service permits slices, and when that was found.
    services: BTreeMap<(String, String), (Result<(), String>, Instant)>,
    /// By the UID of the Pod.
    written: BTreeMap<String, Slices>,
    /// What was told of a Pod.
    told: BTreeMap<String, String>,
    looked: Option<Instant>,
    /// The Pods whose slices the API server has rejected at the last look.
    rejected: BTreeSet<String>,
    /// Since when this agent leads.
    leads_since: Instant,
    /// The pause after the last failure, and the failure that the log has.
    away: (Instant, Duration),
    failed: String,
}

impl Discoverer {
    pub(super) fn new(
        desk: Rc<Desk>,
        metrics: Metrics,
        writer: Writer,
        warnings: Warnings,
        most: usize,
    ) -> Self {
        Self {
            desk,
            metrics,
            writer,
            warnings,
            most,
            services: BTreeMap::new(),
            written: BTreeMap::new(),
            told: BTreeMap::new(),
            looked: None,
            rejected: BTreeSet::new(),
            leads_since: Instant::now(),
            away: (Instant::now(), AWAY.0),
            failed: String::new(),
        }
    }

    /// Works for ever, while this agent leads.
    pub(super) async fn run(mut self) {
        loop {
            self.turn().await;
            let slices = self.written.values().map(BTreeMap::len).sum();
            self.metrics.endpoint_slices(slices);
            self.desk.slices.wait(STEP).await;
            sleep(self.away.0.saturating_duration_since(Instant::now())).await;
        }
    }

    async fn turn(&mut self) {
        if !self.metrics.leads() {
            self.written.clear();
            self.looked = None;
            self.rejected.clear();
            self.leads_since = Instant::now();
            return self.metrics.writes_waiting("endpointslice", 0);
        }
        let mut uids = self.desk.slices.take();
        if self.looked.is_none_or(|at| at.elapsed() >= ANYWAY) {
            uids.extend(self.desk.with_service());
            uids.extend(self.written.keys().cloned());
            self.looked = Some(Instant::now());
        }
        while let Some(uid) = uids.pop_first() {
            self.rejected.remove(&uid);
            let waiting = uids.len() + 1 + self.rejected.len();
            self.metrics.writes_waiting("endpointslice", waiting);
            let done = self.keep(&uid).await;
            if let Err(Failure::Passing(reason)) = &done {
                self.metrics.write("endpointslice", Write::Failed);
                self.tell(reason);
                delay(&mut self.away, AWAY.1);
                uids.insert(uid);
                return self.desk.slices.put_back(uids);
            }
            match done {
                // What is left of it is found at the next look.
                Err(Failure::Gone(reason)) => {
                    self.written.remove(&uid);
                    self.metrics.write("endpointslice", Write::Gone);
                    self.tell(&reason);
                }
                Err(Failure::Rejected(reason) | Failure::Passing(reason)) => {
                    self.metrics.write("endpointslice", Write::Rejected);
                    self.tell(&reason);
                    self.rejected.insert(uid);
                }
                Ok(()) => self.away.1 = AWAY.0,
            }
        }
        self.metrics.writes_waiting("endpointslice", self.rejected.len());
    }

    /// The same failure over and over is one line.
    fn tell(&mut self, reason: &str) {
        if self.failed != reason {
            tracing::warn!(
                "cannot write the EndpointSlices of the node's Pods: {reason}; trying again"
            );
            reason.clone_into(&mut self.failed);
        }
    }

    /// Has the slices of one Pod as they should be.
    async fn keep(&mut self, uid: &str) -> Result<(), Failure> {
        // Of a Pod that does not exist any more they are deleted by Kubernetes.
        let Some(facts) = self.desk.facts(uid) else {
            self.written.remove(uid);
            self.told.remove(uid);
            return Ok(());
        };
        let service = match &facts.service {
            Some(Ok(service)) => service,
            other => {
                let wrong = "its value is not the name of a Service".to_owned();
                self.warn(&facts, other.is_some().then_some(wrong));
                return self.write(&facts, Vec::new()).await.map(drop);
            }
        };
        // Of a new Pod there are none: asking for them would be two thirds of its requests.
        if !self.written.contains_key(uid) {
            let is_new = self.desk.is_new(uid, self.leads_since);
            let found = if is_new { Slices::new() } else { self.find(&facts, service).await? };
            self.written.insert(uid.to_owned(), found);
        }
        let node = self.writer.node().to_owned();
        let held = self.desk.held(uid).filter(|_| !facts.has_ended);
        let wanted = held.map(|held| discovery::slices(&facts, &held, service, &node));
        let Some(Wanted { slices, problem }) = wanted else {
            return self.write(&facts, Vec::new()).await.map(drop);
        };
        let permitted = self.permitted(&facts, service).await?;
        let refused = permitted.err().map(|reason| format!("it gets no EndpointSlice: {reason}"));
        let others = self.written.iter().filter(|(one, _)| *one != uid).map(|(_, all)| all.len());
        let is_full = others.sum::<usize>() + slices.len() > self.most;
        let full = || format!("it gets no EndpointSlice: this node has {} already", self.most);
        let refused = refused.or(is_full.then(full));
        let slices = if refused.is_some() { Vec::new() } else { slices };
        let clash = self.write(&facts, slices).await?;
        self.warn(&facts, refused.or(clash).or(problem));
        Ok(())
    }

    /// Whether the Service permits slices, as it was a short time ago.
    async fn permitted(
        &mut self,
        facts: &Facts,
        service: &str,
    ) -> Result<Result<(), String>, Failure> {
        let key = (facts.pod.namespace.clone(), service.to_owned());
        self.services.retain(|_, (permitted, at)| {
            at.elapsed() < if permitted.is_ok() { PERMITTED } else { REFUSED }
        });
        if let Some((permitted, _)) = self.services.get(&key) {
            return Ok(permitted.clone());
        }
        let found = self.writer.service(&key.0, service).await?;
        sleep(PAUSE).await;
        let permitted = discovery::permits(found.as_ref(), service);
        self.services.insert(key, (permitted.clone(), Instant::now()));
        Ok(permitted)
    }

    /// The slices that an earlier agent has made for the Pod.
    async fn find(&mut self, facts: &Facts, service: &str) -> Result<Slices, Failure> {
        let mut found = Slices::new();
        for name in discovery::names(facts, service) {
            let slice = self.writer.slice(&facts.pod.namespace, &name).await?;
            sleep(PAUSE).await;
            found
                .extend(slice.filter(|slice| discovery::is_its(slice, facts)).map(|it| (name, it)));
        }
        Ok(found)
    }

    /// Makes the API server have these slices of the Pod, and no others. Gives why it does not have one of them.
    async fn write(
        &mut self,
        facts: &Facts,
        wanted: Vec<EndpointSlice>,
    ) -> Result<Option<String>, Failure> {
        let (uid, namespace) = (&facts.pod.uid, &facts.pod.namespace);
        let mut there = self.written.get(uid).cloned().unwrap_or_default();
        let mut clash = None;
        for slice in wanted {
            let name = slice.metadata.name.clone().unwrap_or_default();
            let before = there.remove(&name);
            if before.as_ref().is_some_and(|before| discovery::is_like(before, &slice)) {
                continue;
            }
            let written = match before {
                Some(_) => self.writer.patch_slice(namespace, &slice).await?,
                None => match self.writer.create_slice(namespace, &slice).await {
                    Err(Failure::Gone(reason)) => {
                        let Some(written) = self.replace(facts, &slice).await? else {
                            clash = Some(format!("it gets no EndpointSlice {name}: {reason}"));
                            continue;
                        };
                        written
                    }
                    created => created?,
                },
            };
            self.metrics.write("endpointslice", Write::Written);
            self.written.entry(uid.clone()).or_default().insert(name, written);
            sleep(PAUSE).await;
        }
        for name in there.into_keys() {
            match self.writer.delete_slice(namespace, &name).await {
                Ok(()) | Err(Failure::Gone(_)) => {}
                Err(failure) => return Err(failure),
            }
            self.metrics.write("endpointslice", Write::Written);
            if let Some(all) = self.written.get_mut(uid) {
                all.remove(&name);
            }
            sleep(PAUSE).await;
        }
        if clash.is_some() {
            // It may be its own, made by a request whose answer was lost: the next look finds it.
            self.written.remove(uid);
        }
        Ok(clash)
    }

    /// Makes a slice that was there like this one, if it is the Pod's: made by an earlier agent, or by a request whose
    /// answer was lost.
    async fn replace(
        &mut self,
        facts: &Facts,
        slice: &EndpointSlice,
    ) -> Result<Option<EndpointSlice>, Failure> {
        let (namespace, name) = (&facts.pod.namespace, slice.metadata.name.as_deref());
        let found = self.writer.slice(namespace, name.unwrap_or_default()).await?;
        if !found.is_some_and(|found| discovery::is_its(&found, facts)) {
            return Ok(None);
        }
        self.writer.patch_slice(namespace, slice).await.map(Some)
    }

    /// Tells of a problem of the Pod, once.
    fn warn(&mut self, facts: &Facts, problem: Option<String>) {
        let uid = &facts.pod.uid;
        let Some(problem) = problem else {
            self.told.remove(uid);
            return;
        };
        if self.told.get(uid) != Some(&problem) {
            let (namespace, pod) = (&facts.pod.namespace, &facts.pod.name);
            tracing::warn!(namespace, pod, "EndpointsNotCreated: {problem}");
            let text = format!("the Pod has the annotation autoport.cni/service, but {problem}");
            self.warnings.warn(facts.pod.clone(), Reason::EndpointsNotCreated, text);
            self.told.insert(uid.clone(), problem);
        }
    }
}
