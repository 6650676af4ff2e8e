//! Text of others in messages: short, and on one line.

use serde::de::{Deserialize, IntoDeserializer, value};

/// How much of a value an error message shows.
const SHOWN: usize = 120;

/// Shortens `text` and escapes what could end or disguise a line, but not quotes: for JSON text.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().take(SHOWN) {
        if matches!(character, '"' | '\'' | '\\') {
            out.push(character);
        } else {
            out.extend(character.escape_debug());
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        out.push_str("...");
    }
    out
}

/// The same for a key, which is no longer JSON text.
pub(super) fn escape(key: &str) -> String {
    shown(&key.escape_debug().take(SHOWN + 1).collect::<String>())
}

/// The same for a string, in quotes.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", escape(text))
}

/// One of the words that `T` is written with.
pub(super) fn word<T: Deserialize<'static>>(text: &str) -> Option<T> {
    T::deserialize(IntoDeserializer::<value::Error>::into_deserializer(text.to_owned())).ok()
}

/// Whether `written` is `ours` but for case, `_` and `-`, and so many slips of the finger.
pub(super) fn is_near(written: &str, ours: &str, slips: usize) -> bool {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    strsim::damerau_levenshtein(&plain(written), &plain(ours)) <= slips
}

#[cfg(test)]
mod tests;
