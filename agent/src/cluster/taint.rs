//! The taint that keeps Pods off a node whose agents are not there yet.

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::sleep;

use super::{Cluster, PAUSES, in_time};

/// kubelet puts it on a node that is new (`--register-with-taints`).
pub const STARTUP_TAINT: &str = "autoport.cni/agent-not-ready";

/// How often it is looked for after that: a node that was deleted is registered again with its taints.
const AGAIN: std::time::Duration = std::time::Duration::from_mins(5);

/// How often it is looked whether the node is ready.
const READY: std::time::Duration = std::time::Duration::from_secs(1);

impl Cluster {
    /// Removes the taint whenever `pending` gives no reason against it, for ever.
    pub async fn untaint(&self, pending: impl Fn() -> Option<String>) {
        let (mut told, mut pause) = (String::new(), PAUSES.0);
        loop {
            while let Some(reason) = pending() {
                if told != reason {
                    tracing::info!("the taint {STARTUP_TAINT} is kept: {reason}");
                    told = reason;
                }
                sleep(READY).await;
            }
            let spread = 0.5 + fastrand::f64();
            match self.remove_taint().await {
                Ok(removed) => {
                    if removed {
                        tracing::info!(node = self.node, "removed the taint {STARTUP_TAINT}");
                    }
                    (told, pause) = (String::new(), PAUSES.0);
                    sleep(AGAIN.mul_f64(spread)).await;
                }
                Err(reason) => {
                    if told != reason {
                        tracing::warn!(
                            node = self.node,
                            "cannot remove the taint {STARTUP_TAINT}: {reason}; retrying"
                        );
                        told = reason;
                    }
                    sleep(pause.mul_f64(spread)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Gives whether it was there.
    async fn remove_taint(&self) -> Result<bool, String> {
        let (client, _) = self.client()?;
        let nodes = Api::<Node>::all(client);
        let node = in_time(nodes.get(&self.node)).await?;
        let mut taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let count = taints.len();
        taints.retain(|taint| taint.key != STARTUP_TAINT);
        if taints.len() == count {
            return Ok(false);
        }
        // The version makes it fail if another program has changed the taints meanwhile.
        let version = node.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        in_time(nodes.patch(&self.node, &PatchParams::default(), &Patch::Merge(patch))).await?;
        Ok(true)
    }
}
