//! One record or index entry that is damaged, unreadable, deleted, or of a later version.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::{Scene, record_of};
use crate::stage::bare::{self, add, attachment, gc, network, run, tcp};
use crate::stage::netns::{nft, settle};
use crate::stage::node::Node;
use crate::stage::operator::{autoport, told};
use crate::stage::plugin::Call;
use crate::stage::probe::Answer;
use crate::stage::view::{self, STATE};

#[test]
fn a_truncated_record() {
    Scene::new().loses("truncated", |record| {
        let bytes = fs::read(record).expect("the record");
        fs::write(record, &bytes[..bytes.len() / 2]).expect("the record is ours");
        Some(bytes[..bytes.len() / 2].to_vec())
    });
}

#[test]
fn a_directory_in_the_place_of_a_record() {
    Scene::new().loses("a directory", |record| {
        fs::remove_file(record).expect("the record is ours");
        fs::create_dir(record).expect("the directory is ours");
        None
    });
}

/// With the table goes what the kernel knew of it.
#[test]
fn an_unreadable_record_and_a_lost_table() {
    let scene = Scene::new();
    fs::write(record_of("web"), "{").expect("the record is ours");
    nft("flush ruleset");
    add(&scene.node, &scene.other);
    assert_eq!(scene.answers(8090).by(), Some("other"));
    assert_eq!(scene.answers(8080), Answer::Refused);
    run(&scene.claim("greedy", 8080), "ADD").failure(102);
    run(&scene.web, "DEL").success();
    add(&scene.node, &scene.web);
    assert_eq!(scene.answers(8080).by(), Some("web"));
}

/// Two versions on one node: the older one keeps its hands off what the newer one wrote.
#[test]
fn a_record_of_a_later_version() {
    let scene = Scene::new();
    let text = fs::read_to_string(record_of("web")).expect("the record is ours");
    let later = text.replace("\"version\": 1", "\"version\": 9");
    assert_ne!(later, text);
    fs::write(record_of("web"), &later).expect("the record is ours");
    scene.assert_held_and_nobody_else_blocked("a later version", Some(later.as_bytes()));
    gc(&scene.web.network, &["other"]).success();
    let (status, _, stderr) = autoport(&["repair"]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the later autoport that wrote it releases them"), "{stderr}");
    assert_eq!(fs::read_to_string(record_of("web")).expect("it is still there"), later);
    run(&scene.claim("greedy", 8080), "ADD").failure(102);
    assert_eq!(scene.answers(8080).by(), Some("web"));
    run(&scene.web, "DEL").success();
    scene.assert_free("its own DEL");
}

/// A port that something is entered for which only a later version knows.
#[test]
fn an_index_entry_of_a_later_version() {
    let scene = Scene::new();
    let entry = Path::new(STATE).join("ports/tcp/9090/0.0.0.0");
    fs::create_dir_all(entry.parent().expect("a directory")).expect("the index is ours");
    symlink("../../../jobs/x.json", &entry).expect("the index is ours");
    let greedy = scene.claim("greedy", 9090);
    let refused = run(&greedy, "ADD");
    refused.failure(102);
    assert!(refused.stdout.contains("until the later autoport that wrote it"), "{refused}");
    told(&["gc"]);
    told(&["repair"]);
    let (status, _, stderr) = autoport(&["reserve", "mine", "9090/tcp"]);
    assert!(!status.success() && stderr.contains("a later version"), "{stderr}");
    run(&greedy, "ADD").failure(102);
    assert_eq!(fs::read_link(&entry).expect("it stays"), Path::new("../../../jobs/x.json"));
}

/// As root only what has no right to read everything can meet it.
#[test]
fn a_record_that_may_not_be_read() {
    let scene = Scene::new();
    let record = record_of("web");
    fs::set_permissions(&record, fs::Permissions::from_mode(0o000)).expect("the record is ours");
    let dropped = "--bounding-set=-dac_override,-dac_read_search";
    let greedy = scene.claim("greedy", 8080).plugin_call("ADD");
    let outcome = greedy.under(&["setpriv", dropped]).run();
    outcome.failure(102);
    let details = outcome.reply.as_ref().and_then(|reply| reply["details"].as_str());
    assert!(details.is_some_and(|text| text.contains("Permission denied")), "{outcome}");
    assert_eq!(scene.answers(8080).by(), Some("web"));
    scene.web.plugin_call("DEL").under(&["setpriv", dropped]).run().success();
    assert_eq!(scene.answers(8080), Answer::Refused);
}

#[test]
fn a_record_that_the_disk_does_not_give_back() {
    let scene = Scene::new();
    let record = record_of("web").display().to_string();
    let failing = |call: Call| {
        let words = ["-P", &record, "-e", "inject=read:error=EIO", "-o", "/dev/null"];
        call.under(&[&["strace"][..], &words].concat()).run()
    };
    let outcome = failing(scene.claim("greedy", 8080).plugin_call("ADD"));
    outcome.failure(102);
    let details = outcome.reply.as_ref().and_then(|reply| reply["details"].as_str());
    assert!(details.is_some_and(|text| text.contains("Input/output error")), "{outcome}");
    failing(scene.claim("third", 9090).plugin_call("ADD")).success();
    failing(scene.web.plugin_call("DEL")).success();
    assert_eq!(scene.answers(8080), Answer::Refused);
    add(&scene.node, &scene.claim("next", 8080));
}

/// The pod has its subnet for itself, so it has an element among the hairpins as well.
#[test]
fn a_pod_with_an_address_of_its_own_leaves_nothing_when_its_record_is_damaged() {
    let node = Node::new();
    let alone = |id: &str| {
        let mut one = attachment(&node, &network("blue"), id, 5).mapping([tcp(8080)]);
        one.result = Some(bare::result("1.1.0", &["10.1.0.5/32".into(), "fd00:1::5/128".into()]));
        one
    };
    let web = alone("web");
    add(&node, &web);
    assert_eq!(view::elements().len(), 6);
    fs::write(record_of("web"), "{").expect("the record is ours");
    let before = view::elements();
    gc(&web.network, &["web"]).success();
    assert_eq!(view::elements(), before, "what nobody can read stays");
    run(&web, "DEL").success();
    assert_eq!(view::elements(), [""; 0]);
}

/// With a name too long for a file the record has a hash for a name. GC computes the hash of each
/// attachment that is valid, and knows the network by another.
#[test]
fn gc_frees_an_unreadable_record_with_a_hashed_name() {
    let node = Node::new();
    let id = |letter: &str| letter.repeat(250);
    let (blue, green) = (network("blue"), network("green"));
    for (network, letter, port) in [(&blue, "a", 8081), (&blue, "b", 8082), (&green, "c", 8083)] {
        add(&node, &attachment(&node, network, &id(letter), port).mapping([tcp(port)]));
    }
    for entry in fs::read_dir(Path::new(STATE).join("attachments")).expect("records").flatten() {
        assert!(entry.file_name().to_string_lossy().starts_with("sha256-"), "{entry:?}");
        fs::write(entry.path(), "{").expect("the record is ours");
    }
    let ports = || -> Vec<u16> {
        let entered = |port: &u16| Path::new(STATE).join(format!("ports/tcp/{port}")).exists();
        (8081..=8083).filter(entered).collect()
    };
    assert_eq!(ports(), [8081, 8082, 8083]);
    gc(&blue, &[&id("a")]).success();
    assert_eq!(ports(), [8081, 8083], "blue's invalid one goes, green's stays");
    let left = view::elements();
    assert!(left.iter().all(|element| !element.contains("8082")), "{left:?}");
    assert_eq!(left.len(), 8);
    gc(&green, &[]).success();
    assert_eq!(ports(), [8081]);
}

#[test]
fn a_deleted_record_and_entries_that_lead_nowhere() {
    let scene = Scene::new();
    fs::remove_file(record_of("web")).expect("the record is ours");
    symlink("../../../attachments/blue:nobody:eth0.json", "/run/autoport/ports/tcp/8090/192.0.2.9")
        .expect("the directory is ours");
    // Free by the record, but the kernel still leads there: said, not overwritten.
    let refused = run(&scene.claim("next", 8080), "ADD");
    refused.failure(100);
    assert!(refused.message().contains("`autoport repair` removes it"), "{refused}");
    scene.other.check().success();
    let repaired = told(&["repair"]);
    assert!(repaired.contains("0 elements added, 8 removed"), "{repaired}");
    settle();
    assert_eq!(scene.answers(8080), Answer::Refused);
    add(&scene.node, &scene.claim("next", 8080));
    assert_eq!(view::index().len(), 6, "{:?}", view::index());
    run(&scene.web, "DEL").success();
}

#[test]
fn a_lost_index_entry() {
    let scene = Scene::new();
    fs::remove_file(Path::new(STATE).join("ports/tcp/8080/0.0.0.0")).expect("the entry is ours");
    // No other pod has taken the port, so the element still names this pod, and an ADD for it is rejected.
    scene.web.check().success();
    let refused = run(&scene.claim("greedy", 8080), "ADD");
    refused.failure(100);
    assert_eq!(scene.answers(8080).by(), Some("web"));
    add(&scene.node, &scene.web);
    assert_eq!(view::index().len(), 8, "entered again");
    fs::remove_dir_all(Path::new(STATE).join("ports")).expect("the index is ours");
    assert!(told(&["repair"]).contains("equals the records of 2 attachments"));
    assert_eq!(view::index().len(), 8, "entered again");
    fs::remove_file(Path::new(STATE).join("ports/tcp/8080/0.0.0.0")).expect("the entry is ours");
    run(&scene.web, "DEL").success();
    assert_eq!(scene.answers(8080), Answer::Refused, "it takes all with it");
    add(&scene.node, &scene.claim("next", 8080));
}
