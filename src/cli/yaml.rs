//! JSON as YAML: blocks for what has members, and texts in the quotes of JSON, which are YAML's too.

use std::io::{self, Write};

use serde_json::Value;

pub(super) fn write(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    block(out, value, 0)
}

/// Writes `value` after a line's beginning that is `depth` columns wide.
fn block(out: &mut dyn Write, value: &Value, depth: usize) -> io::Result<()> {
    let mut indent = 0;
    let mut begin = |out: &mut dyn Write| {
        let begun = write!(out, "{:indent$}", "");
        indent = depth;
        begun
    };
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                begin(out)?;
                write!(out, "{}:", word(key))?;
                if is_block(value) {
                    let deeper = if value.is_array() { depth } else { depth + 2 };
                    write!(out, "\n{:deeper$}", "")?;
                    block(out, value, deeper)?;
                } else {
                    write!(out, " ")?;
                    block(out, value, depth)?;
                }
            }
            Ok(())
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                begin(out)?;
                write!(out, "- ")?;
                block(out, item, depth + 2)?;
            }
            Ok(())
        }
        Value::String(text) => writeln!(out, "{}", word(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            writeln!(out, "{value}")
        }
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A text: as it is where no reader can take it for something else, otherwise in quotes.
fn word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_/.-".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    let lower = text.to_ascii_lowercase();
    let means_more = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if begins && text.bytes().all(is_plain) && !means_more.contains(&&*lower) {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests;
