//! Tables and pictures from the raw figures.
//!
//! `docs/performance.md` is written by hand but for what is between `<!-- bench:NAME -->` and
//! `<!-- /bench -->`: that is replaced by the block NAME. A block of a part that was not measured
//! stays as it is.

mod bars;
mod budget;
mod choice;
mod control;
mod datapath;
mod packets;
mod storm;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use table::Table;

use crate::Bench;
use crate::plot::Plot;
use crate::raw::{Raw, Row};

/// What the report is made of: blocks of text by name, and pictures by the name of their file.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) blocks: BTreeMap<&'static str, String>,
    pub(crate) plots: BTreeMap<&'static str, Plot>,
}

/// The rows of one kind of measurement.
pub(crate) struct Rows(Vec<Row>);

impl Rows {
    pub(crate) fn of(raw: &Raw, bench: &str) -> Self {
        Self(raw.rows(bench))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.0.iter()
    }

    /// The row of this plugin in the situation with these parameters.
    pub(crate) fn find(&self, plugin: &str, params: &[(&str, Value)]) -> Option<&Row> {
        self.0.iter().find(|row| row.is(plugin, params))
    }

    /// What was sampled in that situation, by each of the nodes that are alike.
    pub(crate) fn samples(
        &self,
        plugin: &str,
        params: &[(&str, Value)],
        name: &str,
    ) -> Vec<&[f64]> {
        let alike = self.0.iter().filter(|row| row.is(plugin, params));
        alike.map(|row| row.sample(name)).filter(|values| !values.is_empty()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) fn run(bench: &Bench, docs: &Path) {
    let mut report = Report::default();
    machine(&bench.raw, &mut report);
    control::add(&bench.raw, &mut report);
    choice::add(&bench.raw, &mut report);
    storm::add(&bench.raw, &mut report);
    datapath::add(&bench.raw, &mut report);
    packets::add(&bench.raw, &mut report);
    budget::add(&bench.raw, &mut report);
    bars::add(&bench.raw, &mut report);

    let path = docs.join("performance.md");
    let text = fs::read_to_string(&path).expect("docs/performance.md is in the repository");
    fs::write(&path, replaced(&text, &report.blocks)).expect("the report can be written");
    let folder = docs.join("img");
    fs::create_dir_all(&folder).expect("the folder of the pictures can be made");
    for (name, plot) in &report.plots {
        fs::write(folder.join(name), plot.svg()).expect("a picture can be written");
    }
}

/// The text with every block replaced that there is.
fn replaced(text: &str, blocks: &BTreeMap<&'static str, String>) -> String {
    const BEGIN: &str = "<!-- bench:";
    const END: &str = "<!-- /bench -->";
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(at);
        let (head, block) = block.split_once(" -->").expect("the head of a block ends");
        let (old, after) = block.split_once(END).expect("every block ends");
        let new = blocks.get(head.trim_start_matches(BEGIN));
        let new = new.map_or_else(|| old.to_owned(), |text| format!("\n{}\n", text.trim_end()));
        result.extend([before, head, " -->", &new, END]);
        rest = after;
    }
    result.push_str(rest);
    result
}

fn machine(raw: &Raw, report: &mut Report) {
    let rows = Rows::of(raw, "machine");
    let Some(row) = rows.find("", &[]) else { return };
    let fact = |name: &str| match row.facts.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "unknown".to_owned(),
    };
    let mut text = format!(
        "{} CPUs ({}), {} MiB of memory, Linux {}; {}, {}.\n\n",
        fact("cpus"),
        fact("cpu"),
        fact("memory_mib"),
        fact("kernel"),
        fact("nft"),
        fact("iptables"),
    );
    let mut table = Table::new(["part", "began", "load then", "took", "dist/autoport (sha256)"]);
    for row in Rows::of(raw, "parts").iter() {
        let fact = |name: &str| row.facts.get(name).and_then(Value::as_str).unwrap_or_default();
        let took = format!("{} s", row.number("seconds").unwrap_or_default());
        let sum = fact("sha256").get(..12).unwrap_or_default();
        table.row([&*row.plugin, fact("began"), fact("load"), &took, sum]);
    }
    text.push_str(&table.text());
    report.blocks.insert("machine", text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_is_replaced() {
        let text = "a\n<!-- bench:x -->\nold\n<!-- /bench -->\nb\n<!-- bench:y -->\nkept\n<!-- /bench -->\nc";
        let blocks = BTreeMap::from([("x", "new\n".to_owned())]);
        let expected = text.replace("old", "new");
        assert_eq!(replaced(text, &blocks), expected);
        assert_eq!(replaced(&expected, &blocks), expected);
    }
}
