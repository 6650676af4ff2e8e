use serde_json::json;

use super::*;

#[test]
fn yaml_is_what_kubectl_would_print() {
    let value = json!({
        "empty": [], "list": [{"a": 1, "b": {"c": null}}, [true, "no"], "x: y"],
        "of": {"path": "/run/autoport", "text": "it's\n\"so\"", "time": "2026-11-30T00:00:00Z"},
    });
    let mut out = Vec::new();
    write(&mut out, &value).expect("memory takes it");
    let expected = r#"
empty: []
list:
- a: 1
  b:
    c: null
- - true
  - "no"
- "x: y"
of:
  path: /run/autoport
  text: "it's\n\"so\""
  time: "2026-11-30T00:00:00Z"
"#;
    assert_eq!(String::from_utf8(out).expect("text"), expected.trim_start());
}
