//! What the operator's commands say where they cannot see the records.

use std::fs;

use super::verdict::Scene;
use crate::stage::operator::under;
use crate::stage::view::STATE;

/// A container on the node's network sees the table, but not the records.
#[test]
fn where_the_records_are_not_seen_nothing_is_shown_as_empty() {
    let _scene = Scene::new(&[]);
    fs::rename(STATE, "/run/elsewhere").expect("the store can be moved");
    let nobody = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    for command in [&["list"][..], &["gc"], &["show", "web"], &["env", "web"]] {
        for (under_what, word) in
            [(&[][..], "table inet autoport exists"), (&nobody, "could not be determined")]
        {
            for format in ["table", "json"] {
                let arguments = [command, &["-o", format]].concat();
                let (status, stdout, stderr) = under(under_what, &arguments);
                assert_eq!(status.code(), Some(1), "{arguments:?}: {stdout}{stderr}");
                assert!(
                    stdout.is_empty() && stderr.contains(word),
                    "{arguments:?}: {stdout}{stderr}"
                );
                assert!(stderr.contains("run it as root on the node"), "{stderr}");
            }
        }
    }
    let (_, stdout, _) = under(&nobody, &["doctor"]);
    assert!(stdout.contains("not seen  records"), "{stdout}");
}
