//! Which of the agents restores the table of nftables.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use autoport::kernel::{Extent, Nft};
use autoport::ruleset::Place;
use autoport::store::Store;

use super::agent::Node;
use super::figures::fill;
use super::runtime::Runtime;
use super::tool;

/// How many sockets of the node are told of changes of tables (group 7).
fn listeners() -> usize {
    let text = fs::read_to_string("/proc/thread-self/net/netlink").expect("a list of sockets");
    let sockets = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    sockets.filter(|fields| fields[1] == "12" && fields[3] == "00000040").count()
}

fn wait_until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A standby that listened too would take the kernel's time while the leader restores the table.
#[test]
fn a_standby_listens_only_without_a_leader() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let has_element = |place: Place| {
        let look = Nft::open("").and_then(|mut nft| nft.look(Extent::Places(&[place])));
        look.expect("netlink works").elements.contains_key(&place)
    };
    let leader = node.start(&runtime.socket(), &[]);
    let first = runtime.connect(Vec::new(), Vec::new());
    let _standby = node.start(&runtime.socket(), &["--standby"]);
    let _second = runtime.connect(Vec::new(), Vec::new());
    let (_, place) = fill(&Store::at(&node.state()), 1);
    // It has been told by now that the leader lives.
    thread::sleep(Duration::from_secs(2));
    wait_until("only the leader listens", || listeners() == 1);
    tool("nft", "add table inet autoport");
    wait_until("the leader restores the table", || has_element(place));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(listeners(), 1);
    // What happens just when the leader ends is noticed too.
    drop((leader, first));
    tool("nft", "flush ruleset");
    wait_until("the standby restores the table", || has_element(place));
    assert_eq!(listeners(), 1);
    tool("nft", "flush ruleset");
    wait_until("the standby restores the table again", || has_element(place));
}
