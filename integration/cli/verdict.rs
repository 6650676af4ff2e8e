//! `autoport trace`: its result is compared with a real packet. Where it says that the packet
//! arrives, the pod answers a real client; where it says that the packet stops, no client gets an
//! answer.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::snapshots::assert_snapshots;
use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::echo::Echo;
use crate::stage::netns::{ip, nft, ruleset, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod, SECOND, address};
use crate::stage::operator::{autoport, told, under};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Probe, Transport};
use crate::stage::view::STATE;

/// A node with a pod, and a neighbour of the pod.
pub(super) struct Scene {
    pub(super) node: Node,
    pub(super) web: Pod,
    neighbour: Pod,
}

/// The client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Client {
    Outside,
    Loopback,
    Node,
    Pod,
    Neighbour,
}

use Client::{Loopback, Neighbour, Outside};

const EVERYBODY: [Client; 5] = [Outside, Loopback, Client::Node, Client::Pod, Neighbour];

/// Client, port, protocol, and index of the IP version: 0 is IPv4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) client: Client,
    pub(super) port: u16,
    pub(super) transport: Transport,
    family: usize,
    to: Option<&'static str>,
}

pub(super) const fn ask(client: Client, port: u16) -> Ask {
    Ask { client, port, transport: Transport::Tcp, family: 0, to: None }
}

impl Ask {
    pub(super) const fn v6(self) -> Self {
        Self { family: 1, ..self }
    }

    pub(super) const fn at(self, to: &'static str) -> Self {
        Self { to: Some(to), ..self }
    }
}

impl Scene {
    pub(super) fn new(options: &[(&str, Value)]) -> Self {
        let node = Node::new();
        let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
        let network =
            options.iter().fold(network, |network, (key, value)| network.with(key, value.clone()));
        let mut mappings = PortMapping::both(8080, POD_PORT, "");
        mappings.push(PortMapping::new(Transport::Tcp, 8081, 81));
        mappings.push(PortMapping::new(Transport::Tcp, 8082, 82));
        let (web, _) = node.attached("web", &network, mappings);
        let (neighbour, _) = node.attached("neighbour", &network, []);
        Self { node, web, neighbour }
    }

    fn source(&self, ask: Ask) -> IpAddr {
        match ask.client {
            Outside => address(CLIENT[ask.family]),
            Loopback => address(["127.0.0.1", "::1"][ask.family]),
            Client::Node => address(FIRST[ask.family]),
            Client::Pod => address(["10.1.0.2", "fd00:1::2"][ask.family]),
            Neighbour => self.neighbour.address(ask.family == 1),
        }
    }

    fn to(&self, ask: Ask) -> IpAddr {
        let own =
            if ask.client == Loopback { self.source(ask) } else { address(FIRST[ask.family]) };
        ask.to.map_or(own, address)
    }

    /// What trace says.
    pub(super) fn traced(&self, ask: Ask) -> Value {
        let [from, to] = [self.source(ask), self.to(ask)].map(|it| it.to_string());
        let port = format!("{}/{}", ask.port, ask.transport.name());
        let arguments = ["trace", &port, "--from", &from, "--to", &to, "-o", "json"];
        let (status, stdout, stderr) = autoport(&arguments);
        let trace: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}{stderr}"));
        self.node.note(format!("{arguments:?}: {trace:#}"));
        let well = if trace["state"] == "passes" { 0 } else { 3 };
        assert_eq!(status.code(), Some(well), "{arguments:?}: {stdout}{stderr}");
        trace
    }

    /// Whether the pod really answers.
    pub(super) fn answers(&self, ask: Ask, expected: bool) -> bool {
        let probe = Probe::new(ask.transport, (self.to(ask), ask.port));
        let probe = if expected { probe } else { probe.in_vain() };
        let answer = match ask.client {
            Outside => self.node.client_asks(&probe),
            Loopback | Client::Node => probe.ask(),
            Client::Pod => self.web.asks(&probe),
            Neighbour => self.neighbour.asks(&probe),
        };
        self.node.note(format!("{ask:?}: {answer}"));
        answer.by() == Some("web")
    }

    /// Insists that the packet arrives, by both.
    fn arrives(&self, when: &str, ask: Ask) {
        let trace = self.traced(ask);
        assert_eq!(trace["state"], "passes", "{when}: {ask:?}: {trace:#}");
        assert!(self.answers(ask, true), "{when}: {ask:?} does not arrive: {trace:#}");
    }

    /// Insists that the packet stops, by both, and that trace says where and why.
    fn stops(&self, when: &str, ask: Ask, at: &str, word: &str) {
        let trace = self.traced(ask);
        assert_eq!(trace["state"], "stops", "{when}: {ask:?}: {trace:#}");
        let last = trace["steps"].as_array().and_then(|steps| steps.last()).expect("a step");
        let text = last["text"].as_str().unwrap_or_default();
        assert!(last["check"] == at && text.contains(word), "{when}: {ask:?}: {trace:#}");
        assert!(trace["verdict"].as_str().is_some_and(|it| it.contains(text)), "{trace:#}");
        assert!(!self.answers(ask, false), "{when}: {ask:?} arrives: {trace:#}");
    }
}

#[test]
fn on_a_healthy_node_everybody_arrives() {
    let scene = Scene::new(&[]);
    for client in EVERYBODY {
        for transport in Transport::BOTH {
            let both = [ask(client, 8080), ask(client, 8080).v6()];
            for ask in both.into_iter().filter(|ask| ask.client != Loopback || ask.family == 0) {
                scene.arrives("healthy", Ask { transport, ..ask });
            }
        }
    }
    scene.stops(
        "::1",
        ask(Loopback, 8080).v6(),
        "masquerade",
        "packets from ::1 are not translated",
    );
    let before = ruleset();
    let text = told(&["trace", "8080", "--from", CLIENT[0], "--to", FIRST[0], "--probe"]);
    assert_eq!(ruleset(), before, "trace changes nothing");
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(
        last,
        "A packet from 192.0.2.100 to 192.0.2.1:8080/tcp reaches 10.1.0.2:80 of container \
         blue/web/eth0."
    );
    assert!(text.contains("sent from this node: it answered"), "{text}");
    let (status, text, _) = autoport(&["trace", "8099", "--to", FIRST[0], "--probe"]);
    assert_eq!(status.code(), Some(3));
    assert!(
        text.contains("it was refused") && text.contains("no pod holds port 8099/tcp"),
        "{text}"
    );
}

#[test]
fn what_keeps_a_packet_from_the_table_is_named() {
    let scene = Scene::new(&[]);
    let outside = ask(Outside, 8080);
    scene.stops("a foreign address", outside.at("203.0.113.9"), "destination", "203.0.113.9");
    scene.stops("a free port", ask(Outside, 8099), "element", "no pod holds port 8099/tcp");
    let listen: SocketAddr = (address(FIRST[0]), 8099).into();
    let own = Echo::start("node", &scene.node.here, &[listen]);
    scene.stops("a process", ask(Outside, 8099), "element", "192.0.2.1:8099/tcp");
    drop(own);
    told(&["reserve", "mine", "8098"]);
    scene.stops("a reservation", ask(Outside, 8098), "element", "reservation mine holds it");

    let rule = "tcp dport 8080 dnat to 10.9.9.9:81";
    nft(&format!(
        "table ip alien {{ chain c {{ type nat hook prerouting priority -100; {rule};\n}}\n}}"
    ));
    scene.stops("another table", outside, "other tables", "chain c takes it to 10.9.9.9:81");
    scene.arrives("it has no output chain", ask(Loopback, 8080));
    scene.arrives("it is of the other family", outside.v6());
    nft("delete table ip alien");

    nft("flush chain inet autoport prerouting");
    scene.stops("a flushed chain", outside, "table", "chain prerouting");
    told(&["repair"]);
    nft("flush chain inet autoport output");
    scene.stops("a flushed chain", ask(Loopback, 8080), "table", "chain output");
    assert_eq!(scene.traced(outside)["state"], "unsure", "a damaged table may be damaged twice");
    told(&["repair"]);
    nft("add table inet autoport { flags dormant; }");
    scene.stops("a dormant table", outside, "table", "dormant");
    nft("delete table inet autoport");
    scene.stops("a lost table", outside, "table", "missing");
    told(&["repair"]);
    nft("delete element inet autoport ports4 { tcp . 8080 : 10.1.0.2 . 80 }");
    scene.stops("a lost element", outside, "element", "no map contains its target");
    told(&["repair"]);
    scene.arrives("repaired", outside);

    let held = ruleset()
        .lines()
        .find_map(|line| line.trim().strip_prefix("set held4_"))
        .map(|rest| format!("held4_{}", rest.trim_end_matches(" {")))
        .expect("a set");
    nft(&format!("delete element inet autoport {held} {{ tcp . 8080 }}"));
    // It translates as ever, but who is masqueraded is lost.
    let trace = scene.traced(outside);
    assert_eq!(trace["state"], "unsure", "{trace:#}");
    assert!(trace.to_string().contains("ports4 contains the port"), "{trace:#}");
    told(&["repair"]);
    nft(&format!(
        "add element inet autoport {held} {{ tcp . 8090 }}
         add element inet autoport ports4 {{ tcp . 8090 : 10.1.0.2 . 80 }}"
    ));
    let trace = scene.traced(ask(Outside, 8090));
    assert_eq!(trace["state"], "unsure", "{trace:#}");
    assert!(
        trace.to_string().contains("the element that leads to 10.1.0.2:80 has no record"),
        "{trace:#}"
    );
}

#[test]
fn what_keeps_a_packet_from_the_pod_is_named() {
    let scene = Scene::new(&[]);
    let (outside, loopback) = (ask(Outside, 8080), ask(Loopback, 8080));
    sysctl("net/ipv4/ip_forward", "0");
    scene.stops("no forwarding", outside, "forwarding", "uplink.forwarding is 0");
    scene.arrives("what begins here is not forwarded", loopback);
    sysctl("net/ipv4/ip_forward", "1");
    sysctl("net/ipv6/conf/all/forwarding", "0");
    scene.stops("no forwarding", outside.v6(), "forwarding", "ipv6.conf.all.forwarding is 0");
    sysctl("net/ipv6/conf/all/forwarding", "1");

    sysctl("net/ipv4/conf/cni1/route_localnet", "0");
    scene.stops("route_localnet", loopback, "route", "net.ipv4.conf.cni1.route_localnet is 0");
    scene.arrives("only 127.0.0.0/8 needs it", ask(Client::Node, 8080));
    sysctl("net/ipv4/conf/cni1/route_localnet", "1");

    ip("route del 10.1.0.0/24 dev cni1");
    scene.stops("no route", outside, "route", "no route to 10.1.0.2");
    ip("route add 10.1.0.0/24 dev cni1 proto kernel src 10.1.0.1");

    let wall = |hook: &str, rules: &str| {
        nft(&format!(
            "table inet wall {{ chain gate {{ type filter hook {hook} priority 0; policy drop;\n\
             {rules}\n}}\n}}"
        ));
    };
    wall("forward", "");
    scene.stops("a dropping chain", outside, "FORWARD", "table inet wall, chain gate drops it");
    scene.arrives("what begins here is not forwarded", loopback);
    nft("delete table inet wall");
    wall("forward", "tcp dport 80 accept");
    scene.stops("one-way", outside, "FORWARD", "drops the answer");
    nft("delete table inet wall");
    wall("forward", "ct state established accept; tcp dport 80 accept");
    scene.arrives("both ways", outside);
    nft("delete table inet wall");
    wall("forward", "ct status dnat accept");
    scene.arrives("what is translated", outside);
    nft("delete table inet wall");
    wall("forward", "tcp sport 1-60999 accept");
    assert_eq!(scene.traced(outside)["state"], "unsure", "it is not understood");
    nft("delete table inet wall");
    wall("output", "ip daddr != 10.1.0.2 accept");
    scene.stops("it has the pod's address by then", loopback, "OUTPUT", "chain gate drops it");
    nft("delete table inet wall");
    wall("output", "tcp dport 8080 accept");
    scene.stops("it has the pod's port by then", loopback, "OUTPUT", "chain gate drops it");
    nft("delete table inet wall");

    let only: SocketAddr = (address("127.0.0.1"), 82).into();
    let _inner = Echo::start("web", &scene.web.netns, &[only]);
    scene.stops("nobody listens", ask(Outside, 8081), "pod", "nothing listens on 10.1.0.2:81/tcp");
    scene.stops("127.0.0.1 only", ask(Outside, 8082), "pod", "listens on 127.0.0.1:82/tcp");

    scene.web.netns.run(|| ip("route del default"));
    scene.stops("no way back", outside, "answer", "no route to 192.0.2.100");
    scene.arrives("masqueraded", loopback);
    scene.web.netns.run(|| ip("route add default via 10.1.0.1"));
    scene.web.netns.run(|| ip("addr del 10.1.0.2/24 dev eth0"));
    scene.stops("no address", outside, "pod", "it does not have 10.1.0.2");
    scene.web.netns.run(|| {
        ip("addr add 10.1.0.2/24 dev eth0
            route add default via 10.1.0.1");
    });
    scene.arrives("restored", outside);
    ip("netns del web");
    let trace = scene.traced(outside);
    assert_eq!(trace["state"], "unsure", "{trace:#}");
    assert!(trace.to_string().contains("its network namespace no longer exists"), "{trace:#}");
}

#[test]
fn who_may_connect_is_known() {
    let scene = Scene::new(&[("sourceRanges", json!(["203.0.113.0/24", "10.1.0.0/24"]))]);
    scene.stops("a stranger", ask(Outside, 8080), "sourceRanges", "192.0.2.100 is not in");
    scene.arrives("loopback", ask(Loopback, 8080));
    scene.arrives("a neighbour", ask(Neighbour, 8080));
    let (status, text, _) = autoport(&["trace", "8080", "--to", FIRST[0]]);
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("set the client with --from"), "{text}");
}

#[test]
fn which_addresses_answer_is_known() {
    let scene = Scene::new(&[("hostAddresses", json!(["192.0.2.2"])), ("snat", json!(false))]);
    scene.stops("the other address", ask(Outside, 8080), "hostAddresses", "192.0.2.1");
    scene.arrives("the address", ask(Outside, 8080).at(SECOND[0]));
}

#[test]
fn without_snat_loopback_is_left_alone() {
    let scene = Scene::new(&[("snat", json!(false))]);
    scene.stops("127.0.0.1", ask(Loopback, 8080), "masquerade", "snat is off");
    scene.arrives("others", ask(Outside, 8080));
}

/// What is printed, of the way that arrives and of three that do not.
#[test]
fn each_way_is_printed_as_it_was() {
    let scene = Scene::new(&[]);
    scene.node.bridges_call_iptables(false);
    // The way back of an answer is looked at, too: whoever was asked is known by then.
    assert!(scene.answers(ask(Outside, 8080), true));
    let [from, to] = [CLIENT[0], FIRST[0]];
    let printed = |name: &str, status, port: &str, from: &str, to: &str| {
        assert_snapshots(name, status, &["trace", port, "--from", from, "--to", to]);
    };
    printed("trace", 0, "8080", from, to);
    printed("trace-nobody", 3, "8099/udp", from, to);
    printed("trace-silent", 3, "8081", from, to);
    sysctl("net/ipv4/conf/cni1/route_localnet", "0");
    printed("trace-loopback", 3, "8080", "127.0.0.1", "127.0.0.1");
    nft("table inet wall { chain gate { type filter hook forward priority 0; policy drop; }; }");
    printed("trace-firewall", 3, "8080", from, to);
}

/// If the node's own file is not valid, that is reported, and the packet is followed with defaults.
#[test]
fn a_wrong_file_of_the_node_does_not_keep_trace_from_looking() {
    let scene = Scene::new(&[]);
    let arguments = ["trace", "8080", "--from", CLIENT[0], "--to", FIRST[0]];
    fs::write("/etc/cni/autoport.json", r#"{"minPort": 0}"#).expect("ours");
    let (status, stdout, stderr) = autoport(&arguments);
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
    for words in ["autoport: /etc/cni/autoport.json: minPort is 0", "read from /run/autoport"] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    // Where the records are not, nobody is said to hold nothing.
    fs::rename(STATE, "/run/elsewhere").expect("the store can be moved");
    let trace = scene.traced(ask(Outside, 8080));
    let step = |at: &str| {
        let steps = trace["steps"].as_array().expect("steps");
        steps.iter().find(|step| step["check"] == at).cloned().unwrap_or_default()
    };
    assert_eq!(trace["state"], "unsure", "{trace:#}");
    assert_eq!(step("table")["text"], "table inet autoport is there");
    assert_eq!(step("record")["text"], "nothing is recorded in /run/autoport");
    assert_eq!(step("record")["remedy"], "run `autoport doctor`");
    scene.stops(
        "no record is seen",
        ask(Outside, 8099),
        "element",
        "no element contains port 8099/tcp",
    );
    let (_, stdout, _) = autoport(&["trace", "8099", "--to", "127.0.0.1"]);
    assert!(stdout.contains("A packet from this node to 127.0.0.1:8099/tcp stops"), "{stdout}");
    let (_, stdout, _) = autoport(&["doctor"]);
    assert!(stdout.contains("`autoport repair --adopt` creates records from it"), "{stdout}");
    fs::write("/etc/cni/autoport.json", r#"{"minPort": 0, "stateDir": "/run/elsewhere"}"#)
        .expect("ours");
    scene.arrives("the part that is right counts", ask(Outside, 8080));
}

#[test]
fn without_privilege_trace_says_what_it_needs() {
    let scene = Scene::new(&[]);
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let (status, stdout, stderr) = under(&bare, &["trace", "8080", "--to", FIRST[0]]);
    scene.node.note(format!("{stdout}{stderr}"));
    assert_eq!(status.code(), Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("CAP_NET_ADMIN"), "{stderr}");
}

#[test]
fn a_question_that_makes_no_sense_is_refused() {
    let _scene = Scene::new(&[]);
    for (words, told) in [
        (&["8080@192.0.2.1"][..], "with --to"),
        (&["8080", "--from", CLIENT[0], "--to", FIRST[1]], "different IP versions"),
        (&["8080/sctp", "--probe"], "tcp and udp only"),
        (&["8080", "--from", "0.0.0.0"], "means every address"),
        (&["8080", "--to", "::"], "means every address"),
        (&["8080", "--from", "224.0.0.1"], "is a multicast address"),
        (&["8080", "--from", "192.0.2"], "is not an IP address"),
        (&["0"], "is not a number from 1 to 65535"),
        (&["99999"], "is not a number from 1 to 65535"),
    ] {
        let (status, stdout, stderr) = autoport(&[&["trace"], words].concat());
        assert_eq!(status.code(), Some(2), "{words:?}: {stdout}{stderr}");
        assert!(stdout.is_empty() && stderr.contains(told), "{words:?}: {stderr}");
    }
    let mapped = format!("::ffff:{}", FIRST[0]);
    let text = told(&["trace", "8080", "--from", CLIENT[0], "--to", &mapped]);
    assert!(text.contains("192.0.2.1:8080/tcp reaches"), "{text}");
}
