//! The node's agents, as far as their files tell.

use super::{Facts, Report};
use crate::cni::Config;
use crate::store::Agent;

pub(super) fn judge(facts: &Facts, configs: &[Config], report: &mut Report) {
    report.check("agent");
    let required = configs.iter().any(|config| config.agent_required);
    let remedy = "start autoport-agent; its log says why it is not connected. On a node that is to have none \
                  any more, delete agent.json in the state directory";
    match facts.agent {
        Some(Agent { connected: true, .. }) => {
            report.ok("a node agent is connected to the container runtime");
        }
        Some(_) | None if required => report.failed(
            "no node agent is connected to the container runtime, and \"agent\" is \"required\": pods that ask \
             for host ports by annotation are rejected",
            remedy,
        ),
        Some(Agent { heartbeat_age, .. }) => {
            let seconds = heartbeat_age / 1000;
            let text = format!(
                "the node agent is not connected to the container runtime, its last heartbeat is {seconds} s \
                 old: containers are created without the variables of their host ports"
            );
            report.warning(text, remedy);
        }
        None => {}
    }
}
