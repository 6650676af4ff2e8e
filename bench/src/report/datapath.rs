//! The tables of the datapath.

use serde_json::json;

use super::bars::Bar;
use super::control::values;
use super::table::{Table, number};
use super::{Report, Rows};
use crate::plot::Plot;
use crate::plugins::Plugin;
use crate::raw::{Raw, Row};
use crate::stats::{median, quantile};

const BENCH: &str = "datapath";
const RATE: &str = "crowd_per_s";

const PLAYERS: [&str; 3] =
    [Plugin::Autoport.id(), Plugin::PortmapNftables.id(), Plugin::PortmapIptables.id()];

pub(super) fn add(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, BENCH);
    if rows.is_empty() {
        return;
    }
    report.blocks.insert("datapath", host_ports(&rows));
    report.blocks.insert("datapath-own", own(&rows));
    report.blocks.insert("datapath-others", others(&rows));
    report.plots.insert("datapath.svg", plot(&rows));
}

fn find<'a>(rows: &'a Rows, plugin: &str, mappings: u64, path: &str) -> Option<&'a Row> {
    let params = [("mappings", json!(mappings)), ("path", json!(path)), ("again", json!(false))];
    rows.find(plugin, &params)
}

/// The second node that is like the first.
fn again<'a>(rows: &'a Rows, plugin: &str, path: &str) -> Option<&'a Row> {
    rows.find(plugin, &[("path", json!(path)), ("again", json!(true))])
}

fn middle(row: Option<&Row>, name: &str) -> f64 {
    row.map_or(f64::NAN, |row| median(row.sample(name)))
}

/// The median of the turns, and the quartiles.
fn spread(row: &Row, name: &str) -> String {
    let at = |part| number(quantile(row.sample(name), part));
    format!("{} ({}–{})", at(0.5), at(0.25), at(0.75))
}

fn pair(row: &Row, first: &str, second: &str) -> String {
    let [first, second] = [first, second].map(|name| number(median(row.sample(name))));
    format!("{first} / {second}")
}

fn host_ports(rows: &Rows) -> String {
    let mut table = Table::new([
        "plugin",
        "mappings",
        "connections/s, 32 at a time (quartiles)",
        "connect µs, one at a time",
        "32 at a time",
        "first UDP datagram and its echo µs",
        "Gbit/s",
    ]);
    let mut put = |plugin: &str, mappings: &str, row: &Row| {
        table.row([
            plugin.to_owned(),
            mappings.to_owned(),
            spread(row, RATE),
            pair(row, "one_p50_us", "one_p99_us"),
            pair(row, "crowd_p50_us", "crowd_p99_us"),
            pair(row, "udp_p50_us", "udp_p99_us"),
            number(median(row.sample("gbit_per_s"))),
        ]);
    };
    if let Some(row) = find(rows, "plain", 0, "routed") {
        put("plain routing", "–", row);
    }
    for plugin in PLAYERS {
        for mappings in values(rows, "mappings") {
            if let Some(row) = find(rows, plugin, mappings, "host port") {
                put(plugin, &number(mappings as f64), row);
            }
            if let Some(row) = again(rows, plugin, "host port").filter(|_| mappings == 1) {
                put(plugin, "1, another node", row);
            }
        }
    }
    table.text()
}

/// The ways on which a pod or the node reaches a host port.
fn own(rows: &Rows) -> String {
    let head = ["way", "plugin", "mappings", "connections/s (quartiles)", "connect µs"];
    let mut table = Table::new(head);
    for path in ["hairpin", "localhost"] {
        for plugin in PLAYERS {
            for mappings in values(rows, "mappings") {
                if let Some(row) = find(rows, plugin, mappings, path) {
                    table.row([
                        path.to_owned(),
                        plugin.to_owned(),
                        number(mappings as f64),
                        spread(row, RATE),
                        pair(row, "one_p50_us", "one_p99_us"),
                    ]);
                }
            }
        }
    }
    table.text()
}

/// What is not for us, with and without our table.
fn others(rows: &Rows) -> String {
    let head = ["way", "table", "connections/s (quartiles)", "connect µs", "to none, connect"];
    let mut table = Table::new(head);
    for path in ["routed", "service", "pod to pod"] {
        let none = find(rows, "service", 0, path);
        let mut put = |name: String, row: &Row| {
            let difference = middle(Some(row), "one_p50_us") / middle(none, "one_p50_us") - 1.0;
            table.row([
                path.to_owned(),
                name,
                spread(row, RATE),
                pair(row, "one_p50_us", "one_p99_us"),
                percent(difference),
            ]);
        };
        if let Some(row) = none {
            put("none".to_owned(), row);
        }
        let ours = Plugin::Autoport.id();
        for mappings in values(rows, "mappings") {
            if let Some(row) = find(rows, ours, mappings, path) {
                put(format!("{} mappings", number(mappings as f64)), row);
            }
            if let Some(row) = again(rows, ours, path).filter(|_| mappings == 1) {
                put("1 mapping, another node".to_owned(), row);
            }
        }
    }
    table.text()
}

fn percent(part: f64) -> String {
    if part.is_finite() { format!("{:+.1} %", part * 100.0) } else { "–".to_owned() }
}

fn plot(rows: &Rows) -> Plot {
    let levels: Vec<u64> = values(rows, "mappings").into_iter().filter(|it| *it > 0).collect();
    let line = |plugin: &str| {
        let value = |mappings: &u64| {
            let rate = middle(find(rows, plugin, *mappings, "host port"), RATE);
            rate.is_finite().then_some(rate)
        };
        (plugin.to_owned(), levels.iter().map(value).collect())
    };
    let mut lines: Vec<_> = PLAYERS.map(line).into();
    let plain = middle(find(rows, "plain", 0, "routed"), RATE);
    let plain = levels.iter().map(|_| plain.is_finite().then_some(plain)).collect();
    lines.push(("plain routing".to_owned(), plain));
    Plot {
        title: "New TCP connections through a host port, 32 at a time".to_owned(),
        right: "mappings on the node".to_owned(),
        up: "connections/s".to_owned(),
        steps: levels.iter().map(|mappings| number(*mappings as f64)).collect(),
        lines,
    }
}

pub(super) fn bars(raw: &Raw, bars: &mut Vec<Bar>) {
    let rows = Rows::of(raw, BENCH);
    if rows.is_empty() {
        return;
    }
    let rate = |row| middle(row, RATE);
    let ours = Plugin::Autoport.id();
    let most = values(&rows, "mappings").into_iter().max().unwrap_or_default();
    let (one, many) = (find(&rows, ours, 1, "host port"), find(&rows, ours, most, "host port"));
    let difference = rate(many) / rate(one) - 1.0;
    let noise = rate(again(&rows, ours, "host port")) / rate(one) - 1.0;
    bars.push(Bar {
        what: format!("connections/s with {} mappings", number(most as f64)),
        limit: "at most 5 % less than with 1".to_owned(),
        measured: format!(
            "{} ({} : {}); another node with 1: {}",
            percent(difference),
            number(rate(many)),
            number(rate(one)),
            percent(noise)
        ),
        met: difference >= -0.05,
    });
    let both = [ours, Plugin::PortmapNftables.id()];
    let [mine, theirs] = both.map(|plugin| rate(find(&rows, plugin, 5_000, "host port")));
    if theirs.is_finite() {
        bars.push(Bar {
            what: "connections/s with 5,000 mappings".to_owned(),
            limit: "5 times portmap-nftables".to_owned(),
            measured: format!("{} ({} : {})", number(mine / theirs), number(mine), number(theirs)),
            met: mine >= 5.0 * theirs,
        });
    }
}
