//! How long the hook lasts: beyond the agent, and no longer than the pod's cgroup.

use autoport::model::HostPod;
use autoport::store::Store;

use super::*;
use crate::stop;

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn pods_keep_their_ports_when_agents_come_and_go() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080", "redirect");
    let [http] = scene.runs(&pod, ["HTTP"]);
    let mut actor = scene.actor("one");
    actor.does("listens 0.0.0.0:8080");
    scene.agent.signal(nix::sys::signal::Signal::SIGKILL);
    assert!(connects(at("127.0.0.1", http)).is_ok());
    drop(actor);
    // A container that is started again while no agent is there.
    let mut actor = scene.actor("one");
    assert_eq!(actor.does("listens 0.0.0.0:8080"), format!("0.0.0.0:{http}"));
    for _ in 0..3 {
        scene.replace_agent();
        assert_eq!(scene.host_ports(&pod, ["HTTP"]), [http]);
    }
    drop(actor);
    assert_eq!(scene.actor("one").does("listens 0.0.0.0:8080"), format!("0.0.0.0:{http}"));
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_programs_of_a_pod_are_written_for_the_operator() {
    let mut scene = Scene::new();
    let listed = |scene: &Scene, uid| {
        let pod = HostPod::new(uid).expect("a UID");
        Store::at(&scene.node.state()).bind_programs(&pod)
    };
    let one = scene.pod("one", "http=8080", "redirect");
    let [http] = scene.runs(&one, ["HTTP"]);
    let programs = listed(&scene, "one");
    let calls: Vec<_> = programs.iter().map(|it| &*it.call).collect();
    assert_eq!(calls, ["bind4", "bind6", "connect4", "connect6"]);
    for program in &programs {
        assert!(program.id > 0 && program.listing.ends_with("exit\n"), "{program:?}");
        assert!(program.listing.contains(&format!("r2 = {http}\n")), "{program:?}");
    }
    // They are the same after an agent that attaches nothing, and gone when another is attached later.
    scene.replace_agent();
    scene.host_ports(&one, ["HTTP"]);
    assert_eq!(listed(&scene, "one"), programs);
    stop(&mut scene.connection, &one);
    let two = scene.pod("two", "dns=53/udp", "redirect");
    scene.runs(&two, ["DNS"]);
    assert_eq!((listed(&scene, "one").len(), listed(&scene, "two").len()), (0, 8));
}

/// Another pod on the host network, and its number.
fn taker(scene: &mut Scene, uid: &str) -> (Pod, u16) {
    let pod = host_pod(uid, &format!("sandbox-{uid}"), &[(PORTS, "http=auto")]);
    let [number] = scene.runs(&pod, ["HTTP"]);
    (pod, number)
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn another_sandbox_of_the_pod_gets_its_own_numbers() {
    let mut scene = Scene::with("\"portRange\": \"20000-20001\"");
    let pod = scene.pod("one", "http=8080", "redirect");
    // By the same agent, and by others, which may not look into the programs of the first.
    for round in 0..4 {
        let sandbox = Pod { id: format!("sandbox-{round}"), ..pod.clone() };
        let [http] = scene.runs(&sandbox, ["HTTP"]);
        assert_eq!(scene.actor("one").does("listens 0.0.0.0:8080"), format!("0.0.0.0:{http}"));
        stop(&mut scene.connection, &sandbox);
        if round % 2 == 1 {
            scene.replace_agent();
        }
        // Others get both numbers; the one that the pod had stays theirs.
        let takers = [1, 2].map(|at| taker(&mut scene, &format!("taker-{round}-{at}")));
        let (taken, free): (Vec<_>, Vec<_>) =
            takers.into_iter().partition(|(_, number)| *number == http);
        for (taker, _) in &free {
            stop(&mut scene.connection, taker);
        }
        let again = Pod { id: format!("again-{round}"), ..pod.clone() };
        let [other] = scene.runs(&again, ["HTTP"]);
        assert_ne!(other, http);
        assert_eq!(scene.actor("one").does("listens 0.0.0.0:8080"), format!("0.0.0.0:{other}"));
        stop(&mut scene.connection, &again);
        for (taker, _) in &taken {
            stop(&mut scene.connection, taker);
        }
    }
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn other_items_in_the_same_cgroup_are_refused() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080", "redirect");
    scene.runs(&pod, ["HTTP"]);
    stop(&mut scene.connection, &pod);
    let other = scene.pod("one", "http=9090", "redirect");
    let status = run(&mut scene.connection, &other).expect_err("8080 is still redirected");
    assert!(status.message.contains("delete the Pod"), "{status:?}");
    // When the cgroup is gone, so are its programs.
    scene.cgroup.remove("podone");
    let other = scene.pod("one", "http=9090", "redirect");
    let [http] = scene.runs(&other, ["HTTP"]);
    let mut actor = scene.actor("one");
    assert_eq!(actor.does("listens 0.0.0.0:9090"), format!("0.0.0.0:{http}"));
    assert_eq!(actor.does("listens 0.0.0.0:8080"), "0.0.0.0:8080");
}
