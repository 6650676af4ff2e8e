//! The node's own files, whose keys win over those of every network.

use super::facts::{Seen, Unseen};
use super::{Facts, Report};
use crate::cni::{Config, NodeFile, NodeFiles};

pub(super) fn judge(facts: &Facts, report: &mut Report) {
    let dir = facts.state_dir.display();
    let instead = format!("(the checks below ignore it, and the records in {dir} are read)");
    for file in &facts.node_files.0 {
        report.check("node file");
        let path = file.path.display();
        match warnings(file) {
            Ok(warnings) => {
                for warning in warnings {
                    report.warning(format!("{path}: {warning}"), "remove the key, or correct it");
                }
                report.or_ok(format!("{path} is valid; its keys override those of every network"));
            }
            Err(Unseen::Hidden) => report.unseen(format!("{path} {instead}")),
            Err(Unseen::Failed(why)) => report.failed(
                format!("{why} {instead}"),
                "correct it, or remove it; every ADD with host ports fails",
            ),
        }
    }
}

fn warnings(file: &NodeFile) -> Seen<Vec<String>> {
    Ok(Config::read(None, &NodeFiles(vec![file.clone()]))?.1)
}

/// The files that ADD would take.
pub(super) fn valid(facts: &Facts) -> NodeFiles {
    let files = facts.node_files.0.iter();
    NodeFiles(files.filter(|file| warnings(file).is_ok()).cloned().collect())
}
