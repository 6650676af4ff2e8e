//! The node's agents, as far as their files tell.

use super::{Facts, NRI_SOCKET, Report, counted, some_of};
use crate::cni::Config;
use crate::store::{Agent, BindHook, Guarded};

/// Why a runtime has no NRI socket, and what to do.
pub const NO_NRI_SOCKET: &str = "the runtime does not run, has no NRI (containerd before 1.7), or NRI is off in \
     its configuration: for containerd 1.7, set disable = false in the section \
     [plugins.\"io.containerd.nri.v1.nri\"] of /etc/containerd/config.toml; for CRI-O before 1.30, set \
     enable_nri = true in the section [crio.nri]; then restart the runtime";

pub(super) fn judge(facts: &Facts, configs: &[Config], report: &mut Report) {
    report.check("agent");
    connection(facts, configs, report);
    guard(facts, configs, report);
    let (Some(agent), Some(known)) = (&facts.agent, &facts.containers) else { return };
    let listed: Vec<_> = known.uninjected().collect();
    if !listed.is_empty() {
        let (number, as_of) = (counted(known.uninjected, "container"), known.as_of(agent));
        report.warning(
            format!(
                "without the variables of their host ports: {number}{as_of}: {}",
                some_of(&listed)
            ),
            "delete their Pods, or stop the containers with `crictl stop ID`: kubelet creates them again. autoport \
             does not stop them",
        );
    }
}

/// The port guard, without which a Pod on the host network that asks is rejected.
fn guard(facts: &Facts, configs: &[Config], report: &mut Report) {
    match &facts.guarded {
        Some(Guarded { problem: Some(problem), .. }) => report.failed(
            format!(
                "the port guard (guardRange) cannot be attached: {problem}. Pods on the host network that ask for \
                 host ports are rejected"
            ),
            "correct that, or remove guardRange",
        ),
        Some(Guarded { cgroups, .. }) if cgroups.is_empty() => {
            report.ok("the port guard (guardRange) is attached with the first Pod");
        }
        Some(Guarded { cgroups, .. }) => report.ok(format!(
            "Pods bind only the ports of the ranges that they hold: guarded in cgroup {}",
            cgroups.join(", ")
        )),
        None if !configs.iter().any(|config| config.guard_range) => {}
        None => report.warning(
            "guardRange is set, and no node agent has said whether it guards the port ranges",
            "start autoport-agent, or wait for 30 s after a change of the configuration",
        ),
    }
}

/// What the agent has found out when it was started. Pods that need the hook are rejected where it is missing.
const fn of_hook(told: BindHook) -> &'static str {
    match told {
        BindHook::Usable => ", and can attach the bind hook",
        BindHook::Cgroups => {
            ", without the bind hook (autoport.cni/bind): no cgroups of version 2 are mounted for it"
        }
        BindHook::Capability => {
            ", without the bind hook (autoport.cni/bind): it lacks the capability CAP_BPF or CAP_NET_ADMIN, or its \
             seccomp profile forbids bpf(2)"
        }
        BindHook::Kernel => {
            ", without the bind hook (autoport.cni/bind): it needs Linux 5.14 with CONFIG_CGROUP_BPF"
        }
        BindHook::Unknown => "",
    }
}

fn connection(facts: &Facts, configs: &[Config], report: &mut Report) {
    let required = configs.iter().any(|config| config.agent_required);
    let problem = match facts.agent {
        Some(Agent { connected: true, bind_hook, .. }) => {
            let hook = bind_hook.map_or("", of_hook);
            return report.ok(format!("a node agent is connected to the container runtime{hook}"));
        }
        None if !required => return,
        Some(Agent { heartbeat_age: Some(age), .. }) => format!(
            "the node agent is not connected to the container runtime, its last heartbeat is {} s old",
            age / 1000
        ),
        _ => "no node agent has been connected to the container runtime since the node was booted"
            .to_owned(),
    };
    let remedy = if facts.has_nri_socket {
        "start autoport-agent; its log says why it is not connected. If the node no longer runs the agent, \
         delete agent.lock in the state directory"
            .to_owned()
    } else {
        format!("{NRI_SOCKET} does not exist: {NO_NRI_SOCKET}")
    };
    if required {
        let effect =
            "\"agent\" is \"required\": pods that ask for host ports by annotation are rejected";
        report.failed(format!("{problem}, and {effect}"), remedy);
    } else {
        let effect = "containers are created without the variables of their host ports";
        report.warning(format!("{problem}: {effect}"), remedy);
    }
}
