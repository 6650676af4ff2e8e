//! `autoport explain`: ADD does what its script and its answer say, and `explain` itself changes
//! nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use autoport::app::NO_INSTANCE;
use serde_json::{Value, json};

use super::snapshots::assert_snapshot;
use crate::stage::bare::{add, annotated, attachment, network, run as run_command, tcp, udp};
use crate::stage::chain::{Attachment, Network};
use crate::stage::netns::{elsewhere, full_ruleset, ip, nft, run};
use crate::stage::node::{FIRST, Node, SECOND};
use crate::stage::plugin::{Call, Outcome};
use crate::stage::view::{STATE, snapshot};

fn explain(add: Call, arguments: &[&str]) -> Outcome {
    let words: Vec<&str> = ["explain"].into_iter().chain(arguments.iter().copied()).collect();
    add.by_hand(&words).run()
}

/// The listing after `script` was loaded where `before` was there.
fn loaded(before: &str, script: &str) -> String {
    elsewhere(|| {
        nft(before);
        let checked = run(Command::new("nft").args(["--check", "--file", "-"]), script);
        assert!(checked.0, "{}\n{script}", checked.1);
        assert_eq!(full_ruleset().trim_end(), before.trim_end(), "a check changes nothing");
        nft(script);
        full_ruleset()
    })
}

/// The instance in the comment of our table.
fn instance(listing: &str) -> String {
    let line = listing.lines().find_map(|line| line.split_once(" instance "));
    line.map_or(String::new(), |(_, id)| id.split([' ', '"']).next().unwrap_or_default().to_owned())
}

/// Insists that what is explained is what the ADD then does, in the table and by number.
fn assert_foreseen(what: &str, call: &Call) {
    let (state, before) = (snapshot(), full_ruleset());
    let script = explain(call.clone(), &["--nft"]);
    assert!(script.status.success(), "{what}: {script}");
    let told = explain(call.clone(), &["--output", "json"]);
    assert!(told.status.success(), "{what}: {told}");
    assert_eq!(snapshot(), state, "{what}: explaining changes nothing");
    let told = told.reply.expect("it is JSON");
    assert_eq!(told["outcome"], "granted", "{what}: {told}");
    assert_eq!(told["granted"]["nft"], json!(script.stdout), "{what}");

    let outcome = call.run();
    assert!(outcome.status.success(), "{what}: {outcome}");
    let after = full_ruleset();
    let script = script.stdout.replace(NO_INSTANCE, &instance(&after));
    assert_eq!(loaded(&before, &script), after, "{what}: ADD does something else than\n{script}");

    let record =
        fs::read(told["granted"]["recordFile"].as_str().expect("a path")).expect("it is there");
    let mut record: Value = serde_json::from_slice(&record).expect("a record");
    record.as_object_mut().expect("an object").remove("version");
    let mut foreseen = told["granted"]["record"].clone();
    // Only ADD knows when it runs; the first one of a boot notes which.
    for key in ["created", "bootId"] {
        foreseen[key] = record[key].clone();
    }
    assert_eq!(foreseen, record, "{what}");
}

fn of_network(node: &Node, network: &Network, id: &str, number: u16) -> Attachment {
    attachment(node, network, id, number).of_pod("shop", id, &format!("uid-{id}"))
}

#[test]
fn add_does_what_was_explained() {
    let node = Node::new();
    let blue = network("blue");
    let web = of_network(&node, &blue, "web", 5).mapping([tcp(8080), udp(8080), tcp(0)]);
    let ask = |attachment: &Attachment| attachment.plugin_call("ADD");
    assert_foreseen("the first of the node", &ask(&web));
    assert_foreseen("asked again", &ask(&web));
    let api = of_network(&node, &blue, "api", 6).mapping([tcp(8081).on(FIRST[0]), tcp(0)]);
    assert_foreseen("the next of the network", &ask(&api));

    let ranges = json!(["10.0.0.0/8", "2001:db8::/32"]);
    let all = blue.clone().with("sourceRanges", ranges.clone());
    let all = all.with("hostAddresses", json!([format!("{}/32", FIRST[0]), SECOND[1]]));
    let green = of_network(&node, &all, "green", 7).mapping([tcp(8082), tcp(8083).on(SECOND[1])]);
    assert_foreseen("another network policy", &ask(&green));
    let everybody = network("red").with("masqAll", true).with("markMasqBit", 5);
    let red = of_network(&node, &everybody, "red", 8).mapping([tcp(8084)]);
    assert_foreseen("another mark bit", &ask(&red));
    let nobody = network("grey").with("snat", false).with("sourceRanges", ranges);
    let grey = of_network(&node, &nobody, "grey", 9).mapping([udp(8085)]);
    assert_foreseen("no masquerading", &ask(&grey));
    let mut alone = of_network(&node, &blue, "alone", 10).mapping([tcp(8086)]);
    let result = crate::stage::bare::result("1.1.0", &["10.9.0.5/32".into(), "fd09::5/128".into()]);
    alone.result = Some(result);
    assert_foreseen("a pod without neighbours", &ask(&alone));

    let mut fewer = web.clone();
    fewer.mappings = vec![tcp(8080), tcp(9090)];
    assert_foreseen("other ports than before", &ask(&fewer));
    let mut again = fewer.clone();
    again.container_id = "web2".to_owned();
    assert_foreseen("a new sandbox of the pod", &ask(&again));
    nft("flush chain inet autoport prerouting");
    assert_foreseen("a damaged table", &ask(&api));
    nft("delete table inet autoport");
    assert_foreseen("no table", &ask(&api));
    nft("add chain inet autoport stranger { type filter hook input priority 0; }");
    assert_foreseen("a stranger's chain", &ask(&api));
    let other = of_network(&node, &blue, "other", 11);
    let asked = [("autoport.cni/ports", "http=8000, game=7777/tcp+udp, rtp=10000-10003/udp")];
    assert_foreseen("annotations", &annotated(&other, "ADD", &asked));
}

#[test]
fn explained_for_people() {
    let node = Node::new();
    let web = of_network(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    let asked = [("autoport.cni/ports", "http=8000")];
    let call = annotated(&web, "ADD", &asked);
    let outcome = explain(call.clone(), &[]);
    assert_eq!((outcome.status.code(), outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
    assert_snapshot("explain-first.txt", &outcome.stdout);
    assert!(!Path::new(STATE).exists(), "explaining makes nothing");
    call.run().success();
    ip("netns add old");
    let mut old = of_network(&node, &network("blue"), "old", 6).mapping([tcp(8081), tcp(8082)]);
    "/run/netns/old".clone_into(&mut old.netns);
    add(&node, &old);
    ip("netns del old");
    let mut more = web.clone();
    more.mappings = vec![tcp(8081)];
    let outcome = explain(annotated(&more, "ADD", &asked), &[]);
    assert_snapshot("explain-change.txt", &outcome.stdout);
    // The instance is random, what is in the pod's file is not.
    let next = of_network(&node, &network("blue"), "next", 7).mapping([tcp(8080)]);
    let outcome = explain(next.plugin_call("ADD"), &[]);
    assert_eq!(outcome.status.code(), Some(3), "{outcome}");
    assert_snapshot("explain-refused.txt", &outcome.stdout);
}

#[test]
fn a_refusal_is_foreseen() {
    let node = Node::new();
    let blue = network("blue").with("minPort", 1024);
    let web = of_network(&node, &blue, "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let ask = |mappings| of_network(&node, &blue, "next", 6).mapping(mappings).plugin_call("ADD");
    let state = snapshot();
    let cases = [
        ("taken", ask(vec![tcp(8080)]), 100),
        ("forbidden", ask(vec![tcp(80)]), 104),
        ("a key in vain", ask(vec![tcp(8081)]).stdin(r#"{"cniVersion": "1.1.0"}"#), 7),
        ("no JSON", ask(vec![tcp(8081)]).stdin("{"), 6),
        ("a bad name", ask(vec![tcp(8081)]).env("CNI_CONTAINERID", "../x"), 4),
    ];
    for (what, call, code) in cases {
        let outcome = explain(call.clone(), &["-o", "json"]);
        assert_eq!(outcome.status.code(), Some(3), "{what}: {outcome}");
        let told = outcome.reply.expect("it is JSON");
        assert_eq!(
            (&told["outcome"], &told["granted"]),
            (&json!("refused"), &Value::Null),
            "{what}"
        );
        assert_eq!(told["error"]["code"], code, "{what}: {told}");
        let only_script = explain(call.clone(), &["--nft"]);
        assert_eq!(
            (only_script.status.code(), only_script.stdout.as_str()),
            (Some(3), ""),
            "{what}"
        );
        assert!(only_script.stderr.contains("ADD would be rejected"), "{what}: {only_script}");
        assert_eq!(snapshot(), state, "{what}: explaining changes nothing");
        let refused = call.run();
        refused.failure(code);
        assert_eq!(told["error"]["msg"], refused.message(), "{what}");
    }
    // A stranger's element is found in the kernel only.
    nft("add element inet autoport ports4 { tcp . 9000 : 10.1.0.9 . 80 }");
    let outcome = explain(ask(vec![tcp(9000)]), &["-o", "json"]);
    assert_eq!(outcome.reply.expect("JSON")["error"]["code"], 100);
}

#[test]
fn what_cannot_be_seen_is_said() {
    let node = Node::new();
    let web = of_network(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let next = of_network(&node, &network("blue"), "next", 6).mapping([tcp(8081)]);
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let outcome = explain(next.plugin_call("ADD").under(&bare), &["-o", "json"]);
    assert!(outcome.status.success(), "{outcome}");
    let told = outcome.reply.expect("JSON");
    let unseen = told["unseen"].to_string();
    assert!(unseen.contains("the table is assumed to be missing"), "{unseen}");
    let script = told["granted"]["nft"].as_str().expect("a script");
    for port in ["tcp . 8080", "tcp . 8081"] {
        assert!(script.contains(port), "the records say what the table should be: {script}");
    }
    // Nor the records.
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(STATE, fs::Permissions::from_mode(mode)).expect("ours");
    };
    mode(0o000);
    let outcome = explain(next.plugin_call("ADD").under(&bare), &["-o", "json"]);
    mode(0o700);
    assert!(outcome.status.success(), "{outcome}");
    let unseen = outcome.reply.expect("JSON")["unseen"].to_string();
    assert!(unseen.contains("the store is assumed to be empty"), "{unseen}");
    run_command(&web, "DEL").success();
}

#[test]
fn requests_that_are_none() {
    let node = Node::new();
    let web = of_network(&node, &network("blue"), "web", 5);
    let outcome = explain(web.plugin_call("ADD"), &[]);
    assert!(outcome.status.success(), "{outcome}");
    assert!(outcome.stdout.starts_with("ADD would only print prevResult"), "{outcome}");
    let list = web.network.conflist().to_string();
    let outcome = explain(web.plugin_call("ADD").stdin(list), &[]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert!(outcome.stderr.contains("is a network configuration list"), "{outcome}");
    // What nobody set is assumed, and said.
    let web = web.mapping([tcp(8080)]);
    let config = web.config().to_string();
    let outcome = explain(Call::operator(&[]).stdin(config), &["-o", "json"]);
    let told = outcome.reply.expect("JSON");
    assert_eq!(told["granted"]["record"]["containerId"], "explain", "{told}");
    assert_eq!(told["assumed"][0], "CNI_CONTAINERID=explain");
    // --state-dir wins.
    let elsewhere = ["--state-dir", "/run/elsewhere", "-o", "json"];
    let told = explain(web.plugin_call("ADD"), &elsewhere).reply.expect("JSON");
    assert_eq!(told["granted"]["recordFile"], "/run/elsewhere/attachments/blue:web:eth0.json");
}
