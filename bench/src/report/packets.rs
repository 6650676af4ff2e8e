//! The table of counted packets.

use serde_json::json;

use super::table::{Table, number};
use super::{Report, Rows};
use crate::plugins::Plugin;
use crate::raw::Raw;
use crate::stats::median;

const BENCH: &str = "packets";

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

pub(super) fn add(raw: &Raw, report: &mut Report) {
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
        let words = match what {
            "round_trip" => "a byte there and back",
            "datagram" => "a datagram",
            "whole" => "connect, request, close",
            _ => "connect(2)",
        };
        let whom = if against == "service" { "no port mapping" } else { against };
        let way = if of == OFFLOAD { format!("{path}, offload") } else { path.to_owned() };
        table.row([
            &*way,
            words,
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
