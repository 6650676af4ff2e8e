//! Recovery after the state directory was deleted: `autoport repair --adopt` restores the records
//! from the table.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::stage::bare::{self, add, attachment, gc, run, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{full_ruleset, ip, nft, settle};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod, SECOND};
use crate::stage::operator::{autoport, told};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::talk::{self, Talk};
use crate::stage::view::{self, STATE};

fn bridge(name: &str, subnet: u8) -> Network {
    Network::new(name, Main::Bridge, subnet, Plugin::Autoport).speaking("1.1.0")
}

/// Several kinds of pods, each of which answers on a host port.
struct Scene {
    node: Node,
    pods: Vec<Pod>,
    plain: Attachment,
    specific: Attachment,
    choosing: Attachment,
    /// Only the client's network may connect.
    guarded: Attachment,
    /// Its address is its own alone.
    alone: Attachment,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        let mut pods = Vec::new();
        let mut attach = |name: &str, network: Network, mappings: Vec<PortMapping>| {
            let pod = node.pod(name);
            let own = pod.in_network(&network).of_pod("shop", name, &format!("uid-{name}"));
            let mut own = own.mapping(mappings);
            node.add(&mut own);
            pods.push(pod);
            own
        };
        let both = |port| PortMapping::both(port, POD_PORT, "");
        let talk = PortMapping { container_port: talk::POD_PORT, ..tcp(8181) };
        let plain = attach("plain", bridge("blue", 1), [both(8080), vec![talk]].concat());
        let on = [FIRST[0], SECOND[1]].map(|address| tcp(8081).on(address)).to_vec();
        let specific = attach("specific", bridge("blue", 1), on);
        let choosing = attach("choosing", bridge("blue", 1), vec![tcp(0)]);
        // So many that what the rules say of them goes on in the next rules.
        let others = (0..30).map(|number| format!("203.0.113.{number}/32"));
        let ranges = ["192.0.2.64/26".to_owned(), "2001:db8:0:1::/61".to_owned()];
        let ranges: Vec<String> = ranges.into_iter().chain(others).collect();
        let guarded = bridge("green", 2)
            .with("sourceRanges", json!(ranges))
            .with("hostAddresses", json!([format!("{}/32", FIRST[0]), "2001:db8::/32"]))
            .with("markMasqBit", 14);
        let guarded = attach("guarded", guarded, both(8082));
        let alone = Network::new("red", Main::Ptp, 3, Plugin::Autoport);
        let alone = attach("alone", alone.speaking("1.1.0"), both(8083));
        Self { node, pods, plain, specific, choosing, guarded, alone }
    }

    fn everybody(&self) -> [&Attachment; 5] {
        [&self.plain, &self.specific, &self.choosing, &self.guarded, &self.alone]
    }

    /// Insists that the permitted clients reach every pod, and no others.
    fn assert_works(&self, what: &str) {
        let ask = |probe: Probe| self.node.client_asks(&probe);
        for (host, port, by) in [
            (FIRST[0], 8080, "plain"),
            (FIRST[1], 8080, "plain"),
            (SECOND[0], 8080, "plain"),
            (FIRST[0], 8081, "specific"),
            (SECOND[1], 8081, "specific"),
            (FIRST[0], 20000, "choosing"),
            (FIRST[0], 8082, "guarded"),
            (FIRST[1], 8082, "guarded"),
            (FIRST[0], 8083, "alone"),
            (FIRST[1], 8083, "alone"),
        ] {
            let answer = ask(Probe::tcp(host, port));
            let source = CLIENT[usize::from(host.contains(':'))];
            assert_eq!(answer, Answer::reached(by, source), "{what}: {host} {port}");
        }
        assert_eq!(ask(Probe::udp(FIRST[0], 8080)).by(), Some("plain"), "{what}");
        assert_eq!(ask(Probe::tcp(SECOND[0], 8081)), Answer::Refused, "{what}");
        // The ranges still hold: another source, another address of the node.
        let outside = Probe::tcp(FIRST[0], 8082).from("192.0.2.200", 0);
        assert_eq!(ask(outside), Answer::Refused, "{what}: outside of sourceRanges");
        assert_eq!(ask(Probe::tcp(SECOND[0], 8082)), Answer::Refused, "{what}: hostAddresses");
        // A pod meets itself, with a bridge and without.
        for (pod, port) in [(&self.pods[0], 8080), (&self.pods[4], 8083)] {
            let answer = pod.asks(&Probe::tcp(FIRST[0], port));
            assert_eq!(answer.by(), Some(pod.name.as_str()), "{what}");
        }
    }
}

/// The elements and chains of a listing, without counters and what names the store.
fn content() -> Vec<String> {
    settle();
    let text = full_ruleset();
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.contains("instance")) {
        let line = line.trim().trim_start_matches("elements = {").trim_end_matches('}');
        for part in line.split(", ") {
            let words: Vec<&str> = part.trim_end_matches(',').split_whitespace().collect();
            lines.push(words.join(" "));
        }
    }
    lines.sort();
    lines
}

#[test]
fn a_deleted_state_directory() {
    let scene = Scene::new();
    ip("addr add 192.0.2.200/32 dev lo");
    ip("addr del 192.0.2.200/32 dev lo");
    scene.node.client.run(|| ip("addr add 192.0.2.200/24 dev eth0"));
    // One whose outside address is not in the first range; 192.0.2.100 is.
    let mut talk = Talk::begin(&scene.node, &scene.pods[0], 8181);
    talk.goes_on("before");
    scene.assert_works("before");
    let before = content();

    fs::remove_dir_all(STATE).expect("the directory is ours");
    scene.assert_works("deleted");
    let claim = |id: &str, port| {
        attachment(&scene.node, &scene.plain.network, id, 200).mapping([tcp(port)])
    };
    // Nothing happens without somebody who knows.
    assert!(run(&claim("new", 9090), "ADD").failure(7).message().contains("repair --adopt"));
    let (status, _, _) = autoport(&["repair"]);
    assert!(!status.success());
    assert_eq!(content(), before);

    let (status, adopted, notes) = autoport(&["repair", "--adopt"]);
    scene.node.note(format!("{adopted}{notes}"));
    assert!(status.success(), "{adopted}{notes}");
    assert!(adopted.starts_with("restored 5 records from the table\n"), "{adopted}");
    assert!(adopted.contains("of 5 attachments: it belonged to another store"), "{adopted}");
    for part in [
        "restored the record of pod shop/plain (blue/plain/eth0) from the table, with 6 host ports",
        "unknown: the UID of its pod, its network namespace, which numbers the node chose",
        "held and not translated",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    talk.goes_on("adopted");
    scene.assert_works("adopted");
    assert_eq!(content(), before, "not an element more or less, not a rule");
    assert!(told(&["repair"]).starts_with("table inet autoport equals the records of 5 "));

    let listed = told(&["list"]);
    for part in ["0.0.0.0:8080/tcp", "unknown  -    shop/guarded"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    // CHECK passes for pods that named all ports; which number serves which request is not known.
    for one in [&scene.plain, &scene.specific, &scene.guarded, &scene.alone] {
        one.check().success();
    }
    scene.choosing.check().failure(120);

    // Held against new claimants, by name.
    for (port, holder) in [(8080, "shop/plain"), (8081, "shop/specific"), (20000, "shop/choosing")]
    {
        let refused = run(&claim("greedy", port), "ADD");
        assert!(refused.failure(100).message().contains(holder), "{refused}");
    }
    // GC by evidence takes nobody whose namespace is not known; by a list it does.
    assert!(told(&["gc"]).contains("0 removed, 5 kept"));
    let blue = &scene.plain.network;
    gc(blue, &["plain", "specific"]).success();
    assert_eq!(scene.node.client_asks(&Probe::tcp(FIRST[0], 20000)), Answer::Refused);
    assert_eq!(view::records().len(), 4);
    // The same ADD again makes the record whole.
    add(&scene.node, &scene.plain);
    assert!(told(&["list"]).contains("alive    -    shop/plain"), "{}", told(&["list"]));
    talk.goes_on("added again");
    // A DEL needs no more than the name of the attachment.
    for one in scene.everybody() {
        let outcome = run(one, "DEL");
        assert!(outcome.status.success(), "{outcome}");
    }
    view::assert_nothing_held();
    add(&scene.node, &claim("next", 8080));
}

/// With one family the pod has no address in the other, and the table knows only half of its claim.
#[test]
fn a_pod_of_one_family_holds_both_again() {
    let node = Node::new();
    let blue = bare::network("blue");
    let mut web = attachment(&node, &blue, "web", 5).mapping([tcp(8080)]);
    web.result = Some(bare::result("1.1.0", &["10.1.0.5/16".to_owned()]));
    add(&node, &web);
    let index = view::index();
    assert_eq!(index.len(), 2);
    fs::remove_dir_all(STATE).expect("the directory is ours");
    told(&["repair", "--adopt"]);
    assert_eq!(view::index(), index);
    web.check().success();
    let second = attachment(&node, &blue, "second", 6).mapping([tcp(8080).on("::1")]);
    run(&second, "ADD").failure(100);
    run(&web, "DEL").success();
    view::assert_nothing_held();
}

/// Facts that the table lacks are reported, and nothing is translated without them.
#[test]
fn what_the_table_does_not_say() {
    let node = Node::new();
    let guarded = bare::network("blue").with("sourceRanges", json!(["192.0.2.64/26"]));
    let web = attachment(&node, &guarded, "web", 5).of_pod("shop", "web", "u").mapping([tcp(8080)]);
    add(&node, &web);
    // A name that leaves no room in an element.
    let long = "l".repeat(150);
    let long = attachment(&node, &bare::network("blue"), &long, 6).mapping([tcp(8081)]);
    add(&node, &long);
    // Somebody has put an element and a rule there that nobody can explain.
    nft("add element inet autoport ports4 { tcp . 9999 comment \"mallory\" : 10.1.0.9 . 80 }");
    let chain = view::table().iter().find_map(|part| {
        let name = part["chain"]["name"].as_str()?;
        name.starts_with("from_").then(|| name.to_owned())
    });
    nft(&format!("insert rule inet autoport {} accept", chain.expect("the network's gate")));
    fs::remove_dir_all(STATE).expect("the directory is ours");
    let (status, adopted, notes) = autoport(&["repair", "--adopt"]);
    assert!(status.success() && adopted.starts_with("restored 1 records"), "{adopted}{notes}");
    for part in [
        "1 elements for \"mallory\", such as tcp . 9999 of ports4, name no attachment",
        "such as tcp . 8081 of ports4, name no attachment, so no DEL could free their ports",
        "the network policy of 2 host ports, because their chains are damaged: they are held and not \
         translated",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert_eq!(view::elements(), [""; 0], "nobody is let in whom sourceRanges kept out");
    let second = attachment(&node, &bare::network("blue"), "second", 7).mapping([tcp(8080)]);
    run(&second, "ADD").failure(100);
    add(&node, &web);
    web.check().success();
    assert_eq!(view::elements().len(), 4);
}

/// A record that was created since takes precedence over the table.
#[test]
fn a_record_wins_over_the_table() {
    let node = Node::new();
    let blue = bare::network("blue");
    let web = attachment(&node, &blue, "web", 5).mapping([tcp(8080), tcp(8081)]);
    add(&node, &web);
    fs::remove_dir_all(STATE).expect("the directory is ours");
    // The kernel is not asked for a reservation.
    told(&["reserve", "dns", "8080"]);
    let (status, _, notes) = autoport(&["repair", "--adopt"]);
    assert!(
        status.success()
            && notes.contains("0.0.0.0:8080/tcp, which another pod or reservation holds"),
        "{notes}"
    );
    assert!(told(&["list"]).contains("reservation dns"));
    assert_eq!(view::elements().len(), 4, "8081 alone");
    run(&web, "DEL").success();
    view::assert_nothing_held_by_attachments();
}

/// A record that cannot be read is lost with a repair, unless that adopts what the table says.
#[test]
fn a_damaged_record_can_be_made_again() {
    let node = Node::new();
    let (pod, web) =
        node.attached("web", &bridge("blue", 1), PortMapping::both(8080, POD_PORT, ""));
    fs::write(Path::new(STATE).join("attachments/blue:web:eth0.json"), "{").expect("ours");
    let adopted = told(&["repair", "--adopt"]);
    assert!(adopted.contains("restored 1 records"), "{adopted}");
    assert!(adopted.contains("table inet autoport equals the records of 1 "), "{adopted}");
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 8080)).by(), Some("web"));
    web.check().success();
    run(&web, "DEL").success();
    drop(pod);
}

#[test]
fn without_store_and_table_there_is_nothing_to_adopt() {
    let _node = Node::new();
    assert!(told(&["repair", "--adopt"]).starts_with("nothing has been recorded in"));
    assert!(!Path::new(STATE).exists());
}
