//! Warnings about a Pod, which `kubectl describe pod` shows: events of the API server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use autoport::model::Pod;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use super::writer::Failure;
use super::{Cluster, LIMIT, PAUSES};

/// The name by which events tell who wrote them.
const CONTROLLER: &str = "autoport.cni/agent";

/// More wait at no time: a node has hundreds of Pods at most, and a warning is in the log as well.
const QUEUE: usize = 256;

/// A Pod gets no second warning for the same reason within this time.
const AGAIN: Duration = Duration::from_mins(5);

/// The pause after each: at most 20 in a second.
const PAUSE: Duration = Duration::from_millis(50);

/// After this time a warning is not worth sending any more.
const STALE: Duration = Duration::from_mins(10);

/// The API server takes no longer text, in bytes.
const LONGEST: usize = 1024;

/// Why a Pod is warned about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Containers run without the variables of their host ports.
    PortsNotInjected,
    /// A process that is not in the Pod listens on its host port.
    PortTaken,
    /// The Pod asks for the bind hook, which cannot be attached.
    BindHookFailed,
    /// The Pod is not found by its Service, or not with all of its ports.
    EndpointsNotCreated,
}

impl Reason {
    /// As an event has it.
    const fn name(self) -> &'static str {
        match self {
            Self::PortsNotInjected => "PortsNotInjected",
            Self::PortTaken => "PortTaken",
            Self::BindHookFailed => "BindHookFailed",
            Self::EndpointsNotCreated => "EndpointsNotCreated",
        }
    }
}

#[derive(Debug)]
struct Warning {
    pod: Pod,
    reason: Reason,
    note: String,
    since: Instant,
}

/// Where warnings are left. Nothing waits for the API server; without one they go nowhere.
#[derive(Clone, Debug)]
pub struct Warnings(Sender<Warning>);

/// What [`Cluster::report`] sends.
#[derive(Debug)]
pub struct Waiting(Receiver<Warning>);

/// A queue of warnings.
pub fn warnings() -> (Warnings, Waiting) {
    let (sender, receiver) = channel(QUEUE);
    (Warnings(sender), Waiting(receiver))
}

impl Warnings {
    /// Has a warning about `pod` sent, in these words.
    pub fn warn(&self, pod: Pod, reason: Reason, mut note: String) {
        note.truncate(note.floor_char_boundary(LONGEST));
        let warning = Warning { pod, reason, note, since: Instant::now() };
        // Of a full queue the log has the rest.
        let _ = self.0.try_send(warning);
    }
}

impl Cluster {
    /// Sends the warnings as events, for ever.
    pub async fn report(&self, Waiting(mut waiting): Waiting) {
        let (mut sent, mut told) = (BTreeMap::new(), String::new());
        while let Some(warning) = waiting.recv().await {
            sent.retain(|_, at: &mut Instant| at.elapsed() < AGAIN);
            let key = (warning.pod.uid.clone(), warning.reason);
            if sent.contains_key(&key) {
                continue;
            }
            self.send(&warning, &mut told).await;
            sent.insert(key, Instant::now());
            sleep(PAUSE).await;
        }
    }

    /// Tries until the API server has taken or rejected it.
    async fn send(&self, warning: &Warning, told: &mut String) {
        let mut pause = PAUSES.0;
        while warning.since.elapsed() < STALE {
            let (reason, is_final) = match self.create(warning).await {
                Ok(()) => return told.clear(),
                Err(Failure::Passing(reason)) => (reason, false),
                // The namespace is being deleted, for one.
                Err(Failure::Rejected(reason) | Failure::Gone(reason)) => (reason, true),
            };
            if *told != reason {
                tracing::warn!(node = self.node, "cannot create an event: {reason}");
                told.clone_from(&reason);
            }
            if is_final {
                return;
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn create(&self, Warning { pod, reason, note, .. }: &Warning) -> Result<(), Failure> {
        let (client, _) = self.client().map_err(Failure::Passing)?;
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:016x}", pod.name, fastrand::u64(..))),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            type_: Some("Warning".to_owned()),
            reason: Some(reason.name().to_owned()),
            action: Some("Check".to_owned()),
            note: Some(note.clone()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        let events = Api::<Event>::namespaced(client, &pod.namespace);
        let late = |_| {
            Failure::Passing(format!("the API server did not answer within {} s", LIMIT.as_secs()))
        };
        let created = timeout(LIMIT, events.create(&PostParams::default(), &event)).await;
        created.map_err(late)?.map(drop).map_err(Failure::from)
    }
}
