//! The list of attachments that GC is to leave alone.

use std::collections::BTreeSet;

use super::error::Error;
use super::json::{Field, Object};
use super::judge::Judge;
use crate::model::Attachment;

/// The specification's key, and the one libcni sent before it and still sends beside it.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Reads both keys; what either names is valid. `None` means that nothing was said: neither key is
/// there, or one cannot be read. GC removes what is not on the list, so a list that was not
/// understood must never pass for an empty one.
pub(super) fn valid_attachments(
    conf: &Object<'_>,
    network: &str,
    judge: &mut Judge,
) -> Result<Option<BTreeSet<Attachment>>, Error> {
    if !KEYS.iter().any(|key| conf.mentions(key)) {
        return Ok(None);
    }
    let mut valid = BTreeSet::new();
    for list in KEYS.iter().filter_map(|key| conf.get(key)) {
        let read = read_list(&list, network, &mut judge.warnings);
        match judge.weigh(read)? {
            Some(attachments) => valid.extend(attachments),
            None => return Ok(None),
        }
    }
    Ok(Some(valid))
}

fn read_list(
    list: &Field<'_>,
    network: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<Attachment>, Error> {
    let mut attachments = Vec::new();
    for entry in list.list()? {
        let object = entry.object()?;
        let part = |key| object.get_any_case(key).map_or(Ok(String::new()), |part| part.string());
        match Attachment::new(network, &part("containerID")?, &part("ifname")?) {
            Ok(attachment) => attachments.push(attachment),
            // No record can have such a name, so there is nothing to keep.
            Err(problem) => warnings.push(format!("ignored: {}: {problem}", entry.path())),
        }
    }
    Ok(attachments)
}

#[cfg(test)]
mod tests;
