//! The table of counted packets.

use serde_json::json;

use super::datapath::{SUFFIXES, words};
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
    // The mean of all nodes that are alike: the later ones on a machine have more to do.
    let count = |plugin: &str, path: &str, what: &str| {
        let nodes = rows.samples(plugin, &[("path", json!(path))], what);
        nodes.iter().map(|node| median(node)).sum::<f64>() / nodes.len() as f64
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
    for (of, bars) in [(Plugin::Autoport.id(), &BARS[..]), (OFFLOAD, &OFFLOADED)] {
        for (suffix, (path, what, against, limit)) in
            SUFFIXES.iter().flat_map(|suffix| bars.iter().map(move |bar| (suffix, bar)))
        {
            let way = format!("{path}{suffix}");
            // Without a port mapping, the way to the pod is that to its own address.
            let without =
                format!("{}{suffix}", if *against == "service" { "routed" } else { path });
            let [none, theirs, ours] = [
                count("service", &without, what),
                count(Plugin::PortmapNftables.id(), &way, what),
                count(of, &way, what),
            ];
            if ours.is_nan() {
                continue;
            }
            let (whom, base) =
                if *against == "service" { ("no port mapping", none) } else { (*against, theirs) };
            let ratio = ours / base;
            table.row([
                &*if of == OFFLOAD { format!("{way}, offload") } else { way },
                words(what),
                &number(none.round()),
                &number(theirs.round()),
                &number(ours.round()),
                &format!("{ratio:.4}"),
                &format!("{limit} of {whom}"),
                if ratio <= *limit { "met" } else { "**missed**" },
            ]);
        }
    }
    report.blocks.insert("packets", table.text());
}
