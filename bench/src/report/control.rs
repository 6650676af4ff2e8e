//! The tables of the control path.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::table::{Table, ms, number};
use super::{Report, Rows};
use crate::plot::Plot;
use crate::plugins::Plugin;
use crate::raw::{Raw, Row};
use crate::stats::{median, p99};

const COMMANDS: [(&str, &str, &str); 3] = [
    ("ADD", "control-add", "control-add.svg"),
    ("DEL", "control-del", "control-del.svg"),
    ("CHECK", "control-check", "control-check.svg"),
];

/// The parameters of one situation.
pub(super) fn situation(
    held: u64,
    ports: u64,
    stack: &str,
    choice: &str,
    command: &str,
) -> [(&'static str, Value); 5] {
    [
        ("held", json!(held)),
        ("ports", json!(ports)),
        ("stack", json!(stack)),
        ("choice", json!(choice)),
        ("command", json!(command)),
    ]
}

pub(super) fn add(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, "control");
    if rows.is_empty() {
        return;
    }
    for (command, block, file) in COMMANDS {
        report.blocks.insert(block, times(&rows, command));
        report.plots.insert(file, plot(&rows, command));
    }
    report.blocks.insert("control-dynamic", dynamic(&rows));
    report.blocks.insert("control-wide", wide(&rows));
    report.blocks.insert("control-use", uses(&rows));
    report.blocks.insert("control-calls", calls(&rows));
    let flat = Rows::of(raw, "flat");
    if !flat.is_empty() {
        report.blocks.insert("flat", flatness(&flat));
    }
}

/// What a parameter was, over all rows, in order.
pub(super) fn values(rows: &Rows, param: &str) -> BTreeSet<u64> {
    rows.iter().filter_map(|row| row.params.get(param)?.as_u64()).collect()
}

/// `median / p99`, with how often if that was seldom.
pub(super) fn time(row: Option<&Row>) -> String {
    let Some(row) = row else { return "–".to_owned() };
    if row.facts.contains_key("fails") {
        return "fails".to_owned();
    }
    let wall = row.sample("wall_us");
    let text = format!("{} / {}", ms(median(wall)), ms(p99(wall)));
    if wall.len() < 100 { format!("{text} ({})", wall.len()) } else { text }
}

fn times(rows: &Rows, command: &str) -> String {
    let plugins = Plugin::ALL.map(Plugin::id);
    let mut table =
        Table::new(["held", "ports", "pod"].into_iter().chain(plugins).chain(["empty program"]));
    for stack in ["v4", "dual"] {
        for ports in [1, 20] {
            for held in values(rows, "held") {
                let key = situation(held, ports, stack, "static", command);
                if rows.find("autoport", &key).is_none() {
                    continue;
                }
                let mut cells = vec![number(held as f64), ports.to_string(), stack.to_owned()];
                cells.extend(plugins.map(|plugin| time(rows.find(plugin, &key))));
                cells.push(time(
                    rows.find("floor", &situation(held, ports, stack, "static", "run")),
                ));
                table.row(cells);
            }
        }
    }
    table.text()
}

fn plot(rows: &Rows, command: &str) -> Plot {
    let levels: Vec<u64> = values(rows, "held").into_iter().collect();
    let line = |plugin: &str, command: &str| {
        let value = |held: &u64| {
            let row = rows.find(plugin, &situation(*held, 1, "v4", "static", command))?;
            let middle = median(row.sample("wall_us"));
            middle.is_finite().then_some(middle / 1e3)
        };
        (plugin.to_owned(), levels.iter().map(value).collect())
    };
    let mut lines: Vec<_> = Plugin::ALL.map(|plugin| line(plugin.id(), command)).into();
    let (_, values) = line("floor", "run");
    lines.push(("empty program".to_owned(), values));
    Plot {
        title: format!("{command} of one port, IPv4: median of the whole process"),
        right: "mappings held by other pods".to_owned(),
        up: "ms".to_owned(),
        steps: levels.iter().map(|held| number(*held as f64)).collect(),
        lines,
    }
}

fn dynamic(rows: &Rows) -> String {
    let mut table =
        Table::new(["held", "ports", "pod", "ADD, named", "ADD, chosen", "DEL, chosen"]);
    for stack in ["v4", "dual"] {
        for ports in [1, 20] {
            for held in values(rows, "held") {
                let cell = |choice, command| {
                    time(rows.find("autoport", &situation(held, ports, stack, choice, command)))
                };
                table.row([
                    number(held as f64),
                    ports.to_string(),
                    stack.to_owned(),
                    cell("static", "ADD"),
                    cell("dynamic", "ADD"),
                    cell("dynamic", "DEL"),
                ]);
            }
        }
    }
    table.text()
}

fn wide(rows: &Rows) -> String {
    let mut table =
        Table::new(["ports", "plugin", "ADD", "CHECK", "DEL", "CPU of ADD", "peak memory of ADD"]);
    for ports in values(rows, "ports").into_iter().filter(|ports| *ports > 20) {
        for plugin in Plugin::ALL.map(Plugin::id) {
            let find = |command| rows.find(plugin, &situation(0, ports, "v4", "static", command));
            let Some(add) = find("ADD") else { continue };
            table.row([
                number(ports as f64),
                plugin.to_owned(),
                time(Some(add)),
                time(find("CHECK")),
                time(find("DEL")),
                ms(median(add.sample("cpu_us"))),
                mib(add),
            ]);
        }
    }
    table.text()
}

fn mib(row: &Row) -> String {
    row.number("peak_kib").map_or("–".to_owned(), |kib| format!("{:.1}", kib / 1024.0))
}

fn total(row: &Row) -> String {
    let calls = row.facts.get("calls").and_then(Value::as_object);
    let total = calls.map(|calls| calls.values().filter_map(Value::as_u64).sum::<u64>());
    total.map_or("–".to_owned(), |total| number(total as f64))
}

fn uses(rows: &Rows) -> String {
    let mut table =
        Table::new(["plugin", "command", "CPU ms", "peak memory MiB", "children", "system calls"]);
    for (command, _, _) in COMMANDS {
        for plugin in Plugin::ALL.map(Plugin::id) {
            let key = situation(0, 1, "v4", "static", command);
            let Some(row) = rows.find(plugin, &key).filter(|row| !row.samples.is_empty()) else {
                continue;
            };
            table.row([
                plugin.to_owned(),
                command.to_owned(),
                ms(median(row.sample("cpu_us"))),
                mib(row),
                row.number("children").map_or("–".to_owned(), |count| count.to_string()),
                total(row),
            ]);
        }
    }
    if let Some(row) = rows.find("floor", &situation(0, 1, "v4", "static", "run")) {
        let cpu = ms(median(row.sample("cpu_us")));
        table.row(["empty program", "", &cpu, &mib(row), "0", &total(row)]);
    }
    table.text()
}

/// How often each system call is made, by command.
fn calls(rows: &Rows) -> String {
    let columns =
        [("floor", "run"), ("autoport", "ADD"), ("autoport", "CHECK"), ("autoport", "DEL")];
    let mut by_name: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for (at, (plugin, command)) in columns.into_iter().enumerate() {
        let row = rows.find(plugin, &situation(0, 1, "v4", "static", command));
        let calls = row.and_then(|row| row.facts.get("calls")).and_then(Value::as_object);
        for (name, count) in calls.into_iter().flatten() {
            by_name.entry(name).or_default()[at] = count.as_u64().unwrap_or_default();
        }
    }
    let mut table = Table::new(["system call", "empty program", "ADD", "CHECK", "DEL"]);
    for (name, counts) in &by_name {
        let cells = counts.map(|count| if count == 0 { String::new() } else { count.to_string() });
        table.row([(*name).to_owned()].into_iter().chain(cells));
    }
    let sums = [0, 1, 2, 3].map(|at| by_name.values().map(|counts| counts[at]).sum::<u64>());
    table.row(["all".to_owned()].into_iter().chain(sums.map(|sum| sum.to_string())));
    table.text()
}

fn flatness(rows: &Rows) -> String {
    let mut table = Table::new(["held", "ADD", "CHECK", "DEL", "ADD against an empty node"]);
    let find = |held: u64, command: &str| {
        rows.find("autoport", &[("held", json!(held)), ("command", json!(command))])
    };
    let middle = |held| find(held, "ADD").map_or(f64::NAN, |row| median(row.sample("wall_us")));
    for held in values(rows, "held") {
        table.row([
            number(held as f64),
            time(find(held, "ADD")),
            time(find(held, "CHECK")),
            time(find(held, "DEL")),
            format!("{}x", number(middle(held) / middle(0))),
        ]);
    }
    table.text()
}
