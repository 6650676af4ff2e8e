//! The tables of the datapath.

use serde_json::json;

use super::bars::Bar;
use super::control::values;
use super::table::{Table, number};
use super::{Report, Rows};
use crate::plot::Plot;
use crate::plugins::Plugin;
use crate::raw::Raw;
use crate::stats::{median, quantile};

const BENCH: &str = "datapath";

const OURS: &str = Plugin::Autoport.id();
const NFTABLES: &str = Plugin::PortmapNftables.id();
const PLAYERS: [&str; 3] = [OURS, NFTABLES, Plugin::PortmapIptables.id()];

/// What the names of the ways of a family end in.
pub(super) const SUFFIXES: [&str; 2] = ["", ", IPv6"];

/// What is timed in every turn.
const FIGURES: [&str; 5] = ["connect", "whole", "round_trip", "datagram", "first"];

/// What is compared of nodes with one mapping, by path.
const COMPARED: [(&str, &str); 10] = [
    ("host port", "connect"),
    ("host port", "round_trip"),
    ("localhost", "connect"),
    ("hairpin", "connect"),
    ("routed", "connect"),
    ("routed", "round_trip"),
    ("routed", "datagram"),
    ("host port, IPv6", "connect"),
    ("host port, IPv6", "round_trip"),
    ("routed, IPv6", "connect"),
];

pub(super) const fn words(what: &str) -> &'static str {
    match what.as_bytes() {
        b"round_trip" => "a byte there and back",
        b"datagram" => "a datagram",
        b"first" => "first datagram and its echo",
        b"whole" => "connect, request, close",
        _ => "connect(2)",
    }
}

/// Nodes that are alike, and a way: the plugin or what else is there, the mappings, the path.
type Nodes<'a> = (&'a str, u64, &'a str);

pub(super) fn add(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, BENCH);
    if rows.is_empty() {
        return;
    }
    let cross = |paths: &[&'static str], plugins: &[&'static str]| -> Vec<_> {
        let of = |path| plugins.iter().map(move |plugin| (*plugin, path));
        paths.iter().copied().flat_map(of).collect()
    };
    let mut host_ports = vec![("plain", "routed"), ("service", "routed")];
    host_ports.extend(cross(&["host port"], &PLAYERS));
    host_ports.push(("service", "routed, IPv6"));
    host_ports.extend(cross(&["host port, IPv6"], &PLAYERS));
    let text = times(&rows, &host_ports, "autoport with 1", |_| (OURS, 1, "host port"));
    report.blocks.insert("datapath", text);
    report.blocks.insert("datapath-ratios", compared(&rows));
    let own = cross(&["hairpin", "hairpin, IPv6", "localhost"], &PLAYERS);
    let text = times(&rows, &own, "autoport with 1", |path| (OURS, 1, path));
    report.blocks.insert("datapath-own", text);
    let all = [&["service"], &PLAYERS[..]].concat();
    let others = cross(&["routed", "routed, IPv6", "service", "pod to pod"], &all);
    let text = times(&rows, &others, "no port mapping", |path| ("service", 0, path));
    report.blocks.insert("datapath-others", text);
    report.plots.insert("datapath.svg", plot(&rows));
}

/// What each of these nodes measured, a number for each turn.
fn of<'a>(rows: &'a Rows, (plugin, mappings, path): Nodes<'_>, what: &str) -> Vec<&'a [f64]> {
    rows.samples(plugin, &[("mappings", json!(mappings)), ("path", json!(path))], what)
}

fn middle(rows: &Rows, nodes: Nodes<'_>, what: &str) -> f64 {
    median(&of(rows, nodes, what).concat())
}

/// Ratios of one figure to another of the same turn, by every node of one kind and every one of the other; of a kind to
/// itself, by its second node and its first.
fn ratios(rows: &Rows, ours: Nodes<'_>, theirs: Nodes<'_>, what: &str) -> Vec<f64> {
    let (mut ours_seen, mut theirs_seen) = (of(rows, ours, what), of(rows, theirs, what));
    if ours == theirs {
        theirs_seen.truncate(1);
        ours_seen.drain(..ours_seen.len().min(1));
    }
    let pairs = ours_seen.iter().flat_map(|own| theirs_seen.iter().map(move |base| (own, base)));
    let turns = pairs.flat_map(|(own, base)| own.iter().zip(*base));
    turns.map(|(own, base)| own / base).collect()
}

/// The median, and the quartiles.
fn spread(ratios: &[f64]) -> String {
    if ratios.is_empty() {
        return "–".to_owned();
    }
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| quantile(ratios, part));
    format!("{middle:.3} ({low:.3}–{high:.3})")
}

/// What takes how long on these ways, and the ratio of connect(2) to that of other nodes.
fn times<'a>(
    rows: &Rows,
    ways: &[(&'a str, &'a str)],
    whom: &str,
    base: impl Fn(&'a str) -> Nodes<'a>,
) -> String {
    let figures = FIGURES.map(|what| format!("{}, µs", words(what)));
    let head = ["way", "plugin", "mappings"].map(str::to_owned).into_iter().chain(figures);
    let mut table = Table::new(head.chain([format!("connect(2), to {whom}")]));
    for (plugin, path) in ways {
        for mappings in values(rows, "mappings") {
            let nodes = (*plugin, mappings, *path);
            if of(rows, nodes, "connect").is_empty() {
                continue;
            }
            let name = match *plugin {
                "plain" => "none, nothing tracked",
                "service" => "none",
                plugin => plugin,
            };
            let start = [(*path).to_owned(), name.to_owned(), number(mappings as f64)];
            let figures = FIGURES.map(|what| number(middle(rows, nodes, what)));
            let ratio = spread(&ratios(rows, nodes, base(path), "connect"));
            table.row(start.into_iter().chain(figures).chain([ratio]));
        }
    }
    table.text()
}

/// One mapping, beside portmap's and none.
fn compared(rows: &Rows) -> String {
    let mut table = Table::new([
        "way",
        "time of",
        "autoport, µs",
        "to portmap-nftables",
        "to no port mapping",
        "of two nodes with autoport",
    ]);
    for (path, what) in COMPARED {
        let ours = (OURS, 1, path);
        let to = |theirs| spread(&ratios(rows, ours, theirs, what));
        table.row([
            path,
            words(what),
            &number(middle(rows, ours, what)),
            &to((NFTABLES, 1, path)),
            &to(("service", 0, path)),
            &to(ours),
        ]);
    }
    table.text()
}

fn plot(rows: &Rows) -> Plot {
    let levels: Vec<u64> = values(rows, "mappings").into_iter().filter(|it| *it > 0).collect();
    let time =
        |nodes: Nodes<'_>| Some(middle(rows, nodes, "connect")).filter(|time| time.is_finite());
    let line = |plugin: &str| {
        let value = |mappings: &u64| time((plugin, *mappings, "host port"));
        (plugin.to_owned(), levels.iter().map(value).collect())
    };
    let mut lines: Vec<_> = PLAYERS.map(line).into();
    let plain = time(("plain", 0, "routed"));
    lines.push(("plain routing".to_owned(), vec![plain; levels.len()]));
    Plot {
        title: "connect(2) through a host port".to_owned(),
        right: "mappings on the node".to_owned(),
        up: "µs".to_owned(),
        steps: levels.iter().map(|mappings| number(*mappings as f64)).collect(),
        lines,
    }
}

pub(super) fn bars(raw: &Raw, bars: &mut Vec<Bar>) {
    let rows = Rows::of(raw, BENCH);
    if rows.is_empty() {
        return;
    }
    let time = |plugin, mappings| middle(&rows, (plugin, mappings, "host port"), "connect");
    let ratio = |ours: (&'static str, u64), theirs: (&'static str, u64)| {
        let [ours, theirs] = [ours, theirs].map(|(plugin, count)| (plugin, count, "host port"));
        median(&ratios(&rows, ours, theirs, "connect"))
    };
    let most = values(&rows, "mappings").into_iter().max().unwrap_or_default();
    let [more, noise] = [most, 1].map(|mappings| ratio((OURS, mappings), (OURS, 1)));
    bars.push(Bar {
        what: format!("connect(2) with {} mappings", number(most as f64)),
        limit: "1.05 times that with 1".to_owned(),
        measured: format!(
            "{more:.3} ({} : {} µs); another node with 1: {noise:.3}",
            number(time(OURS, most)),
            number(time(OURS, 1)),
        ),
        met: more <= 1.05,
    });
    let less = ratio((NFTABLES, 5_000), (OURS, 5_000));
    bars.push(Bar {
        what: "connect(2) with 5,000 mappings".to_owned(),
        limit: "1/5 of portmap-nftables".to_owned(),
        measured: format!(
            "1/{} ({} : {} µs)",
            number(less),
            number(time(OURS, 5_000)),
            number(time(NFTABLES, 5_000)),
        ),
        met: less >= 5.0,
    });
}
