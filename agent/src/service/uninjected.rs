//! Containers that run without their variables, told to those who can have them created again.

use autoport::model;

use super::injected::Uninjected;
use crate::cluster::{Reason, Warnings};
use crate::metrics::Metrics;
use crate::nri::message::Pod;

/// Tells of those of a pod: each in the log and the metrics, all of them in one event.
pub(super) fn report(
    pod: &Pod,
    found: Vec<Uninjected>,
    is_on_host: bool,
    metrics: &Metrics,
    warnings: &Warnings,
) {
    let mut names = Vec::new();
    for Uninjected { container, refusal } in found {
        let remedy = match refusal {
            Some(refusal) if !is_on_host => format!("it would be rejected now: {refusal}"),
            // What the pod lacks is assigned then.
            _ => "delete the Pod to have it created again".to_owned(),
        };
        metrics.uninjected();
        tracing::warn!(
            namespace = pod.namespace,
            pod = pod.name,
            container,
            "the container runs without the variables of its host ports, because no agent was \
             connected when it was created; {remedy}"
        );
        names.push(container);
    }
    if names.is_empty() {
        return;
    }
    let note = format!(
        "containers that run without the variables of the Pod's host ports, because no agent of autoport was \
         connected when they were created: {}; delete the Pod to have it created again",
        names.join(", ")
    );
    let Pod { namespace, name, uid, .. } = pod.clone();
    warnings.warn(model::Pod { namespace, name, uid }, Reason::PortsNotInjected, note);
}
