//! Which containers have the variables of their host ports, as the runtime's events tell. Every agent knows it, so
//! that the one that takes the lead over can go on; the leader writes it for the command line. No I/O.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use autoport::model::{self, Record};
use autoport::store::{Containers, Lack};

use crate::inject::{self, Known, Refusal};
use crate::nri::message::{Container, Pod};

/// So long changes are collected before they are written: a Pod has several containers.
const COLLECT: Duration = Duration::from_millis(200);

/// So many seconds after its ports were assigned a sandbox may get its container soon. If it has none then, its
/// image is being pulled, or cannot be.
const YOUNG: u64 = 60;

/// How a container came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It ran when this agent connected.
    Running,
    /// The same, and this agent is the one that reports it.
    RunningUnreported,
    /// Another agent has answered its creation.
    Told,
    /// It was created without an answer for it.
    Untold,
}

/// Containers of one pod that are still to be examined.
struct Unexamined {
    pod: Pod,
    containers: Vec<Container>,
    seen: Seen,
}

/// A container that is to be reported, and why it would be rejected now.
pub(super) struct Uninjected {
    pub(super) container: String,
    pub(super) refusal: Option<Refusal>,
}

/// What is known of the containers.
#[derive(Default)]
pub(super) struct Injected {
    /// By the ID of the sandbox and the name; one container of a name runs at a time.
    known: BTreeMap<(String, String), autoport::store::Container>,
    unexamined: VecDeque<Unexamined>,
    /// By ID, since when the agents before this one knew a container.
    earlier: BTreeMap<String, u64>,
    /// When it is to be written, if it has changed.
    due: Option<Instant>,
}

impl Injected {
    /// Takes what the runtime lists in place of what was known. `earlier` is what was written last.
    pub(super) fn synchronize(
        &mut self,
        pods: Vec<Pod>,
        containers: Vec<Container>,
        seen: Seen,
        earlier: Option<Containers>,
    ) {
        let earlier = earlier.map(|earlier| earlier.containers).unwrap_or_default();
        let earlier = earlier.into_iter().map(|one| (one.id, one.since)).collect();
        *self = Self { earlier, ..Self::default() };
        let mut of_sandbox: BTreeMap<String, Vec<Container>> = BTreeMap::new();
        for container in containers.into_iter().filter(Container::may_run) {
            of_sandbox.entry(container.pod_sandbox_id.clone()).or_default().push(container);
        }
        for pod in pods {
            if let Some(containers) = of_sandbox.remove(&pod.id) {
                self.unexamined.push_back(Unexamined { pod, containers, seen });
            }
        }
        self.has_changed();
    }

    /// A container was given so many variables.
    pub(super) fn told(&mut self, pod: &Pod, container: &Container, variables: usize, now: u64) {
        self.add(pod, container, variables, None, now);
    }

    /// A container that is to be examined.
    pub(super) fn put_off(&mut self, pod: &Pod, container: &Container, seen: Seen) {
        let (pod, containers) = (pod.clone(), vec![container.clone()]);
        self.unexamined.push_back(Unexamined { pod, containers, seen });
        self.has_changed();
    }

    /// A sandbox has ended with its containers.
    pub(super) fn end_sandbox(&mut self, sandbox: &str) {
        self.retain(|of, _| of != sandbox);
    }

    /// A container has ended.
    pub(super) fn end_container(&mut self, id: &str) {
        self.retain(|_, own| own != id);
    }

    fn retain(&mut self, keeps: impl Fn(&str, &str) -> bool) {
        let before = (self.known.len(), self.unexamined.len());
        self.known.retain(|(sandbox, _), one| keeps(sandbox, &one.id));
        self.unexamined.retain_mut(|one| {
            one.containers.retain(|container| keeps(&one.pod.id, &container.id));
            !one.containers.is_empty()
        });
        if (self.known.len(), self.unexamined.len()) != before {
            self.has_changed();
        }
    }

    /// Whether a holder of ports has no container yet, and may get one soon.
    pub(super) fn is_awaited_by(&self, records: &[Record], now: u64) -> bool {
        let chosen = records.iter().filter(|record| !record.grants.is_empty());
        let mut young = chosen.filter(|record| record.created + YOUNG >= now);
        young.any(|record| {
            let sandbox = record.owner.container_id();
            !self.known.iter().any(|((of, _), one)| {
                sandbox.map_or(record.owner.uid() == Some(&one.pod.uid), |sandbox| sandbox == of)
            })
        })
    }

    /// The pod whose containers are to be examined next.
    pub(super) fn next(&self) -> Option<&Pod> {
        self.unexamined.front().map(|one| &one.pod)
    }

    /// Examines its containers by what is known of it; gives those that are to be reported.
    pub(super) fn examine(&mut self, known: &Known, now: u64) -> Vec<Uninjected> {
        let Some(Unexamined { pod, containers, seen }) = self.unexamined.pop_front() else {
            return Vec::new();
        };
        let mut reported = Vec::new();
        for container in containers {
            let (variables, lack, refusal) = match inject::inject(&pod, &container, known) {
                Ok(None) => continue,
                Ok(Some(told)) => {
                    let lacks = match seen {
                        Seen::Told => false,
                        Seen::Untold => true,
                        Seen::Running | Seen::RunningUnreported => inject::lacks(&container, &told),
                    };
                    (told.adjustment.env.len(), lacks.then_some(Lack::NoAgent), None)
                }
                // Then the other agent has rejected it.
                Err(_) if seen == Seen::Told => continue,
                Err(refusal) => {
                    let lack = match refusal {
                        Refusal::Annotation(_) => Lack::Annotation,
                        Refusal::NoPorts { .. } => Lack::NoPorts,
                    };
                    (0, Some(lack), Some(refusal))
                }
            };
            let since = self.earlier.get(&container.id).copied().unwrap_or(now);
            self.add(&pod, &container, variables, lack, since);
            if seen == Seen::RunningUnreported && lack.is_some() {
                reported.push(Uninjected { container: container.name, refusal });
            }
        }
        if self.unexamined.is_empty() {
            self.earlier.clear();
            self.has_changed();
        }
        reported
    }

    fn add(
        &mut self,
        pod: &Pod,
        container: &Container,
        variables: usize,
        uninjected: Option<Lack>,
        since: u64,
    ) {
        let Container { id, name, .. } = container.clone();
        let key = (pod.id.clone(), name.clone());
        let Pod { namespace, name: of, uid, .. } = pod.clone();
        let pod = model::Pod { namespace, name: of, uid };
        let one = autoport::store::Container { id, name, pod, since, variables, uninjected };
        self.known.insert(key, one);
        self.has_changed();
    }

    /// Has it written soon.
    fn has_changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + COLLECT);
    }

    /// Has it written then.
    pub(super) fn write_at(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be written.
    ///
    /// # Errors
    /// When the kernel does not tell which boot this is.
    pub(super) fn as_written(&self) -> Result<Containers, autoport::store::Error> {
        Containers::new(self.known.values().cloned().collect(), self.unexamined.is_empty())
    }
}

#[cfg(test)]
mod tests;
