//! What is recorded, configured and installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::stage::agent;
use crate::stage::chain::PortMapping;
use crate::stage::netns::{ip, nft, ruleset};
use crate::stage::operator::{autoport, told, under};
use crate::stage::view::STATE;

use super::{ARGUMENTS, BIN, CONF, Case, NODE_FILE, Scene, obey, report, worst, write};

#[test]
fn records_and_table_that_differ_are_named() {
    let scene = Scene::new();
    let failed = |harm: &dyn Fn(), check, words: &[&str], cure: &dyn Fn(&str)| {
        scene.names(&Case { harm, check, state: "failed", words, cure });
    };
    failed(&|| nft("flush chain inet autoport prerouting"), "table", &["prerouting"], &obey);
    failed(&|| nft("delete table inet autoport"), "table", &["missing"], &obey);
    failed(
        &|| nft("add element inet autoport ports4 { tcp . 9 : 10.1.0.9 . 80 }"),
        "table",
        &["has no record", "ports4"],
        &obey,
    );
    failed(
        &|| {
            let newer = ruleset().replace("autoport layout 4 ", "autoport layout 5 ");
            nft(&format!("flush ruleset\n{newer}"));
        },
        "plugin",
        &["the table has layout 5"],
        &|_| {
            nft("delete table inet autoport");
            told(&["repair"]);
        },
    );
    failed(
        &|| fs::rename(STATE, "/run/elsewhere").expect("the store can be moved"),
        "records",
        &["nothing is recorded", "table inet autoport of store"],
        &obey,
    );
    let record = || {
        let path = format!("{STATE}/attachments");
        let entry = fs::read_dir(path).expect("records").flatten().next();
        entry.expect("a record").path()
    };
    failed(
        &|| fs::write(record(), "{").expect("our file"),
        "records",
        &["cannot be read"],
        &|_| {
            told(&["repair"]);
            scene.attachment.plugin_call("ADD").run().success();
        },
    );
    scene.names(&Case {
        harm: &|| {
            drop(scene.node.attached(
                "lost",
                &scene.attachment.network,
                PortMapping::both(8090, 80, ""),
            ));
            ip("netns del lost");
        },
        check: "records",
        state: "warning",
        words: &["no longer exist", "blue/lost/eth0"],
        cure: &obey,
    });
}

#[test]
fn a_wrong_configuration_is_named() {
    let scene = Scene::new();
    let restore = |_: &str| scene.restore();
    let check = |harm: &dyn Fn(), check, state, words: &[&str]| {
        scene.names(&Case { harm, check, state, words, cure: &restore });
    };
    let with = |state, word: &str, change: &dyn Fn(&mut Value)| {
        check(&|| scene.with(change), "network", state, &[word]);
    };
    let remove = || fs::remove_file(format!("{CONF}/10-blue.conflist")).expect("our file");
    check(&remove, "network", "failed", &["no network configuration"]);
    let broken = || fs::write(format!("{CONF}/10-blue.conflist"), "{").expect("our file");
    check(&broken, "network", "failed", &["10-blue.conflist", "is not understood"]);
    let other =
        json!({"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "ptp", "ipam": {}}]});
    let first = || write("05-a.conflist", &other);
    check(&first, "network", "warning", &["take 05-a.conflist (ptp)", "10-blue.conflist only"]);
    let mut single = other.clone();
    single["plugins"][0]["type"] = json!("bridge");
    let not_loaded = || write("20-list.conf", &single);
    check(&not_loaded, "network", "warning", &["20-list.conf", "*.conflist only"]);
    check(
        &|| fs::remove_file(format!("{BIN}/bridge")).expect("our link"),
        "plugin",
        "warning",
        &["plugin bridge is not in /run/bin"],
    );
    let portmap = json!({"cniVersion": "1.0.0", "name": "z",
        "plugins": [{"type": "ptp"}, {"type": "portmap"}]});
    let last = || write("90-z.conflist", &portmap);
    check(&last, "network", "warning", &["90-z.conflist maps host ports with portmap"]);
    let plugins = |conf: &mut Value| conf["plugins"].as_array_mut().expect("plugins").clone();
    with("failed", "does not chain autoport (bridge)", &|conf| {
        conf["plugins"] = json!([plugins(conf)[0]]);
    });
    with("failed", "autoport is the first plugin of the chain", &|conf| {
        let [bridge, own] = [0, 1].map(|index| plugins(conf)[index].clone());
        conf["plugins"] = json!([own, bridge]);
    });
    with("failed", "autoport is in the chain twice", &|conf| {
        let [bridge, own] = [0, 1].map(|index| plugins(conf)[index].clone());
        conf["plugins"] = json!([bridge, own, own]);
    });
    with("failed", "portmap is in the same chain", &|conf| {
        let [bridge, own] = [0, 1].map(|index| plugins(conf)[index].clone());
        conf["plugins"] = json!([bridge, {"type": "portmap"}, own]);
    });
    with("failed", "does not declare the capability portMappings", &|conf| {
        conf["plugins"][1]["capabilities"] = json!({"io.kubernetes.cri.pod-annotations": true});
    });
    with("warning", "runtimes pass no pod annotations to autoport", &|conf| {
        conf["plugins"][1]["capabilities"] = json!({"portMappings": true});
    });
    with("failed", "cniVersion \"9.9.9\"", &|conf| conf["cniVersion"] = json!("9.9.9"));
    with("failed", "did you mean portRange?", &|conf| conf["plugins"][1]["portRang"] = json!("1"));
    with("warning", "unknown key is ignored: colour", &|conf| {
        conf["plugins"][1]["colour"] = json!("blue");
    });

    let plugin = format!("{BIN}/autoport");
    let remove = || fs::remove_file(&plugin).expect("our link");
    check(&remove, "plugin", "failed", &["is missing"]);
    let script = |mode: u32| {
        fs::remove_file(&plugin).expect("our link");
        fs::write(&plugin, "#!/bin/sh\necho autoport 9.9.9\n").expect("our file");
        fs::set_permissions(&plugin, PermissionsExt::from_mode(mode)).expect("our file");
    };
    check(&|| script(0o644), "plugin", "failed", &["cannot be run"]);
    check(&|| script(0o755), "plugin", "warning", &["another program", "9.9.9"]);
}

/// Networks that are right, though they do not look like the others.
#[test]
fn what_other_networks_are_like_is_no_fault() {
    let scene = Scene::new();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/conflist-examples");
    for entry in fs::read_dir(examples).expect("the examples").flatten() {
        let name = entry.file_name().into_string().expect("a name of ours");
        if !name.ends_with(".conflist") {
            continue;
        }
        fs::remove_file(format!("{CONF}/10-blue.conflist")).expect("our file");
        let text = fs::read_to_string(entry.path()).expect("an example");
        let whole: Value = serde_json::from_str(&text).expect("JSON");
        for plugin in whole["plugins"].as_array().expect("plugins") {
            let path = format!("{BIN}/{}", plugin["type"].as_str().expect("a type"));
            if !Path::new(&path).exists() {
                fs::write(path, "").expect("our file");
            }
        }
        fs::write(format!("{CONF}/{name}"), text).expect("our file");
        let report = report();
        let of_network = ["network", "plugin"];
        let findings = report["findings"].as_array().expect("findings").iter();
        let bad: Vec<_> = findings
            .filter(|one| of_network.contains(&one["check"].as_str().unwrap_or_default()))
            .filter(|one| one["state"] != "ok")
            .collect();
        assert!(bad.is_empty(), "{name}: {bad:#?}");
        scene.restore();
    }
    let ipam = json!({"type": "host-local"});
    scene.with(|conf| {
        let plugins = conf["plugins"].as_array_mut().expect("plugins");
        plugins[1]["Documentation"] = json!("what it is for");
        plugins.push(json!({"type": "bridge", "ipam": ipam}));
    });
    scene.well("a plugin behind works on the interface, as cilium-cni in its chaining mode");
    scene.restore();
    fs::write(format!("{BIN}/multus"), "").expect("our file");
    write("00-multus.conf", &json!({"cniVersion": "1.0.0", "name": "m", "type": "multus"}));
    scene.well("Multus delegates to the next network");
    scene.with(|conf| conf["plugins"] = json!([conf["plugins"][0]]));
    let (_, stdout, _) = autoport(&ARGUMENTS);
    assert!(stdout.contains("00-multus.conf delegates to another network"), "{stdout}");
}

/// It is named, everything else is seen all the same, and the network is not blamed for it.
#[test]
fn a_wrong_file_of_the_node_is_named() {
    let scene = Scene::new();
    let remove = |_: &str| fs::remove_file(NODE_FILE).expect("ours");
    let named = |state, word: &str, harm: &dyn Fn()| {
        let alone = || {
            harm();
            let report = report();
            let expected = if state == "failed" { [1, 0, 0] } else { [0, 1, 0] };
            assert_eq!(worst(&report), expected, "{report:#}");
        };
        let words = &[NODE_FILE, word];
        scene.names(&Case { harm: &alone, check: "node file", state, words, cure: &remove });
    };
    let holds = |text: &'static str| move || fs::write(NODE_FILE, text).expect("ours");
    named("failed", "and the records in /run/autoport", &holds("{"));
    named("failed", "cannot decode", &holds("[]"));
    named("failed", "did you mean portRange?", &holds(r#"{"portRang": "1-2"}"#));
    named("failed", "minPort is 0", &holds(r#"{"minPort": 0}"#));
    named("warning", "unknown key is ignored: colour", &holds(r#"{"colour": "blue"}"#));
    let fifo = || mkfifo(NODE_FILE, Mode::from_bits_truncate(0o600)).expect("ours");
    named("failed", "it is not a regular file", &fifo);

    fs::write(NODE_FILE, r#"{"portRange": "30000-30999"}"#).expect("ours");
    let valid = report();
    let line = |check: &str| {
        let findings = valid["findings"].as_array().expect("findings");
        findings.iter().find(|one| one["check"] == check).cloned().unwrap_or_default()
    };
    assert_eq!(line("node file")["state"], "ok", "{valid:#}");
    assert!(line("port range")["text"].to_string().contains("30000-30999"), "{valid:#}");

    // What it says rightly is taken.
    fs::rename(STATE, "/run/elsewhere").expect("the store can be moved");
    fs::write(NODE_FILE, r#"{"stateDir": "/run/elsewhere", "minPort": 0}"#).expect("ours");
    let report = report();
    assert_eq!(worst(&report), [1, 0, 0], "{report:#}");
    assert!(report.to_string().contains("the records in /run/elsewhere"), "{report:#}");

    fs::set_permissions(NODE_FILE, PermissionsExt::from_mode(0o000)).expect("ours");
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let (_, stdout, stderr) = under(&bare, &ARGUMENTS[..5]);
    assert!(
        stdout.contains("not seen  node file     /etc/cni/autoport.json (the checks below"),
        "{stdout}"
    );
    assert!(stderr.is_empty(), "{stderr}");
}

#[test]
fn an_agent_that_is_not_connected_is_named() {
    let scene = Scene::new();
    scene.well("a node needs no agent");
    let required = |conflist: &mut Value| conflist["plugins"][1]["agent"] = json!("required");
    scene.names(&Case {
        harm: &|| scene.with(required),
        check: "agent",
        state: "failed",
        words: &["\"agent\" is \"required\"", "rejected"],
        cure: &|_| scene.restore(),
    });
    let started_and = |there: &str| {
        scene.names(&Case {
            harm: &|| drop(agent::lead()),
            check: "agent",
            state: "warning",
            words: &["no node agent has been connected", "without the variables"],
            cure: &|remedy| {
                assert!(remedy.contains(there), "{remedy}");
                fs::remove_file(Path::new(STATE).join("agent.lock")).expect("our file");
            },
        });
    };
    started_and(
        "NRI is off in its configuration: for containerd 1.7, set disable = false in the section",
    );
    fs::create_dir_all("/run/nri").expect("/run is ours");
    fs::write("/run/nri/nri.sock", "").expect("/run is ours");
    started_and("its log says why");
    let _lock = agent::lead();
    assert!(told(&["status"]).contains("agent       not connected since the node was booted"));
    scene.names(&Case {
        harm: &|| agent::beat(Duration::from_secs(9)),
        check: "agent",
        state: "warning",
        words: &["its last heartbeat is 9 s old"],
        cure: &|_| agent::beat(Duration::ZERO),
    });
    assert!(told(&["status"]).contains("agent       connected, last heartbeat "));
    for (word, shown) in [
        ("usable", "and can attach the bind hook"),
        ("cgroups", "no cgroups of version 2"),
        ("capability", "CAP_BPF"),
        ("kernel", "Linux 5.14"),
    ] {
        agent::beat_that_tells(Duration::ZERO, json!({"bindHook": word}));
        let report = report().to_string();
        assert!(report.contains(shown), "{report}");
    }
    scene.with(required);
    agent::beat(Duration::ZERO);
    scene.well("the agent is there");
}
