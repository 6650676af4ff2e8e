//! What is known of a pod, for the variables of its containers.

use autoport::app;
use autoport::cni::ENV;
use autoport::event::Log;
use autoport::kernel;
use autoport::store::Store;

use crate::config::Plugin;
use crate::inject::{self, Known};
use crate::nri::message::Pod;

/// What is known of the pod. The configuration is read only where it counts.
///
/// # Errors
/// What cannot be read.
pub(super) fn of(
    pod: &Pod,
    store: &Store,
    plugin: &Plugin,
    log: &mut dyn Log,
) -> Result<Known, String> {
    let records = app::records_of_pod(store, &pod.uid, log);
    let records = records.map_err(|error| error.in_one_line())?;
    let mut known = Known::of(pod, records, store.published_at(&pod.uid));
    if known.records.is_empty() && inject::asks(pod) {
        known.aliases = plugin.read().map_err(|error| error.to_string())?.aliases;
    }
    if pod.annotations.contains_key(ENV) {
        // The plugin looks the node's addresses up only where the node chooses a port.
        for record in known.records.iter_mut().filter(|record| record.advertised.is_empty()) {
            let found = kernel::outward_addresses(&record.policy.host_addresses);
            record.advertised = found.map_err(|error| error.to_string())?;
        }
    }
    Ok(known)
}
