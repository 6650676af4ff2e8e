//! The journal, in which the plugin says what it rejected, superseded and repaired. What may be in its place or in
//! it: `store::journal::tests`. A disk without room: `lost::a_full_disk`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::stage::bare::{add, annotated, attachment, network, run, tcp};
use crate::stage::netns::nft;
use crate::stage::node::Node;
use crate::stage::view::STATE;

/// The kind, code and text of each line.
fn journal() -> Vec<(String, u64, String)> {
    let text = fs::read_to_string(Path::new(STATE).join("journal")).unwrap_or_default();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["time"].as_u64() > Some(1_700_000_000), "{line}");
        let text = |key: &str| line[key].as_str().expect("a text").to_owned();
        (text("kind"), line["code"].as_u64().expect("a code"), text("text"))
    };
    text.lines().map(line).collect()
}

/// Empties the journal; gives the only line of it.
fn only(kind: &str, code: u64) -> String {
    let lines = journal();
    let [(found, number, text)] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((found.as_str(), *number), (kind, code), "{text}");
    fs::write(Path::new(STATE).join("journal"), "").expect("it is ours");
    text.clone()
}

#[test]
fn each_rejection_supersession_and_repair_is_a_line() {
    let node = Node::new();
    let blue = network("blue");
    let own = |id: &str, number| attachment(&node, &blue, id, number).mapping([tcp(8080)]);
    let of_web = |id: &str, number| own(id, number).of_pod("shop", "web", "uid-web");
    let web = of_web("web", 5);
    add(&node, &web);
    assert!(only("built", 0).contains("it was missing"));

    run(&own("other", 6), "ADD").failure(100);
    let text = only("rejected", 100);
    assert!(text.starts_with("ADD of other: host port") && text.contains("shop/web"), "{text}");
    annotated(&own("wrong", 7), "ADD", &[("autoport.cni/ports", "=")]).run().failure(7);
    assert!(only("rejected", 7).starts_with("ADD of wrong: annotation autoport.cni/ports"));

    nft("flush chain inet autoport prerouting");
    web.plugin_call("CHECK").run().failure(120);
    assert!(only("rejected", 120).starts_with("CHECK of web: "));
    add(&node, &web);
    assert!(only("built", 0).contains("prerouting"));

    // Its sandbox was made again.
    add(&node, &of_web("again", 8));
    let text = only("superseded", 0);
    assert!(text.contains("blue/web/eth0") && text.contains("blue/again/eth0"), "{text}");
}

#[test]
fn what_succeeds_or_only_asks_is_no_line() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    only("built", 0);
    web.check().success();
    run(&web, "DEL").success();
    add(&node, &web);
    run(&web, "STATUS").success();
    run(&web, "VERSION").success();
    nft("flush ruleset");
    nft("table inet autoport { }");
    fs::write(Path::new(STATE).join("instance"), r#"{"version":9}"#).expect("it is ours");
    run(&web, "STATUS").failure(50);
    assert!(journal().is_empty(), "{:?}", journal());
}
