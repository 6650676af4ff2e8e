//! `autoport doctor`.

use std::io;

use autoport::cni::NodeFiles;
use autoport::diagnosis::{self, Facts, Finding, State, counted};
use autoport::store::Store;
use serde::Serialize;

use super::arguments::Runtime;
use super::output::{Answer, BAD, DOUBTFUL, GOOD, Screen, Style};

pub(super) fn run(asked: &Runtime, store: &Store, node_files: NodeFiles) -> Report {
    let plugin = asked.bin_dir.join("autoport");
    let facts = Facts::gather(asked.networks.conf_dir.clone(), plugin, store, node_files);
    let followed = diagnosis::follow(&facts, store);
    let findings = diagnosis::findings(&facts, &followed);
    let number = |state| findings.iter().filter(|finding| finding.state == state).count();
    let [failed, warnings, unseen] = [State::Failed, State::Warning, State::Unseen].map(number);
    Report { findings, failed, warnings, unseen }
}

#[derive(Serialize)]
pub(super) struct Report {
    findings: Vec<Finding>,
    failed: usize,
    warnings: usize,
    unseen: usize,
}

/// As wide as the longest of them, and two.
const WIDTHS: [usize; 2] = [10, 14];

impl Answer for Report {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        for finding in &self.findings {
            out.finding(shown(finding.state), WIDTHS, finding)?;
        }
        let Self { failed, unseen, .. } = self;
        writeln!(out, "{failed} failed, {}, {unseen} not seen", counted(self.warnings, "warning"))
    }

    fn is_well(&self) -> bool {
        self.failed == 0
    }
}

const fn shown(state: State) -> (&'static str, Style) {
    match state {
        State::Ok => ("ok", GOOD),
        State::Unseen => ("not seen", DOUBTFUL),
        State::Warning => ("warning", DOUBTFUL),
        State::Failed => ("failed", BAD),
    }
}
