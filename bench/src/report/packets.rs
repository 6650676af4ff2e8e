//! The tables of counted and of timed packets.

use serde_json::json;

use super::table::{Table, number};
use super::{Report, Rows};
use crate::plugins::Plugin;
use crate::raw::Raw;
use crate::stats::{median, quantile};

const BENCH: &str = "packets";
const TIMES: &str = "times";

/// Ours with established connections offloaded.
const OFFLOAD: &str = "offload";

/// The ways, what is counted, whom it is held against, and the limit.
const BARS: [(&str, &str, &str, f64); 7] = [
    ("host port", "connect", Plugin::PortmapNftables.id(), 1.02),
    ("host port", "round_trip", Plugin::PortmapNftables.id(), 1.006),
    ("localhost", "connect", Plugin::PortmapNftables.id(), 1.03),
    ("hairpin", "connect", Plugin::PortmapNftables.id(), 1.025),
    ("routed", "connect", "service", 1.03),
    ("routed", "round_trip", "service", 1.003),
    ("routed", "datagram", "service", 1.003),
];

/// The same of ours with established connections offloaded.
const OFFLOADED: [(&str, &str, &str, f64); 5] = [
    ("host port", "connect", Plugin::PortmapNftables.id(), 1.13),
    ("host port", "whole", Plugin::PortmapNftables.id(), 0.95),
    ("host port", "round_trip", "service", 0.77),
    ("host port", "datagram", "service", 0.78),
    ("routed", "datagram", "service", 1.08),
];

/// What is timed, by path.
const TIMED: [(&str, &str); 7] = [
    ("host port", "connect"),
    ("host port", "round_trip"),
    ("localhost", "connect"),
    ("hairpin", "connect"),
    ("routed", "connect"),
    ("routed", "round_trip"),
    ("routed", "datagram"),
];

const fn words(what: &str) -> &'static str {
    match what.as_bytes() {
        b"round_trip" => "a byte there and back",
        b"datagram" => "a datagram",
        b"whole" => "connect, request, close",
        _ => "connect(2)",
    }
}

pub(super) fn add(raw: &Raw, report: &mut Report) {
    time(raw, report);
    count(raw, report);
}

/// Ratios of one node's figure to another's in the same turn.
fn time(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, TIMES);
    if rows.is_empty() {
        return;
    }
    let of = |plugin: &str, path: &str, again: bool, what: &str| {
        let params = [("path", json!(path)), ("again", json!(again))];
        rows.find(plugin, &params).map_or(Vec::new(), |row| row.sample(what).to_vec())
    };
    let ratios = |one: &[f64], other: &[f64]| -> Vec<f64> {
        one.iter().zip(other).map(|(one, other)| one / other).collect()
    };
    let shown = |ratios: &[f64]| {
        let at = |part| quantile(ratios, part);
        if ratios.is_empty() {
            return "–".to_owned();
        }
        format!("{:.3} ({:.3}–{:.3})", at(0.5), at(0.25), at(0.75))
    };
    let mut table = Table::new([
        "way",
        "time of",
        "autoport, µs",
        "to portmap-nftables",
        "to no port mapping",
        "to another node with autoport",
    ]);
    let ours = Plugin::Autoport.id();
    for (path, what) in TIMED {
        // Without a port mapping, the way to the pod is that to its own address.
        let against = |plugin: &str| {
            let nodes = [false, true]
                .map(|again| ratios(&of(ours, path, again, what), &of(plugin, path, again, what)));
            shown(&nodes.concat())
        };
        let own = [false, true].map(|again| of(ours, path, again, what));
        let none = if path == "routed" { against("service") } else { "–".to_owned() };
        table.row([
            path,
            words(what),
            &number(median(&own.concat()) / 1000.0),
            &against(Plugin::PortmapNftables.id()),
            &none,
            &shown(&ratios(&own[0], &own[1])),
        ]);
    }
    report.blocks.insert("times", table.text());
}

fn count(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, BENCH);
    if rows.is_empty() {
        return;
    }
    // Of both nodes that are alike: the later ones on a machine have more to do.
    let count = |plugin: &str, path: &str, what: &str| {
        let of = |again: bool| {
            let params = [("path", json!(path)), ("again", json!(again))];
            rows.find(plugin, &params).map_or(f64::NAN, |row| median(row.sample(what)))
        };
        f64::midpoint(of(false), of(true))
    };
    let mut table = Table::new([
        "way",
        "instructions of",
        "no port mapping",
        "portmap-nftables",
        "autoport",
        "ratio",
        "limit",
        "",
    ]);
    let ours = BARS.map(|bar| (Plugin::Autoport.id(), bar));
    let offloaded = OFFLOADED.map(|bar| (OFFLOAD, bar));
    for (of, (path, what, against, limit)) in ours.into_iter().chain(offloaded) {
        // Without a port mapping, the way to the pod is that to its own address.
        let plain = if against == "service" { "routed" } else { path };
        let [none, theirs, ours] = [
            count("service", plain, what),
            count(Plugin::PortmapNftables.id(), path, what),
            count(of, path, what),
        ];
        let ratio = ours / if against == "service" { none } else { theirs };
        let whom = if against == "service" { "no port mapping" } else { against };
        let way = if of == OFFLOAD { format!("{path}, offload") } else { path.to_owned() };
        table.row([
            &*way,
            words(what),
            &number(none.round()),
            &number(theirs.round()),
            &number(ours.round()),
            &format!("{ratio:.4}"),
            &format!("{limit} of {whom}"),
            if ratio <= limit { "met" } else { "**missed**" },
        ]);
    }
    report.blocks.insert("packets", table.text());
}
