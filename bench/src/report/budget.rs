//! The budget of one ADD, and ways to build the plugin.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::table::{Table, number};
use super::{Report, Rows};
use crate::raw::{Raw, Row};
use crate::stats::median;

pub(super) fn add(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, "budget");
    if rows.iter().any(|row| row.params.contains_key("step")) {
        report.blocks.insert("budget", phases(&rows));
        report.blocks.insert("budget-calls", steps(&rows));
    }
    let rows = Rows::of(raw, "route");
    if !rows.is_empty() {
        report.blocks.insert("route", route(&rows));
    }
    let rows = Rows::of(raw, "variants");
    if !rows.is_empty() {
        report.blocks.insert("variants", variants(&rows));
    }
}

fn text<'a>(row: &'a Row, fact: &str) -> &'a str {
    row.facts.get(fact).and_then(Value::as_str).unwrap_or_default()
}

fn phase(row: &Row) -> &str {
    row.params.get("phase").and_then(Value::as_str).unwrap_or_default()
}

/// Run by run, the sum of some steps' samples.
fn sum<'a>(rows: impl Iterator<Item = &'a Row>, name: &str) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::new();
    for row in rows {
        let sample = row.sample(name);
        sums.resize(sums.len().max(sample.len()), 0.0);
        for (sum, one) in sums.iter_mut().zip(sample) {
            *sum += one;
        }
    }
    sums
}

fn phases(rows: &Rows) -> String {
    let own = || rows.iter().filter(|row| row.params.contains_key("step"));
    let total = median(&sum(own(), "us"));
    let mut order: Vec<&str> = Vec::new();
    for row in own() {
        if !order.contains(&phase(row)) {
            order.push(phase(row));
        }
    }
    let mut table =
        Table::new(["phase", "µs", "of it in system calls", "part", "the empty program, µs"]);
    let mut floor = 0.0;
    for name in order {
        let of = || own().filter(|row| phase(row) == name);
        let took = median(&sum(of(), "us"));
        let empty = rows.find("floor", &[("phase", json!(name))]);
        let empty = empty.map(|row| median(row.sample("us")));
        floor += empty.unwrap_or_default();
        table.row([
            name.to_owned(),
            number(took.round()),
            number(median(&sum(of(), "kernel_us")).round()),
            format!("{:.0} %", took / total * 100.0),
            empty.map_or(String::new(), |took| number(took.round())),
        ]);
    }
    let kernel = median(&sum(own(), "kernel_us"));
    table.row([
        "all".to_owned(),
        number(total.round()),
        number(kernel.round()),
        String::new(),
        number(floor.round()),
    ]);
    let runs = own().next().map_or(0, |row| row.sample("us").len());
    let plain = rows.find("autoport", &[("phase", json!("untraced"))]);
    let plain = plain.map_or(f64::NAN, |row| median(row.sample("us")));
    format!(
        "{}\n{runs} runs, medians. Without perf the same ADD takes {} µs.\n",
        table.text(),
        number(plain.round())
    )
}

fn steps(rows: &Rows) -> String {
    let mut table = Table::new(["phase", "calls", "µs", "for"]);
    for row in rows.iter().filter(|row| row.params.contains_key("step")) {
        let took = median(row.sample("us"));
        table.row([phase(row), text(row, "calls"), &format!("{took:.0}"), text(row, "for")]);
    }
    table.text()
}

fn route(rows: &Rows) -> String {
    let middle = |known: bool| {
        let row = rows.find("autoport", &[("known", json!(known))]);
        row.map_or(f64::NAN, |row| median(row.sample("wall_us")))
    };
    let (known, unknown) = (middle(true), middle(false));
    format!(
        "ADD takes {} µs where it is set, {} µs where it is looked up and set: {} µs more.\n",
        number(known.round()),
        number(unknown.round()),
        number((unknown - known).round())
    )
}

fn variants(rows: &Rows) -> String {
    let mut by_name: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in rows.iter() {
        by_name.insert(&row.plugin, row);
    }
    let shipped = by_name.get("0-shipped").map_or(f64::NAN, |row| median(row.sample("cpu_us")));
    let mut table = Table::new(["", "size", "ADD and DEL, CPU µs", "against shipped", "ADD µs"]);
    for (name, row) in by_name {
        let cpu = median(row.sample("cpu_us"));
        table.row([
            name.split_once('-').map_or(name, |(_, name)| name).to_owned(),
            row.number("bytes").map_or("–".to_owned(), number),
            number(cpu.round()),
            format!("{:+.1} %", (cpu / shipped - 1.0) * 100.0),
            number(median(row.sample("add_wall_us")).round()),
        ]);
    }
    table.text()
}
