//! The node's own file, whose keys win over those of every network.

use super::facts::Unseen;
use super::{Facts, Report};
use crate::cni::{Config, NODE_FILE};

pub(super) fn judge(facts: &Facts, report: &mut Report) {
    report.check("node file");
    let dir = facts.state_dir.display();
    let instead = format!("(the checks below use the defaults instead, and the records in {dir})");
    let bytes = match &facts.node_file {
        Ok(None) => return,
        Ok(Some(bytes)) => bytes,
        Err(Unseen::Hidden) => return report.unseen(format!("{NODE_FILE} {instead}")),
        Err(Unseen::Failed(why)) => {
            return report.failed(
                format!("cannot read {NODE_FILE}: {why} {instead}"),
                "make it a readable file, or remove it; every ADD with host ports fails",
            );
        }
    };
    match Config::read(None, Some(bytes)) {
        Ok((_, warnings)) => {
            for warning in warnings {
                report.warning(format!("{NODE_FILE}: {warning}"), "remove the key, or correct it");
            }
            report.or_ok(format!("{NODE_FILE} is valid; its keys override those of every network"));
        }
        Err(error) => report.failed(
            format!("{} {instead}", error.in_one_line()),
            "correct it, or remove it; every ADD with host ports fails",
        ),
    }
}

/// The file, where ADD would take it.
pub(super) fn valid(facts: &Facts) -> Option<&[u8]> {
    let bytes = facts.node_file.as_ref().ok()?.as_deref()?;
    Config::read(None, Some(bytes)).is_ok().then_some(bytes)
}
