//! What was asked for, and whether it is met.

use serde_json::{Value, json};

use super::control::{situation, values};
use super::table::{Table, ms, number};
use super::{Report, Rows, datapath};
use crate::raw::{Raw, Row};
use crate::stats::median;

/// One line of the table.
pub(super) struct Bar {
    pub(super) what: String,
    pub(super) limit: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

pub(super) fn add(raw: &Raw, report: &mut Report) {
    let mut bars = Vec::new();
    control(raw, &mut bars);
    storm(raw, &mut bars);
    datapath::bars(raw, &mut bars);
    if bars.is_empty() {
        return;
    }
    let mut table = Table::new(["asked for", "limit", "measured", ""]);
    for Bar { what, limit, measured, met } in bars {
        let verdict = match met {
            _ if measured.contains('–') => "not measured",
            true => "met",
            false => "**missed**",
        };
        table.row([&*what, &limit, &measured, verdict]);
    }
    report.blocks.insert("bars", table.text());
}

fn wall(row: Option<&Row>) -> f64 {
    row.map_or(f64::NAN, |row| median(row.sample("wall_us")))
}

/// `ours` must be at most the part `1/divisor` of `theirs`.
fn part(what: &str, ours: f64, theirs: f64, divisor: f64) -> Bar {
    Bar {
        what: what.to_owned(),
        limit: format!("1/{divisor} of portmap-nftables"),
        measured: format!("1/{} ({} : {} ms)", number(theirs / ours), ms(ours), ms(theirs)),
        met: ours * divisor <= theirs,
    }
}

fn times(what: &str, ours: f64, base: f64, limit: f64, whose: &str) -> Bar {
    Bar {
        what: what.to_owned(),
        limit: format!("{limit} times {whose}"),
        measured: format!("{} ({} : {} ms)", number(ours / base), ms(ours), ms(base)),
        met: ours <= limit * base,
    }
}

fn at_most(what: &str, limit: f64, unit: &str, measured: f64) -> Bar {
    Bar {
        what: what.to_owned(),
        limit: format!("{limit} {unit}").trim_end().to_owned(),
        measured: number(measured),
        met: measured <= limit,
    }
}

fn control(raw: &Raw, bars: &mut Vec<Bar>) {
    let rows = Rows::of(raw, "control");
    if rows.is_empty() {
        return;
    }
    let middle = |plugin: &str, held: u64, command: &str| {
        wall(rows.find(plugin, &situation(held, 1, "v4", "static", command)))
    };
    let (ours, theirs) = ("autoport", "portmap-nftables");
    bars.push(part("ADD of one port", middle(ours, 0, "ADD"), middle(theirs, 0, "ADD"), 30.0));
    let floor = middle("floor", 0, "run");
    let empty = "the empty program";
    bars.push(times("ADD of one port", middle(ours, 0, "ADD"), floor, 2.5, empty));
    let flat = Rows::of(raw, "flat");
    let most = values(&flat, "held").into_iter().max().unwrap_or_default();
    let add =
        |held: u64| wall(flat.find(ours, &[("held", json!(held)), ("command", json!("ADD"))]));
    let what = format!("ADD with {} held", number(most as f64));
    bars.push(times(&what, add(most), add(0), 1.2, "an empty node's"));
    for (held, divisor) in [(0, 30.0), (5_000, 300.0)] {
        let (mine, other) = (middle(ours, held, "DEL"), middle(theirs, held, "DEL"));
        bars.push(part(&format!("DEL with {} held", number(held as f64)), mine, other, divisor));
    }
    let own = || rows.iter().filter(|row| row.plugin == ours);
    let largest = |fact: &str, most_ports: u64| {
        own()
            .filter(|row| row.params["ports"].as_u64().is_some_and(|ports| ports <= most_ports))
            .filter_map(|row| row.number(fact))
            .fold(f64::NAN, f64::max)
    };
    let peak = largest("peak_kib", 20) / 1024.0;
    bars.push(at_most("peak memory, up to 20 ports", 4.0, "MiB", peak));
    bars.push(at_most("child processes", 0.0, "", largest("children", u64::MAX)));
    let machine = Rows::of(raw, "machine");
    let bytes = machine.find("", &[]).and_then(|row| row.number("autoport_bytes"));
    let size = bytes.unwrap_or(f64::NAN) / f64::from(1 << 20);
    bars.push(at_most("size of the executable", 4.5, "MiB", size));
}

fn storm(raw: &Raw, bars: &mut Vec<Bar>) {
    let rows = Rows::of(raw, "storm");
    let mut lost = 0.0;
    for row in rows.iter().filter(|row| row.plugin == "autoport") {
        let key: Vec<(&str, Value)> =
            row.params.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let other = wall(rows.find("portmap-nftables", &key));
        let param = |name: &str| row.params[name].as_f64().unwrap_or_default();
        let command = row.params["command"].as_str().unwrap_or_default();
        let (size, held) = (number(param("size")), number(param("held")));
        let what = format!("{size} {command} at once with {held} held");
        bars.push(part(&what, wall(Some(row)), other, 15.0));
        lost += row.number("lost").unwrap_or(f64::NAN);
    }
    if !rows.is_empty() {
        bars.push(at_most("lost in storms", 0.0, "", lost));
    }
}
