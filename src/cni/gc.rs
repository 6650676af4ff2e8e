//! The list of attachments that GC is to leave alone.

use std::collections::BTreeSet;

use super::config::Judge;
use super::error::Error;
use super::json::{Field, Object};
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
mod tests {
    use super::*;

    /// The container IDs on the list, and the number of warnings.
    fn read(text: &str) -> (Option<Vec<String>>, usize) {
        let object = Object::decode("a test", "", text.as_bytes()).expect("an object");
        let mut judge = Judge::lenient();
        let valid = valid_attachments(&object, "net", &mut judge).expect("GC does not fail");
        let names = |valid: BTreeSet<Attachment>| {
            valid.iter().map(|one| format!("{}/{}", one.container_id(), one.ifname())).collect()
        };
        (valid.map(names), judge.warnings.len())
    }

    #[test]
    fn absent_empty_and_unreadable_are_three_things() {
        assert_eq!(read("{}"), (None, 0));
        for empty in [
            r#"{"cni.dev/valid-attachments":null}"#,
            r#"{"cni.dev/attachments":[]}"#,
            r#"{"cni.dev/valid-attachments":[],"cni.dev/attachments":null}"#,
        ] {
            assert_eq!(read(empty), (Some(vec![]), 0), "{empty}");
        }
        for unreadable in [
            r#"{"cni.dev/valid-attachments":"all"}"#,
            r#"{"cni.dev/valid-attachments":[],"cni.dev/attachments":{}}"#,
            r#"{"cni.dev/valid-attachments":["a"]}"#,
            r#"{"cni.dev/valid-attachments":[{"containerID":5,"ifname":"eth0"}]}"#,
        ] {
            assert_eq!(read(unreadable), (None, 1), "{unreadable}");
        }
    }

    #[test]
    fn both_keys_are_united() {
        let text = r#"{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],
                       "cni.dev/attachments":[{"ContainerID":"b","IfName":"net1"},
                                              {"containerID":"a","ifname":"eth0"}]}"#;
        assert_eq!(read(text), (Some(vec!["a/eth0".into(), "b/net1".into()]), 0));
    }

    #[test]
    fn names_that_nothing_can_have_are_passed_over() {
        let text = r#"{"cni.dev/valid-attachments":[{"containerID":"../a","ifname":"eth0"},
                       {"containerID":"a"},{"containerID":"b","ifname":"eth0"}]}"#;
        assert_eq!(read(text), (Some(vec!["b/eth0".into()]), 2));
    }
}
