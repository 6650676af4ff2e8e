//! Whether Pods may come to a node that is new.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Plugin;
use crate::keeper::{self, Clock, HEARTBEAT};
use crate::metrics::Health;

/// What this depends on.
pub(super) struct Startup {
    /// The state directory.
    pub(super) dir: PathBuf,
    pub(super) clock: Clock,
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
        let leader = keeper::last(&self.dir.join(HEARTBEAT), self.clock.now()).ok().flatten();
        if leader.is_none_or(|leader| leader.standby || !leader.connected) {
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
