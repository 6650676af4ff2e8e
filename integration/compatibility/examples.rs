//! The configurations of `conflist-examples/` that need only Debian's plugins, run unchanged by
//! libcni with real packets; and the order of plugins that autoport needs.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::stage::netns::{Netns, ip, nft, run, settle};
use crate::stage::node::{CLIENT, FIRST, Node, Pod};
use crate::stage::operator::told;
use crate::stage::plugin::{DEBIAN, Plugin, tool};
use crate::stage::probe::{Answer, Probe};
use crate::stage::view;

/// Where the network configuration of a test is: below /run, which is the test's own.
const CONFIGURATION: &str = "/run/net.d";

const PORT: u16 = 8080;

/// The first port of the default range.
const CHOSEN: u16 = 20000;

fn project(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn example(file: &str) -> String {
    project(&format!("conflist-examples/{file}"))
}

/// A node with one network.
struct Scene {
    node: Node,
    name: String,
}

impl Scene {
    fn new(conflist: &str) -> Self {
        let node = Node::new();
        fs::create_dir_all(CONFIGURATION).expect("/run is ours");
        fs::write(format!("{CONFIGURATION}/10-pods.conflist"), conflist).expect("/run is ours");
        let list: Value = serde_json::from_str(conflist).expect("a configuration is JSON");
        let name = list["name"].as_str().expect("a network has a name").to_owned();
        Self { node, name }
    }

    /// `libcni verb` for the container `id`, as a runtime with these capabilities.
    fn libcni(
        &self,
        verb: &str,
        id: &str,
        netns: &Netns,
        offers: &Value,
    ) -> Result<String, String> {
        let plugin = Plugin::Autoport.path();
        let own_folder = plugin.parent().expect("an executable is in a folder");
        let mut command = Command::new(tool("bin/libcni"));
        command
            .args([verb, "-net", &self.name, "-id", id, "-netns", netns.path()])
            .env("NETCONFPATH", CONFIGURATION)
            .env("CNI_PATH", format!("{}:{DEBIAN}", own_folder.display()))
            .env("CAP_ARGS", offers.to_string());
        let (ok, text) = run(&mut command, "");
        self.node.note(format!("libcni {verb} {id}: {ok}: {text}"));
        if ok { Ok(text) } else { Err(text) }
    }

    fn does(&self, verb: &str, pod: &Pod, offers: &Value) {
        let outcome = self.libcni(verb, &pod.name, &pod.netns, offers);
        outcome.unwrap_or_else(|text| panic!("{verb} {}: {text}", pod.name));
    }

    /// A pod that is attached, as a runtime with these capabilities does it.
    fn attached(&self, name: &str, offers: &Value) -> Pod {
        let pod = self.node.pod(name);
        self.does("add", &pod, offers);
        pod
    }
}

/// A runtime that asks for [`PORT`], over TCP and UDP, and that has the pod's annotations.
fn by_number() -> Value {
    let mapping = |protocol| json!({ "hostPort": PORT, "containerPort": 80, "protocol": protocol });
    json!({ "portMappings": [mapping("tcp"), mapping("udp")] })
}

/// A runtime that has nothing but annotations, which ask for one number in TCP and UDP.
fn by_annotation() -> Value {
    json!({ "io.kubernetes.cri.pod-annotations": { "autoport.cni/ports": "http=80/tcp+udp" } })
}

/// The client address that the pod sees.
enum Seen {
    Client,
    /// All clients are masqueraded, to the node's address towards the pods.
    Node(&'static str),
}

/// Runs one configuration: a pod with a host port and a neighbour of it without. Asks from outside
/// on every family that `families` names, from the node, from the pod and from its neighbour; then
/// CHECK, DEL, and nothing is left.
fn runs(conflist: &str, offers: &Value, port: u16, families: &[usize], seen: &Seen) {
    let scene = Scene::new(conflist);
    runs_in(&scene, offers, port, families, seen);
}

fn runs_in(scene: &Scene, offers: &Value, port: u16, families: &[usize], seen: &Seen) {
    let web = scene.attached("web", offers);
    let neighbour = scene.attached("neighbour", &json!({}));
    let checked = scene.libcni("check", "web", &web.netns, offers);
    let has_check = checked.as_ref().err().is_none_or(|text| !text.contains("does not support"));
    assert!(checked.is_ok() || !has_check, "{checked:?}");
    for family in families {
        let client = match seen {
            Seen::Client => CLIENT[*family],
            Seen::Node(address) => address,
        };
        for probe in [Probe::tcp(FIRST[*family], port), Probe::udp(FIRST[*family], port)] {
            assert_eq!(scene.node.client_asks(&probe), Answer::reached("web", client), "outside");
            let others = [
                ("the node", probe.ask()),
                ("the pod itself", web.asks(&probe)),
                ("its neighbour", neighbour.asks(&probe)),
            ];
            for (who, answer) in others {
                assert_eq!(answer.by(), Some("web"), "{who}, {}: {answer}", probe.to);
            }
        }
    }
    assert_eq!(Probe::tcp("127.0.0.1", port).ask().by(), Some("web"), "127.0.0.1 of the node");
    scene.does("del", &web, offers);
    scene.does("del", &neighbour, &json!({}));
    settle();
    for family in families {
        let probe = Probe::tcp(FIRST[*family], port);
        assert_eq!(scene.node.client_asks(&probe), Answer::Refused);
    }
    view::assert_nothing_held();
}

#[test]
fn bridge() {
    runs(&example("10-bridge.conflist"), &by_number(), PORT, &[0], &Seen::Client);
}

#[test]
fn bridge_dual_stack() {
    runs(&example("20-bridge-dual-stack.conflist"), &by_number(), PORT, &[0, 1], &Seen::Client);
}

#[test]
fn ptp() {
    runs(&example("30-ptp.conflist"), &by_number(), PORT, &[0], &Seen::Client);
}

#[test]
fn kindnet() {
    runs(&example("10-kindnet.conflist"), &by_number(), PORT, &[0], &Seen::Client);
}

/// Its chain as podman has it; podman itself drives it in `integration/runtimes/podman.rs`.
#[test]
fn podman() {
    runs(&example("87-podman.conflist"), &by_number(), PORT, &[0], &Seen::Client);
}

#[test]
fn nomad() {
    runs(&example("nomad.conflist"), &by_number(), PORT, &[0], &Seen::Client);
}

/// CRI-O has no port mappings for a plugin, whatever the Pod says.
#[test]
fn crio() {
    let mut offers = by_annotation();
    offers["portMappings"] = by_number()["portMappings"].clone();
    runs(&example("11-crio-ipv4-bridge.conflist"), &offers, CHOSEN, &[0], &Seen::Client);
}

/// A node with a macvlan network, and the interface towards it that README.md there says how to
/// make. The client is the gateway of the pods as well, with an address behind it.
fn macvlan_scene(edit: impl Fn(&mut Value)) -> Scene {
    let mut list: Value =
        serde_json::from_str(&example("40-macvlan.conflist")).expect("an example is JSON");
    list["plugins"][0]["master"] = json!("uplink");
    edit(&mut list);
    let scene = Scene::new(&list.to_string());
    let document = example("README.md");
    let recipe = document.split("```sh\n").find(|part| part.contains("type macvlan"));
    let recipe = recipe.and_then(|part| part.split("```").next()).expect("the recipe");
    let commands: Vec<_> =
        recipe.lines().map(|line| line.strip_prefix("ip ").expect("a command of ip")).collect();
    ip(&commands.join("\n").replace("eth0", "uplink"));
    ip(&format!("route add {DISTANT}/32 via {}", CLIENT[0]));
    scene.node.client.run(|| {
        ip(&format!("addr add 192.0.2.254/24 dev eth0\naddr add {DISTANT}/32 dev eth0"));
    });
    scene
}

/// A client that is not in the pods' subnet.
const DISTANT: &str = "198.51.100.7";

#[test]
fn macvlan() {
    let scene = macvlan_scene(|_| ());
    let node = "192.0.2.10";
    runs_in(&scene, &by_number(), PORT, &[0], &Seen::Node(node));
    let _pod = scene.attached("another", &by_number());
    for probe in [Probe::tcp(FIRST[0], PORT), Probe::udp(FIRST[0], PORT)] {
        let answer = scene.node.client_asks(&probe.from(DISTANT, 0));
        assert_eq!(answer, Answer::reached("another", node));
    }
}

/// Without `masqAll` the pod answers a client that is not in its subnet past the node, from an
/// address that the client has not asked.
#[test]
fn macvlan_needs_masq_all() {
    let scene = macvlan_scene(|list| {
        list["plugins"][1].as_object_mut().expect("an object").remove("masqAll");
    });
    let _web = scene.attached("web", &by_number());
    let near = scene.node.client_asks(&Probe::tcp(FIRST[0], PORT));
    assert_eq!(near, Answer::reached("web", "192.0.2.10"), "of one subnet: masqueraded anyway");
    let distant = Probe::tcp(FIRST[0], PORT).from(DISTANT, 0);
    assert_eq!(scene.node.client_asks(&distant.in_vain()).by(), None);
}

/// A network whose pods' packets are routed by their source, to nowhere here: the answer to a client
/// takes that way unless somebody sees to it. `rule` is what is added to the rule's selector.
fn routed_by_source(edit: impl Fn(&mut Value), rule: &str) -> Scene {
    let mut list: Value =
        serde_json::from_str(&example("10-kindnet.conflist")).expect("an example is JSON");
    edit(&mut list);
    let scene = Scene::new(&list.to_string());
    ip(&format!(
        "rule add from 10.244.0.0/24 {rule} lookup 100 priority 900
         route add blackhole default table 100"
    ));
    scene
}

/// As `HybridNet` has it: what is both translated and masqueraded is marked past its own rule.
#[test]
fn routed_by_source_with_hybridnets_mark_it_takes_masq_all() {
    let marks = "table ip hybridnet {
        chain prerouting {
            type filter hook prerouting priority mangle;
            ct status snat ct status dnat ct reply ip saddr 10.244.0.0/24 meta mark set meta mark | 0x40
        }
    }";
    for masq_all in [false, true] {
        let scene = routed_by_source(
            |list| list["plugins"][1]["masqAll"] = json!(masq_all),
            "fwmark 0/0x40",
        );
        nft(marks);
        let _web = scene.attached("web", &by_number());
        let probe = Probe::tcp(FIRST[0], PORT);
        let probe = if masq_all { probe } else { probe.in_vain() };
        let expected = masq_all.then_some("web");
        assert_eq!(scene.node.client_asks(&probe).by(), expected, "masqAll: {masq_all}");
    }
}

/// As Terway has it with `symmetric_routing`: what came in by the node's interface is marked, and
/// its answers leave there.
#[test]
fn routed_by_source_with_terways_mark_the_client_keeps_its_address() {
    for symmetric in [false, true] {
        let scene = routed_by_source(|_| (), "");
        if symmetric {
            nft("table ip terway {
                chain prerouting {
                    type filter hook prerouting priority mangle;
                    iifname uplink ct mark set 0x10
                    ct mark 0x10 meta mark set 0x10
                }
            }");
            ip("rule add fwmark 0x10/0x10 lookup main priority 600");
        }
        let _web = scene.attached("web", &by_number());
        let probe = Probe::tcp(FIRST[0], PORT);
        let probe = if symmetric { probe } else { probe.in_vain() };
        let answer = scene.node.client_asks(&probe);
        if symmetric {
            assert_eq!(answer, Answer::reached("web", CLIENT[0]));
        } else {
            assert_eq!(answer.by(), None);
        }
    }
}

/// A bridge with autoport, and other plugins around it.
fn chain(before: &[Value], after: &[Value]) -> String {
    let mut list: Value =
        serde_json::from_str(&example("10-bridge.conflist")).expect("an example is JSON");
    let plugins = list["plugins"].as_array_mut().expect("plugins is a list");
    let at = plugins.len() - 1;
    plugins.splice(at..at, before.iter().cloned());
    plugins.extend(after.iter().cloned());
    list.to_string()
}

/// Plugins that keep the pod's address, with something to do.
fn others() -> [Value; 3] {
    [
        json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" } }),
        json!({
            "type": "bandwidth",
            "ingressRate": 100_000_000, "ingressBurst": 100_000_000,
            "egressRate": 100_000_000, "egressBurst": 100_000_000,
        }),
        json!({ "type": "firewall", "backend": "iptables" }),
    ]
}

#[test]
fn plugins_that_keep_the_address_may_stand_before() {
    for other in others() {
        runs(&chain(&[other], &[]), &by_number(), PORT, &[0], &Seen::Client);
    }
    runs(&chain(&others(), &[]), &by_number(), PORT, &[0], &Seen::Client);
}

#[test]
fn plugins_that_keep_the_address_may_stand_after() {
    for other in others() {
        runs(&chain(&[], &[other]), &by_number(), PORT, &[0], &Seen::Client);
    }
    runs(&chain(&[], &others()), &by_number(), PORT, &[0], &Seen::Client);
}

/// The error says what to do, the plugins behind are not called, and the DEL of a runtime after it
/// leaves nothing.
#[test]
fn before_the_interface_there_is_nothing_to_map_to() {
    let mut list: Value =
        serde_json::from_str(&example("10-bridge.conflist")).expect("an example is JSON");
    list["plugins"].as_array_mut().expect("plugins is a list").reverse();
    let scene = Scene::new(&list.to_string());
    let pod = scene.node.pod("web");
    let error =
        scene.libcni("add", "web", &pod.netns, &by_number()).expect_err("the order is wrong");
    assert!(error.contains("code 7"), "{error}");
    assert!(error.contains("put it after the one that makes the interface"), "{error}");
    let (_, links) = run(Command::new("ip").args(["-brief", "link"]), "");
    assert!(!links.contains("cni0"), "bridge was not called: {links}");
    scene.does("del", &pod, &by_number());
    view::assert_nothing_held();
}

/// A plugin that has an address of another interface to tell hides that mistake from the runtime.
#[test]
fn behind_loopback_alone_it_says_that_its_ports_lead_nowhere() {
    let mut list: Value =
        serde_json::from_str(&example("nomad.conflist")).expect("an example is JSON");
    list["plugins"].as_array_mut().expect("plugins is a list").swap(1, 3);
    let scene = Scene::new(&list.to_string());
    let pod = scene.node.pod("web");
    let text = scene.libcni("add", "web", &pod.netns, &by_number()).expect("ports are held");
    assert!(text.contains("the pod has no address in prevResult"), "{text}");
    assert_eq!(scene.node.client_asks(&Probe::tcp(FIRST[0], PORT)), Answer::Refused);
    scene.does("del", &pod, &by_number());
    view::assert_nothing_held();
}

/// The list shows the chosen number with its name.
#[test]
fn an_annotation_is_seen_where_the_capability_is() {
    let scene = Scene::new(&example("10-bridge.conflist"));
    let pod = scene.attached("web", &by_annotation());
    assert!(told(&["list"]).contains(&CHOSEN.to_string()), "{}", told(&["list"]));
    scene.does("del", &pod, &by_annotation());
    // The same without the capability: nobody reads the annotation, and nothing says so.
    let mut list: Value =
        serde_json::from_str(&example("10-bridge.conflist")).expect("an example is JSON");
    list["plugins"][1]["capabilities"] = json!({ "portMappings": true });
    let scene = Scene::new(&list.to_string());
    let pod = scene.attached("web", &by_annotation());
    view::assert_nothing_held();
    scene.does("del", &pod, &by_annotation());
}
