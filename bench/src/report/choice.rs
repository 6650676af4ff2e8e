//! The table of what a choice costs where hardly anything is free.

use serde_json::json;

use super::control::{time, values};
use super::table::{Table, number};
use super::{Report, Rows};
use crate::raw::Raw;

const RANGES: [(&str, &str); 4] = [
    ("free", "all free"),
    ("released", "all given back in the present period"),
    ("released-before", "all given back in the period before"),
    ("held", "9,990 held by others"),
];

pub(super) fn add(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, "choice");
    if rows.is_empty() {
        return;
    }
    let mut table = Table::new(["of 10,000 numbers", "ports", "ADD", "system calls"]);
    for (range, name) in RANGES {
        for ports in values(&rows, "ports") {
            let key = [("range", json!(range)), ("ports", json!(ports))];
            let Some(row) = rows.find("autoport", &key) else { continue };
            let calls = row.number("calls").map_or("–".to_owned(), number);
            table.row([name.to_owned(), ports.to_string(), time(Some(row)), calls]);
        }
    }
    report.blocks.insert("choice", table.text());
}
