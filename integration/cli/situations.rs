//! What `autoport trace` says of a packet, compared with what becomes of a real one, in many situations. It is
//! never wrong, and seldom unsure. Where a host port is dead for every client outside, `doctor` says so.

mod filters;
mod hooks;
mod nat;
mod pods;
mod programs;
mod routes;

use std::fmt::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;

use serde_json::Value;

use super::snapshots::assert_snapshot;
use super::verdict::{Ask, Client, Scene, ask};
use crate::stage::netns::{elsewhere, run, sysctl};
use crate::stage::node::{CLIENT, FIRST};
use crate::stage::operator::autoport;
use crate::stage::probe::Transport;

/// The page of the documents before its table.
const HEAD: &str = "\
# Situations of doctor and trace

`integration/cli/situations.rs` builds each of these situations on a node in network namespaces, asks `autoport trace`, sends a
real packet from the same client, and writes this page. Unless the row says otherwise, a client outside asks for a TCP port. In
every row in which the port is dead for all clients outside, `autoport doctor` has a line that is not `ok`.

";

/// How a node is made, and the packet that is asked about.
struct Situation {
    name: &'static str,
    make: Box<dyn Fn(&Scene) + Send + Sync>,
    ask: Ask,
    /// Whether no client outside gets an answer.
    is_dead: bool,
}

/// One that a client outside asks about, over TCP.
fn at(name: &'static str, make: impl Fn(&Scene) + Send + Sync + 'static) -> Situation {
    Situation { name, make: Box::new(make), ask: ask(Client::Outside, 8080), is_dead: false }
}

/// One in which the port is dead for every client outside.
fn dead(name: &'static str, make: impl Fn(&Scene) + Send + Sync + 'static) -> Situation {
    Situation { is_dead: true, ..at(name, make) }
}

impl Situation {
    fn asking(self, ask: Ask) -> Self {
        Self { ask, ..self }
    }

    fn udp(mut self) -> Self {
        self.ask.transport = Transport::Udp;
        self
    }
}

/// Loads rules as iptables-save prints them.
fn load(tool: &str, rules: &str) {
    let (ok, text) = run(Command::new(tool).arg("--noflush"), rules);
    assert!(ok, "{tool} failed on\n{rules}\n{text}");
}

/// Adds rules to the table `filter`, one a line.
fn filter(rules: &str) {
    load("iptables-nft-restore", &format!("*filter\n{}\nCOMMIT\n", rules.trim()));
}

/// A base chain of nftables with these rules.
fn chain(space: &str, hook: &str, rules: &str) {
    crate::stage::netns::nft(&format!(
        "table {space} wall {{ chain gate {{ type filter hook {hook}; {rules}\n}}\n}}"
    ));
}

/// The checks of doctor that are about the files of the runtime, which these nodes do not have.
const FILES: [&str; 3] = ["network", "plugin", "agent"];

/// What doctor finds on the node that may be about `port`. On others of the pod nothing listens.
fn findings(port: u16) -> Vec<String> {
    let (_, stdout, stderr) = autoport(&["doctor", "-o", "json"]);
    let report: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    let findings = report["findings"].as_array().expect("findings");
    let bad = findings.iter().filter(|finding| {
        finding["state"] != "ok" && !FILES.contains(&finding["check"].as_str().unwrap_or_default())
    });
    let bad = bad.map(|finding| format!("{} {}", finding["check"], finding["text"]));
    let of_others = |text: &String| {
        [8080, 8081, 8082].iter().any(|it| *it != port && text.contains(&format!(":{it}/")))
    };
    bad.filter(|text| !of_others(text)).collect()
}

/// What was said, and what was so.
struct Row {
    name: &'static str,
    said: String,
    arrives: bool,
    why: String,
    is_wrong: bool,
}

fn look(situation: &Situation) -> Row {
    let scene = Scene::new(&[]);
    scene.node.bridges_call_iptables(false);
    (situation.make)(&scene);
    let trace = scene.traced(situation.ask);
    let said = trace["state"].as_str().unwrap_or_default().to_owned();
    let arrives = scene.answers(situation.ask, said != "stops");
    let is_untrue = match said.as_str() {
        "passes" => !arrives,
        "stops" => arrives,
        _ => false,
    };
    let mut why = trace["verdict"].as_str().unwrap_or_default().to_owned();
    let is_silent = situation.is_dead && findings(situation.ask.port).is_empty();
    if is_silent {
        why.push_str("; doctor finds nothing");
    }
    if situation.is_dead && arrives {
        why.push_str("; it is not dead");
    }
    let is_wrong = is_untrue || is_silent || situation.is_dead && arrives;
    Row { name: situation.name, said, arrives, why, is_wrong }
}

/// The same, with what went wrong where the node could not be made.
fn safely(situation: &Situation) -> Row {
    panic::catch_unwind(AssertUnwindSafe(|| look(situation))).unwrap_or_else(|panicked| Row {
        name: situation.name,
        said: "broken".to_owned(),
        arrives: false,
        why: panicked.downcast_ref::<String>().cloned().unwrap_or_default(),
        is_wrong: true,
    })
}

#[test]
fn what_trace_says_of_each_situation_is_so() {
    let all =
        [filters::all(), hooks::all(), nat::all(), routes::all(), pods::all(), programs::all()];
    let rows: Vec<Row> =
        all.iter().flatten().map(|situation| elsewhere(|| safely(situation))).collect();
    let unsure = rows.iter().filter(|row| row.said == "unsure").count();
    let total = rows.len();
    let mut table = HEAD.to_owned();
    let _ = writeln!(
        table,
        "In {total} situations, `trace` is unsure of {unsure}, and wrong about none.\n"
    );
    table.push_str("| situation | `trace` | real packet |\n| --- | --- | --- |\n");
    for Row { name, said, arrives, .. } in &rows {
        let fate = if *arrives { "answered" } else { "lost" };
        let _ = writeln!(table, "| {name} | {said} | {fate} |");
    }
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| row.is_wrong)
        .map(|row| format!("{}: {}: arrives: {}: {}", row.name, row.said, row.arrives, row.why))
        .collect();
    assert!(wrong.is_empty(), "{}\n{table}", wrong.join("\n"));
    assert!(total >= 60 && unsure * 5 <= total, "{unsure} of {total} are unsure\n{table}");
    assert_snapshot("../../../docs/situations.md", &table);
}

/// The kernel forwards nothing from there. After the first remedy the second cause is named.
#[test]
fn a_client_on_the_link_and_two_causes_at_once_are_named() {
    let scene = Scene::new(&[]);
    let said = |arguments: &[&str]| {
        let (status, stdout, stderr) = autoport(&[&["trace", "8080"], arguments].concat());
        assert_eq!(status.code(), Some(3), "{stdout}{stderr}");
        stdout
    };
    let text = said(&["--from", "fe80::1", "--to", FIRST[1]]);
    assert!(text.contains("does not forward packets from a link-local address, fe80::1"), "{text}");
    let forwarding = |interface: &str, value: &str| {
        sysctl(&format!("net/ipv4/conf/{interface}/forwarding"), value);
    };
    forwarding("uplink", "0");
    forwarding("cni1", "0");
    let from_client = ["--from", CLIENT[0], "--to", FIRST[0]];
    let text = said(&from_client);
    assert!(text.contains("sysctl -w net.ipv4.conf.uplink.forwarding=1"), "{text}");
    forwarding("uplink", "1");
    let text = said(&from_client);
    assert!(text.contains("sysctl -w net.ipv4.conf.cni1.forwarding=1"), "{text}");
    forwarding("cni1", "1");
    assert_eq!(scene.traced(ask(Client::Outside, 8080))["state"], "passes");
}

/// On a node without any of this, doctor has nothing to say.
#[test]
fn doctor_finds_nothing_on_a_healthy_node() {
    let scene = Scene::new(&[]);
    scene.node.bridges_call_iptables(false);
    let found = findings(8080);
    let harmless = |finding: &&String| !finding.starts_with("\"kernel\"");
    let found: Vec<_> = found.iter().filter(harmless).collect();
    assert!(found.is_empty(), "{found:?}");
}
