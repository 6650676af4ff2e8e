//! A ruleset with our table that was saved and is loaded at the next boot, by nftables.service or
//! netfilter-persistent: the table contains the boot in which it was built, and is replaced.

use std::fs;

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{full_ruleset, ip, nft};
use crate::stage::node::{FIRST, Node, POD_PORT};
use crate::stage::operator::{autoport, told};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::view::{self, STATE};

fn own_boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot ID");
    text.trim().to_owned()
}

/// A node on which a pod had 8080, as it is after a reboot: the pod and the state directory are gone,
/// the saved rules are loaded, and a pod without host ports has the address.
struct Rebooted {
    node: Node,
    stranger: crate::stage::node::Pod,
    saved: String,
}

impl Rebooted {
    fn new() -> Self {
        let node = Node::new();
        let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking("1.1.0");
        let (pod, _attachment) = node.attached("web", &blue, PortMapping::both(8080, POD_PORT, ""));
        let saved = full_ruleset();
        assert!(saved.contains(&own_boot()), "{saved}");
        let saved = saved.replace(&own_boot(), "11111111-2222-3333-4444-555555555555");
        ip("netns del web");
        drop(pod);
        fs::remove_dir_all(STATE).expect("the directory is ours");
        fs::remove_dir_all("/var/lib/cni/networks").expect("addresses are given out again");
        nft(&format!("flush ruleset\n{saved}"));
        let stranger = node.pod("stranger");
        let mut own = stranger.in_network(&blue);
        node.add(&mut own);
        let rebooted = Self { node, stranger, saved };
        // The address went to the stranger, and the port with it.
        assert_eq!(rebooted.answer(8080).by(), Some("stranger"));
        rebooted
    }

    fn answer(&self, port: u16) -> Answer {
        self.node.client_asks(&Probe::tcp(FIRST[0], port))
    }

    fn third(&self, port: u16) -> Attachment {
        attachment(&self.node, &network("green"), "third", 200).mapping([tcp(port)])
    }
}

#[test]
fn a_table_of_another_boot_is_replaced_once_and_said() {
    let rebooted = Rebooted::new();
    let node = &rebooted.node;
    run(&rebooted.third(8081), "STATUS").success();
    let outcome = run(&rebooted.third(8081), "ADD");
    assert!(outcome.status.success(), "{outcome}");
    assert!(outcome.stderr.contains("built in an earlier boot"), "{outcome}");
    assert_eq!(rebooted.answer(8080), Answer::Refused, "the stranger gets nothing");
    assert!(full_ruleset().contains(&own_boot()));
    run(&rebooted.third(8081), "STATUS").success();
    run(&rebooted.third(8081), "CHECK").success();
    let again = attachment(node, &network("green"), "fourth", 201).mapping([tcp(8082)]);
    let outcome = run(&again, "ADD");
    assert!(outcome.status.success() && !outcome.stderr.contains("boot"), "{outcome}");
    drop(rebooted.stranger);
}

/// The port itself is asked for, DEL and the operator's commands meet it first.
#[test]
fn whoever_comes_first_replaces_it() {
    let rebooted = Rebooted::new();
    add(&rebooted.node, &rebooted.third(8080));
    assert_ne!(rebooted.answer(8080).by(), Some("stranger"));
    for command in [&["gc"], &["repair"]] {
        nft(&format!("flush ruleset\n{}", rebooted.saved));
        told(command);
        assert_ne!(rebooted.answer(8080).by(), Some("stranger"), "{command:?}");
        run(&rebooted.third(8080), "CHECK").success();
    }
    nft(&format!("flush ruleset\n{}", rebooted.saved));
    run(&rebooted.third(8080), "CHECK").failure(120);
    run(&rebooted.third(8080), "DEL").success();
    assert_eq!(rebooted.answer(8080), Answer::Refused);
}

/// Before the first ADD there is no store, so there are no records.
#[test]
fn the_watch_and_repair_delete_it_before_there_is_a_store() {
    for words in [&["repair"][..], &["repair", "--watch"]] {
        let rebooted = Rebooted::new();
        let stop = ["timeout", "1"];
        let (_, stdout, notes) = crate::stage::operator::under(&stop, words);
        assert!(notes.contains("built in an earlier boot"), "{words:?}: {stdout}{notes}");
        assert_eq!(rebooted.answer(8080), Answer::Refused, "{words:?}");
        assert!(!std::path::Path::new(STATE).exists(), "{words:?}");
        add(&rebooted.node, &rebooted.third(8081));
    }
}

/// Nothing is adopted from it: its pods no longer exist.
#[test]
fn nothing_is_adopted_from_another_boot() {
    let rebooted = Rebooted::new();
    let (_, adopted, notes) = autoport(&["repair", "--adopt"]);
    assert!(!adopted.contains("restored"), "{adopted}{notes}");
    assert_eq!(view::records(), [""; 0], "{adopted}{notes}");
    assert_eq!(rebooted.answer(8080), Answer::Refused);
    add(&rebooted.node, &rebooted.third(8080));
}

/// A living second store on the same node is refused as ever, and so is a table that says no boot.
#[test]
fn a_table_of_this_boot_is_another_stores() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let saved = full_ruleset();
    fs::remove_dir_all(STATE).expect("the directory is ours");
    let third = attachment(&node, &network("green"), "third", 200).mapping([tcp(8081)]);
    for table in [saved.clone(), saved.replace(&format!(" boot {}", own_boot()), "")] {
        nft(&format!("flush ruleset\n{table}"));
        let refused = run(&third, "ADD");
        assert!(refused.failure(7).message().contains("repair --adopt"), "{refused}");
        run(&third, "STATUS").failure(50);
    }
}
