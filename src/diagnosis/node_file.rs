//! The node's own file, whose keys win over those of every network.

use super::{Facts, Finding};
use crate::cni::{Config, NODE_FILE};

pub(super) fn findings(facts: &Facts) -> Result<Vec<Finding>, Finding> {
    const CHECK: &str = "node file";
    let dir = facts.state_dir.display();
    let instead = format!("(the checks below use the defaults instead, and the records in {dir})");
    let bytes = facts.node_file.or(
        || Finding::unseen(CHECK, format!("{NODE_FILE} {instead}")),
        |why| {
            let text = format!("cannot read {NODE_FILE}: {why} {instead}");
            let remedy = "make it a readable file, or remove it; every ADD with host ports fails";
            Finding::failed(CHECK, text, remedy)
        },
    )?;
    let Some(bytes) = bytes else { return Ok(Vec::new()) };
    Ok(match Config::read(None, Some(bytes)) {
        Ok((_, warnings)) if warnings.is_empty() => {
            let text = format!("{NODE_FILE} is valid; its keys override those of every network");
            vec![Finding::ok(CHECK, text)]
        }
        Ok((_, warnings)) => {
            let text = |warning| format!("{NODE_FILE}: {warning}");
            let warned =
                |warning| Finding::warning(CHECK, text(warning), "remove the key, or correct it");
            warnings.into_iter().map(warned).collect()
        }
        Err(error) => vec![Finding::failed(
            CHECK,
            format!("{} {instead}", error.in_one_line()),
            "correct it, or remove it; every ADD with host ports fails",
        )],
    })
}

/// The file, where ADD would take it.
pub(super) fn valid(facts: &Facts) -> Option<&[u8]> {
    let bytes = facts.node_file.known()?.as_deref()?;
    Config::read(None, Some(bytes)).is_ok().then_some(bytes)
}
