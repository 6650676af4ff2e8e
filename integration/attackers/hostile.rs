//! Hostile and unusual input: either rejected with the right code, in valid JSON, with nothing
//! changed on disk or in the kernel; or valid, and it works.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::{Attachment, PortMapping};
use crate::stage::netns::in_one_transaction;
use crate::stage::node::{FIRST, Node};
use crate::stage::plugin::{Call, Outcome};
use crate::stage::view::{self, snapshot};

/// A node with a pod that holds a port, and a pod that asks for ports.
struct Scene {
    node: Node,
    web: Attachment,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        add(&node, &attachment(&node, &network("blue"), "holder", 5).mapping([tcp(8080)]));
        let web = attachment(&node, &network("blue"), "web", 6);
        Self { node, web }
    }

    /// Insists on an error reply that a runtime understands, and that nothing changed.
    fn refused(&self, what: &str, call: &Call, code: u64) -> Outcome {
        let before = snapshot();
        let outcome = call.run();
        self.node.note(format!("{what}: {outcome}"));
        assert_eq!(outcome.code(), Some(code), "{what}: {outcome}");
        let reply = outcome.reply.as_ref().unwrap_or_else(|| panic!("{what}: {outcome}"));
        assert!(reply["cniVersion"].is_string(), "{what}: {outcome}");
        assert!(!outcome.message().is_empty() && !outcome.message().contains('\n'), "{what}");
        assert_eq!(snapshot(), before, "{what}: something changed");
        outcome
    }

    /// The ADD of one mapping with these keys.
    fn mapping(&self, mapping: &Value) -> Call {
        self.runtime_config(&json!({"portMappings": [mapping]}))
    }

    fn runtime_config(&self, value: &Value) -> Call {
        let mut config = self.web.config();
        config["runtimeConfig"] = value.clone();
        self.web.plugin_call("ADD").stdin(config.to_string())
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    let scene = Scene::new();
    let call = scene.web.plugin_call("ADD");
    let texts: [&[u8]; 9] = [
        b"",
        b"\n",
        b"{",
        b"null",
        b"[]",
        b"\"text\"",
        b"{\"name\": \"blue\",}",
        b"{\"name\":\"\xff\"}",
        b"{} {}",
    ];
    for text in texts {
        let what = String::from_utf8_lossy(text);
        scene.refused(&what, &call.clone().stdin(text), 6);
    }
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    let deep = format!("{{\"cniVersion\":\"1.1.0\",\"name\":\"blue\",\"runtimeConfig\":{deep}}}");
    scene.refused("a deep nest", &call.clone().stdin(deep), 6);
    // Rust puts /dev/null where a program is started without standard input.
    scene.refused("stdin closed", &call.clone().closed_stdin(), 6);
}

#[test]
fn too_much_on_stdin_is_refused_fast() {
    let scene = Scene::new();
    let call = scene.web.plugin_call("ADD").stdin(vec![b' '; 64 << 20]);
    let begun = Instant::now();
    scene.refused("64 MiB", &call, 5);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    let scene = Scene::new();
    let mapping = |key: &str, value: Value| {
        let mut mapping = json!({"hostPort": 9090, "containerPort": 80, "protocol": "tcp"});
        mapping[key] = value;
        scene.mapping(&mapping)
    };
    for (key, value) in [
        ("hostPort", json!("9090")),
        ("hostPort", json!([9090])),
        ("hostPort", json!(true)),
        ("containerPort", json!("80")),
        ("protocol", json!(6)),
        ("hostIP", json!(0)),
        ("hostIP", json!({})),
    ] {
        scene.refused(&format!("{key}: {value}"), &mapping(key, value.clone()), 6);
    }
    for value in
        [json!("x"), json!([]), json!(1), json!({"portMappings": {}}), json!({"portMappings": [1]})]
    {
        scene.refused(&value.to_string(), &scene.runtime_config(&value), 6);
    }
    for (key, value) in [
        ("name", json!(5)),
        ("cniVersion", json!(1)),
        ("prevResult", json!("none")),
        ("snat", json!("yes")),
        ("markMasqBit", json!("13")),
        ("sourceRanges", json!("10.0.0.0/8")),
        ("stateDir", json!(["/run/autoport"])),
    ] {
        let mut config = scene.web.clone().mapping([tcp(9090)]).config();
        config[key] = value;
        let call = scene.web.plugin_call("ADD").stdin(config.to_string());
        scene.refused(key, &call, 6);
    }
}

#[test]
fn ports_out_of_range_are_refused() {
    let scene = Scene::new();
    for port in ["-1", "0", "65536", "1e9", "1e3", "80.5", "80.0", "-0", "4294975376", "1e400"] {
        for key in ["hostPort", "containerPort"] {
            // Asks the node to choose.
            if (key, port) == ("hostPort", "0") {
                continue;
            }
            let other = if key == "hostPort" { "containerPort" } else { "hostPort" };
            let config = scene.web.clone().mapping([tcp(9090)]).config().to_string();
            let mapping = format!("[{{\"{key}\":{port},\"{other}\":9090}}]");
            let known = json!([tcp(9090)]).to_string();
            let config = config.replace(&known, &mapping);
            assert!(config.contains(&mapping), "{config}");
            let call = scene.web.plugin_call("ADD").stdin(config);
            let outcome = scene.refused(&format!("{key} {port}"), &call, 7);
            assert!(outcome.message().contains(port), "{outcome}");
        }
    }
    for missing in [json!({"hostPort": 9090}), json!({"containerPort": 80}), json!({})] {
        scene.refused(&missing.to_string(), &scene.mapping(&missing), 7);
    }
}

#[test]
fn text_with_syntax_in_it_is_refused() {
    let scene = Scene::new();
    let texts = [
        " ",
        "tcp ",
        " tcp",
        "tcp\n",
        "tcp; drop",
        "tcp . 80 } add rule",
        "\"tcp\"",
        "tcp,udp",
        "6",
        "icmp",
        "all",
        "\u{0}",
        "tcp\u{0}",
        "\u{ff54}cp",
        "$(reboot)",
        "'; --",
    ];
    for protocol in texts {
        let mapping = json!({"hostPort": 9090, "containerPort": 80, "protocol": protocol});
        scene.refused(&format!("protocol {protocol:?}"), &scene.mapping(&mapping), 2);
    }
    let addresses = [
        " ",
        "192.0.2.1 ",
        "192.0.2.1\n",
        "\"192.0.2.1\"",
        "192.0.2.1; drop",
        "192.0.2.1 . 80 }",
        "192.0.2.1/32",
        "192.0.2.1/24",
        "2001:db8::1/64",
        "fe80::1%eth0",
        "::1%lo",
        "[::1]",
        "192.0.2.1:80",
        "192.0.2.1-192.0.2.9",
        "192.0.2",
        "192.0.2.256",
        "localhost",
        "*",
        "any",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "\u{0}",
    ];
    for host_ip in addresses {
        let mapping = json!({"hostPort": 9090, "containerPort": 80, "hostIP": host_ip});
        scene.refused(&format!("hostIP {host_ip:?}"), &scene.mapping(&mapping), 7);
    }
}

#[test]
fn names_that_could_be_paths_are_refused() {
    let scene = Scene::new();
    let web = scene.web.clone().mapping([tcp(9090)]);
    let call = web.plugin_call("ADD");
    for id in
        ["..", ".", "../../etc", "a/b", "/a", ".a", "-a", "_a", "a b", "a\nb", "a:b", "\u{e9}"]
    {
        for command in ["ADD", "CHECK", "DEL"] {
            let call = web.plugin_call(command).env("CNI_CONTAINERID", id);
            scene.refused(&format!("{command} of container {id:?}"), &call, 4);
        }
        let mut config = web.config();
        config["name"] = json!(id);
        scene.refused(&format!("network {id:?}"), &call.clone().stdin(config.to_string()), 7);
    }
    for ifname in [".", "..", "a/b", "a:b", "a b", "a\n", "sixteen-bytes-..."] {
        scene.refused(&format!("{ifname:?}"), &call.clone().env("CNI_IFNAME", ifname), 4);
    }
    let nothing = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
    let call = nothing.iter().fold(call, |call, name| call.without(name));
    let outcome = scene.refused("no environment", &call, 4);
    assert!(nothing.iter().all(|name| outcome.message().contains(name)), "{outcome}");
}

#[test]
fn mappings_that_contradict_each_other_are_refused() {
    let scene = Scene::new();
    let to = |container_port, mapping: PortMapping| PortMapping { container_port, ..mapping };
    for (one, other) in [
        (tcp(9090), to(81, tcp(9090))),
        (tcp(9090), to(81, tcp(9090).on(FIRST[0]))),
        (tcp(9090).on("::"), to(81, tcp(9090).on("::1"))),
    ] {
        for pair in [[one.clone(), other.clone()], [other, one]] {
            let outcome =
                scene.refused("a pair", &scene.runtime_config(&json!({"portMappings": pair})), 7);
            assert!(outcome.message().contains("portMappings[0]"), "{outcome}");
            assert!(outcome.message().contains("portMappings[1]"), "{outcome}");
        }
    }
}

/// The same mapping twice, and one that is part of another, say nothing new.
#[test]
fn mappings_that_agree_are_one() {
    let scene = Scene::new();
    let web = scene.web.clone();
    let twice = web.clone().mapping([tcp(9090), tcp(9090), tcp(9090).on("0.0.0.0")]);
    add(&scene.node, &twice);
    twice.check().success();
    assert_eq!(view::index().len(), 2 + 2);
    let part = web.mapping([tcp(9090), tcp(9090).on(FIRST[0])]);
    add(&scene.node, &part);
    part.check().success();
    assert_eq!(view::index().len(), 2 + 3);
    run(&part, "DEL").success();
    assert_eq!(view::index().len(), 2);
}

#[test]
fn ten_thousand_mappings_work() {
    let scene = Scene::new();
    let count = in_one_transaction(10_000);
    let web = scene.web.clone().mapping((0..count).map(|number| tcp(10_000 + number)));
    let begun = Instant::now();
    add(&scene.node, &web);
    let added = begun.elapsed();
    assert_eq!(view::index().len(), usize::from(count) * 2 + 2);
    assert_eq!(view::elements().len(), usize::from(count) * 4 + 4);
    let begun = Instant::now();
    web.check().success();
    let checked = begun.elapsed();
    let begun = Instant::now();
    add(&scene.node, &web);
    let again = begun.elapsed();
    let begun = Instant::now();
    run(&web, "DEL").success();
    let deleted = begun.elapsed();
    assert_eq!((view::index().len(), view::elements().len()), (2, 4));
    // An unoptimised build on a machine that runs other things beside; a walk per mapping takes minutes.
    let all = [added, checked, again, deleted];
    assert!(all.iter().all(|one| *one < Duration::from_mins(1)), "{all:?}");
}

#[test]
fn a_container_id_may_be_long() {
    let scene = Scene::new();
    let [one, other] = ["a", "b"].map(|last| {
        let id = format!("{}{last}", "c".repeat(3999));
        attachment(&scene.node, &network("blue"), &id, 7)
    });
    let (one, other) = (one.mapping([tcp(9090)]), other.mapping([tcp(9091)]));
    add(&scene.node, &one);
    add(&scene.node, &other);
    one.check().success();
    other.check().success();
    assert_eq!(view::records().len(), 3);
    let third = attachment(&scene.node, &network("blue"), "third", 8).mapping([tcp(9090)]);
    scene.refused("a conflict", &third.plugin_call("ADD"), 100);
    run(&one, "DEL").success();
    other.check().success();
    let mut dotted = third;
    dotted.container_id = "a..b.json_-".to_owned();
    add(&scene.node, &dotted);
    dotted.check().success();
    run(&dotted, "DEL").success();
}
