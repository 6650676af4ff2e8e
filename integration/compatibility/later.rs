//! What a later version of autoport can leave in the store: it stays held, and is not changed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use super::versions::Scene;
use crate::stage::bare::{chosen, run, tcp, udp};
use crate::stage::chain::PortMapping;
use crate::stage::netns::ruleset;
use crate::stage::node::FIRST;
use crate::stage::operator;
use crate::stage::plugin::Plugin;
use crate::stage::view::{self, STATE};

/// What a version that is not written yet might leave.
struct Future {
    scene: Scene,
}

impl Future {
    fn new() -> Self {
        Self { scene: Scene::new(Plugin::Autoport) }
    }

    /// Changes the version in a JSON file of the store; it is the first key.
    fn raise(file: &str) {
        let path = Path::new(STATE).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (before, rest) = text.split_once(':').expect("an object");
        assert_eq!(before.trim_start_matches('{').trim(), "\"version\"", "{file}: {text}");
        let digits = rest.trim_start().find([',', '}']).expect("a number");
        let rest = &rest.trim_start()[digits..];
        fs::write(&path, format!("{before}:99{rest}")).expect("a file of ours");
    }

    /// Insists that neither claims nor clean-up commands change the entries. `unrepaired` is what
    /// `repair` says it could not do, if anything.
    fn survives(&mut self, what: &str, port: PortMapping, unrepaired: Option<&str>) {
        let index = view::index();
        let before = ruleset();
        let claim = self.scene.claim("greedy", port);
        let outcome = run(&claim, "ADD");
        self.scene.node.note(format!("{what}: {outcome}"));
        outcome.failure(102);
        assert_eq!(view::index(), index, "{what}: a claim");
        let mut collected = self.scene.web.config();
        collected["cni.dev/valid-attachments"] = json!(
            [&self.scene.web, &self.scene.game]
                .map(|one| json!({"containerID": one.container_id, "ifname": "eth0"}))
        );
        let gc = self.scene.web.plugin_call("GC").stdin(collected.to_string()).run();
        assert!(gc.status.success(), "{what}: GC: {gc}");
        assert_eq!(view::index(), index, "{what}: GC");
        for arguments in [&["gc"][..], &["repair"]] {
            let (status, stdout, stderr) = operator::of(Plugin::Autoport, &[], arguments);
            self.scene.node.note(format!("{what}: {arguments:?}: {status} {stdout}{stderr}"));
            match unrepaired.filter(|_| arguments == ["repair"]) {
                Some(why) => assert!(status.code() == Some(1) && stderr.contains(why), "{stderr}"),
                None => assert!(status.success(), "{what}: {stdout}{stderr}"),
            }
            assert_eq!(view::index(), index, "{what}: {arguments:?}: {stdout}{stderr}");
        }
        assert_eq!(ruleset(), before, "{what}");
        self.scene.assert_traffic(what);
    }
}

#[test]
fn a_record_of_a_later_version_is_held() {
    let mut future = Future::new();
    let record = "attachments/blue:web:eth0.json";
    Future::raise(record);
    let written = fs::read(Path::new(STATE).join(record)).expect("a record");
    for port in [tcp(8080), udp(8080).on(FIRST[1]), tcp(8082)] {
        let unrepaired = "until the later autoport that wrote it releases them: it has layout \
                          version 99, and this autoport knows up to 2";
        future.survives("a record", port, Some(unrepaired));
    }
    // The other one is served as ever.
    future.scene.game.check().success();
    run(&future.scene.game, "DEL").success();
    assert_eq!(fs::read(Path::new(STATE).join(record)).ok(), Some(written));
    future.scene.talk.goes_on("a record of a later version");
}

#[test]
fn a_reservation_of_a_later_version_is_held() {
    let mut future = Future::new();
    let record = "reservations/dns.json";
    Future::raise(record);
    let written = fs::read(Path::new(STATE).join(record)).expect("a reservation");
    future.survives("a reservation", udp(5353), None);
    assert_eq!(fs::read(Path::new(STATE).join(record)).ok(), Some(written));
}

#[test]
fn an_entry_of_an_unknown_kind_is_held() {
    let mut future = Future::new();
    for (port, address) in [(8090, "0.0.0.0"), (8091, "::"), (8092, FIRST[0])] {
        let folder = Path::new(STATE).join(format!("ports/tcp/{port}"));
        fs::create_dir_all(&folder).expect("a folder of the index");
        // Whether what it leads to is there or not.
        let target = "../../../jobs/nightly.json";
        symlink(target, folder.join(address)).expect("an entry");
        future.survives("an entry", tcp(port), None);
        let jobs = Path::new(STATE).join("jobs");
        fs::create_dir_all(&jobs).expect("a folder of another kind");
        fs::write(jobs.join("nightly.json"), "{\"version\":99}").expect("a record of another kind");
        future.survives("an entry with its record", tcp(port), None);
        assert!(jobs.join("nightly.json").exists());
    }
    // A choice passes it by.
    let folder = Path::new(STATE).join("ports/tcp/20019");
    fs::create_dir_all(&folder).expect("a folder of the index");
    symlink("../../../jobs/nightly.json", folder.join("0.0.0.0")).expect("an entry");
    let mut numbers = BTreeSet::from([20_019]);
    for pod in 0..20 {
        let claim = future.scene.claim(&format!("pod{pod}"), tcp(0));
        let outcome = run(&claim, "ADD");
        if outcome.code() == Some(101) {
            // Of twenty, two are the game's in TCP.
            assert_eq!(numbers.len(), 18, "{numbers:?}");
            return;
        }
        outcome.success();
        assert!(numbers.insert(chosen(&claim)[0]), "given twice: {numbers:?}");
    }
    panic!("more numbers than there are: {numbers:?}");
}

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let mut future = Future::new();
    Future::raise("instance");
    let before = view::tree(Path::new(STATE));
    let elements = view::elements();
    let unchanged = |what: &str| {
        let store = |text: &str| -> Vec<String> {
            // Taking the lock writes nothing.
            text.lines().filter(|line| !line.contains("/lock:")).map(str::to_owned).collect()
        };
        assert_eq!(store(&view::tree(Path::new(STATE))), store(&before), "{what}");
        assert_eq!(view::elements(), elements, "{what}");
    };
    let scene = &future.scene;
    for (what, outcome) in [
        ("ADD", run(&scene.claim("newcomer", tcp(9090)), "ADD")),
        ("ADD again", run(&scene.web, "ADD")),
        ("CHECK", scene.web.check()),
    ] {
        assert_eq!(outcome.code(), Some(102), "{what}: {outcome}");
        assert!(outcome.message().contains("99"), "{what}: {outcome}");
        unchanged(what);
    }
    for arguments in [&["repair"][..], &["repair", "--adopt"], &["gc"], &["release", "dns"]] {
        let (status, stdout, stderr) = operator::autoport(arguments);
        assert!(!status.success() && stderr.contains("99"), "{arguments:?}: {stdout}{stderr}");
        unchanged(&format!("{arguments:?}"));
    }
    future.scene.talk.goes_on("with a store of a later version");
}
