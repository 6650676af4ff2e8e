//! The programs of the bind hook that an agent has attached for a pod, as `autoport show` has them.

use std::fs;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use autoport::event::Silent;
use autoport::model::{ContainerPort, Holder, Protocol, Record, Request};
use autoport::store::{BindProgram, Store};
use serde_json::{Value, json};

use super::commands::json_of;
use super::snapshots::assert_snapshot;
use crate::stage::node::Node;
use crate::stage::on_host::claims;
use crate::stage::operator::told;
use crate::stage::view::{STATE, snapshot};

const FILE: &str = "programs/uid-one.json";

/// A pod whose programs bind 8080, three days ago.
fn hooked(uid: &str) -> Record {
    let named = ContainerPort::From(NonZeroU16::new(8080).expect("a port"));
    let request = Request::new(vec![Protocol::Tcp], named);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let request = Request { name: Some("http".to_owned()), ..request };
    claims(uid, vec![request], now - 3 * 86_400 - 60)
}

/// What an agent writes when it has attached them.
fn attach(record: &Record, programs: Vec<BindProgram>) {
    let Holder::HostPod { pod } = &record.owner.holder else { panic!("on the host network") };
    let locked = Store::at(Path::new(STATE)).lock(&mut Silent).expect("it is free");
    locked.write_bind_programs(pod, programs).expect("there is space");
}

fn program(call: &str, id: u32, lines: &[&str]) -> BindProgram {
    let listing = lines.iter().enumerate().map(|(at, line)| format!("{at:4}: {line}\n"));
    BindProgram { call: call.into(), id, instructions: lines.len(), listing: listing.collect() }
}

#[test]
fn show_has_the_programs_of_the_pod_alone() {
    let _node = Node::new();
    let (one, _two) = (hooked("uid-one"), hooked("uid-two"));
    let before = told(&["show", "uid-one"]);
    assert!(!before.contains("bind hook"), "{before}");
    attach(
        &one,
        vec![
            program("bind4", 412, &["r6 = r1", "call get_netns_cookie", "exit"]),
            program("bi\u{1b}[2Jnd6", 413, &["r0 = 1\u{7}", "exit"]),
        ],
    );
    let unchanged = snapshot();
    let listed = told(&["show", "uid-one"]);
    assert_snapshot("show-programs.txt", &listed);
    for line in [
        "  bind hook   bind4: program 412, 3 instructions\n",
        "  bind hook   bi\\u{1b}[2Jnd6: program 413, 2 instructions\n",
    ] {
        assert!(listed.contains(line), "{listed}");
    }
    assert!(!listed.contains("get_netns_cookie"), "the instructions are for -o wide: {listed}");
    let wide = told(&["show", "uid-one", "-o", "wide"]);
    assert_snapshot("show-programs-wide.txt", &wide);
    for line in ["\n  bind4\n", "     1: call get_netns_cookie\n", "     0: r0 = 1\\u{7}\n"] {
        assert!(wide.contains(line), "{wide}");
    }

    // Both pods have the name shop/web: each has its own.
    let (code, both) = json_of(&["show", "shop/web"]);
    let programs = |uid: &str| -> Value {
        let mut all = both["attachments"].as_array().expect("a list").iter();
        all.find(|one| one["pod"]["uid"] == uid).expect("it holds a port")["programs"].clone()
    };
    assert_eq!((code, programs("uid-two")), (Some(0), json!([])));
    let first = json!({
        "call": "bind4", "id": 412, "instructions": 3,
        "listing": "   0: r6 = r1\n   1: call get_netns_cookie\n   2: exit\n"
    });
    assert_eq!(programs("uid-one")[0], first, "{both}");
    assert_eq!(programs("uid-one").as_array().map(Vec::len), Some(2));
    assert_eq!(snapshot(), unchanged, "show changes nothing");
}

#[test]
fn programs_of_an_earlier_boot_or_a_damaged_file_are_not_shown() {
    let _node = Node::new();
    let one = hooked("uid-one");
    attach(&one, vec![program("bind4", 412, &["exit"])]);
    let file = Path::new(STATE).join(FILE);
    let written = fs::read_to_string(&file).expect("it is written");
    assert!(told(&["show", "uid-one"]).contains("program 412"));
    let mut earlier: Value = serde_json::from_str(&written).expect("JSON");
    earlier["bootId"] = json!("00000000-0000-0000-0000-000000000000");
    for text in [earlier.to_string(), "{".to_owned(), String::new()] {
        fs::write(&file, &text).expect("it is ours");
        assert!(!told(&["show", "uid-one"]).contains("bind hook"), "{text}");
        assert_eq!(json_of(&["show", "uid-one"]).1["attachments"][0]["programs"], json!([]));
    }
}
