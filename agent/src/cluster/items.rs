//! The objects of a list, found in the text of an answer as it comes. All of them together could be larger than what
//! a container may have: the author of each Pod has some megabytes.

use serde::Deserialize;

/// No object is longer: the API server takes three megabytes at most.
const LONGEST: usize = 8 << 20;

/// What is around the objects is a version and little else.
const FRAME: usize = 64 << 10;

/// An answer, as far as it has come.
#[derive(Default)]
pub(super) struct Items {
    /// The answer without the objects.
    frame: Vec<u8>,
    /// The object that has begun.
    item: Vec<u8>,
    depth: usize,
    /// Whether the value below the outermost object is a list.
    in_list: bool,
    in_string: bool,
    is_escaped: bool,
}

#[derive(Deserialize)]
struct Frame {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

impl Items {
    /// Takes the next bytes, and tells `each` of the objects that end in them.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        for byte in bytes {
            let before = self.depth;
            self.step(*byte)?;
            let inner = before.max(self.depth);
            if !self.in_list || inner < 2 || before != self.depth && inner == 2 {
                self.frame.push(*byte);
            } else if inner > 2 {
                self.item.push(*byte);
            }
            if self.in_list && inner == 3 && self.depth == 2 {
                each(&self.item)?;
                self.item.clear();
            }
            if self.item.len() > LONGEST || self.frame.len() > FRAME {
                return Err("the answer is too large".to_owned());
            }
        }
        Ok(())
    }

    /// The version of the list, once all of it was read.
    pub(super) fn version(self) -> Result<String, String> {
        let frame = serde_json::from_slice::<Frame>(&self.frame);
        let frame = frame.map_err(|error| format!("the answer is not a list: {error}"))?;
        Ok(frame.metadata.resource_version)
    }

    fn step(&mut self, byte: u8) -> Result<(), String> {
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return Ok(());
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                if self.depth == 1 {
                    self.in_list = byte == b'[';
                }
                self.depth += 1;
            }
            b'}' | b']' => {
                let outer = self.depth.checked_sub(1);
                self.depth = outer.ok_or("the answer is not JSON")?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(parts: &[&[u8]]) -> Result<(Vec<Value>, String), String> {
        let (mut items, mut found) = (Items::default(), Vec::new());
        for part in parts {
            items.read(part, &mut |text| {
                found.push(serde_json::from_slice(text).map_err(|error| error.to_string())?);
                Ok(())
            })?;
        }
        Ok((found, items.version()?))
    }

    fn list() -> (Vec<Value>, String) {
        let items = vec![
            json!({"metadata": {"name": "a]}\"\\", "list": [[{}], [1, {"x": "{["}]]}}),
            json!({}),
            json!({"spec": {"containers": [{"name": "b", "args": ["}", "\\\"", "\u{1f600}"]}]}}),
        ];
        let text = json!({
            "kind": "PodList", "metadata": {"resourceVersion": "17", "remaining": {"x": [{}]}},
            "items": items, "z": {"a": [{"b": 1}]},
        });
        (items, text.to_string())
    }

    #[test]
    fn a_list_is_read_wherever_its_text_is_cut() {
        let (items, text) = list();
        for at in 0..text.len() {
            let (first, last) = text.as_bytes().split_at(at);
            assert_eq!(read(&[first, last]), Ok((items.clone(), "17".to_owned())), "{at}");
        }
        let pretty: Value = serde_json::from_str(&text).expect("JSON");
        let pretty = serde_json::to_string_pretty(&pretty).expect("JSON");
        assert_eq!(read(&[pretty.as_bytes()]), Ok((items, "17".to_owned())));
        let none = br#"{"items": [], "metadata": {"resourceVersion": "1"}}"#;
        assert_eq!(read(&[none]), Ok((Vec::new(), "1".to_owned())));
        let null = br#"{"items": null, "metadata": {"resourceVersion": "1"}}"#;
        assert_eq!(read(&[null]), Ok((Vec::new(), "1".to_owned())));
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let (_, text) = list();
        for at in 0..text.len() {
            assert!(read(&[&text.as_bytes()[..at]]).is_err(), "{at}");
        }
        for text in ["", "[]", "}", "{}", "null", "{\"metadata\": {}}"] {
            assert!(read(&[text.as_bytes()]).is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_without_end_does_not_fill_the_memory() {
        for begin in ["{\"x\": \"", "{\"items\": [{\"x\": \""] {
            let mut items = Items::default();
            let mut read = items.read(begin.as_bytes(), &mut |_| Ok(()));
            let mut parts = 0;
            while read.is_ok() && parts < 100 {
                read = items.read(&vec![b'y'; 1 << 20], &mut |_| Ok(()));
                parts += 1;
            }
            assert!(read.is_err() && parts < 10, "{begin}");
        }
    }
}
