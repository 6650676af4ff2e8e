//! Established connections that the kernel forwards by a flowtable. Each test sees that they are: by the flag
//! that connection tracking shows, and by the packets that FORWARD no longer sees.
//!
//! Only a kernel with `nf_flow_table` can: `make test-kernels` boots some. What does not need it runs everywhere.

mod behaviour;
mod cost;
mod others;
mod replaced;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use autoport::kernel::Nft;
use autoport::model::Record;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{Netns, elsewhere, full_ruleset, ip, nft, ruleset, run};
use crate::stage::node::{FIRST, Node, POD_PORT, Pod, address};
use crate::stage::operator::{autoport, told};
use crate::stage::plugin::{Call, Plugin};
use crate::stage::probe::{Probe, Transport};
use crate::stage::records;
use crate::stage::view;

const PORT: u16 = 8080;
/// Where the pod sends back what it hears.
const ECHO: u16 = 81;
const TABLE: &str = "table inet autoport_offload";
const PATIENCE: Duration = Duration::from_secs(10);

fn bridged() -> Network {
    Network::new("blue", Main::Bridge, 1, Plugin::Autoport).with("offload", json!(["uplink"]))
}

fn mappings() -> Vec<PortMapping> {
    PortMapping::both(PORT, ECHO, "")
}

/// A pod that sends back what it hears on [`ECHO`].
fn web(node: &Node, network: &Network) -> (Pod, Attachment) {
    let (pod, attachment) = node.attached("web", network, mappings());
    serve(&pod.netns);
    (pod, attachment)
}

fn serve(place: &Netns) {
    let (tcp, udp) = place.run(|| {
        let tcp = TcpListener::bind(("::", ECHO)).expect("a free port");
        (tcp, UdpSocket::bind(("::", ECHO)).expect("a free port"))
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.expect("a client");
            let mut back = stream.try_clone().expect("a descriptor");
            thread::spawn(move || io::copy(&mut stream, &mut back));
        }
    });
    thread::spawn(move || {
        let mut heard = [0; 2048];
        while let Ok((len, from)) = udp.recv_from(&mut heard) {
            let _ = udp.send_to(&heard[..len], from);
        }
    });
}

/// The client's end of a connection.
enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Line {
    /// Connects to a port of the node from where the thread is.
    fn open(transport: Transport, to: &str, port: u16) -> Self {
        let to = (address(to), port);
        match transport {
            Transport::Udp => {
                let any = if to.0.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).expect("a free port");
                socket.connect(to).expect("a route");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                Self::Udp(socket)
            }
            Transport::Tcp | Transport::Sctp => {
                let stream = TcpStream::connect_timeout(&to.into(), PATIENCE);
                let stream = stream.expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                Self::Tcp(stream)
            }
        }
    }

    /// The same from the client, with packets enough to be offloaded.
    fn established(node: &Node, transport: Transport, to: &str) -> Self {
        let mut line = node.client.run(|| Self::open(transport, to, PORT));
        line.goes_on("before it is offloaded");
        line.goes_on("when it is offloaded");
        line
    }

    /// Whether a byte comes back.
    fn exchange(&mut self) -> io::Result<()> {
        let mut heard = [0];
        match self {
            Self::Tcp(stream) => {
                stream.write_all(b"?").and_then(|()| stream.read_exact(&mut heard))
            }
            Self::Udp(socket) => socket.send(b"?").and_then(|_| socket.recv(&mut heard)).map(drop),
        }
    }

    fn goes_on(&mut self, what: &str) {
        self.exchange().unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    /// Sends that many bytes, and insists that the same come back, with no longer pause than that.
    fn carries(&mut self, len: usize, patience: Duration) {
        let Self::Tcp(stream) = self else { panic!("it is TCP") };
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        let sent: Vec<u8> = (0..len).map(|number| number as u8).collect();
        let mut writer = stream.try_clone().expect("a descriptor");
        let mut heard = vec![0; len];
        thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all(&sent));
            stream.read_exact(&mut heard).expect("all comes back");
            writing.join().expect("no panic").expect("all is written");
        });
        assert!(heard == sent, "other bytes come back");
    }

    /// Insists that it is offloaded: its packets do not pass FORWARD. A flow whose cached route has become old,
    /// as when an interface has just come up, is begun again by the next packet.
    fn bypasses(&mut self, what: &str) {
        let mut passed = Vec::new();
        for _ in 0..5 {
            let before = forwarded();
            for _ in 0..5 {
                self.goes_on(what);
            }
            passed.push(forwarded() - before);
            if passed.ends_with(&[0]) {
                assert!(!offloaded().is_empty(), "{what}: {:?}", view::flows());
                return;
            }
        }
        panic!("{what}: packets pass FORWARD, {passed:?} of 10 each time: {}", observed());
    }
}

/// The connections to [`PORT`] that the kernel shows as offloaded.
fn offloaded() -> Vec<String> {
    let port = format!(" dport={PORT} ");
    let flows = view::flows().into_iter();
    flows.filter(|flow| flow.contains("[OFFLOAD]") && flow.contains(&port)).collect()
}

/// Counts what is forwarded from now on.
fn observe() {
    nft("table inet observer {
        chain forward { type filter hook forward priority 300; counter; }
    }");
}

fn observed() -> String {
    run(Command::new("nft").args(["list", "chain", "inet", "observer", "forward"]), "").1
}

fn forwarded() -> u64 {
    let text = observed();
    let packets = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    packets.and_then(|packets| packets.parse().ok()).expect("observe() was called")
}

/// What `autoport status` says of it.
fn status() -> Value {
    let (_, json, _) = autoport(&["status", "-o", "json"]);
    serde_json::from_str::<Value>(&json).expect("JSON")["offload"].clone()
}

/// The interfaces of the flowtable.
fn interfaces() -> Vec<String> {
    let found = status()["interfaces"].clone();
    serde_json::from_value(found).expect("names")
}

#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn established_connections_skip_forward() {
    for main in [Main::Bridge, Main::Ptp] {
        let node = Node::new();
        observe();
        let network = Network::new("blue", main, 1, Plugin::Autoport);
        let (_pod, attachment) = web(&node, &network.with("offload", json!(["uplink"])));
        let mut lines = Vec::new();
        for to in FIRST {
            for transport in Transport::BOTH {
                let mut line = Line::established(&node, transport, to);
                line.bypasses(&format!("{main:?} {to} {transport:?}"));
                lines.push(line);
            }
        }
        assert_eq!(offloaded().len(), 4, "{:?}", view::flows());
        let text = told(&["status"]);
        assert!(text.contains("4 connections between uplink and 1 interface of pods\n"), "{text}");
        let listing = ruleset();
        for rule in [
            "ct status dnat ct state established ct direction original jump clients",
            "ip daddr . meta l4proto . th dport @offload4 flow add @established",
            "ip6 daddr . meta l4proto . th dport @offload6 flow add @established",
        ] {
            assert!(listing.contains(rule), "{listing}");
        }
        attachment.check().success();
        attachment.del().success();
        assert!(!ruleset().contains(TABLE), "{}", ruleset());
        assert_eq!(status(), Value::Null);
    }
}

/// nft builds the same table of the script that is printed of it.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn nft_builds_the_same_table() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/offload/records.json");
    let bytes = fs::read(case).expect("records.json");
    let records: Vec<Record> = serde_json::from_slice(&bytes).expect("records");
    let ruleset = records::ruleset(&records.iter().collect::<Vec<_>>());
    let built = |build: &(dyn Fn() + Sync)| {
        elsewhere(|| {
            for device in &ruleset.offload.devices {
                ip(&format!("link add {device} type bridge"));
            }
            build();
            let listing = full_ruleset();
            let at = listing.find(TABLE).unwrap_or_else(|| panic!("{listing}"));
            listing[at..].to_owned()
        })
    };
    let of_nft = built(&|| nft(&ruleset.offload.to_string()));
    let ours = built(&|| {
        let mut nft = Nft::open("").expect("netlink works");
        nft.offload_exactly(&ruleset.offload).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(nft.offload_exactly(&ruleset.offload).ok(), Some(0), "it is right already");
    });
    assert_eq!(ours, of_nft);
}

#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn interfaces_of_pods_come_and_go() {
    let node = Node::new();
    observe();
    let (_pod, first) = web(&node, &bridged());
    let mapping = [PortMapping::new(Transport::Tcp, 9090, POD_PORT)];
    let (_other, second) = node.attached("other", &bridged(), mapping);
    assert_eq!(interfaces().len(), 3);
    assert!(interfaces().contains(&"uplink".to_owned()), "{:?}", interfaces());
    assert_eq!(status()["differences"], json!([]), "{}", status());
    // Without the main plugin, what the pod had is no longer offloaded, and repair takes the interface out.
    let mut line = Line::established(&node, Transport::Tcp, FIRST[0]);
    second.plugin_call("DEL").run().success();
    let surplus = status();
    assert_eq!(surplus["differences"].as_array().map(Vec::len), Some(1), "{surplus}");
    told(&["repair"]);
    assert_eq!((interfaces().len(), &status()["differences"]), (2, &json!([])));
    line.bypasses("after another pod has left");
    first.del().success();
    second.main_call("DEL").run().success();
    assert!(!ruleset().contains(TABLE), "{}", ruleset());
}

#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn what_is_deleted_is_built_again() {
    let node = Node::new();
    observe();
    let (_pod, attachment) = web(&node, &bridged());
    let lost = [
        ("the table", format!("delete {TABLE}")),
        (
            "the flowtable",
            "flush chain inet autoport_offload clients\n\
                           delete flowtable inet autoport_offload established"
                .to_owned(),
        ),
        ("the question", "flush chain inet autoport_offload forward".to_owned()),
        ("the rules", "flush chain inet autoport_offload clients".to_owned()),
        ("an element", "flush set inet autoport_offload offload4".to_owned()),
        (
            "the uplink",
            "delete flowtable inet autoport_offload established \
                        { hook ingress priority filter; devices = { uplink }; }"
                .to_owned(),
        ),
    ];
    for (what, damage) in lost {
        let mut line = Line::established(&node, Transport::Tcp, FIRST[0]);
        line.bypasses(what);
        nft(&damage);
        line.goes_on(what);
        assert_ne!(status()["differences"], json!([]), "{what}");
        told(&["repair"]);
        assert_eq!(status()["differences"], json!([]), "{what}");
        line.goes_on(what);
        line.bypasses(&format!("{what} is back"));
    }
    // Both tables: the next ADD of any pod, even of one that asks for nothing of it.
    let mut line = Line::established(&node, Transport::Tcp, FIRST[0]);
    let rules = ruleset();
    nft("flush ruleset");
    let plain = Network::new("plain", Main::Bridge, 2, Plugin::Autoport);
    let mapping = [PortMapping::new(Transport::Tcp, 9090, POD_PORT)];
    let (_other, _) = node.attached("other", &plain, mapping);
    assert!(rules.contains(TABLE) && ruleset().contains(TABLE), "{}", ruleset());
    observe();
    line.goes_on("after flush ruleset");
    line.bypasses("after flush ruleset and an ADD");
    attachment.check().success();
}

/// The watch, as the agent keeps it, restores it like the first table.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn a_watch_builds_it_again() {
    let node = Node::new();
    observe();
    let (_pod, _attachment) = web(&node, &bridged());
    let watch = Call::operator(&["repair", "--watch"]).start();
    let mut line = Line::established(&node, Transport::Tcp, FIRST[0]);
    thread::sleep(Duration::from_secs(1));
    nft(&format!("delete {TABLE}"));
    let is_back = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        ruleset().contains(TABLE) && interfaces().len() == 2
    });
    assert!(is_back, "{}", ruleset());
    line.goes_on("after the watch");
    line.bypasses("after the watch");
    let id = i32::try_from(watch.id()).expect("a process");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("the watch is running");
    assert!(watch.finish().status.success());
}

#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn an_uplink_that_comes_later_is_added() {
    let node = Node::new();
    observe();
    let both = bridged().with("offload", json!(["eth9", "uplink"]));
    let (_pod, _attachment) = web(&node, &both);
    assert_eq!(status()["missing"], json!(["eth9"]));
    let (_, doctor, _) = autoport(&["doctor"]);
    assert!(doctor.contains("offload names eth9, which does not exist"), "{doctor}");
    Line::established(&node, Transport::Tcp, FIRST[0]).bypasses("with one of two uplinks");
    ip("link add eth9 type veth peer name far9\nlink set eth9 up");
    told(&["repair"]);
    assert_eq!((interfaces().len(), &status()["missing"]), (3, &json!([])));
    // It disappears by itself, with the interface; renamed it is another one.
    ip("link del eth9\nlink set uplink down\nlink set uplink name eth7\nlink set eth7 up");
    told(&["repair"]);
    assert_eq!((interfaces().len(), &status()["missing"]), (1, &json!(["eth9", "uplink"])));
}

/// A pod is served whether the kernel can offload or not, and the operator is told.
#[test]
fn a_kernel_that_cannot_offload_fails_no_command() {
    let node = Node::new();
    let pod = node.pod("web");
    let mut attachment = pod.in_network(&bridged()).mapping(PortMapping::both(PORT, POD_PORT, ""));
    let added = attachment.add();
    let is_told = added.stderr.contains("connections may not be offloaded");
    let can = ruleset().contains(TABLE);
    assert_ne!(can, is_told, "{added}");
    added.success();
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)).by(), Some("web"));
    attachment.check().success();
    let found = status();
    assert_eq!(found["differences"] == json!([]), can, "{found}");
    let (repaired, _, told) = autoport(&["repair"]);
    assert!(repaired.success() && told.contains("may not be offloaded") != can, "{told}");
    let (_, doctor, _) = autoport(&["doctor"]);
    assert_ne!(doctor.contains("connections take the usual way"), can, "{doctor}");
    attachment.del().success();
    assert!(!ruleset().contains(TABLE), "{}", ruleset());
}

/// Without the key there is no second table, and the first is the same with it.
#[test]
fn it_is_off_unless_uplinks_are_named() {
    let tables = [json!([]), json!(["uplink"])].map(|uplinks| {
        let node = Node::new();
        let network = bridged().with("offload", uplinks);
        let (_pod, _attachment) = node.attached("web", &network, mappings());
        let (_, text) = run(Command::new("nft").args(["list", "table", "inet", "autoport"]), "");
        let unnamed = text.lines().filter(|line| !line.contains("comment \"autoport layout"));
        let has_second = ruleset().contains(TABLE);
        (unnamed.map(str::to_owned).collect::<Vec<_>>(), has_second)
    });
    let [(without, second), (with, _)] = tables;
    assert!(!second);
    assert_eq!(without, with);
}
