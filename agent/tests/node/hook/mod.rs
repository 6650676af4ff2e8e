//! The bind hook: programs in two pods of one node bind the same port.

mod actor;
mod beside;
mod failing;
mod figures;
mod guard;
mod lasting;
mod programs;
mod sctp;
mod systemd;

use std::env;
use std::net::SocketAddr;
use std::process::Command;

use autoport_agent::nri::message::{LinuxPod, Pod};

use self::actor::{Actor, connects, sends};
use super::agent::{Agent, Node};
use super::cgroup::Cgroup;
use super::runtime::{Connection, Runtime};
use super::{PORTS, create, host_pod, ip, run};

const BIND: &str = "autoport.cni/bind";

/// A node with an agent, two addresses and a client outside.
struct Scene {
    /// It ends first: without the root of the test it would see the cgroups of other tests.
    agent: Agent,
    connection: Connection,
    runtime: Runtime,
    node: Node,
    cgroup: Cgroup,
    /// What the runtime tells the next agent.
    pods: Vec<Pod>,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    /// One with these keys of the plugin's configuration.
    fn with(keys: &str) -> Self {
        Self::at(Cgroup::new(), keys)
    }

    fn at(cgroup: Cgroup, keys: &str) -> Self {
        let (node, runtime) = (Node::new(keys), Runtime::new());
        ip("link set lo up");
        let agent = node.start(&runtime.socket(), &[]);
        let connection = runtime.connect(Vec::new(), Vec::new());
        Self { agent, connection, runtime, node, cgroup, pods: Vec::new() }
    }

    /// A pod of this node that asks for these ports by the hook.
    fn pod(&self, uid: &str, ports: &str, bind: &str) -> Pod {
        let pod = host_pod(uid, &format!("sandbox-{uid}"), &[(PORTS, ports), (BIND, bind)]);
        let cgroup_parent = self.cgroup.parent(&format!("pod{uid}"));
        let linux = pod.linux.map(|linux| LinuxPod { cgroup_parent, ..linux });
        Pod { linux, ..pod }
    }

    /// Sets its sandbox up; gives the host ports of these names.
    fn runs<const N: usize>(&mut self, pod: &Pod, names: [&str; N]) -> [u16; N] {
        run(&mut self.connection, pod).expect("it is assigned its ports");
        self.host_ports(pod, names)
    }

    fn host_ports<const N: usize>(&mut self, pod: &Pod, names: [&str; N]) -> [u16; N] {
        let told = create(&mut self.connection, pod).expect("its container is created");
        names.map(|name| told[&format!("AUTOPORT_HOST_PORT_{name}")].parse().expect("a port"))
    }

    /// A process in a container of the pod.
    fn actor(&self, uid: &str) -> Actor {
        let command = self.cgroup.command(&format!("pod{uid}/c1"), this());
        Actor::start(command, uid)
    }

    /// A process of the node that is in no pod.
    fn stranger(&self) -> Actor {
        Actor::start(self.cgroup.command("other.service", this()), "stranger")
    }

    /// Another agent in place of this one, which is killed.
    fn replace_agent(&mut self) {
        self.agent.signal(nix::sys::signal::Signal::SIGKILL);
        self.agent = self.node.start(&self.runtime.socket(), &[]);
        self.connection = self.runtime.connect(self.pods.clone(), Vec::new());
    }
}

fn this() -> std::path::PathBuf {
    env::current_exe().expect("the path of this program")
}

/// A process on another machine, whose addresses are `198.51.100.2` and `2001:db8::2`; the node's end in 1.
fn outside() -> Actor {
    let mut command = Command::new("unshare");
    command.arg("--net").arg(this());
    let mut client = Actor::start(command, "outside");
    client.does("connects 127.0.0.1:9");
    let pid = client.pid();
    ip(&format!("link add v0 type veth peer name v1 netns {pid}"));
    ip("addr add 198.51.100.1/24 dev v0");
    ip("addr add 2001:db8::1/64 dev v0 nodad");
    ip("link set v0 up");
    let there =
        |words: &str| super::tool("nsenter", &format!("--net=/proc/{pid}/ns/net ip {words}"));
    there("addr add 198.51.100.2/24 dev v1");
    there("addr add 2001:db8::2/64 dev v1 nodad");
    there("link set v1 up");
    client
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn unreached(answer: std::io::Result<String>) -> bool {
    answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn two_pods_bind_the_same_ports_and_are_reached_at_their_own() {
    let mut scene = Scene::new();
    let ports = "http=8080, game=9000/tcp+udp, low=80";
    let names = ["HTTP", "GAME", "LOW"];
    let mut outside = outside();
    let mut pods = Vec::new();
    for (uid, address, seen) in
        [("one", "0.0.0.0", "198.51.100.2"), ("two", "[::]", "::ffff:198.51.100.2")]
    {
        let pod = scene.pod(uid, ports, "redirect");
        let numbers = scene.runs(&pod, names);
        let mut actor = scene.actor(uid);
        for (named, number) in [8080, 9000, 80].into_iter().zip(numbers) {
            let own = actor.does(&format!("listens {address}:{named}"));
            assert_eq!(own, format!("{address}:{number}"), "the socket has its host port");
        }
        actor.does(&format!("receives {address}:9000"));
        pods.push((uid, seen, numbers, actor));
    }
    for (uid, seen, [http, game, low], _actor) in &pods {
        let expected = format!("{uid} to {seen}");
        for port in [http, game, low] {
            assert_eq!(outside.does(&format!("connects 198.51.100.1:{port}")), expected);
        }
        let answer = outside.does(&format!("sends 198.51.100.1:{game}"));
        assert_eq!(answer, format!("{expected} from 198.51.100.1:{game}"));
        assert_eq!(
            connects(at("127.0.0.1", *http)).expect("it listens").split(' ').next(),
            Some(*uid)
        );
    }
    let [.., (_, _, [http, game, _], _)] = &pods[..] else { panic!("two pods") };
    assert_eq!(outside.does(&format!("connects [2001:db8::1]:{http}")), "two to 2001:db8::2");
    let answer = outside.does(&format!("sends [2001:db8::1]:{game}"));
    assert_eq!(answer, format!("two to 2001:db8::2 from [2001:db8::1]:{game}"));
    // The ports that they name are free.
    assert_eq!(outside.does("connects 198.51.100.1:8080"), "connection refused");
    let mut stranger = scene.stranger();
    assert_eq!(stranger.does("listens 0.0.0.0:8080"), "0.0.0.0:8080");
    assert_eq!(connects(at("127.0.0.1", 8080)).expect("it listens"), "stranger to 127.0.0.1");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn clients_in_the_pod_reach_its_servers_at_the_ports_that_they_name() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080, dns=53/udp", "redirect");
    let [http, dns] = scene.runs(&pod, ["HTTP", "DNS"]);
    let mut server = scene.actor("one");
    server.does("listens [::]:8080");
    server.does("receives [::]:53");
    let mut client = scene.actor("one");
    for (asked, seen) in [
        ("127.0.0.1:8080", "::ffff:127.0.0.1"),
        ("127.1.2.3:8080", "::ffff:127.0.0.1"),
        ("[::1]:8080", "::1"),
        ("[::ffff:127.0.0.1]:8080", "::ffff:127.0.0.1"),
        ("0.0.0.0:8080", "::ffff:127.0.0.1"),
    ] {
        assert_eq!(client.does(&format!("connects {asked}")), format!("one to {seen}"), "{asked}");
    }
    for asked in ["127.0.0.1:53", "[::1]:53", "[::ffff:127.0.0.1]:53"] {
        for order in ["sends", "sends-connected"] {
            let answer = client.does(&format!("{order} {asked}"));
            let from = answer.rsplit(' ').next();
            assert_eq!(from, Some(asked), "the reply has the address that was asked: {answer}");
        }
    }
    // At the chosen numbers it is reached too, and in UDP seen at the one that programs name.
    assert_eq!(client.does(&format!("connects 127.0.0.1:{http}")), "one to ::ffff:127.0.0.1");
    assert!(client.does(&format!("sends 127.0.0.1:{dns}")).ends_with("from 127.0.0.1:53"));
    // Not by others, nor at other addresses of the node.
    assert!(unreached(connects(at("127.0.0.1", 8080))));
    assert!(sends(at("127.0.0.1", dns)).expect("it answers").ends_with(&format!(":{dns}")));
    ip("addr add 198.51.100.1/24 dev lo");
    assert_eq!(client.does("connects 198.51.100.1:8080"), "connection refused");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn everything_else_is_left_alone() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080, rtp=10000-10009/udp, media=auto", "redirect");
    let [http, rtp, media] = scene.runs(&pod, ["HTTP", "RTP", "MEDIA"]);
    let mut actor = scene.actor("one");
    assert_eq!(actor.does("listens 127.0.0.1:8081"), "127.0.0.1:8081");
    assert_eq!(actor.does("receives 127.0.0.1:8080"), "127.0.0.1:8080", "it asks for TCP only");
    assert_eq!(actor.does("listens 127.0.0.1:10000"), "127.0.0.1:10000");
    assert_ne!(actor.does("listens 127.0.0.1:0"), "127.0.0.1:0");
    assert_eq!(actor.does(&format!("listens 127.0.0.1:{media}")), format!("127.0.0.1:{media}"));
    // A program that knows its number binds it.
    assert_eq!(actor.does(&format!("listens 127.0.0.1:{http}")), format!("127.0.0.1:{http}"));
    assert_eq!(actor.does("listens 127.0.0.1:8080"), "address in use");
    // The first and the last of a run.
    for (named, number) in [(10000, rtp), (10009, rtp + 9)] {
        assert_eq!(
            actor.does(&format!("receives 127.0.0.1:{named}")),
            format!("127.0.0.1:{number}")
        );
    }
    // A network namespace in the pod has all ports for itself.
    assert_eq!(actor.does("listens-elsewhere 0.0.0.0:8080"), "0.0.0.0:8080");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_program_sees_its_own_port_where_the_pod_asks_for_that() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080/tcp+udp", "redirect, getsockname");
    let [http] = scene.runs(&pod, ["HTTP"]);
    let mut actor = scene.actor("one");
    for order in ["listens 0.0.0.0:8080", "receives [::]:8080"] {
        assert_eq!(actor.does(order), order.split(' ').nth(1).expect("an address"));
    }
    assert_eq!(connects(at("127.0.0.1", http)).expect("it listens"), "one to 127.0.0.1");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn an_unprivileged_program_binds_a_port_below_1024() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=80", "redirect");
    let [http] = scene.runs(&pod, ["HTTP"]);
    // The shell of busybox would take its own, which knows less.
    let mut command = scene.cgroup.command("podone/c1", "/usr/bin/setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--"])
        .arg(this());
    let mut actor = Actor::start(command, "one");
    assert_eq!(actor.does("listens 127.0.0.1:80"), format!("127.0.0.1:{http}"));
    assert_eq!(actor.does("listens 127.0.0.1:81"), "permission denied");
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_slice_of_a_pod_is_found() {
    let (cgroup, slice) = Cgroup::slices("podone");
    let mut scene = Scene::at(cgroup, "");
    let pod = host_pod("one", "sandbox-one", &[(PORTS, "http=8080"), (BIND, "redirect")]);
    let linux = pod.linux.map(|linux| LinuxPod { cgroup_parent: slice.clone(), ..linux });
    let [http] = scene.runs(&Pod { linux, ..pod }, ["HTTP"]);
    let (outer, _) = slice.rsplit_once('-').expect("it is an inner one");
    let inner = format!("{outer}.slice/{slice}/cri-containerd-c1.scope");
    let mut actor = Actor::start(scene.cgroup.command(&inner, this()), "one");
    assert_eq!(actor.does("listens 0.0.0.0:8080"), format!("0.0.0.0:{http}"));
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_pod_has_64_ports() {
    let mut scene = Scene::new();
    let items: Vec<_> = (0..64).map(|at| format!("p{at}={}", 8000 + at)).collect();
    for uid in ["one", "two"] {
        let pod = scene.pod(uid, &items.join(", "), "redirect");
        let [first, last] = scene.runs(&pod, ["P0", "P63"]);
        let mut actor = scene.actor(uid);
        for (named, number) in [(8000, first), (8063, last)] {
            assert_eq!(
                actor.does(&format!("listens 0.0.0.0:{named}")),
                format!("0.0.0.0:{number}")
            );
        }
        assert_eq!(actor.does("listens 0.0.0.0:7999"), "0.0.0.0:7999");
        assert_eq!(actor.does("connects 127.0.0.1:8063"), format!("{uid} to 127.0.0.1"));
        drop(actor);
    }
}
