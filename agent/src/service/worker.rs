//! The one thread that uses store and kernel. It answers events in their order.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use autoport::app::{self, Claimed};
use autoport::cni;
use autoport::event::{Event as Noted, Log};
use autoport::model::{Dialect, NamespaceId};
use autoport::netns;
use autoport::store::Store;
use tokio::sync::oneshot;

use crate::config::Plugin;
use crate::hostnet::{self, Call, Sandboxes, Suspects};
use crate::inject::{self, Known};
use crate::keeper::{Clock, Pulse, Role};
use crate::nri::message::{Adjustment, Container, Pod};
use crate::nri::{Answer, Event, Failure};

/// What this agent is to do about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Answer it.
    Answer,
    /// Note it, since another agent answers.
    Watch,
    /// Reject what asks for host ports, since it is not known who answers.
    Reject(String),
}

/// An event for the worker.
pub(super) struct Job {
    pub(super) event: Event,
    pub(super) duty: Duty,
    pub(super) limit: Duration,
    /// The role at the time of the event.
    pub(super) role: Role,
    pub(super) reply: oneshot::Sender<Result<Answer, Failure>>,
}

/// What the thread is sent.
pub(super) enum Task {
    Event(Box<Job>),
    /// Look for holders whose pods the runtime does not have.
    Look,
}

/// Starts the thread. It ends when the other end of the channel does.
pub(super) fn start(
    store: Store,
    plugin: Plugin,
    clock: Clock,
    pulse: Pulse,
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
        };
        for task in received {
            match task {
                Task::Event(job) => worker.serve(*job),
                Task::Look => worker.look(),
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
}

/// What answering needs besides the event.
struct Limits<'a> {
    store: Store,
    /// Whether the runtime still waits, and this agent may still write.
    is_awaited: &'a dyn Fn() -> bool,
}

/// Every line of the library goes to the log.
struct Traced;

impl Log for Traced {
    fn note(&mut self, event: Noted) {
        if matches!(event, Noted::Failed { .. } | Noted::Unreadable { .. }) {
            tracing::warn!("{event}");
        } else {
            tracing::info!("{event}");
        }
    }
}

impl Worker {
    fn serve(&mut self, job: Job) {
        let Job { event, duty, limit, role, reply } = job;
        if let Event::Synchronized { pods, containers } = event {
            self.synchronize(&pods, containers.len());
            // The runtime waits for this alone; what follows takes time for each pod.
            let _ = reply.send(Ok(Answer::Done));
            if duty == Duty::Answer {
                self.report_uninjected(&pods, &containers);
            }
            return;
        }
        let (pulse, clock) = (self.pulse.clone(), self.clock.clone());
        let is_awaited = || !reply.is_closed() && pulse.has_still(role, clock.now());
        let store = self.store.clone().waiting(limit / 4 * 3);
        let limits = Limits { store, is_awaited: &is_awaited };
        let (answer, claimed) = self.answer(event, &duty, &limits);
        let store = limits.store;
        if reply.send(answer).is_err()
            && let Some(claimed) = claimed
        {
            // The runtime was told of a failure meanwhile.
            let mut call = Call { store: &store, now: now(), log: &mut Traced };
            if let Err(error) = hostnet::undo(&claimed, &mut call) {
                tracing::warn!("cannot release host ports that were claimed too late: {error}");
            }
        }
    }

    fn answer(
        &mut self,
        event: Event,
        duty: &Duty,
        limits: &Limits<'_>,
    ) -> (Result<Answer, Failure>, Option<Claimed>) {
        match event {
            Event::Synchronized { .. } => (Ok(Answer::Done), None),
            Event::RunPodSandbox(pod) => {
                self.sandboxes.run(&pod.uid, &pod.id);
                match self.run(&pod, duty, limits) {
                    Ok(claimed) => (Ok(Answer::Done), claimed),
                    Err(reason) => {
                        self.sandboxes.remove(&pod.uid, &pod.id);
                        (Err(Failure::Refused(reason)), None)
                    }
                }
            }
            Event::StopPodSandbox(pod) => {
                let has_ended = self.sandboxes.stop(&pod.uid, &pod.id);
                self.release(&pod, has_ended, duty, limits);
                (Ok(Answer::Done), None)
            }
            Event::RemovePodSandbox(pod) => {
                let has_ended = self.sandboxes.remove(&pod.uid, &pod.id);
                self.release(&pod, has_ended, duty, limits);
                (Ok(Answer::Done), None)
            }
            Event::CreateContainer { pod, container } => {
                let adjusted = self.create(&pod, &container, duty, limits);
                let answer = adjusted.map(|adjust| adjust.map_or(Answer::Done, Answer::Adjust));
                (answer.map_err(Failure::Refused), None)
            }
        }
    }

    fn synchronize(&mut self, pods: &[Pod], containers: usize) {
        let list = pods.iter().map(|pod| (pod.uid.as_str(), pod.id.as_str(), pod.pid != 0));
        self.sandboxes.synchronize(list);
        self.suspects.forget();
        tracing::info!(pods = pods.len(), containers, "synchronized");
    }

    /// Names the running containers that were created without their variables. Only a restart helps them.
    fn report_uninjected(&self, pods: &[Pod], containers: &[Container]) {
        for pod in pods {
            let own = containers.iter().filter(|one| one.pod_sandbox_id == pod.id);
            for container in own.filter(|container| container.may_run()) {
                let known = self.known(pod, &self.store);
                let told = known.ok().and_then(|known| inject::inject(pod, container, &known).ok());
                if told.flatten().is_some_and(|told| inject::lacks(container, &told)) {
                    tracing::warn!(
                        namespace = pod.namespace,
                        pod = pod.name,
                        container = container.name,
                        "the container runs without the variables of its host ports, because no agent \
                         was connected when it was created; delete the Pod to have it created again"
                    );
                }
            }
        }
    }

    fn run(
        &mut self,
        pod: &Pod,
        duty: &Duty,
        limits: &Limits<'_>,
    ) -> Result<Option<Claimed>, String> {
        let asks = cni::asks_by(&pod.annotations, &every_alias()).is_some();
        if *duty == Duty::Watch || hostnet::is_on_host(pod, self.own) != Some(true) {
            return Ok(None);
        }
        match duty {
            Duty::Reject(reason) if asks => Err(reason.clone()),
            Duty::Reject(_) | Duty::Watch => Ok(None),
            Duty::Answer => self.claim(pod, limits),
        }
    }

    fn claim(&self, pod: &Pod, limits: &Limits<'_>) -> Result<Option<Claimed>, String> {
        if !hostnet::concerns(pod) {
            return Ok(None);
        }
        let config = self.plugin.read().map_err(|error| error.to_string())?;
        let mut call = Call { store: &limits.store, now: now(), log: &mut Traced };
        let claimed = hostnet::claim(pod, &config, &mut call, limits.is_awaited)?;
        if let Some(claimed) = &claimed {
            let ports: Vec<_> = claimed.record.chosen_numbers().into_iter().collect();
            tracing::info!(namespace = pod.namespace, pod = pod.name, ?ports, "assigned");
        }
        Ok(claimed)
    }

    fn release(&self, pod: &Pod, has_ended: bool, duty: &Duty, limits: &Limits<'_>) {
        let is_elsewhere = hostnet::is_on_host(pod, self.own) == Some(false);
        if *duty != Duty::Answer || !has_ended || is_elsewhere {
            return;
        }
        let mut call = Call { store: &limits.store, now: now(), log: &mut Traced };
        match hostnet::release(&pod.uid, &mut call) {
            Ok(true) => tracing::info!(namespace = pod.namespace, pod = pod.name, "released"),
            Ok(false) => {}
            // The removal of the sandbox, or a later look, tries again.
            Err(error) => tracing::warn!(pod = pod.name, "cannot release host ports: {error}"),
        }
    }

    fn create(
        &mut self,
        pod: &Pod,
        container: &Container,
        duty: &Duty,
        limits: &Limits<'_>,
    ) -> Result<Option<Adjustment>, String> {
        let waits = pod.annotations.contains_key(cni::ENV);
        let asks = waits || cni::asks_by(&pod.annotations, &every_alias()).is_some();
        match duty {
            Duty::Answer => {}
            Duty::Reject(reason) if asks => return Err(reason.clone()),
            Duty::Reject(_) | Duty::Watch => return Ok(None),
        }
        let mut known = match self.known(pod, &limits.store) {
            Ok(known) => known,
            Err(error) if asks => return Err(error),
            Err(error) => {
                tracing::warn!(pod = pod.name, "cannot look for host ports: {error}");
                return Ok(None);
            }
        };
        // Its sandbox was set up while no agent was connected.
        if known.records.is_empty() && hostnet::is_on_host(pod, self.own) == Some(true) {
            let claimed = self.claim(pod, limits)?;
            known.records.extend(claimed.map(|claimed| claimed.record));
        }
        let told = inject::inject(pod, container, &known).map_err(|error| error.to_string())?;
        Ok(told.map(|told| {
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

    /// What is known of the pod. The configuration is read only where it counts.
    fn known(&self, pod: &Pod, store: &Store) -> Result<Known, String> {
        let records = app::records_of_pod(store, &pod.uid, &mut Traced);
        let records = records.map_err(|error| error.in_one_line())?;
        let asks = cni::asks_by(&pod.annotations, &every_alias()).is_some();
        let aliases = if asks && records.is_empty() {
            self.plugin.read().map_err(|error| error.to_string())?.aliases
        } else {
            every_alias()
        };
        Ok(Known { records, directory: store.published_at(&pod.uid), aliases })
    }

    fn look(&mut self) {
        let mut call = Call { store: &self.store, now: now(), log: &mut Traced };
        let holders = match hostnet::holders(&mut call) {
            Ok(holders) => holders,
            Err(error) => {
                tracing::warn!("cannot look for pods that no longer exist: {error}");
                return;
            }
        };
        for uid in self.suspects.look(&holders, &self.sandboxes, now()) {
            match hostnet::release(&uid, &mut call) {
                Ok(_) => {
                    tracing::info!(uid, "released the host ports of a pod that no longer exists");
                }
                Err(error) => tracing::warn!(uid, "cannot release host ports: {error}"),
            }
        }
    }
}

fn every_alias() -> BTreeSet<Dialect> {
    [Dialect::KubeWharf, Dialect::Bcs].into()
}

#[expect(clippy::disallowed_methods, reason = "the one clock of the worker")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
