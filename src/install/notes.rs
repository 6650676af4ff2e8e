//! What an installation remembers of a list: the keys that an operator has set in autoport's object, which survive
//! when the main plugin writes its configuration without autoport, and how often that has happened.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::conflist::{self, Edited};
use super::contest::Contest;
use super::text::Value;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notes {
    keys: Keys,
    pub(super) contest: Contest,
}

/// Autoport's object as an installation made it, and as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Keys {
    /// Empty where an operator had put it there.
    made: Map<String, Json>,
    seen: Map<String, Json>,
}

impl Notes {
    pub(super) fn of(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// What is to be remembered after the list was `edited`. Puts what the operator had set into autoport's object
    /// there, if it is new.
    pub(super) fn next(mut self, edited: &mut Edited, now: u64) -> Self {
        let made = edited.how.map(|_| edited.text.clone());
        if made.is_some()
            && let Some((text, names)) = self.keys.kept(&edited.text)
            && conflist::types(&text) == conflist::types(&edited.text)
        {
            edited.remarks.push(format!("as in autoport's entry before: {}", names.join(", ")));
            edited.text = text;
        }
        let is_out = made.is_some() && !self.keys.seen.is_empty();
        if is_out {
            edited.remarks.push("another program had written it without autoport".to_owned());
        }
        self.contest.look(is_out, now);
        Self { keys: self.keys.next(made.as_deref(), &edited.text), ..self }
    }

    pub(super) fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

impl Keys {
    /// The text with autoport's object as it is made now, and what the operator had set, changed or removed in the
    /// last one; with the names of these keys. `None` where there are none.
    fn kept(&self, text: &str) -> Option<(String, Vec<String>)> {
        let object = conflist::object(text)?;
        let mut rest = object.members()?;
        let removed: Vec<_> =
            self.made.keys().filter(|key| !self.seen.contains_key(*key)).collect();
        rest.retain(|member| !removed.contains(&&member.key));
        let set = self.seen.iter().filter(|(key, value)| self.made.get(*key) != Some(value));
        let set: Vec<_> = set.map(|(key, value)| (key.as_str(), value.to_string())).collect();
        let names = removed.into_iter().map(String::as_str).chain(set.iter().map(|(key, _)| *key));
        let names: Vec<String> = names.map(str::to_owned).collect();
        let text = object.replaced(&object.with_members(rest, &set));
        (!names.is_empty()).then_some((text, names))
    }

    /// What is to be remembered of a list that has autoport, and how it was `made` if that was now.
    fn next(self, made: Option<&str>, seen: &str) -> Self {
        Self { made: made.map_or(self.made, members), seen: members(seen) }
    }
}

/// Those of autoport's object in a list.
fn members(text: &str) -> Map<String, Json> {
    let object = conflist::object(text).map(Value::raw);
    object.and_then(|object| serde_json::from_str(object).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(plugins: &str) -> String {
        format!("{{\"name\": \"a\", \"plugins\": [{{\"type\": \"bridge\"}}{plugins}]}}")
    }

    /// Autoport's object, and the names of the kept keys, after the main plugin has written the list `now`.
    fn again(before: Option<&str>, seen: &str, now: &str) -> (Json, Vec<String>) {
        let made = |text: &str| conflist::with_autoport(&list(text)).expect("a list").text;
        let first = before.map(made);
        let keys = Keys::default().next(first.as_deref(), &list(seen));
        let made = made(now);
        let (text, names) = keys.kept(&made).unwrap_or_default();
        let text = if names.is_empty() { made } else { text };
        let list: Json = serde_json::from_str(&text).expect("JSON");
        (list["plugins"][1].clone(), names)
    }

    const PORTMAP: &str =
        r#", {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}"#;

    const ENTRY: &str = r#", {"type": "autoport", "snat": true,
        "capabilities": {"portMappings": true, "io.kubernetes.cri.pod-annotations": true}"#;

    #[test]
    fn what_the_operator_set_is_kept_and_what_the_main_plugin_set_follows_it() {
        let seen = format!(r#"{ENTRY}, "allowedNamespaces": ["games"], "minPort": 1024}}"#);
        let changed = PORTMAP.replace("\"snat\": true", "\"snat\": false, \"markMasqBit\": 3");
        let (entry, names) = again(Some(PORTMAP), &seen, &changed);
        assert_eq!(entry["allowedNamespaces"], serde_json::json!(["games"]));
        assert_eq!((&entry["minPort"], &entry["snat"]), (&1024.into(), &false.into()));
        assert_eq!((&entry["markMasqBit"], &entry["type"]), (&3.into(), &"autoport".into()));
        assert_eq!(names, ["allowedNamespaces", "minPort"]);
    }

    #[test]
    fn a_change_and_a_removal_of_the_operator_are_kept_too() {
        let seen = ENTRY.replace("\"snat\": true,", "\"snat\": false,") + "}";
        assert_eq!(again(Some(PORTMAP), &seen, PORTMAP).0["snat"], false);
        let seen = ENTRY.replace("\"snat\": true,", "") + "}";
        let (entry, names) = again(Some(PORTMAP), &seen, PORTMAP);
        assert_eq!((entry.get("snat"), names), (None, vec!["snat".to_owned()]));
    }

    #[test]
    fn an_entry_without_changes_has_no_part_in_the_next() {
        let seen = format!("{ENTRY}}}");
        assert_eq!(again(Some(PORTMAP), &seen, PORTMAP).1, [""; 0]);
        assert_eq!(again(Some(PORTMAP), &seen, "").0.get("snat"), None);
    }

    #[test]
    fn an_entry_that_the_operator_put_there_is_kept_as_a_whole() {
        let seen = format!("{ENTRY}, \"minPort\": 1024}}");
        let (entry, _) = again(None, &seen, "");
        assert_eq!((&entry["minPort"], &entry["snat"]), (&1024.into(), &true.into()));
    }
}
