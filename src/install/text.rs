//! JSON as the text it is: where each value stands, and changes that leave everything else as it was
//! written.

use std::ops::Range;

use serde_json::value::RawValue;

use crate::cni::Entries;

/// A value inside a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    text: &'a str,
    raw: &'a str,
}

/// A member of an object, in the order of the text. Of equal keys the last counts, as in Go.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) key: String,
    pub(super) value: Value<'a>,
    /// From the quote before the key to the end of the value.
    pub(super) span: Range<usize>,
}

impl<'a> Value<'a> {
    /// The one value that `text` consists of.
    pub(super) fn of(text: &'a str) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(Self { text, raw: raw.get() })
    }

    /// The value as it is written.
    pub(super) fn raw(self) -> &'a str {
        self.raw
    }

    /// The same on one line, for a message.
    pub(super) fn shown(self) -> String {
        let value: Result<serde_json::Value, _> = serde_json::from_str(self.raw);
        value.map_or_else(|_| self.raw.to_owned(), |value| value.to_string())
    }

    /// Where it stands in the text.
    pub(super) fn span(self) -> Range<usize> {
        let start = self.raw.as_ptr().addr() - self.text.as_ptr().addr();
        start..start + self.raw.len()
    }

    pub(super) fn string(self) -> Option<String> {
        serde_json::from_str(self.raw).ok()
    }

    /// Null, an empty string or an empty list: what Go's decoder takes for absent.
    pub(super) fn is_empty(self) -> bool {
        matches!(self.raw, "null" | "\"\"") || self.items().is_some_and(|items| items.is_empty())
    }

    /// The items of a list; `None` of anything else.
    pub(super) fn items(self) -> Option<Vec<Self>> {
        let items: Vec<&RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(items.into_iter().map(|raw| Self { text: self.text, raw: raw.get() }).collect())
    }

    /// The members of an object; `None` of anything else.
    pub(super) fn members(self) -> Option<Vec<Member<'a>>> {
        let Entries(entries) = serde_json::from_str(self.raw).ok()?;
        let mut end = self.span().start + 1;
        let member = |(key, raw): (String, &'a RawValue)| {
            let value = Self { text: self.text, raw: raw.get() };
            // Between two members there is a comma, and white space.
            let start = end + self.text[end..].find('"').unwrap_or_default();
            end = value.span().end;
            Member { key, value, span: start..end }
        };
        Some(entries.into_iter().map(member).collect())
    }

    pub(super) fn get(self, key: &str) -> Option<Self> {
        let members = self.members()?;
        members.into_iter().rfind(|member| member.key == key).map(|member| member.value)
    }

    /// Whether a space follows the colons of this text.
    pub(super) fn is_spaced(self) -> bool {
        self.text.contains("\": ")
    }
}

/// One place of a text, and what is to stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) at: Range<usize>,
    pub(super) with: String,
}

/// The text with all `edits` made, which must not overlap.
pub(super) fn edited(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| (edit.at.start, edit.at.end));
    let (mut new, mut end) = (String::with_capacity(text.len()), 0);
    for edit in edits {
        new.push_str(&text[end..edit.at.start]);
        new.push_str(&edit.with);
        end = edit.at.end;
    }
    new.push_str(&text[end..]);
    new
}

/// Adds `new` at the end of `container`, a list or an object, laid out like the last of its `parts`.
pub(super) fn appended(container: Value<'_>, parts: &[Range<usize>], new: &str) -> Edit {
    let whole = container.span();
    let inner = whole.start + 1..whole.end - 1;
    let Some(last) = parts.last() else { return Edit { at: inner, with: new.to_owned() } };
    let before = parts.len().checked_sub(2).map_or(inner.start, |index| parts[index].end);
    let mut gap = container.text[before..last.start].trim_start_matches([',']);
    // A comma on a line of its own, as some write it.
    if let Some((_, behind)) = gap.split_once(',') {
        gap = behind;
    }
    if gap.is_empty() && container.is_spaced() {
        gap = " ";
    }
    Edit { at: last.end..last.end, with: format!(",{gap}{new}") }
}

/// Takes those of `parts` away for which `goes` says so; one at least has to stay.
pub(super) fn removed(parts: &[Range<usize>], goes: impl Fn(usize) -> bool) -> Vec<Edit> {
    let first_kept = (0..parts.len()).find(|index| !goes(*index)).unwrap_or_default();
    let gone = (0..parts.len()).filter(|index| goes(*index));
    let edit = |index: usize| {
        // Together with the comma that would be one too many.
        let at = if index < first_kept {
            parts[index].start..parts[index + 1].start
        } else {
            parts[index - 1].end..parts[index].end
        };
        Edit { at, with: String::new() }
    };
    gone.map(edit).collect()
}

/// The white space before `at` in its line; nothing where something else stands there too.
pub(super) fn indent(text: &str, at: usize) -> &str {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let before = &text[line..at];
    if before.chars().all(char::is_whitespace) { before } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(value: Value<'_>) -> Vec<Range<usize>> {
        let members = value.members().expect("an object");
        members.into_iter().map(|member| member.span).collect()
    }

    #[test]
    fn values_know_where_they_stand() {
        let text = " {\"a\" : [1, {\"b\":\"x\\\"y\"}] ,\n \"c\":null}\n";
        let value = Value::of(text).expect("JSON");
        let found: Vec<_> = spans(value).into_iter().map(|span| &text[span]).collect();
        assert_eq!(found, ["\"a\" : [1, {\"b\":\"x\\\"y\"}]", "\"c\":null"]);
        let inner = value.get("a").and_then(Value::items).expect("a list")[1];
        assert_eq!(&text[inner.span()], inner.raw());
        assert_eq!(inner.get("b").and_then(Value::string).as_deref(), Some("x\"y"));
    }

    #[test]
    fn what_is_added_is_laid_out_like_what_is_there() {
        for (text, expected) in [
            ("{}", "{\"z\": 0}"),
            ("{ \"a\": 1 }", "{ \"a\": 1, \"z\": 0 }"),
            ("{\"a\": 1}", "{\"a\": 1, \"z\": 0}"),
            ("{\"a\":1}", "{\"a\":1,\"z\": 0}"),
            ("{\n\t\"a\": 1\n}", "{\n\t\"a\": 1,\n\t\"z\": 0\n}"),
            ("{\"a\": 1, \"b\": 2}", "{\"a\": 1, \"b\": 2, \"z\": 0}"),
            (
                "{\r\n  \"a\": 1,\r\n  \"b\": 2\r\n}",
                "{\r\n  \"a\": 1,\r\n  \"b\": 2,\r\n  \"z\": 0\r\n}",
            ),
            ("{\n  \"a\": 1\n  , \"b\": 2\n}", "{\n  \"a\": 1\n  , \"b\": 2, \"z\": 0\n}"),
        ] {
            let value = Value::of(text).expect("JSON");
            let new = edited(text, vec![appended(value, &spans(value), "\"z\": 0")]);
            assert_eq!(new, expected);
        }
    }

    #[test]
    fn what_is_taken_away_takes_one_comma_along() {
        let text = "{ \"a\": 1, \"b\": 2, \"c\": 3, \"d\": 4 }";
        let value = Value::of(text).expect("JSON");
        for (goes, expected) in [
            ("a", "{ \"b\": 2, \"c\": 3, \"d\": 4 }"),
            ("ab", "{ \"c\": 3, \"d\": 4 }"),
            ("ad", "{ \"b\": 2, \"c\": 3 }"),
            ("bc", "{ \"a\": 1, \"d\": 4 }"),
            ("acd", "{ \"b\": 2 }"),
            ("abc", "{ \"d\": 4 }"),
        ] {
            let keys = ["a", "b", "c", "d"];
            let edits = removed(&spans(value), |index| goes.contains(keys[index]));
            assert_eq!(edited(text, edits), expected, "without {goes}");
        }
    }
}
