//! Where the hook cannot be attached the pod does not run.

use std::fs;

use super::*;

/// What a pod is told that asks for the hook, and what the agent has said.
fn rejected(scene: &mut Scene, pod: &Pod) -> String {
    let status = run(&mut scene.connection, pod).expect_err("it is rejected");
    assert!(status.message.contains("autoport.cni/bind"), "{status:?}");
    assert!(create(&mut scene.connection, pod).is_err(), "and no container without");
    let held = fs::read_dir(scene.node.state().join("pods"));
    assert_eq!(held.map_or(0, Iterator::count), 0, "its ports are released");
    status.message
}

fn with_parent(pod: Pod, cgroup_parent: &str) -> Pod {
    let linux =
        pod.linux.map(|linux| LinuxPod { cgroup_parent: cgroup_parent.to_owned(), ..linux });
    Pod { linux, ..pod }
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn without_a_cgroup_of_its_own_a_pod_is_rejected() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080", "redirect");
    let shared = scene.cgroup.parent("shared");
    for (parent, shown) in [
        ("", "not one of this Pod alone"),
        (&*shared, "not one of this Pod alone"),
        ("/no/such/podone", "cannot be opened"),
    ] {
        let text = rejected(&mut scene, &with_parent(pod.clone(), parent));
        assert!(text.contains(shown), "{parent}: {text}");
    }
    let plain = host_pod("plain", "sandbox-plain", &[(PORTS, "http=auto"), (BIND, "redirect")]);
    run(&mut scene.connection, &plain).expect("nothing is redirected for it");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn an_agent_without_the_capability_rejects_with_the_remedy() {
    let mut scene = Scene::new();
    scene.agent.signal(nix::sys::signal::Signal::SIGKILL);
    scene.agent = scene.node.start_with("-bpf,-sys_admin", &scene.runtime.socket());
    scene.connection = scene.runtime.connect(Vec::new(), Vec::new());
    let pod = scene.pod("one", "http=8080", "redirect");
    let text = rejected(&mut scene, &pod);
    assert!(text.contains("CAP_BPF and CAP_NET_ADMIN"), "{text}");
    let told = fs::read_to_string(scene.node.state().join("agent.json")).expect("it beats");
    assert!(told.contains(r#""bindHook":"capability""#), "{told}");

    // What the component deploy/kubernetes/bind-hook gives is enough.
    scene.agent.signal(nix::sys::signal::Signal::SIGKILL);
    scene.agent = scene.node.start_with("-all,+bpf,+net_admin,+sys_nice", &scene.runtime.socket());
    scene.connection = scene.runtime.connect(Vec::new(), Vec::new());
    let [http] = scene.runs(&pod, ["HTTP"]);
    assert_eq!(scene.actor("one").does("listens 0.0.0.0:8080"), format!("0.0.0.0:{http}"));
    let told = fs::read_to_string(scene.node.state().join("agent.json")).expect("it beats");
    assert!(told.contains(r#""bindHook":"usable""#), "{told}");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn two_containers_that_want_the_same_port_are_both_named() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "web=8080, admin=8080", "redirect");
    let status = run(&mut scene.connection, &pod).expect_err("one port is for one of them");
    assert!(
        status.message.contains("web=8080") && status.message.contains("admin=8080"),
        "{status:?}"
    );
    let pod = scene.pod("two", "web=8080/sctp", "redirect");
    let status = run(&mut scene.connection, &pod).expect_err("SCTP is not redirected");
    assert!(status.message.contains("web=auto/sctp"), "{status:?}");
}
