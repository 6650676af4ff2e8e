//! Whether Pods may come to a node that is new.

use std::sync::Arc;

use autoport::store::Store;

use crate::config::Plugin;
use crate::keeper::{self, HEARTBEAT};
use crate::metrics::Health;

/// What this depends on.
pub(super) struct Startup {
    pub(super) store: Store,
    pub(super) plugin: Plugin,
    pub(super) health: Arc<Health>,
}

impl Startup {
    /// Why Pods may not come yet, as the standby finds it: no single failure may start a container without its
    /// variables.
    pub(super) fn pending(&self) -> Option<String> {
        if let Err(reason) = self.health.ready() {
            return Some(reason);
        }
        if !self.store.agent().is_some_and(|agent| agent.connected)
            || !keeper::read(&self.store.dir().join(HEARTBEAT))
                .is_ok_and(|beat| beat.is_some_and(|beat| !beat.standby))
        {
            return Some("the other agent of this node is not connected to the runtime".to_owned());
        }
        match self.plugin.read() {
            Ok(config) if config.agent_required => None,
            Ok(_) => {
                Some("the configuration of the plugin lacks \"agent\": \"required\"".to_owned())
            }
            Err(error) => Some(error.to_string()),
        }
    }
}
