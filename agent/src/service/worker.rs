//! The one thread that uses store and kernel. It answers events in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use autoport::app::{self, Claimed};
use autoport::error::in_one_line;
use autoport::model::{Holder, NamespaceId, Record};
use autoport::store::Store;
use autoport::{kernel, netns};

use super::bind::Binder;
use super::guarded::{self, Guarding};
use super::injected::{Injected, Seen};
use super::sockets::Check;
use super::task::{Duty, Job, Limits, Needed, Reply, Task};
use super::traced::Traced;
use super::{known, ports, uninjected, usage};
use crate::cluster::Warnings;
use crate::collect::Suspects;
use crate::config::Plugin;
use crate::hostnet::{self, Call, Listed, Sandboxes};
use crate::inject::{self, Known};
use crate::keeper::{Clock, Pulse, Role};
use crate::metrics::Metrics;
use crate::nri::message::{Adjustment, Container, Pod};
use crate::nri::{Answer, Event, Failure, Rejection};

/// How long the locks of the store are waited for where the runtime does not wait. Events wait meanwhile.
const ASIDE: Duration = Duration::from_millis(250);

/// When what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Starts the thread. It ends when the other end of the channel does.
pub(super) fn start(
    store: Store,
    plugin: Plugin,
    clock: Clock,
    pulse: Pulse,
    needs_list: Arc<AtomicBool>,
    metrics: Metrics,
    (checks, warnings, binder): (mpsc::Sender<Check>, Warnings, Binder),
) -> std::io::Result<mpsc::Sender<Task>> {
    let (tasks, received) = mpsc::channel();
    let run = move || {
        let mut worker = Worker {
            store,
            plugin,
            clock,
            pulse,
            own: netns::own().ok(),
            sandboxes: Sandboxes::default(),
            suspects: Suspects::default(),
            injected: Injected::default(),
            led: None,
            needs_list,
            metrics,
            checks,
            warnings,
            guarding: binder.guarding(),
            binder,
        };
        loop {
            let task = match worker.injected.due() {
                None => received.recv().map_err(RecvTimeoutError::from),
                Some(due) => received.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match task {
                Err(RecvTimeoutError::Timeout) => worker.write(),
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(Task::Event(job, duty, role)) => worker.serve(*job, &duty, role),
                Ok(Task::Lead(role)) => {
                    worker.led = Some(role);
                    worker.guard_as_configured(role);
                    worker.examine();
                    worker.injected.write_at(Some(Instant::now()));
                }
                Ok(Task::Unguard(_done)) => worker.guard(None, worker.pulse.role()),
                Ok(Task::Waits(reply)) => drop(reply.send(worker.needed())),
                Ok(Task::Look(role, listed)) => {
                    worker.look(role, listed);
                    kernel::give_back_memory();
                }
            }
        }
    };
    thread::Builder::new().name("store".to_owned()).spawn(run)?;
    Ok(tasks)
}

struct Worker {
    store: Store,
    plugin: Plugin,
    clock: Clock,
    pulse: Pulse,
    /// The node's network namespace.
    own: Option<NamespaceId>,
    sandboxes: Sandboxes,
    suspects: Suspects,
    injected: Injected,
    /// The role in which this agent leads, unless it was lost since.
    led: Option<Role>,
    /// Whether a holder's pod may end without an event.
    needs_list: Arc<AtomicBool>,
    metrics: Metrics,
    /// To the thread that looks for other processes on the ports.
    checks: mpsc::Sender<Check>,
    warnings: Warnings,
    binder: Binder,
    guarding: Guarding,
}

impl Worker {
    fn serve(&mut self, job: Job, duty: &Duty, role: Role) {
        let Job { event, asks, until, reply } = job;
        let led = (*duty == Duty::Answer).then_some(role);
        let is_over = self.note(&event);
        if let Event::Synchronized { pods, containers } = event {
            // The runtime waits for this alone; what follows takes time for each pod.
            let _ = reply.send(Reply { answer: Ok(Answer::Done), led });
            let seen = if led.is_some() { Seen::RunningUnreported } else { Seen::Running };
            self.injected.synchronize(pods, containers, seen, self.store.containers());
            self.examine();
            if led.is_some() {
                self.guard_as_configured(role);
            }
            return;
        }
        if reply.is_closed() {
            // It was answered when it was due: a pod that asks was rejected.
            self.miss(&event, asks);
            return;
        }
        let is_fresh = self.injected.next().is_none();
        let (pulse, clock) = (self.pulse.clone(), self.clock.clone());
        let leads = || pulse.has_still(role, clock.now());
        let is_awaited = || !reply.is_closed() && leads();
        let store = self.store.clone().by(until);
        let limits = Limits { store, asks, role, is_awaited: &is_awaited, leads: &leads };
        let (answer, claimed) = self.answer(&event, is_over, duty, &limits);
        if answer.is_err() {
            self.forget(&event);
        }
        let variables = match &answer {
            Ok(Answer::Adjust(adjustment)) => adjustment.env.len(),
            Ok(Answer::Done) | Err(_) => 0,
        };
        let is_late = reply.send(Reply { answer, led }).is_err();
        if is_late {
            self.miss(&event, asks);
        } else if let (Event::CreateContainer { pod, container }, 1..) = (&event, variables) {
            self.injected.told(pod, container, variables, now());
        }
        if is_fresh {
            self.examine();
        }
        if is_late && asks {
            let store = self.aside();
            let mut call = Call { store: &store, now: now(), log: &mut Traced(&self.metrics) };
            if let (Event::RunPodSandbox(pod), Some(claimed)) = (&event, claimed) {
                ports::undo(pod, &claimed, &leads, &mut call);
            }
        }
    }

    /// Notes which sandboxes there are; also where another agent answers. Gives whether the pod has ended.
    fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::Synchronized { pods, containers } => {
                self.sandboxes.synchronize(pods.iter().map(|pod| (&*pod.uid, &*pod.id)));
                self.suspects.forget();
                self.guarding.learn(pods, false);
                tracing::info!(pods = pods.len(), containers = containers.len(), "synchronized");
                false
            }
            // Its sandbox may have been set up while no agent was connected.
            Event::RunPodSandbox(pod) | Event::CreateContainer { pod, .. } => {
                self.sandboxes.run(&pod.uid, &pod.id, Instant::now());
                self.guarding.learn([pod], matches!(event, Event::RunPodSandbox(_)));
                false
            }
            Event::StopPodSandbox(pod) => {
                self.injected.end_sandbox(&pod.id);
                self.sandboxes.stop(&pod.uid, &pod.id)
            }
            Event::RemovePodSandbox(pod) => {
                self.injected.end_sandbox(&pod.id);
                self.sandboxes.remove(&pod.uid, &pod.id)
            }
            Event::ContainerEnded { id } => {
                self.injected.end_container(id);
                false
            }
        }
    }

    /// The runtime was answered without this thread: a pod that asks was rejected, and no other was.
    fn miss(&mut self, event: &Event, asks: bool) {
        if asks {
            self.forget(event);
        } else if let Event::CreateContainer { pod, container } = event {
            self.injected.put_off(pod, container, Seen::Untold);
        }
    }

    /// Forgets a sandbox that was rejected. The runtime may not tell that it is removed.
    fn forget(&mut self, event: &Event) {
        if let Event::RunPodSandbox(pod) = event {
            self.sandboxes.remove(&pod.uid, &pod.id);
        }
    }

    fn answer(
        &mut self,
        event: &Event,
        has_ended: bool,
        duty: &Duty,
        limits: &Limits<'_>,
    ) -> (Result<Answer, Failure>, Option<Claimed>) {
        match event {
            Event::Synchronized { .. } | Event::ContainerEnded { .. } => (Ok(Answer::Done), None),
            Event::RunPodSandbox(pod) => match self.run(pod, duty, limits) {
                Ok(claimed) => (Ok(Answer::Done), claimed),
                Err(reason) => (Err(Failure::Refused(reason)), None),
            },
            Event::StopPodSandbox(pod) | Event::RemovePodSandbox(pod) => {
                if *duty == Duty::Answer && has_ended {
                    self.release(pod, limits);
                }
                (Ok(Answer::Done), None)
            }
            Event::CreateContainer { pod, container } => {
                let adjusted = self.create(pod, container, duty, limits);
                let answer = adjusted.map(|adjust| adjust.map_or(Answer::Done, Answer::Adjust));
                (answer.map_err(Failure::Refused), None)
            }
        }
    }

    /// Finds out which containers that are not known yet have their variables, and names those without. Where the
    /// store cannot be read, it is tried again at the next look.
    fn examine(&mut self) {
        let store = self.aside();
        while let Some(pod) = self.injected.next().cloned() {
            let known = match self.known(&pod, &store) {
                Ok(known) => known,
                Err(error) => {
                    tracing::warn!("cannot look for containers without their variables: {error}");
                    return;
                }
            };
            let is_on_host = hostnet::is_on_host(&pod, self.own) == Some(true);
            let found = self.injected.examine(&known, now());
            uninjected::report(&pod, found, is_on_host, &self.metrics, &self.warnings);
        }
    }

    /// Writes what is known of the containers, if this agent leads.
    fn write(&mut self) {
        self.injected.write_at(None);
        if !self.led.is_some_and(|role| self.pulse.has_still(role, self.clock.now())) {
            return;
        }
        let store = self.aside();
        let written = self.injected.as_written().and_then(|containers| {
            if store.containers().as_ref() == Some(&containers) {
                return Ok(());
            }
            store.lock(&mut Traced(&self.metrics))?.write_containers(&containers)
        });
        if let Err(error) = written {
            tracing::debug!("cannot write agent.containers: {}", in_one_line(&error));
            self.injected.write_at(Some(Instant::now() + AGAIN));
        }
    }

    /// For what the last agent goes on: whether a sandbox waits for its container.
    fn needed(&self) -> Needed {
        let listing = app::list(&self.aside(), &mut Traced(&self.metrics)).ok().flatten();
        let waits = |held: app::Listing| self.injected.is_awaited_by(&held.attachments, now());
        if listing.is_some_and(waits) { Needed::Sandbox } else { Needed::No }
    }

    /// The store for what the runtime does not wait for.
    fn aside(&self) -> Store {
        self.store.clone().by(Instant::now() + ASIDE)
    }

    fn run(
        &mut self,
        pod: &Pod,
        duty: &Duty,
        limits: &Limits<'_>,
    ) -> Result<Option<Claimed>, Rejection> {
        if *duty == Duty::Watch || hostnet::is_on_host(pod, self.own) != Some(true) {
            return Ok(None);
        }
        match duty {
            Duty::Reject(reason) if limits.asks => Err(reason.clone()),
            Duty::Reject(_) | Duty::Watch => Ok(None),
            Duty::Answer => self.claim(pod, limits),
        }
    }

    fn claim(&mut self, pod: &Pod, limits: &Limits<'_>) -> Result<Option<Claimed>, Rejection> {
        if !hostnet::concerns(pod) {
            return Ok(None);
        }
        let config = self.plugin.read();
        let config = config.map_err(|error| Rejection::new("configuration", error.to_string()))?;
        let asked = guarded::asked(&config);
        let mut call = Call { store: &limits.store, now: now(), log: &mut Traced(&self.metrics) };
        let claimed = ports::claim(pod, config, &mut call, limits.is_awaited, &self.metrics)?;
        let Some(claimed) = claimed else { return Ok(None) };
        let held = std::slice::from_ref(&claimed.record);
        let bound = self.binder.bind(pod, held, &mut call);
        let guarding = &mut self.guarding;
        let bound = bound.and_then(|()| guarding.let_through(asked, &held[0], limits, &mut call));
        if let Err(reason) = bound {
            ports::undo(pod, &claimed, limits.leads, &mut call);
            return Err(reason);
        }
        Ok(Some(claimed))
    }

    fn release(&mut self, pod: &Pod, limits: &Limits<'_>) {
        if hostnet::is_on_host(pod, self.own) != Some(false) {
            let mut call =
                Call { store: &limits.store, now: now(), log: &mut Traced(&self.metrics) };
            ports::release(pod, limits.leads, &mut call, &self.metrics);
            self.guarding.withdraw(&pod.uid);
        }
    }

    fn create(
        &mut self,
        pod: &Pod,
        container: &Container,
        duty: &Duty,
        limits: &Limits<'_>,
    ) -> Result<Option<Adjustment>, Rejection> {
        match duty {
            Duty::Answer => {}
            Duty::Reject(reason) if limits.asks => return Err(reason.clone()),
            Duty::Reject(_) | Duty::Watch => {
                let seen = if *duty == Duty::Watch { Seen::Told } else { Seen::Untold };
                self.injected.put_off(pod, container, seen);
                return Ok(None);
            }
        }
        let mut known = match self.known(pod, &limits.store) {
            Ok(known) => known,
            Err(error) if limits.asks => return Err(Rejection::new("state_directory", error)),
            Err(error) => {
                tracing::warn!(pod = pod.name, "cannot look for host ports: {error}");
                self.injected.put_off(pod, container, Seen::Untold);
                return Ok(None);
            }
        };
        // Its sandbox was set up while no agent was connected.
        if known.records.is_empty() && hostnet::is_on_host(pod, self.own) == Some(true) {
            let claimed = self.claim(pod, limits)?;
            known.records.extend(claimed.map(|claimed| claimed.record));
        } else {
            let mut call =
                Call { store: &limits.store, now: now(), log: &mut Traced(&self.metrics) };
            self.binder.bind(pod, &known.records, &mut call)?;
        }
        let told = inject::inject(pod, container, &known);
        let told = told.map_err(|error| Rejection::new("no_ports", error.to_string()))?;
        for record in known.records.into_iter().filter(hostnet::is_of_host) {
            let _ = self.checks.send(Check::One(Box::new(record)));
        }
        Ok(told.map(|told| {
            self.metrics.injected(told.replaced.len());
            if !told.replaced.is_empty() {
                let (container, replaced) = (&container.name, &told.replaced);
                tracing::info!(
                    pod = pod.name,
                    container,
                    ?replaced,
                    "variables of the container replaced"
                );
            }
            told.adjustment
        }))
    }

    fn known(&self, pod: &Pod, store: &Store) -> Result<Known, String> {
        known::of(pod, store, &self.plugin, &mut Traced(&self.metrics))
    }

    /// Has the port guard be as the configuration asks for. One that cannot be read changes nothing.
    fn guard_as_configured(&mut self, role: Role) {
        let Ok(config) = self.plugin.read() else { return };
        if self.pulse.has_still(role, self.clock.now()) {
            self.guard(guarded::asked(&config), role);
        }
    }

    fn guard(&mut self, asked: guarded::Asked, role: Role) {
        let store = self.aside();
        let mut call = Call { store: &store, now: now(), log: &mut Traced(&self.metrics) };
        self.guarding.renew(asked, role, &mut call);
    }

    fn look(&mut self, role: Role, listed: Option<Listed>) {
        self.examine();
        self.guard_as_configured(role);
        if let Some(listed) = listed {
            self.sandboxes.reconcile(&listed);
        }
        let store = self.aside();
        let mut call = Call { store: &store, now: now(), log: &mut Traced(&self.metrics) };
        let listing = match app::list(call.store, call.log) {
            Ok(listing) => listing.unwrap_or_default(),
            Err(error) => {
                let error = error.in_one_line();
                tracing::warn!("cannot look for sandboxes that no longer exist: {error}");
                return;
            }
        };
        usage::count(&self.plugin, &listing, &self.metrics);
        let records = &listing.attachments;
        let on_host = records.iter().filter(|record| hostnet::is_of_host(record));
        let _ = self.checks.send(Check::All(on_host.cloned().collect()));
        let may_end_unseen = |record: &Record| match &record.owner.holder {
            Holder::HostPod { pod } => self.sandboxes.may_end_unseen(pod.uid()),
            Holder::Attachment(_) => false,
        };
        self.needs_list.store(records.iter().any(may_end_unseen), Ordering::Relaxed);
        let leads = || self.pulse.has_still(role, self.clock.now());
        for record in self.suspects.look(records, &self.sandboxes, Instant::now(), call.now) {
            let (holder, is_on_host) = (&record.owner.holder, hostnet::is_of_host(record));
            ports::release_lost(holder, is_on_host, &leads, &mut call, &self.metrics);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one clock of the worker")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

#[cfg(test)]
mod tests;
