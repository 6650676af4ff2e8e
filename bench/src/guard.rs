//! `make bench-check`: what can be counted, and is the same every time, against the figures that are
//! checked in. Times are not.
//!
//! Two things: the instructions of the parts of an ADD that are values in, values out, by callgrind;
//! and the system calls of ADD, CHECK and DEL by kind, by strace. Compilers differ a little in the
//! first. The second is exact, and what one call more or fewer is for should be known:
//! docs/performance.md has each.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::fill::fill;
use crate::measure::{Call, TICK, fix_addresses};
use crate::node::{Node, sysctl};
use crate::plugins::{Choice, Executables, NUMBER, Plugin, Pod, ports};

/// How far instructions may be from the figure, in percent.
const TOLERANCE: u64 = 5;

const PARTS: [&str; 4] = ["parse", "choose", "plan", "encode"];
const COUNTS: [u16; 4] = [1, 20, 1_000, 10_000];

/// Figures with the same columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    columns: Vec<String>,
    rows: BTreeMap<String, Vec<u64>>,
}

impl Table {
    fn add(&mut self, column: String, figures: &BTreeMap<String, u64>) {
        let before = self.columns.len();
        self.columns.push(column);
        for (row, figure) in figures {
            self.rows.entry(row.clone()).or_insert_with(|| vec![0; before]).push(*figure);
        }
        for figures in self.rows.values_mut() {
            figures.resize(before + 1, 0);
        }
    }

    fn figure(&self, row: &str, column: &str) -> Option<u64> {
        let at = self.columns.iter().position(|known| known == column)?;
        Some(self.rows.get(row).map_or(0, |figures| figures[at]))
    }
}

/// All tables by their titles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Figures(BTreeMap<String, Table>);

const INSTRUCTIONS: &str = "instructions";

impl Figures {
    /// Reads what [`fmt::Display`] wrote.
    fn parse(text: &str) -> Self {
        let mut figures = Self::default();
        let mut title = String::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace().map(str::to_owned);
            let Some(first) = words.next() else { continue };
            if let Some(name) = first.strip_prefix('[') {
                name.trim_end_matches(']').clone_into(&mut title);
                continue;
            }
            let table = figures.0.entry(title.clone()).or_default();
            if table.columns.is_empty() {
                table.columns = words.collect();
                continue;
            }
            let numbers = words.map(|word| word.parse().expect("a number in the figures"));
            table.rows.insert(first, numbers.collect());
        }
        figures
    }

    /// What differs between the figures on record and these, a line each.
    fn differences(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (title, table) in &now.0 {
            let known = self.0.get(title).cloned().unwrap_or_default();
            for column in &table.columns {
                let rows = table.rows.keys().chain(known.rows.keys());
                let rows: std::collections::BTreeSet<_> = rows.collect();
                for row in rows {
                    let is = table.figure(row, column).unwrap_or_default();
                    let Some(was) = known.figure(row, column) else {
                        lines
                            .push(format!("{title} {column}: {row} is {is}, and is not on record"));
                        continue;
                    };
                    let slack = if title == INSTRUCTIONS { was * TOLERANCE / 100 } else { 0 };
                    if is.abs_diff(was) > slack {
                        let percent = (is as f64 - was as f64) / (was.max(1) as f64) * 100.0;
                        lines.push(format!(
                            "{title} {column}: {row} {was} -> {is} ({percent:+.0} %)"
                        ));
                    }
                }
            }
        }
        lines
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "# What make bench-check holds still; make bench-check ACCEPT=1 writes it.\n\
             # Instructions may be {TOLERANCE} % off, system calls not at all."
        )?;
        for (title, table) in &self.0 {
            writeln!(out, "\n[{title}]")?;
            let widths: Vec<_> = table.columns.iter().map(|name| name.len().max(8) + 2).collect();
            let head = if title == INSTRUCTIONS { "ports" } else { "ports/choice/held" };
            write!(out, "{head:18}")?;
            for (column, width) in table.columns.iter().zip(&widths) {
                write!(out, "{column:>width$}")?;
            }
            writeln!(out)?;
            for (row, figures) in &table.rows {
                write!(out, "{row:18}")?;
                for (figure, width) in figures.iter().zip(&widths) {
                    write!(out, "{figure:>width$}")?;
                }
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

/// Where the figures are.
fn path() -> PathBuf {
    Path::new("bench/figures").join(format!("{ARCH}.txt"))
}

/// Compares, or writes the figures anew; whether all is well.
pub(crate) fn run(executables: &Executables, accept: bool) -> bool {
    let path = path();
    let shown = path.display();
    let mut now = calls(executables);
    let known = Figures::parse(&fs::read_to_string(&path).unwrap_or_default());
    // The memory of what was released is kept in files of ten minutes each, and whoever is first in
    // one makes it.
    if !accept && !known.differences(&now).is_empty() {
        now = calls(executables);
    }
    now.0.insert(INSTRUCTIONS.to_owned(), instructions());
    if accept {
        fs::write(&path, now.to_string()).unwrap_or_else(|error| panic!("{shown}: {error}"));
        eprintln!("bench-check: wrote {shown}");
        return true;
    }
    let differences = known.differences(&now);
    if differences.is_empty() {
        let total: usize = now.0.values().map(|table| table.columns.len()).sum();
        eprintln!("bench-check: {total} columns of figures are as {shown} has them");
        return true;
    }
    for line in &differences {
        eprintln!("bench-check: {line}");
    }
    eprintln!(
        "bench-check: {} figures are not as {shown} has them. If that is wanted, \
         `make bench-check ACCEPT=1` writes them, and the commit says why",
        differences.len()
    );
    false
}

/// Counts the instructions of the pure parts.
fn instructions() -> Table {
    let pure = std::env::current_exe().expect("the path of this program").with_file_name("pure");
    let mut table = Table::default();
    for count in COUNTS {
        let mut column = BTreeMap::new();
        for part in PARTS {
            let output = Command::new("valgrind")
                .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
                .arg("--toggle-collect=*autoport_counted*")
                .arg(&pure)
                .args([part, &count.to_string()])
                .output()
                .expect("valgrind is installed; see integration/setup.sh test");
            let text = String::from_utf8_lossy(&output.stderr);
            let collected = text.lines().find_map(|line| line.split_once("Collected :"));
            let number = collected.and_then(|(_, number)| number.trim().parse().ok());
            let number = number.unwrap_or_else(|| panic!("callgrind did not count: {text}"));
            column.insert(part.to_owned(), number);
        }
        table.add(count.to_string(), &column);
    }
    table
}

/// Counts the system calls of the commands, on an empty node and on one with a thousand mappings.
fn calls(executables: &Executables) -> Figures {
    let mut figures = Figures::default();
    for held in [0, 1_000] {
        let node = Node::new();
        let trace = |command: &str, pod: &Pod| {
            let call = Call::cni(executables, Plugin::Autoport, command, pod);
            node.space.run(|| {
                fix_addresses();
                let mut calls = call.trace().calls;
                calls.insert("total".to_owned(), calls.values().sum());
                calls
            })
        };
        let mut put = |title: &str, column: String, pod: &Pod| {
            let calls = trace(title.trim_start_matches("first-"), pod);
            thread::sleep(TICK);
            figures.0.entry(title.to_owned()).or_default().add(column, &calls);
        };
        fill(executables, Plugin::Autoport, &node, false, 0, held);
        let mut number = NUMBER;
        let mut pod = |width, choice| {
            number += 1;
            Pod::numbered(number, false, ports(0, width)).choosing(choice)
        };
        if held == 0 {
            // It makes the store and the table, and sets route_localnet.
            let first = pod(1, Choice::Static);
            put("first-ADD", "1/static/0".to_owned(), &first);
            put("DEL", "after-first-ADD".to_owned(), &first);
        }
        for choice in [Choice::Static, Choice::Dynamic] {
            for ports in [1, 20] {
                let pod = pod(ports, choice);
                for command in ["ADD", "CHECK", "DEL"] {
                    put(command, format!("{ports}/{}/{held}", choice.id()), &pod);
                }
            }
        }
        // With a cable of its own for each pod, nobody has set it yet: the route is looked up.
        node.space.run(|| sysctl("net/ipv4/conf/cni0/route_localnet", "0"));
        put("ADD", format!("1/static+route/{held}"), &pod(1, Choice::Static));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(close: u64, parse: u64) -> Figures {
        let mut figures = Figures::default();
        let mut table = Table::default();
        let row = |name: &str, figure| BTreeMap::from([(name.to_owned(), figure)]);
        table.add("1/static/0".to_owned(), &row("openat", 3));
        table.add("20/static/0".to_owned(), &row("close", close));
        figures.0.insert("ADD".to_owned(), table);
        let mut table = Table::default();
        table.add("1".to_owned(), &row("parse", parse));
        figures.0.insert(INSTRUCTIONS.to_owned(), table);
        figures
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let figures = figures(7, 1_000);
        assert_eq!(Figures::parse(&figures.to_string()), figures, "{figures}");
        assert_eq!(figures.differences(&figures), [""; 0]);
    }

    #[test]
    fn calls_are_exact_and_instructions_are_not() {
        let known = figures(7, 1_000);
        assert_eq!(known.differences(&figures(7, 1_050)), [""; 0]);
        let lines = known.differences(&figures(8, 1_051));
        assert_eq!(
            lines,
            ["ADD 20/static/0: close 7 -> 8 (+14 %)", "instructions 1: parse 1000 -> 1051 (+5 %)",]
        );
    }

    #[test]
    fn what_is_new_or_gone_differs() {
        let known = figures(7, 1_000);
        let mut now = known.clone();
        let table = now.0.get_mut("ADD").expect("the table is there");
        table.rows.remove("openat");
        table.add("new/static/0".to_owned(), &BTreeMap::from([("close".to_owned(), 1)]));
        assert_eq!(
            known.differences(&now),
            [
                "ADD 1/static/0: openat 3 -> 0 (-100 %)",
                "ADD new/static/0: close is 1, and is not on record",
                "ADD new/static/0: openat is 0, and is not on record",
            ]
        );
    }
}
