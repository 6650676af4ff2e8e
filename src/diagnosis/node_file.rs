//! The node's own file, whose keys win over those of every network.

use super::{Facts, Finding, Seen};
use crate::cni::{self, NODE_FILE};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "node file";
    let dir = facts.state_dir.display();
    let instead = format!("(below, defaults stand in for it; the records are those in {dir})");
    let bytes = match &facts.node_file {
        Seen::Known(None) => return Vec::new(),
        Seen::Known(Some(bytes)) => bytes,
        Seen::Hidden => return vec![Finding::unseen(CHECK, format!("{NODE_FILE} {instead}"))],
        Seen::Failed(why) => {
            return vec![Finding::failed(
                CHECK,
                format!("cannot read {NODE_FILE}: {why} {instead}"),
                "make it a file that can be read, or remove it; every ADD with host ports fails",
            )];
        }
    };
    match cni::check_node_file(bytes) {
        Ok(warnings) if warnings.is_empty() => {
            let text = format!("{NODE_FILE} is understood; it wins over every network, key by key");
            vec![Finding::ok(CHECK, text)]
        }
        Ok(warnings) => {
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
    }
}

/// The file, where ADD would take it.
pub(super) fn valid(facts: &Facts) -> Option<&[u8]> {
    let bytes = facts.node_file.known()?.as_deref()?;
    cni::check_node_file(bytes).is_ok().then_some(bytes)
}
