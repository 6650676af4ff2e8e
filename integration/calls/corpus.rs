//! Seeds for the fuzz targets, recorded from this kernel's replies and from the plugin's files.
//! `BLESS=1` writes them to `fuzz/corpus`; otherwise they are only compared.

use std::env;
use std::fs;
use std::path::Path;

use autoport::kernel::{self, Asked};
use autoport::model::{Family, Protocol};
use autoport::ruleset::{Digest, Set};
use serde_json::{Value, json};

use super::targets;
use crate::stage::bare::{add, attachment, lead_nowhere, network, tcp, udp};
use crate::stage::node::{FIRST, Node};
use crate::stage::probe::Probe;
use crate::stage::view::{STATE, udp_flows};

/// Puts a seed into the corpus if that is asked for.
fn keep(target: &str, name: &str, bytes: &[u8]) {
    if env::var_os("BLESS").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        fs::write(folder.join(name), bytes).expect("the corpus can be written");
    }
}

/// One datagram, sent or received.
struct Datagram {
    received: bool,
    descriptor: String,
    bytes: Vec<u8>,
}

/// Reads what `strace -e read=all -e write=all` wrote: a line for each call, below it the bytes.
fn datagrams(trace: &str) -> Vec<Datagram> {
    let mut all: Vec<Datagram> = Vec::new();
    for line in trace.lines() {
        if let Some(dump) = line.strip_prefix(" | ") {
            // An offset, sixteen numbers in two groups, then the same as text.
            let numbers = dump.get(5..5 + 51).unwrap_or(dump);
            let bytes =
                numbers.split_whitespace().map_while(|byte| u8::from_str_radix(byte, 16).ok());
            all.last_mut().expect("a call comes first").bytes.extend(bytes);
        } else if let Some((call, arguments)) = line.split_once('(') {
            let descriptor = arguments.split(',').next().unwrap_or_default().to_owned();
            let received = call.ends_with("recvfrom");
            all.push(Datagram { received, descriptor, bytes: Vec::new() });
        }
    }
    all.retain(|one| one.bytes.len() > 20);
    all
}

/// The set of this name.
fn named(name: &str) -> Option<Set> {
    let digest = name.rsplit_once('_').map(|(_, digest)| format!("net_{digest}"));
    let digest = digest.and_then(|chain| Digest::of_chain(&chain));
    let own = digest.into_iter().flat_map(Set::of_network_policy);
    Set::common().chain(own).find(|set| set.to_string() == name)
}

/// The set that a datagram names, or that of another network policy which stands for it.
fn set_of(bytes: &[u8]) -> Option<Set> {
    // NFTA_SET_ELEM_LIST_SET, and the name up to its terminator.
    let names = bytes.windows(2).zip(2..).filter(|(window, _)| *window == [2, 0]);
    let mut sets = names.filter_map(|(_, at)| {
        let name = bytes[at..].split(|byte| *byte == 0).next()?;
        named(std::str::from_utf8(name).ok()?)
    });
    let set = sets.next()?;
    if set.network_policy().is_none() {
        return Some(set);
    }
    let is_alike =
        |other: &Set| (other.family, other.key_address()) == (set.family, set.key_address());
    Set::of_network_policy(targets::some_network_policy()).find(is_alike)
}

/// What a question asks, as far as seeds are kept of it.
fn asked(question: &[u8], answer: &[u8]) -> Option<Asked> {
    let (message, subsystem, dump) = (question[4], question[5], question[7] & 3 != 0);
    let family = || if question[16] == 2 { Family::V4 } else { Family::V6 };
    match (subsystem, message) {
        (10, 1) => Some(Asked::Table),
        (10, 4) => Some(Asked::Chains),
        (10, 7) => Some(Asked::Rules),
        (10, 13) if dump => set_of(answer).map(Asked::Elements),
        (10, 13) => set_of(answer).map(Asked::Element),
        (1, 1) => Some(Asked::Flows(family())),
        (0, 20) => {
            let protocol = Protocol::ALL.into_iter().find(|one| one.number() == question[17])?;
            Some(Asked::Listeners(protocol, family()))
        }
        _ => None,
    }
}

/// What this kernel answers is read by the same code that the fuzzer feeds, and all of it is
/// understood.
#[test]
fn what_the_kernel_answers_is_understood() {
    const OUTPUT: &str = "/run/strace";
    let node = Node::new();
    lead_nowhere(&node);
    let web = attachment(&node, &network("blue"), "web", 5)
        .of_pod("default", "web", "uid-web")
        .mapping([tcp(8080), udp(8081).on(FIRST[0]), udp(8082)]);
    add(&node, &web);
    let _listener = std::net::TcpListener::bind("0.0.0.0:9999").expect("a free port");
    for to in FIRST {
        let _ = node.client_asks(&Probe::udp(to, 8082).in_vain());
        // It meets the node itself, until another pod has the port.
        let _ = node.client_asks(&Probe::udp(to, 9000).in_vain());
        assert_eq!(udp_flows(to, 8082).len(), 1, "{to}: the flow is tracked");
    }
    let second = attachment(&node, &network("blue"), "second", 6).mapping([udp(9000), tcp(9999)]);
    let third = attachment(&node, &network("blue"), "third", 7).mapping([udp(9000)]);
    let mut gc = web.config();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "web", "ifname": "eth0"}]);
    let calls = [
        web.plugin_call("CHECK"),
        second.plugin_call("ADD"),
        third.plugin_call("ADD"),
        web.plugin_call("ADD"),
        web.plugin_call("GC").stdin(gc.to_string()),
    ];
    let mut seen: Vec<(Asked, usize)> = Vec::new();
    for call in calls {
        let words = ["-e", "trace=sendto,recvfrom", "-e", "read=all", "-e", "write=all"];
        call.under(&[&["strace", "-o", OUTPUT], &words[..]].concat()).run();
        let all = datagrams(&fs::read_to_string(OUTPUT).expect("strace wrote it"));
        for (at, answer) in all.iter().enumerate().filter(|(_, one)| one.received) {
            let own = |one: &&Datagram| !one.received && one.descriptor == answer.descriptor;
            let Some(question) = all[..at].iter().rev().find(own) else { continue };
            let Some(asked) = asked(&question.bytes, &answer.bytes) else { continue };
            let understood = kernel::read(asked, &answer.bytes);
            if !seen.iter().any(|(known, _)| *known == asked) && understood > 0 {
                let number = targets::questions().iter().position(|one| *one == asked);
                let number = number.expect("every question is listed") as u8;
                let name = format!("{asked:?}").to_lowercase();
                let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
                keep("netlink", &name, &[&[number], &answer.bytes[..]].concat());
                seen.push((asked, understood));
            }
        }
    }
    let understood = |asked: Asked| seen.iter().find(|(known, _)| *known == asked).map(|it| it.1);
    // The base chains, and the rules in them that no network has added.
    for (one, count) in [(Asked::Table, 1), (Asked::Chains, 6), (Asked::Rules, 13)] {
        assert_eq!(understood(one), Some(count), "{one:?}: {seen:?}");
    }
    for family in Family::ALL {
        assert!(understood(Asked::Flows(family)).is_some(), "{family:?}: {seen:?}");
    }
    assert!(understood(Asked::Listeners(Protocol::Tcp, Family::V4)).is_some(), "{seen:?}");
    let sets = |elements: bool| {
        let of = |(asked, _): &&(Asked, usize)| match asked {
            Asked::Element(_) => !elements,
            Asked::Elements(_) => elements,
            Asked::Table
            | Asked::Chains
            | Asked::Rules
            | Asked::Flows(_)
            | Asked::Listeners(..) => false,
        };
        seen.iter().filter(of).count()
    };
    assert!(sets(false) >= 4 && sets(true) >= 4, "{seen:?}");
}

/// What the plugin writes into its store is what the target of the record files begins with.
#[test]
fn what_the_plugin_writes_is_a_seed() {
    let node = Node::new();
    let blue = network("blue");
    let mut web = attachment(&node, &blue, "web", 5).of_pod("default", "web", "uid-web").mapping([
        tcp(8080),
        udp(8080),
        tcp(0),
    ]);
    add(&node, &web);
    let files = [("attachment", "attachments/blue:web:eth0.json")];
    let boot: Value = serde_json::from_slice(&read("instance")).expect("the instance is JSON");
    let boot = boot["bootId"].as_str().expect("it has a boot ID").to_owned();
    for (name, path) in files {
        let text = String::from_utf8(read(path)).expect("it is text");
        // The target has a boot of its own.
        let seed = format!("{path}\n{}", text.replace(&boot, "boot"));
        targets::record(seed.as_bytes());
        keep("record", name, seed.as_bytes());
    }
    web.mappings.clear();
    crate::stage::bare::run(&web, "DEL").success();
    let released = Path::new(STATE).join("released");
    let period = fs::read_dir(released).expect("something was released").flatten();
    let period = { period }.find(|entry| entry.path().is_dir());
    let file = period.expect("a period").path().join("pod:uid-web.json");
    let memory = fs::read(file).expect("the memory of what was released");
    let seed = [b"released/0/pod:uid-web.json\n", &memory[..]].concat();
    targets::record(&seed);
    keep("record", "released", &seed);
}

fn read(path: &str) -> Vec<u8> {
    fs::read(Path::new(STATE).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
