//! Every command of the operator, on a node with one holder of each kind: its text (`snapshots/`),
//! its JSON, its exit status, and that read-only commands change nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::snapshots::assert_snapshot;
use crate::stage::bare::{add, annotated, attachment, lead_nowhere, network, run, tcp, udp};
use crate::stage::chain::{Attachment, Main, Network};
use crate::stage::netns::{ip, nft};
use crate::stage::node::{FIRST, Node};
use crate::stage::operator::{autoport, told, under};
use crate::stage::plugin::{Call, Plugin};
use crate::stage::probe::Probe;
use crate::stage::view::{self, STATE, snapshot};

/// What a command prints for programs, and its exit status.
pub(crate) fn json_of(arguments: &[&str]) -> (Option<i32>, Value) {
    let all: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
    let (status, stdout, stderr) = autoport(&all);
    let parsed = serde_json::from_str(&stdout);
    (status.code(), parsed.unwrap_or_else(|error| panic!("{all:?}: {error}: {stdout}{stderr}")))
}

/// Insists that a command fails, prints nothing, and says `told`.
pub(crate) fn assert_fails(arguments: &[&str], code: i32, told: &str) {
    let (status, stdout, stderr) = autoport(arguments);
    assert_eq!(status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    assert!(stdout.is_empty() && stderr.contains(told), "{arguments:?}: {stdout}{stderr}");
}

/// Makes everything three days old, so that no age changes while a test runs.
fn three_days_pass() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    for folder in ["attachments", "reservations"] {
        for entry in fs::read_dir(Path::new(STATE).join(folder)).into_iter().flatten().flatten() {
            let bytes = fs::read(entry.path()).expect("a record");
            let Ok(mut record) = serde_json::from_slice::<Value>(&bytes) else { continue };
            record["created"] = json!(now - 3 * 86_400 - 60);
            fs::write(entry.path(), record.to_string()).expect("the record is ours");
        }
    }
}

/// A node with two pods, a container, a pod that no longer exists, a damaged record and a reservation.
struct Scene {
    node: Node,
    web: Attachment,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        let blue = network("blue");
        let web = attachment(&node, &blue, "4f2a", 5).of_pod("shop", "web", "uid-web");
        let web = web.mapping([tcp(8080), udp(8053).on(FIRST[0])]);
        let ports = [("autoport.cni/ports", "http=8000, game=7777/tcp+udp")];
        annotated(&web, "ADD", &ports).run().success();
        let api = attachment(&node, &blue, "9c01", 6).of_pod("shop", "api", "uid-api");
        add(&node, &api.mapping([tcp(8081)]));
        let id = "0123456789abcdef".repeat(4);
        add(&node, &attachment(&node, &blue, &id, 7).mapping([tcp(8082)]));
        ip("netns add gone");
        let mut gone = attachment(&node, &network("green"), "gone", 8).mapping([tcp(8083)]);
        "/run/netns/gone".clone_into(&mut gone.netns);
        add(&node, &gone);
        ip("netns del gone");
        add(&node, &attachment(&node, &blue, "damaged", 9).mapping([tcp(8084)]));
        fs::write(format!("{STATE}/attachments/blue:damaged:eth0.json"), "{").expect("ours");
        told(&["reserve", "dns", "53/udp", "53@192.0.2.1"]);
        three_days_pass();
        Self { node, web }
    }
}

/// An answer as text, in which each number that no two nodes share is the name of its key.
fn settled(answer: Value) -> String {
    fn settle(value: &mut Value) {
        match value {
            Value::Object(members) => members.iter_mut().for_each(|(key, value)| {
                let differs = ["ageSeconds", "device", "inode"].contains(&key.as_str());
                if differs && value.is_u64() { *value = json!(key) } else { settle(value) }
            }),
            Value::Array(items) => items.iter_mut().for_each(settle),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut answer = answer;
    settle(&mut answer);
    format!("{answer:#}\n")
}

/// The host ports of all holders in an answer, as they are written.
fn ports(answer: &Value) -> Vec<String> {
    let mut ports = Vec::new();
    for (kind, key) in
        [("attachments", "mappings"), ("reservations", "hosts"), ("unreadable", "hosts")]
    {
        let holders = answer[kind].as_array().expect("a list");
        for it in holders.iter().flat_map(|one| one[key].as_array().expect("a list")) {
            let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            ports.push(format!("{}:{}/{}", text("address"), it["port"], text("protocol")));
        }
    }
    ports.sort();
    ports
}

#[test]
fn list_shows_who_holds_what() {
    let _scene = Scene::new();
    let before = snapshot();
    let (status, listed, stderr) = autoport(&["list"]);
    assert!(
        status.success() && stderr.contains("blue:damaged:eth0.json cannot be read"),
        "{stderr}"
    );
    assert_snapshot("list.txt", &listed);

    let (code, all) = json_of(&["list"]);
    let wide = told(&["list", "-o", "wide"]);
    assert_eq!((code, ports(&all).len()), (Some(0), wide.lines().count() - 1));
    assert_snapshot("list-wide.txt", &wide);
    let bare = told(&["list", "--no-headers"]);
    assert_eq!(listed.lines().skip(1).count(), bare.lines().count());
    let yaml = told(&["list", "-o", "yaml", "--pod", "web"]);
    assert!(yaml.starts_with("attachments:\n- ") && yaml.contains("name: game\n"), "{yaml}");
    let web = all["attachments"].as_array().expect("a list");
    let web = web.iter().find(|one| one["containerId"] == "4f2a").expect("web");
    assert!(web["ageSeconds"].as_u64().is_some_and(|age| age > 3 * 86_400), "{web}");
    assert_snapshot("list.json", &settled(all));

    for (filter, expected) in [
        (&["--port", "8080"][..], &["0.0.0.0:8080/tcp", ":::8080/tcp"][..]),
        (&["--port", "8000-8053"], &["192.0.2.1:8053/udp"]),
        (
            &["--namespace", "shop", "--protocol", "UDP"],
            &["0.0.0.0:20001/udp", "192.0.2.1:8053/udp", ":::20001/udp"],
        ),
        (&["--pod", "shop/api"], &["0.0.0.0:8081/tcp", ":::8081/tcp"]),
        (&["--pod", "api"], &["0.0.0.0:8081/tcp", ":::8081/tcp"]),
        (&["--pod", "0123"], &["0.0.0.0:8082/tcp", ":::8082/tcp"]),
        (&["-n", "shop", "--port", "8082"], &[]),
        (&["--pod", "nobody"], &[]),
        (&["--protocol", "sctp"], &[]),
    ] {
        let arguments: Vec<&str> = ["list"].into_iter().chain(filter.iter().copied()).collect();
        let (code, answer) = json_of(&arguments);
        assert_eq!(
            (code, ports(&answer)),
            (Some(0), expected.iter().map(|it| (*it).to_owned()).collect())
        );
    }
    assert_eq!(snapshot(), before, "list changes nothing");
}

#[test]
fn show_knows_record_and_kernel() {
    let scene = Scene::new();
    let before = snapshot();
    let shown = told(&["show", "shop/web"]);
    assert_snapshot("show-pod.txt", &shown);
    for same in ["web", "uid-web", "4f2a", "4f"] {
        assert_eq!(told(&["show", same]), shown, "{same}");
    }
    let one = told(&["show", "20001/udp"]);
    assert_snapshot("show-port.txt", &one);
    assert_ne!(told(&["show", "20001"]), one);
    assert_eq!(told(&["show", "20001-20009/udp"]), one);
    assert_snapshot("show-container.txt", &told(&["show", "01234"]));
    assert_snapshot("show-reservation.txt", &told(&["show", "53"]));
    assert_eq!(told(&["show", "dns"]), told(&["show", "53"]));
    assert_snapshot("show-unreadable.txt", &told(&["show", "8084"]));

    let (code, answer) = json_of(&["show", "8080"]);
    assert_eq!(code, Some(0));
    let web = &answer["attachments"][0];
    assert_eq!(web["recordFile"], format!("{STATE}/attachments/blue:4f2a:eth0.json"));
    assert_eq!(web["published"], format!("{STATE}/pods/uid-web"));
    assert_eq!((&web["state"], &web["kernel"]["difference"]), (&json!("alive"), &Value::Null));
    assert_eq!(web["podAddresses"], json!(["10.1.0.5/16", "fd00:1::5/64"]));
    assert_eq!(web["netns"]["path"], "/run/netns/client");
    assert_eq!(
        web["policy"],
        json!({"masquerade": "local", "markBit": 13, "sourceRanges": [], "hostAddresses": []})
    );
    let in_kernel = web["kernel"]["mappings"].as_array().expect("a list");
    assert_eq!(in_kernel.len(), web["mappings"].as_array().expect("a list").len());
    for port in in_kernel {
        assert_eq!((&port["elements"], &port["elementsPresent"]), (&json!(2), &json!(2)), "{port}");
        assert_eq!((&port["connections"], &port["flows"]), (&json!(0), &json!(0)), "{port}");
    }
    assert!(web["kernel"]["chains"].as_str().is_some_and(|chains| chains.contains("chain output")));
    assert_eq!(snapshot(), before, "show changes nothing");

    // Where the kernel is not as the record says, the exit status says so.
    nft("delete element inet autoport ports4 { tcp . 8080 }");
    let (status, shown, stderr) = autoport(&["show", "shop/web"]);
    assert_eq!(status.code(), Some(3), "{shown}{stderr}");
    assert_snapshot("show-damaged.txt", &shown);
    let (code, answer) = json_of(&["show", "shop/web"]);
    assert_eq!(code, Some(3));
    let kernel = &answer["attachments"][0]["kernel"];
    assert_eq!(kernel["difference"], "element tcp . 8080 of ports4 is missing");
    add(&scene.node, &scene.web);

    // Without the right to ask the kernel, the rest is shown.
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let (status, shown, stderr) = under(&bare, &["show", "shop/api"]);
    assert!(status.success() && shown.contains("CAP_NET_ADMIN"), "{shown}{stderr}");
    assert!(shown.contains("10.1.0.6:80"), "{shown}");
    let (_, shown, _) = under(&bare, &["show", "shop/api", "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let api = &shown["attachments"][0];
    assert_eq!(api["kernel"], Value::Null);
    assert!(api["kernelError"].as_str().is_some_and(|why| why.contains("CAP_NET_ADMIN")), "{api}");
}

/// Without root, a command that needs it says so.
#[test]
fn who_may_not_look_is_told_to_be_root() {
    let _scene = Scene::new();
    fs::set_permissions(STATE, PermissionsExt::from_mode(0o000)).expect("ours");
    // With nobody mapped into it, everybody in this namespace is nobody.
    let nobody = ["unshare", "--user"];
    for command in ["list", "gc", "repair"] {
        let (status, stdout, stderr) = under(&nobody, &[command]);
        assert_eq!(status.code(), Some(1), "{command}: {stdout}{stderr}");
        assert!(stderr.contains("Permission denied"), "{command}: {stderr}");
        assert!(stderr.trim_end().ends_with("; run it as root"), "{command}: {stderr}");
    }
    let (status, _, stderr) = under(&nobody, &["show", "8080", "--state-dir", "/run/nowhere"]);
    assert!(status.code() == Some(1) && stderr.contains("could not be determined"), "{stderr}");
}

#[test]
fn show_counts_connections_and_flows() {
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let (_pod, web) = node.attached("web", &blue, [tcp(8080), udp(8080)]);
    for _ in 0..3 {
        assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 8080)).by(), Some("web"));
    }
    assert_eq!(node.client_asks(&Probe::udp(FIRST[0], 8080)).by(), Some("web"));
    let (_, answer) = json_of(&["show", "web"]);
    let of = |protocol: &str, key: &str| {
        let all = answer["attachments"][0]["kernel"]["mappings"].as_array().expect("a list");
        let own = |one: &&Value| one["protocol"] == protocol && one["address"] == "0.0.0.0";
        all.iter().find(own).map(|one| one[key].clone()).unwrap_or_default()
    };
    assert_eq!(of("tcp", "connections"), 3, "{answer}");
    assert_eq!(of("udp", "connections"), 1, "{answer}");
    assert_eq!(of("udp", "flows"), 1, "{answer}");
    // What was closed is remembered for a while.
    assert!(of("tcp", "flows").as_u64().is_some_and(|flows| flows <= 3), "{answer}");
    web.check().success();
}

#[test]
fn show_and_list_say_whom_they_do_not_know() {
    let node = Node::new();
    assert_fails(&["show", "8080"], 1, "host port 8080 is not in use; `autoport list`");
    assert_fails(&["env", "web"], 1, "no pod, container or reservation web holds a host port");
    let (status, listed, stderr) = autoport(&["list"]);
    assert!(status.success() && stderr.contains("nothing has been recorded in /run/autoport yet"));
    assert_eq!(listed, "HOST PORT  TARGET  NAME  CHOICE  STATE  AGE  HOLDER\n");
    let empty = json!({"attachments": [], "reservations": [], "unreadable": []});
    assert_eq!(json_of(&["list"]).1, empty);
    assert!(!Path::new(STATE).exists(), "looking makes nothing");

    for (number, id) in [(5, "ab1"), (6, "ab2")] {
        let web = attachment(&node, &network("blue"), id, number);
        add(&node, &web.mapping([tcp(8000 + number)]));
    }
    assert_fails(
        &["show", "ab"],
        1,
        "ab is ambiguous: it matches ab1, ab2; give more of the name or ID",
    );
    assert_fails(&["list", "--pod", "ab"], 1, "ab is ambiguous: it matches ab1, ab2");
    assert_fails(&["show", "8080/udp"], 1, "host port 8080/udp is not in use");
    assert_fails(&["show", "shop/web"], 1, "no pod, container or reservation shop/web");
    for (wrong, told) in [
        (&["show", "0"][..], "port \"0\" is not a number from 1 to 65535"),
        (&["show", "80/icmp"], "protocol \"icmp\" is not one of tcp, udp, sctp"),
        (&["show", ""], "a name must not be empty"),
        (&["show"], "<PORT|POD>"),
        (&["list", "--port", "x"], "port \"x\" is not a number"),
        (&["list", "--protocol", "icmp"], "[possible values: tcp, udp, sctp]"),
        (&["list", "--output", "xml"], "[possible values: table, wide, json, yaml]"),
        (&["list", "--port", "9-8"], "range \"9-8\" is empty: write the lower port first"),
        (&["trace", "8-9"], "\"8-9\" is more than one port"),
        (&["explain", "--nft", "--output", "json"], "cannot be used with"),
        (&["nonsense"], "unrecognized subcommand"),
    ] {
        assert_fails(wrong, 2, told);
    }
}

#[test]
fn env_shows_what_the_pod_was_told() {
    let scene = Scene::new();
    let before = snapshot();
    let variables = told(&["env", "shop/web"]);
    assert_snapshot("env.txt", &variables);
    let file = format!("{STATE}/pods/uid-web/ports.env");
    assert_eq!(variables, fs::read_to_string(&file).expect("it is published"));
    let (code, answer) = json_of(&["env", "4f2a"]);
    assert_eq!(code, Some(0));
    let json = fs::read(format!("{STATE}/pods/uid-web/ports.json")).expect("it is published");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!((&answer["pod"], &answer["ports"]), (&json["pod"], &json["ports"]));
    assert_eq!(answer["directory"], format!("{STATE}/pods/uid-web"));
    assert_eq!(answer["variables"]["AUTOPORT_HOST_PORT_HTTP"], "20000");
    assert_eq!(snapshot(), before, "env changes nothing");

    assert_fails(&["env", "shop/api"], 1, "nothing is published for shop/api");
    assert_fails(&["env", "01234"], 1, "the runtime passed no UID for 01234");
    assert_fails(&["env", ""], 2, "a value is required");
    // A container that mounts the directory writable fools nobody.
    fs::write(&file, "PATH='/tmp'\n\u{1b}[2J").expect("ours");
    let forged =
        "{\"version\":1,\"pod\":{\"namespace\":\"\",\"name\":\"\",\"uid\":\"\"},\"ports\":[]}";
    fs::write(format!("{STATE}/pods/uid-web/ports.json"), forged).expect("ours");
    let (status, stdout, stderr) = autoport(&["env", "shop/web"]);
    assert!(status.success() && stdout == variables, "{stdout}{stderr}");
    run(&scene.web, "DEL").success();
}

#[test]
fn status_says_what_cni_would() {
    let node = Node::new();
    let (status, text, _) = autoport(&["status"]);
    assert!(status.success(), "{text}");
    assert_snapshot("status-empty.txt", &text);
    assert!(!Path::new(STATE).exists(), "looking makes nothing");
    drop(node);

    let _scene = Scene::new();
    fs::write("/etc/cni/autoport.json", r#"{"namedRanges": {"game": "7000-7009"}}"#).expect("ours");
    let before = snapshot();
    assert_snapshot("status.txt", &told(&["status"]));
    let (code, answer) = json_of(&["status"]);
    assert_eq!((code, &answer["usable"], &answer["error"]), (Some(0), &json!(true), &Value::Null));
    let records = &answer["records"];
    for (key, count) in [("attachments", 5), ("stale", 1), ("unreadable", 1), ("reservations", 1)] {
        assert_eq!(records[key], count, "{key}: {records}");
    }
    assert_eq!(answer["table"]["state"], "ours");
    assert_eq!(answer["table"]["instance"], records["instance"]);
    assert_eq!(
        answer["ranges"][0],
        json!({"name": "default", "ports": "20000-29999", "size": 10_000,
               "held": {"tcp": 2, "udp": 1, "sctp": 0}})
    );
    assert_eq!(answer["ranges"][1]["name"], "game");
    assert_eq!(snapshot(), before, "status changes nothing");

    // What ADD and STATUS would stumble over.
    let elsewhere = ["status", "--state-dir", "/run/elsewhere"];
    let (code, answer) = json_of(&elsewhere);
    assert_eq!((code, &answer["error"]["code"]), (Some(3), &json!(50)), "{answer}");
    let details = answer["error"]["details"].as_str().unwrap_or_default();
    assert!(details.contains("belongs to the store with instance"), "{details}");
    let (status, text, _) = autoport(&elsewhere);
    assert_eq!(status.code(), Some(3));
    assert!(text.starts_with("host ports  unusable: host ports cannot be mapped"), "{text}");
    assert!(!Path::new("/run/elsewhere").exists());
}

#[test]
fn what_changes_something_says_it_to_programs_too() {
    let scene = Scene::new();
    let place = |address: &str| json!({"protocol": "tcp", "address": address, "port": 9100});
    let hosts = [place("0.0.0.0"), place("::")];
    let made = json!({"name": "node", "hosts": hosts, "persistent": false, "released": []});
    assert_eq!(json_of(&["reserve", "node", "9100"]), (Some(0), made));
    assert_eq!(json_of(&["release", "node"]), (Some(0), json!({"name": "node", "hosts": hosts})));

    assert_snapshot("gc-dry-run.txt", &told(&["gc", "--dry-run"]));
    let (code, answer) = json_of(&["gc", "--dry-run"]);
    let counts = [&answer["dryRun"], &answer["removed"], &answer["kept"]];
    assert_eq!((code, counts), (Some(0), [&json!(true), &json!(1), &json!(4)]));
    let (_, answer) = json_of(&["gc"]);
    assert_eq!((&answer["dryRun"], &answer["removed"]), (&json!(false), &json!(1)));
    let gone =
        answer["holders"].as_array().expect("a list").iter().find(|it| it["removed"] == true);
    assert_eq!(
        gone,
        Some(&json!({"name": "container green/gone/eth0", "hostPorts": 1, "removed": true,
                     "reason": "its network namespace no longer exists"}))
    );

    let equal = json!({"attachments": 3, "adopted": 0, "rebuilt": null, "added": 0, "removed": 0,
                       "mended": []});
    // The damaged record goes, and its elements with it.
    let (_, answer) = json_of(&["repair"]);
    assert_eq!((&answer["attachments"], &answer["removed"]), (&json!(3), &json!(4)), "{answer}");
    assert_eq!(json_of(&["repair"]), (Some(0), equal));
    nft("delete element inet autoport ports4 { tcp . 8080 }");
    assert_snapshot("repair.txt", &told(&["repair"]));
    nft("flush chain inet autoport prerouting");
    let (_, answer) = json_of(&["repair"]);
    assert_eq!(answer["rebuilt"], "chain prerouting had 0 of 6 rules", "{answer}");
    scene.web.check().success();
    assert_eq!(view::records().len(), 3);
}

#[test]
fn nothing_to_do_is_an_answer_for_programs() {
    let _node = Node::new();
    let (code, answer) = json_of(&["gc"]);
    let empty = json!({"dryRun": false, "removed": 0, "kept": 0, "holders": []});
    assert_eq!((code, answer), (Some(0), empty));
    assert_eq!(json_of(&["repair"]).1["attachments"], 0);
    assert!(!Path::new(STATE).exists());
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let node = Node::new();
    lead_nowhere(&node);
    add(&node, &attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]));
    // script(1) gives it a terminal.
    let on_terminal = |variables: &[(&str, &str)]| {
        let executable = Plugin::Autoport.path();
        let command = format!("{} list", executable.display());
        let mut call = Call::new("/usr/bin/script", "").without("CNI_COMMAND");
        for (name, value) in variables {
            call = call.env(name, value);
        }
        let words = ["--quiet", "--return", "--command", &command, "/dev/null"];
        let outcome = call.by_hand(&words).run();
        assert!(outcome.status.success() && outcome.stdout.contains("8080/tcp"), "{outcome}");
        outcome.stdout.contains('\u{1b}')
    };
    assert!(on_terminal(&[("TERM", "xterm")]));
    assert!(!on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
    assert!(!on_terminal(&[("TERM", "dumb")]));
    assert!(!told(&["list"]).contains('\u{1b}'));
}
