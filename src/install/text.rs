//! JSON as the text it is, and changes that leave everything else as it was written.

use serde_json::value::RawValue;

use crate::cni::Entries;

/// A value inside a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    text: &'a str,
    raw: &'a str,
}

/// An item of a list, or a member of an object, in the order of the text. Of equal keys the last counts, as in
/// Go.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    /// Empty in a list.
    pub(super) key: String,
    pub(crate) value: Value<'a>,
    /// What is before it: a comma, unless it is the first, and white space.
    gap: &'a str,
    /// How it is to be written.
    written: String,
}

/// The key of an object's member, and the value that it is to have.
pub(super) type Member<'a> = (&'a str, String);

impl Part<'_> {
    /// Gives it another value.
    pub(super) fn set(&mut self, value: &str) {
        self.written.truncate(self.written.len() - self.value.raw.len());
        self.written.push_str(value);
    }
}

impl<'a> Value<'a> {
    /// The one value that `text` consists of.
    pub(crate) fn of(text: &'a str) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(Self { text, raw: raw.get() })
    }

    /// The value as it is written.
    pub(crate) fn raw(self) -> &'a str {
        self.raw
    }

    /// The same on one line, for a message.
    pub(super) fn shown(self) -> String {
        let value: Result<serde_json::Value, _> = serde_json::from_str(self.raw);
        value.map_or_else(|_| self.raw.to_owned(), |value| value.to_string())
    }

    fn start(self) -> usize {
        self.raw.as_ptr().addr() - self.text.as_ptr().addr()
    }

    fn end(self) -> usize {
        self.start() + self.raw.len()
    }

    pub(crate) fn string(self) -> Option<String> {
        serde_json::from_str(self.raw).ok()
    }

    /// Null, an empty string or an empty list: what Go's decoder takes for absent.
    pub(super) fn is_empty(self) -> bool {
        matches!(self.raw, "null" | "\"\"") || self.items().is_some_and(|items| items.is_empty())
    }

    /// The items of a list; `None` of anything else.
    pub(crate) fn items(self) -> Option<Vec<Part<'a>>> {
        let items: Vec<&RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(self.parts(items.into_iter().map(|item| (String::new(), item))))
    }

    /// The members of an object; `None` of anything else.
    pub(crate) fn members(self) -> Option<Vec<Part<'a>>> {
        let Entries(entries) = serde_json::from_str(self.raw).ok()?;
        Some(self.parts(entries.into_iter()))
    }

    fn parts(self, entries: impl Iterator<Item = (String, &'a RawValue)>) -> Vec<Part<'a>> {
        let mut before = self.start() + 1;
        let part = |(key, raw): (String, &'a RawValue)| {
            let value = Self { text: self.text, raw: raw.get() };
            let rest = &self.text[before..value.end()];
            let written = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            before = value.end();
            let gap = &rest[..rest.len() - written.len()];
            Part { key, value, gap, written: written.to_owned() }
        };
        entries.map(part).collect()
    }

    pub(crate) fn get(self, key: &str) -> Option<Self> {
        let members = self.members()?;
        members.into_iter().rfind(|member| member.key == key).map(|member| member.value)
    }

    /// Whether a space follows the colons of this text.
    pub(super) fn is_spaced(self) -> bool {
        self.text.contains("\": ")
    }

    /// This list or object with these of its parts, each laid out as it was, and behind them what is new, laid
    /// out like the last part there was.
    pub(super) fn with(self, kept: &[Part<'_>], new: &[String]) -> String {
        let old = self.items().or_else(|| self.members()).unwrap_or_default();
        let (first, last) = (old.first(), old.last());
        let lead = first.map_or("", |first| first.gap);
        let mut gap = last.map_or("", |last| last.gap);
        // A comma can be on a line of its own.
        gap = gap.split_once(',').map_or(gap, |(_, behind)| behind);
        if gap.is_empty() && self.is_spaced() {
            gap = " ";
        }
        let gap = format!(",{gap}");
        let kept = kept.iter().map(|part| (part.gap, &part.written));
        let mut text = self.raw[..1].to_owned();
        for (index, (gap, part)) in kept.chain(new.iter().map(|new| (&*gap, new))).enumerate() {
            text.push_str(if index == 0 { lead } else { gap });
            text.push_str(part);
        }
        let behind = last.map_or(self.end() - 1, |last| last.value.end());
        text + &self.text[behind..self.end()]
    }

    /// A member for an object of this text.
    pub(super) fn member(self, key: &str, value: &str) -> String {
        let space = if self.is_spaced() { " " } else { "" };
        format!("{}:{space}{value}", serde_json::Value::from(key))
    }

    /// As [`Self::with`], with these values of members: each in the place of the one with its key, or new.
    pub(super) fn with_members(self, mut kept: Vec<Part<'_>>, set: &[Member<'_>]) -> String {
        let mut new = Vec::new();
        for (key, value) in set {
            match kept.iter_mut().rfind(|member| member.key == *key) {
                Some(found) => found.set(value),
                None => new.push(self.member(key, value)),
            }
        }
        self.with(&kept, &new)
    }

    /// The whole text with another value in the place of this one.
    pub(super) fn replaced(self, value: &str) -> String {
        [&self.text[..self.start()], value, &self.text[self.end()..]].concat()
    }
}

#[cfg(test)]
mod tests;
