//! The port guard: nobody but a pod binds the ports that it holds.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use autoport::cni::NodeFiles;
use autoport::diagnosis::{self, Facts, State};
use autoport::regular;
use autoport::store::Store;
use nix::sys::signal::Signal;

use super::*;
use crate::stop;

const GUARDED: &str = "\"portRange\": \"20000-20099\", \"guardRange\": true";

impl Scene {
    /// A node on which pods have cgroups as kubelet makes them.
    pub(super) fn guarded(keys: &str) -> Self {
        let cgroup = Cgroup::of_node();
        cgroup.parent("kubepods/burstable");
        Self::at(cgroup, keys)
    }

    /// A pod that knows its port, or that has the hook; runs it.
    pub(super) fn holds(&mut self, uid: &str, ports: &str, bind: Option<&str>) -> (Pod, u16) {
        let annotations = [(PORTS, ports), (BIND, bind.unwrap_or_default())];
        let pod = self.below_all(uid, &annotations[..=usize::from(bind.is_some())]);
        let [port] = self.runs(&pod, ["HTTP"]);
        self.pods.push(pod.clone());
        (pod, port)
    }

    /// A pod in the cgroup of all pods.
    pub(super) fn below_all(&self, uid: &str, annotations: &[(&str, &str)]) -> Pod {
        let pod = host_pod(uid, &format!("sandbox-{uid}"), annotations);
        let cgroup_parent = self.cgroup.parent(&format!("kubepods/burstable/pod{uid}"));
        Pod { linux: pod.linux.map(|linux| LinuxPod { cgroup_parent, ..linux }), ..pod }
    }

    /// A process of a pod, in a container.
    pub(super) fn inside(&self, uid: &str) -> Actor {
        let container = format!("kubepods/burstable/pod{uid}/c1");
        Actor::start(self.cgroup.command(&container, this()), uid)
    }

    /// What doctor says of the guard.
    fn examined(&self) -> Vec<(State, String)> {
        let dir = self.node.node_dir();
        let files = NodeFiles::in_dir(dir, regular::read);
        let store = Store::at(&self.node.state());
        let facts = Facts::gather(dir.join("net.d"), dir.into(), &store, files);
        let all = diagnosis::findings(&facts, &Ok(Vec::new())).into_iter();
        let about =
            all.filter(|it| it.check == "agent" && !it.text.contains("node agent is connected"));
        about.map(|it| (it.state, it.text)).collect()
    }

    /// Waits until the number of an otherwise free port can be bound by a pod, or cannot.
    fn waits_until_free(&self, port: u16, is_free: bool) {
        let (mut other, begun) = (self.inside("waiting"), Instant::now());
        while (other.does(&format!("binds 127.0.0.1:{port}")) != "address in use") != is_free {
            assert!(begun.elapsed() < Duration::from_secs(10), "{port} is free: {is_free}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What a process is told that binds the port in each way.
fn binds(actor: &mut Actor, port: u16) -> Vec<String> {
    let addresses = ["0.0.0.0", "127.0.0.1", "[::]", "[::1]"];
    addresses.map(|address| actor.does(&format!("binds {address}:{port}"))).to_vec()
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_port_is_bound_by_its_holder_alone() {
    let mut scene = Scene::guarded(GUARDED);
    let (_, auto) = scene.holds("one", "http=auto", None);
    let (_, hooked) = scene.holds("two", "http=8080, dns=53/udp", Some("redirect"));
    let (mut one, mut two) = (scene.inside("one"), scene.inside("two"));
    let mut other = scene.inside("other");
    for port in [auto, hooked, 20050] {
        assert_eq!(binds(&mut other, port), ["address in use"; 4], "{port}");
        assert_eq!(other.does(&format!("receives 0.0.0.0:{port}")), "address in use");
    }
    // Each has its own, by its number or by the one that it names, and not that of the other.
    assert_eq!(binds(&mut one, auto).iter().filter(|done| done.contains("in use")).count(), 0);
    assert_eq!(binds(&mut one, hooked), ["address in use"; 4]);
    assert_eq!(binds(&mut two, auto), ["address in use"; 4]);
    assert_eq!(one.does(&format!("listens 0.0.0.0:{auto}")), format!("0.0.0.0:{auto}"));
    assert_eq!(two.does("listens [::]:8080"), format!("[::]:{hooked}"));
    // In the protocol that it holds.
    assert_eq!(one.does(&format!("receives 0.0.0.0:{auto}")), "address in use");
    assert!(two.does("receives 0.0.0.0:53").starts_with("0.0.0.0:200"));
    // A free number is nobody's; others are not guarded.
    assert_eq!(one.does("listens 0.0.0.0:20050"), "address in use");
    for port in [19999, 20100] {
        assert_eq!(other.does(&format!("listens 0.0.0.0:{port}")), format!("0.0.0.0:{port}"));
    }
    assert_ne!(other.does("listens 127.0.0.1:0"), "address in use");
    // Neither is another network namespace, nor a process of the node that is in no pod.
    let port = format!("0.0.0.0:{hooked}");
    assert_eq!(other.does(&format!("listens-elsewhere {port}")), port);
    assert_eq!(scene.stranger().does("listens 0.0.0.0:20050"), "0.0.0.0:20050");
    let (state, text) = scene.examined().pop().expect("it is said");
    assert_eq!(state, State::Ok, "{text}");
    assert!(text.contains("/kubepods"), "{text}");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn excluded_and_reserved_ports_are_not_guarded() {
    let keys = format!("{GUARDED}, \"excludePorts\": \"20010-20019\"");
    let mut scene = Scene::guarded(&keys);
    let state = scene.node.state();
    assert_eq!(scene.stranger().does(&format!("reserves 0.0.0.0:20030 {}", state.display())), "");
    // Another agent has read it before the first Pod comes; this one would within 30 s.
    scene.replace_agent();
    scene.holds("one", "http=auto", None);
    let mut other = scene.inside("other");
    for (port, is_guarded) in [
        (20009, true),
        (20010, false),
        (20019, false),
        (20020, true),
        (20029, true),
        (20030, false),
        (20031, true),
    ] {
        let told = other.does(&format!("listens 0.0.0.0:{port}"));
        assert_eq!(told == "address in use", is_guarded, "{port}: {told}");
    }
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn holders_from_before_the_guard_are_let_through_and_it_goes_with_its_key() {
    let mut scene = Scene::guarded("\"portRange\": \"20000-20099\"");
    let (_, port) = scene.holds("one", "http=auto", None);
    scene.waits_until_free(20050, true);
    let file = scene.node.node_dir().join("autoport.json");
    let before = fs::read_to_string(&file).expect("it is there");
    let after = before.replacen('{', "{\"guardRange\": true, ", 1);
    fs::write(&file, after).expect("it is ours");
    scene.replace_agent();
    scene.waits_until_free(20050, false);
    let mut one = scene.inside("one");
    assert_eq!(one.does(&format!("listens 0.0.0.0:{port}")), format!("0.0.0.0:{port}"));
    assert_eq!(scene.inside("other").does(&format!("binds 0.0.0.0:{port}")), "address in use");
    // Without the key the next agent removes it, whose program it never was.
    fs::write(&file, before).expect("it is ours");
    scene.replace_agent();
    scene.waits_until_free(20050, true);
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_guard_outlives_agents_that_are_killed_and_follows_each_new_holder() {
    let mut scene = Scene::guarded(GUARDED);
    let (first, one) = scene.holds("one", "http=auto", None);
    scene.agent.signal(Signal::SIGKILL);
    assert_eq!(scene.inside("other").does(&format!("binds 0.0.0.0:{one}")), "address in use");
    assert!(scene.inside("one").does(&format!("binds 0.0.0.0:{one}")).ends_with(&one.to_string()));
    for round in 0..3 {
        scene.replace_agent();
        let uid = format!("next{round}");
        let (_, port) = scene.holds(&uid, "http=auto", None);
        let bound = scene.inside(&uid).does(&format!("listens 0.0.0.0:{port}"));
        assert_eq!(bound, format!("0.0.0.0:{port}"));
        let bound = scene.inside("one").does(&format!("listens 0.0.0.0:{one}"));
        assert_eq!(bound, format!("0.0.0.0:{one}"));
        assert_eq!(scene.inside("other").does(&format!("binds 0.0.0.0:{one}")), "address in use");
    }
    // What it gave back it does not hold after the next change.
    stop(&mut scene.connection, &first);
    scene.holds("last", "http=auto", None);
    assert_eq!(scene.inside("one").does(&format!("binds 0.0.0.0:{one}")), "address in use");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn there_is_no_moment_without_the_guard_while_agents_and_holders_change() {
    let mut scene = Scene::guarded(GUARDED);
    let (_, one) = scene.holds("one", "http=auto", None);
    let (mut holder, mut other) = (scene.inside("one"), scene.inside("other"));
    for actor in [&mut holder, &mut other] {
        actor.begins(&format!("binds-again-and-again 127.0.0.1:{one} 3000"));
    }
    for round in 0..3 {
        scene.holds(&format!("two{round}"), "http=auto", None);
        scene.replace_agent();
        scene.holds(&format!("three{round}"), "http=auto", None);
    }
    let counts = |answer: String| -> Vec<usize> {
        answer.split(' ').map(|word| word.parse().expect("a number")).collect()
    };
    let (holder, other) = (counts(holder.answers()), counts(other.answers()));
    assert!(other[0] > 1000 && other[1] == 0, "tried and got: {other:?}");
    // Its own attempts collide with those of the other, which has the port until the guard has refused it.
    assert!(holder[1] > 1000, "tried and got: {holder:?}");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_pods_of_another_node_are_not_guarded() {
    let cgroup = Cgroup::of_node();
    // In the tree of a machine whose containers are nodes, beside this one.
    let beside = "node/kubepods/burstable/podtheirs";
    cgroup.parent(beside);
    cgroup.parent("kubepods/burstable");
    let mut scene = Scene::at(cgroup, GUARDED);
    scene.holds("one", "http=auto", None);
    assert_eq!(scene.inside("other").does("listens 0.0.0.0:20050"), "address in use");
    let mut theirs = Actor::start(scene.cgroup.command(&format!("{beside}/c1"), this()), "theirs");
    assert_eq!(theirs.does("listens 0.0.0.0:20050"), "0.0.0.0:20050");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_last_agent_that_is_asked_to_end_removes_it() {
    let mut scene = Scene::guarded(GUARDED);
    scene.holds("one", "http=auto", None);
    let standby = scene.node.start(&scene.runtime.socket(), &["--standby"]);
    let second = scene.runtime.connect(scene.pods.clone(), Vec::new());
    thread::sleep(Duration::from_secs(1));
    let first = std::mem::replace(&mut scene.agent, standby);
    first.signal(Signal::SIGTERM);
    let (status, log) = first.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("the port guard is removed"), "{log}");
    assert_eq!(scene.inside("other").does("binds 0.0.0.0:20050"), "address in use", "{log}");
    scene.agent.signal(Signal::SIGTERM);
    let (status, log) = scene.agent.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("the port guard is removed"), "{log}");
    let mut other =
        Actor::start(scene.cgroup.command("kubepods/burstable/podother", this()), "other");
    assert_eq!(other.does("binds 0.0.0.0:20050"), "0.0.0.0:20050");
    drop(second);
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn where_it_cannot_be_attached_pods_that_ask_are_rejected_and_doctor_knows() {
    let mut scene = Scene::at(Cgroup::of_node(), GUARDED);
    let pod = host_pod("one", "sandbox-one", &[(PORTS, "http=auto")]);
    let status = run(&mut scene.connection, &pod).expect_err("it is rejected");
    assert!(
        status.message.contains("guardRange") && status.message.contains("kubepods"),
        "{status:?}"
    );
    let begun = Instant::now();
    while !scene.examined().iter().any(|(state, _)| *state == State::Failed) {
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", scene.examined());
        thread::sleep(Duration::from_millis(50));
    }
    let held = fs::read_dir(scene.node.state().join("pods"));
    assert_eq!(held.map_or(0, Iterator::count), 0, "its ports are released");
    // An agent that may not load programs.
    scene.cgroup.parent("kubepods/burstable");
    scene.agent.signal(Signal::SIGKILL);
    scene.agent = scene.node.start_with("-bpf,-sys_admin", &scene.runtime.socket());
    scene.connection = scene.runtime.connect(Vec::new(), Vec::new());
    let status = run(&mut scene.connection, &pod).expect_err("it is rejected");
    assert!(status.message.contains("CAP_BPF and CAP_NET_ADMIN"), "{status:?}");
    // What the component gives is enough.
    scene.agent.signal(Signal::SIGKILL);
    scene.agent = scene.node.start_with("-all,+bpf,+net_admin,+sys_nice", &scene.runtime.socket());
    scene.connection = scene.runtime.connect(Vec::new(), Vec::new());
    for uid in ["two", "three"] {
        let (_, port) = scene.holds(uid, "http=auto", None);
        assert!(
            scene.inside(uid).does(&format!("binds 0.0.0.0:{port}")).ends_with(&port.to_string())
        );
        assert_eq!(scene.inside("other").does(&format!("binds 0.0.0.0:{port}")), "address in use");
    }
}
