//! What an operator sets: the configuration of the cluster, and keys in autoport's entry.

use super::staying::{Staying, wait_until, write};
use super::*;

const CLUSTER: &str = "/etc/cni/autoport.cluster.json";
const NODE: &str = "/etc/cni/autoport.json";
const MOUNTED: &str = "/run/cluster.json";

/// What `autoport config` shows of a key: its value, and the file that sets it.
fn in_force(key: &str) -> (Value, Option<String>) {
    let all = told(&["config", "--output=json", FOLDERS[3], FOLDERS[4]]);
    let all: Value = serde_json::from_str(&all).expect("JSON");
    let settings = all["settings"].as_array().expect("a list");
    let one = settings.iter().find(|one| one["key"] == key).expect("a key");
    (one["value"].clone(), one["from"].as_str().map(str::to_owned))
}

/// Runs `install` with these words, which is rejected; gives the reason.
fn rejected(words: &[&str]) -> String {
    let (status, _, stderr) = autoport(&[&["install"], &FOLDERS[..], words].concat());
    assert_eq!(status.code(), Some(1), "{words:?}: {stderr}");
    stderr
}

#[test]
fn the_next_pod_gets_a_port_as_the_cluster_and_then_the_node_say() {
    let scene = Scene::new(Plugin::PortmapNftables);
    let said = install(&["--set", "portRange=21000-21009", "--set=minPort=21005"]);
    assert!(said.contains(&format!("{CLUSTER} changed")), "{said}");
    assert_eq!(in_force("minPort"), (json!(21005), Some(CLUSTER.to_owned())));
    assert_eq!(in_force("snat"), (json!(true), None));
    let again = install(&["--set", "portRange=21000-21009", "--set=minPort=21005"]);
    assert_eq!(again.matches("nothing to do").count(), 3, "{again}");

    let _first = scene.pod("first", &[0]);
    assert_eq!(scene.reaches(21005).by(), Some("first"));
    write(NODE, r#"{"minPort": 21008}"#);
    assert_eq!(in_force("minPort"), (json!(21008), Some(NODE.to_owned())));
    let _second = scene.pod("second", &[0]);
    assert_eq!(scene.reaches(21008).by(), Some("second"));

    // One key less; the others stay.
    install(&["--set", "minPort=null", "--set", r#"excludePorts=["22", 21000]"#]);
    fs::remove_file(NODE).expect("it is there");
    assert_eq!(in_force("minPort"), (json!(1), None));
    assert_eq!(in_force("excludePorts").0, json!(["22", 21000]));
    assert_eq!(in_force("portRange"), (json!("21000-21009"), Some(CLUSTER.to_owned())));
    // Of equal keys the last counts.
    install(&[
        "--set=minPort=7",
        "--set=minPort=8",
        "--set=maxPortsPerPod=9",
        "--set=maxPortsPerPod=null",
    ]);
    assert_eq!((in_force("minPort").0, in_force("maxPortsPerPod").0), (json!(8), json!(128)));
    let text = fs::read_to_string(CLUSTER).expect("it is there");
    assert_eq!(text.matches("minPort").count(), 1, "{text}");
    // A file takes the place of all.
    write(MOUNTED, r#"{"agent": "required"}"#);
    install(&["--config", MOUNTED]);
    assert_eq!(fs::read_to_string(CLUSTER).expect("it is there"), r#"{"agent": "required"}"#);
    assert_eq!(in_force("portRange"), (json!("20000-29999"), None));
}

#[test]
fn what_an_add_would_reject_is_not_written() {
    let scene = Scene::new(Plugin::PortmapNftables);
    let list = || fs::read_to_string(CONFLIST).expect("the configuration");
    for (text, reason) in [
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        (r#"{"minPort": 0}"#, "minPort is 0"),
        (r#"{"portRang": "1-2"}"#, "did you mean portRange?"),
        (r#"{"snat": "no"}"#, "snat"),
        // Two keys that are right by themselves, and a whole network for one of them.
        (r#"{"agent": "required", "aliases": ["other"]}"#, "aliases"),
        (r#"{"plugins": [{"type": "autoport"}], "lockTimeout": -1}"#, "lockTimeout"),
    ] {
        write(MOUNTED, text);
        let said = rejected(&["--config", MOUNTED]);
        assert!(said.contains(reason) && said.contains(MOUNTED), "{text}: {said}");
        // Without an earlier one nothing is installed: the pods would have other rules than was meant.
        assert!(!Path::new(CLUSTER).exists(), "{text}");
        assert_eq!(list(), scene.before, "{text}");
        assert!(!Path::new(PLUGINS).join("autoport").exists(), "{text}");
    }
    // Replacing what is no UTF-8 would write another value than was meant.
    fs::write(MOUNTED, b"{\"allowedNamespaces\": [\"games\xff\"]}").expect("/run is ours");
    assert!(rejected(&["--config", MOUNTED]).contains("not a JSON object"));
    assert!(rejected(&["--config", "/run/nowhere"]).contains("cannot read /run/nowhere"));
    install(&["--set", "minPort=21000"]);
    // The last good one stays, and the network has autoport again all the same.
    write(CONFLIST, &scene.before);
    let good = fs::read_to_string(CLUSTER).expect("it is there");
    assert!(rejected(&["--set", "minPort=0"]).contains("minPort is 0"));
    assert_eq!(fs::read_to_string(CLUSTER).expect("it is there"), good);
    assert_eq!(types(), ["bridge", "autoport"]);
    // What is in force together counts: here with the node's own file.
    write(NODE, r#"{"minPort": "x"}"#);
    assert!(rejected(&["--set", "minPort=21001"]).contains(NODE));
    let (status, _, stderr) = autoport(&["config", FOLDERS[3], FOLDERS[4]]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(NODE), "{stderr}");
    fs::remove_file(NODE).expect("it is there");

    uninstall(&[]);
    assert!(!Path::new(CLUSTER).exists(), "it goes with the program");
    assert_eq!(view::states(NETWORKS).len(), 1, "{:?}", view::states(NETWORKS));
}

#[test]
fn keys_in_the_entry_outlive_the_main_plugins_next_start() {
    let scene = Scene::new(Plugin::PortmapNftables);
    install(&[]);
    let text = fs::read_to_string(CONFLIST).expect("the configuration");
    let own = r#""type": "autoport""#;
    assert!(text.contains(own), "{text}");
    write(CONFLIST, &text.replace(own, &format!(r#"{own}, "allowedNamespaces": ["games"]"#)));
    // Seen by any run.
    install(&[]);
    for round in 1..=2 {
        write(CONFLIST, &scene.before);
        let said = install(&[]);
        assert!(said.contains("as in autoport's entry before: allowedNamespaces"), "{said}");
        let (value, from) = in_force("allowedNamespaces");
        assert_eq!((value, from.as_deref()), (json!(["games"]), Some(CONFLIST)), "{round}");
    }
    uninstall(&[]);
    assert_eq!(fs::read_to_string(CONFLIST).expect("the configuration"), scene.before);
    // The next installation begins without them.
    install(&[]);
    assert_eq!(in_force("allowedNamespaces"), (Value::Null, None));
}

/// A mounted `ConfigMap` changes by a rename, as here.
#[test]
fn a_changed_file_takes_effect_and_a_wrong_one_fails_the_probe() {
    let scene = Scene::new(Plugin::PortmapNftables);
    let written = || fs::read_to_string(CLUSTER).unwrap_or_default();
    let probe =
        || autoport(&[&["install", "--dry-run", "--config", MOUNTED], &FOLDERS[..]].concat());
    let [first, second, third] = [1, 2, 3].map(|port| format!("{{\"minPort\": {port}}}"));
    write(MOUNTED, &first);
    assert_eq!(probe().0.code(), Some(3), "it is not installed yet");
    let _staying = Staying::with(&["--config", MOUNTED]);
    wait_until("the first file", || written() == first);
    wait_until("the probe", || probe().0.success());
    write(MOUNTED, &second);
    wait_until("the second file", || written() == second);

    write(MOUNTED, r#"{"minPort": 0}"#);
    let (status, _, stderr) = probe();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("minPort is 0") && stderr.contains(MOUNTED), "{stderr}");
    // Meanwhile the main plugin is started again.
    write(CONFLIST, &scene.before);
    wait_until("the list", || types() == ["bridge", "autoport"]);
    assert_eq!(written(), second);
    write(MOUNTED, &third);
    wait_until("the third file", || written() == third && probe().0.success());
}
