//! `autoport doctor`.

use std::io::{self, Write as _};

use autoport::diagnosis::{self, Facts, Finding, Places, State, counted};
use serde::Serialize;

use super::arguments::Doctor;
use super::output::{Answer, Screen, Text, Tone};
use super::{Failure, Node, Verdict};

pub(super) fn run(
    asked: &Doctor,
    node: &Node,
    node_file: io::Result<Option<Vec<u8>>>,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    let places = Places { conf_dir: asked.conf_dir.clone(), bin_dir: asked.bin_dir.clone() };
    let facts = Facts::gather(places, &node.store, node.patience, node_file);
    let report = Report::of(diagnosis::findings(&facts));
    screen.show(&report)?;
    Ok(if report.failed == 0 { Verdict::Well } else { Verdict::Unwell })
}

#[derive(Serialize)]
struct Report {
    findings: Vec<Finding>,
    failed: usize,
    warnings: usize,
    unseen: usize,
}

impl Report {
    fn of(findings: Vec<Finding>) -> Self {
        let number = |state| findings.iter().filter(|finding| finding.state == state).count();
        let [failed, warnings, unseen] = [State::Failed, State::Warning, State::Unseen].map(number);
        Self { findings, failed, warnings, unseen }
    }
}

/// As wide as the longest of them, and two.
const STATE: usize = 10;
const CHECK: usize = 14;

impl Answer for Report {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        for Finding { check, state, text, remedy } in &self.findings {
            out.paint(tone(*state), &format!("{state:STATE$}"))?;
            writeln!(out, "{check:CHECK$}{text}")?;
            if let Some(remedy) = remedy {
                writeln!(out, "{:1$}-> {remedy}", "", STATE + CHECK)?;
            }
        }
        writeln!(
            out,
            "{} failed, {}, {} not seen",
            self.failed,
            counted(self.warnings, "warning"),
            self.unseen
        )
    }
}

const fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::Warning | State::Unseen => Tone::Doubtful,
        State::Failed => Tone::Bad,
    }
}
