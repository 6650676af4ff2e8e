//! The tables of the storms.

use serde_json::json;

use super::control::values;
use super::table::{Table, ms, number};
use super::{Report, Rows};
use crate::plugins::Plugin;
use crate::raw::Raw;
use crate::stats::{median, p99};

pub(super) fn add(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, "storm");
    if !rows.is_empty() {
        report.blocks.insert("storm", storms(&rows));
    }
    let rows = Rows::of(raw, "lock");
    if !rows.is_empty() {
        report.blocks.insert("lock", lock(&rows));
    }
}

fn storms(rows: &Rows) -> String {
    let head = [
        "at once",
        "held",
        "command",
        "plugin",
        "all done ms",
        "one call, median",
        "slowest",
        "lost",
    ];
    let mut table = Table::new(head);
    for size in values(rows, "size") {
        for held in values(rows, "held") {
            for command in ["ADD", "DEL"] {
                for plugin in Plugin::ALL.map(Plugin::id) {
                    let key =
                        [("size", json!(size)), ("held", json!(held)), ("command", json!(command))];
                    let Some(row) = rows.find(plugin, &key) else { continue };
                    let (wall, calls) = (row.sample("wall_us"), row.sample("call_us"));
                    table.row([
                        size.to_string(),
                        number(held as f64),
                        command.to_owned(),
                        plugin.to_owned(),
                        ms(median(wall)),
                        ms(median(calls)),
                        ms(calls.iter().copied().fold(f64::NAN, f64::max)),
                        row.number("lost").map_or("–".to_owned(), number_of),
                    ]);
                }
            }
        }
    }
    table.text()
}

fn number_of(count: f64) -> String {
    (count as u64).to_string()
}

fn lock(rows: &Rows) -> String {
    let head = ["at once", "held", "command", "held ms, median / p99", "waited ms, median / p99"];
    let mut table = Table::new(head);
    for row in rows.iter() {
        let pair = |name| {
            let sample = row.sample(name);
            format!("{} / {}", ms(median(sample)), ms(p99(sample)))
        };
        let param = |name: &str| row.params.get(name).and_then(serde_json::Value::as_f64);
        table.row([
            number_of(param("size").unwrap_or_default()),
            number(param("held").unwrap_or_default()),
            row.params.get("command").and_then(|it| it.as_str()).unwrap_or_default().to_owned(),
            pair("held_us"),
            pair("waited_us"),
        ]);
    }
    table.text()
}
