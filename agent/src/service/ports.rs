//! Host ports that are assigned and released, counted and logged.

use autoport::app::{self, Claimed};
use autoport::cni::Config;
use autoport::model::Holder;

use crate::hostnet::{self, Call};
use crate::metrics::{Allocation, Metrics};
use crate::nri::Rejection;
use crate::nri::message::Pod;

/// Assigns what a pod on the host network asks for; `None` if it needs nothing.
pub(super) fn claim(
    pod: &Pod,
    config: Config,
    call: &mut Call<'_>,
    is_awaited: &dyn Fn() -> bool,
    metrics: &Metrics,
) -> Result<Option<Claimed>, Rejection> {
    let claimed = hostnet::claim(pod, config, call, is_awaited)
        .inspect_err(|_| metrics.allocation(Allocation::Rejected, true))?;
    if let Some(claimed) = &claimed {
        metrics.allocation(Allocation::Assigned, true);
        let ports: Vec<_> = claimed.record.chosen_numbers().into_iter().collect();
        tracing::info!(namespace = pod.namespace, pod = pod.name, ?ports, "assigned");
    }
    Ok(claimed)
}

/// Takes back what was assigned to a pod that does not run.
pub(super) fn undo(pod: &Pod, claimed: &Claimed, leads: &dyn Fn() -> bool, call: &mut Call<'_>) {
    if let Err(error) = hostnet::undo(claimed, leads, call) {
        tracing::warn!(
            pod = pod.name,
            "cannot release the host ports of a Pod that was rejected: {error}"
        );
    }
}

/// Releases what a pod on the host network has, when it has ended.
pub(super) fn release(pod: &Pod, leads: &dyn Fn() -> bool, call: &mut Call<'_>, metrics: &Metrics) {
    match hostnet::release(&pod.uid, leads, call) {
        Ok(true) => {
            metrics.allocation(Allocation::Released, true);
            tracing::info!(namespace = pod.namespace, pod = pod.name, "released");
        }
        Ok(false) => {}
        // The removal of the sandbox, or a later look, tries again.
        Err(error) => {
            metrics.allocation(Allocation::Kept, true);
            tracing::warn!(pod = pod.name, "cannot release host ports: {error}");
        }
    }
}

/// Releases what the holder of a sandbox has that no longer exists.
pub(super) fn release_lost(
    holder: &Holder,
    is_on_host: bool,
    leads: &dyn Fn() -> bool,
    call: &mut Call<'_>,
    metrics: &Metrics,
) {
    match app::release(call.store, holder, leads, call.now, call.log) {
        Ok(_) if leads() => {
            metrics.allocation(Allocation::Released, is_on_host);
            tracing::info!(%holder, "released the host ports of a sandbox that no longer exists");
        }
        Ok(_) => {}
        Err(error) => {
            metrics.allocation(Allocation::Kept, is_on_host);
            let error = error.in_one_line();
            tracing::warn!(%holder, "cannot release host ports: {error}");
        }
    }
}
