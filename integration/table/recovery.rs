//! Damage by other programs: the next command of any pod restores the table for all pods, or
//! rejects a table that is not its own.

use std::net::UdpSocket;

use serde_json::json;

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{full_ruleset, nft, ruleset};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{PATIENCE, Probe};
use crate::stage::talk::{self, Talk};
use crate::stage::view;

const TABLE: &str = "inet autoport";

/// A pod whose traffic must come back.
struct Scene {
    node: Node,
    pod: Pod,
    web: Attachment,
}

impl Scene {
    fn new() -> Self {
        Self::of(&Network::new("blue", Main::Bridge, 1, Plugin::Autoport))
    }

    fn of(blue: &Network) -> Self {
        let node = Node::new();
        let (pod, web) = node.attached("web", blue, PortMapping::both(8080, POD_PORT, ""));
        Self { node, pod, web }
    }

    fn assert_works(&self, what: &str) {
        for address in FIRST {
            let answer = self.node.client_asks(&Probe::tcp(address, 8080));
            assert_eq!(answer.by(), Some("web"), "{what}: {address}");
        }
        let outcome = self.web.check();
        assert!(outcome.status.success(), "{what}: {outcome}");
    }
}

fn instance() -> String {
    let comment = ruleset();
    let comment = comment.split("instance ").nth(1).expect("the table has a comment");
    comment[..32].to_owned()
}

fn table_of(layout: u32, instance: &str) -> String {
    let comment = format!("autoport layout {layout} instance {instance}");
    // What a table of another layout holds does not matter, except that it takes our traffic.
    let content = "chain prerouting { tcp dport 8080 drop; }";
    format!("delete table {TABLE}\ntable {TABLE} {{ comment \"{comment}\"; {content}; }}")
}

#[test]
fn anybodys_add_or_del_restores_everything() {
    let scene = Scene::new();
    let older = table_of(0, &instance());
    let damages = [
        ("flush ruleset", "flush ruleset".to_owned()),
        ("delete table", format!("delete table {TABLE}")),
        ("flush table", format!("flush table {TABLE}")),
        ("flush output", format!("flush chain {TABLE} output")),
        ("flush hostports6", format!("flush chain {TABLE} hostports6")),
        ("flush prerouting", format!("flush chain {TABLE} prerouting")),
        ("flush postrouting", format!("flush chain {TABLE} postrouting")),
        (
            "a foreign table",
            format!("delete table {TABLE}\ntable {TABLE} {{ chain c {{ drop; }}; }}"),
        ),
        ("an empty table", format!("delete table {TABLE}\ntable {TABLE} {{ }}")),
        ("an older layout", older),
    ];
    let other = attachment(&scene.node, &network("other"), "other", 200).mapping([tcp(9090)]);
    for (what, damage) in damages {
        for command in ["ADD", "DEL"] {
            if command == "DEL" {
                add(&scene.node, &other);
            }
            nft(&damage);
            let outcome = run(&other, command);
            assert!(outcome.status.success(), "{what}, {command}: {outcome}");
            assert!(outcome.stderr.contains("built table"), "{what}, {command}: {outcome}");
            scene.assert_works(&format!("{command} after {what}"));
            run(&other, "DEL").success();
        }
    }
}

/// A network's own chain is not needed by the ADD of another network, so it may stay damaged; the
/// network's next ADD fills it.
#[test]
fn a_networks_chain_is_restored_by_its_own_next_add() {
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let scene = Scene::of(&blue.with("sourceRanges", json!(CLIENT)));
    let listing = ruleset();
    let chain = listing.split("chain net_").nth(1).and_then(|rest| rest.get(..16));
    let chain = format!("net_{}", chain.expect("the network has a chain"));
    for damage in [
        format!("flush chain {TABLE} {chain}"),
        format!("insert rule {TABLE} {chain} drop"),
        format!("flush chain {TABLE} {chain}\nadd rule {TABLE} {chain} drop"),
    ] {
        nft(&damage);
        scene.web.check().failure(120);
        add(&scene.node, &scene.web);
        scene.assert_works(&damage);
        assert_eq!(ruleset(), listing, "{damage}");
    }
}

#[test]
fn a_table_of_a_later_layout_is_never_rebuilt() {
    let scene = Scene::new();
    let (node, web) = (&scene.node, &scene.web);
    let second = attachment(node, &network("other"), "second", 200).mapping([tcp(9090)]);
    add(node, &second);
    // A later version that still has our maps, and a chain that we do not know.
    let comment = |layout| format!("autoport layout {layout} instance {}", instance());
    let later = full_ruleset().replace(&comment(4), &comment(5));
    let later = later.replace("chain prerouting {", "chain novelty {\n\t}\n\n\tchain prerouting {");
    nft(&format!("flush ruleset\n{later}"));
    let before = view::snapshot();
    assert!(before.contains("layout 5"), "the later table is there: {before}");
    let third = attachment(node, &network("other"), "third", 201).mapping([tcp(9091)]);
    let refused = run(&third, "ADD");
    assert!(refused.failure(110).message().contains("layout 5"), "{refused}");
    assert_eq!(view::snapshot(), before, "nothing changed");
    web.check().success();
    run(&second, "DEL").success();
    let left = view::elements();
    assert!(left.iter().all(|element| !element.contains("9090")), "{left:?}");
    assert!(left.iter().any(|element| element.contains("8080")), "{left:?}");
    assert!(ruleset().contains("chain novelty"), "the later table stays");
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 8080)).by(), Some("web"));
}

#[test]
fn a_table_of_another_store_is_not_touched() {
    let scene = Scene::new();
    let (node, web) = (&scene.node, &scene.web);
    let foreign = ruleset().replace(&instance(), "ffffffffffffffffffffffffffffffff");
    nft(&format!("flush ruleset\n{foreign}"));
    let before = view::snapshot();
    let second = attachment(node, &network("other"), "second", 200).mapping([tcp(9090)]);
    for claim in [&second, web] {
        let refused = run(claim, "ADD");
        assert!(refused.failure(7).message().contains("ffffffff"), "{refused}");
        assert_eq!(view::snapshot(), before, "nothing changed");
    }
    web.check().failure(120);
    let rules = ruleset();
    run(web, "DEL").success();
    assert_eq!(view::records(), [""; 0]);
    assert_eq!(ruleset(), rules, "the table of the other store stays");
}

/// Building the table again forgets no flow: translations of what is established are the
/// connection tracking's.
#[test]
fn an_established_connection_survives_a_rebuild() {
    let scene = Scene::new();
    let pod = scene.node.pod("talker");
    let network = &scene.web.network;
    let mut own = pod
        .in_network(network)
        .mapping([PortMapping { container_port: talk::POD_PORT, ..tcp(8081) }]);
    scene.node.add(&mut own);
    let mut talk = Talk::begin(&scene.node, &pod, 8081);
    talk.goes_on("before");
    let other =
        attachment(&scene.node, &crate::stage::bare::network("x"), "x", 200).mapping([tcp(9090)]);
    for damage in ["flush ruleset".to_owned(), format!("delete table {TABLE}")] {
        nft(&damage);
        assert!(run(&other, "ADD").stderr.contains("built table"));
        talk.goes_on(&damage);
    }
}

/// The next command replaces the table of an earlier layout: flows that began with it go on as they are.
#[test]
fn earlier_layouts_are_replaced_under_traffic() {
    for (layout, table) in [(2, include_str!("layout-2.nft")), (3, include_str!("layout-3.nft"))] {
        is_replaced_under_traffic(layout, table);
    }
}

fn is_replaced_under_traffic(layout: u32, table: &str) {
    let scene = Scene::new();
    let talker = scene.node.pod("talker");
    let mut own = talker
        .in_network(&scene.web.network)
        .mapping([PortMapping { container_port: talk::POD_PORT, ..tcp(8081) }]);
    scene.node.add(&mut own);
    let earlier = table.replace("instance golden", &format!("instance {}", instance()));
    let held = earlier.lines().find_map(|line| line.trim().strip_prefix("set held4_"));
    let held = held.expect("a set").trim_end_matches(" {");
    let claims = [
        ("tcp", 8080, scene.pod.address(false), POD_PORT),
        ("udp", 8080, scene.pod.address(false), POD_PORT),
        ("tcp", 8081, talker.address(false), talk::POD_PORT),
    ];
    let claims = claims.map(|(protocol, port, pod, pod_port)| {
        format!(
            "add element {TABLE} ports4 {{ {protocol} . {port} : {pod} . {pod_port} }}\n\
             add element {TABLE} held4_{held} {{ {protocol} . {port} }}\n"
        )
    });
    nft(&format!("flush ruleset\n{earlier}{}", claims.concat()));
    let udp = scene.node.client.run(|| UdpSocket::bind((CLIENT[0], 0)).expect("a free port"));
    udp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let asks = |what: &str| {
        let mut heard = [0; 64];
        udp.send_to(b"?", (FIRST[0], 8080)).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (len, _) = udp.recv_from(&mut heard).unwrap_or_else(|error| panic!("{what}: {error}"));
        heard[..len].to_vec()
    };
    let first = asks("with the earlier layout");
    let mut talk = Talk::begin(&scene.node, &talker, 8081);
    talk.goes_on("with the earlier layout");
    assert!(ruleset().contains(&format!("layout {layout}")), "{}", ruleset());
    let other =
        attachment(&scene.node, &crate::stage::bare::network("x"), "x", 200).mapping([tcp(9090)]);
    let outcome = run(&other, "ADD");
    assert!(outcome.stderr.contains(&format!("it had the older layout {layout}")), "{outcome}");
    assert!(ruleset().contains("layout 4"), "{}", ruleset());
    for _ in 0..3 {
        talk.goes_on("after it was replaced");
        assert_eq!(asks("after it was replaced"), first);
    }
    scene.assert_works("after it was replaced");
}
