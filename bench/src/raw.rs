//! Raw figures: one JSON object per line, one file per kind of measurement.
//!
//! `{"bench":"control","plugin":"autoport","params":{"held":0,"command":"ADD"},
//!   "samples":{"wall_us":[812.4,…]},"facts":{"children":0}}`
//!
//! Everything in `docs/performance.md` is made of these lines, and of nothing else.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was measured of one plugin in one situation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// `control`, `storm`, `datapath`, `machine`, …; also the name of the file.
    pub(crate) bench: String,
    /// The identifier of [`crate::plugins::Plugin`], or `floor`, `direct`, ….
    pub(crate) plugin: String,
    /// The situation: numbers and words.
    pub(crate) params: BTreeMap<String, Value>,
    /// What was repeated, one number per run in the order of the runs; the unit is the name's end.
    #[serde(default)]
    pub(crate) samples: BTreeMap<String, Vec<f64>>,
    /// What was found out once.
    #[serde(default)]
    pub(crate) facts: BTreeMap<String, Value>,
}

impl Row {
    pub(crate) fn new(bench: &str, plugin: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            plugin: plugin.to_owned(),
            params: BTreeMap::new(),
            samples: BTreeMap::new(),
            facts: BTreeMap::new(),
        }
    }

    pub(crate) fn param(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn samples(mut self, name: &str, values: Vec<f64>) -> Self {
        self.samples.insert(name.to_owned(), values);
        self
    }

    /// Whether this is the situation: every parameter named here has this value.
    pub(crate) fn is(&self, plugin: &str, params: &[(&str, Value)]) -> bool {
        self.plugin == plugin
            && params.iter().all(|(name, value)| self.params.get(*name) == Some(value))
    }

    pub(crate) fn sample(&self, name: &str) -> &[f64] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn number(&self, fact: &str) -> Option<f64> {
        self.facts.get(fact)?.as_f64()
    }
}

/// The folder with the raw figures.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    dir: PathBuf,
}

impl Raw {
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, bench: &str) -> PathBuf {
        self.dir.join(format!("{bench}.jsonl"))
    }

    /// Forgets the figures of an earlier run.
    pub(crate) fn begin(&self, bench: &str) {
        fs::create_dir_all(&self.dir).expect("the folder of the raw figures can be made");
        fs::write(self.path(bench), "").expect("the raw figures can be written");
    }

    /// Appends one row to its file at once, so that an interrupted run leaves what it found.
    pub(crate) fn put(&self, row: &Row) {
        let mut line = serde_json::to_vec(row).expect("a row is JSON");
        line.push(b'\n');
        let file = OpenOptions::new().create(true).append(true).open(self.path(&row.bench));
        let written = file.and_then(|mut file| file.write_all(&line));
        written.expect("the raw figures can be written");
    }

    /// Puts a row in the place of those of the same plugin.
    pub(crate) fn replace(&self, row: &Row) {
        let others: Vec<Row> =
            self.rows(&row.bench).into_iter().filter(|other| other.plugin != row.plugin).collect();
        self.begin(&row.bench);
        for row in others.iter().chain([row]) {
            self.put(row);
        }
    }

    /// Reads the rows of one file; none if it was never measured.
    pub(crate) fn rows(&self, bench: &str) -> Vec<Row> {
        let text = fs::read_to_string(self.path(bench)).unwrap_or_default();
        let row = |line: &str| serde_json::from_str(line).expect("a line of raw figures is a row");
        text.lines().map(row).collect()
    }
}
